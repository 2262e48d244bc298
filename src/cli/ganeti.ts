#!/usr/bin/env node
/** archipelago-ganeti: Ganeti's disks are volumes. */
import { processIo } from './common/io.js';
import { ganetiMain } from './ganeti/program.js';

process.exitCode = await ganetiMain(process.argv.slice(2), processIo());
