/** The binding of librados: see types.ts for what it offers. */
export { connect } from './cluster.js';
export { RadosError } from './error.js';
export { loadLibrary } from './library.js';
export { live } from './memory.js';
export type * from './types.js';
