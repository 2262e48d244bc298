/** XSEG: ports, requests and data buffers in shared memory. See docs/xseg.md. */

export { type CallInit, type CallOptions, type CallReply, ReplyError } from './call.js';
export type { DirectRequest, DirectServer } from './direct.js';
export { ABI_VERSION, MAX_ALLOCATION, MAX_MESSAGE, MAX_SIZE_MIB, MAX_TARGET } from './layout.js';
export { Port } from './port.js';
export type { RecoverPortOptions, RecoveryResult } from './recovery.js';
export {
  describeProblem,
  findProblems,
  type PortReport,
  type Problem,
  report,
  type SegmentReport,
  verify,
} from './report.js';
export type { Request } from './request.js';
export { type BindOptions, type PortOwner, Segment } from './segment.js';
export { DEFAULT_SPEC, formatSpec, parseSpec, type SegmentSpec } from './spec.js';
