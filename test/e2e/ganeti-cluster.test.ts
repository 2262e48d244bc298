/** The short form of `npm run ganeti`: an instance is added on a real Ganeti cluster of two nodes, moved while it writes, and removed. */
import { describeCluster } from '../ganeti/scenes.js';

describeCluster({ short: true, moves: 1 });
