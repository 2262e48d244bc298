/**
 * Volumes as devices of a real kernel, with a node of its own: what is needed most of what devices-long.test.ts plays.
 * The kernel is a program of this machine, where its processor allows.
 */
import { describe } from 'vitest';
import { machineTools, playInMachine, quickestMachine, SCENE_TOOLS } from './harness/device-machine.js';
import { QUICK_SCENES } from './harness/device-scenes.js';
import { programs } from './harness/requirements.js';

const kind = quickestMachine();
describe.runIf(programs(...machineTools(kind), ...SCENE_TOOLS))('volumes as devices of the kernel', () =>
  playInMachine(kind, { scenes: QUICK_SCENES }, 'QUICK=1'),
);
