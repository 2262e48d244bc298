#!/usr/bin/env node
/**
 * archipelago: the roles of a node. It does without the other tools' signal handlers: in the foreground the supervisor has its
 * own, and in the background there is nothing to clean up.
 */
import { archipelagoProgram } from './archipelago/program.js';
import { processIo } from './common/io.js';
import { runProgram } from './common/program.js';
import { Session } from './common/session.js';

const session = new Session('archipelago', processIo());
process.exitCode = await runProgram(archipelagoProgram(session), process.argv.slice(2), session);
