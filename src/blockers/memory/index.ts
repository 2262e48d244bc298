/** The memory driver. */
export { MemoryDriver, MemoryStore } from './driver.js';
