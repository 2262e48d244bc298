/** All scenes: `npm run ganeti -- --moves N`. */
import { describeCluster } from './scenes.js';

describeCluster({ short: false, moves: Number(process.env.ARCHIPELAGO_TEST_MOVES ?? 4) });
