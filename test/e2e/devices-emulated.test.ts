/** As devices-long.test.ts, on an emulated machine with two processors and the kernel of a distribution: it takes many minutes. */
import { describe } from 'vitest';
import { machineTools, playInMachine, SCENE_TOOLS } from './harness/device-machine.js';
import { SCENES, VLMC_SCENES } from './harness/device-scenes.js';
import { programs } from './harness/requirements.js';

describe.runIf(programs(...machineTools('emulated'), ...SCENE_TOOLS))(
  'volumes as devices of the kernel of an emulated machine',
  () => playInMachine('emulated', { scenes: SCENES, vlmc: VLMC_SCENES }),
);
