/** Volumes as devices of a real kernel, with a node of its own: what devices do, and what vlmc and archipelago say. Of the long tests. */
import { describe } from 'vitest';
import { machineTools, playInMachine, quickestMachine, SCENE_TOOLS } from './harness/device-machine.js';
import { SCENES, VLMC_SCENES } from './harness/device-scenes.js';
import { programs } from './harness/requirements.js';

const kind = quickestMachine();
const tools = programs(...machineTools(kind), ...SCENE_TOOLS);
describe.runIf(tools)('volumes as devices of the kernel', () => playInMachine(kind, { scenes: SCENES }));
describe.runIf(tools)('the commands for devices of the kernel', () => playInMachine(kind, { vlmc: VLMC_SCENES }));
