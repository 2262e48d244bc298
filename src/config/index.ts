/** The configuration of a node. */
export { ConfigError } from './errors.js';
export { DEFAULT_CONFIG_PATH, findRole, loadConfig, parseConfig, recommendedSegmentSize } from './load.js';
export type * from './types.js';
