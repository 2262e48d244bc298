/** Volumes as devices of a real kernel, with a node of its own: what devices do, and what vlmc and archipelago say. Of the long tests. */
import { describe } from 'vitest';
import { MACHINE_TOOLS, playInMachine, quickestMachine } from './harness/device-machine.js';
import { SCENES, VLMC_SCENES } from './harness/device-scenes.js';
import { programs } from './harness/requirements.js';

const tools = programs(...MACHINE_TOOLS);
describe.runIf(tools)('volumes as devices of the kernel', () => playInMachine(quickestMachine(), { scenes: SCENES }));
describe.runIf(tools)('the commands for devices of the kernel', () =>
  playInMachine(quickestMachine(), { vlmc: VLMC_SCENES }),
);
