/** The file driver: objects as files of a directory. */
export { DEFAULT_FDCACHE, DEFAULT_UMASK, FileDriver, type FileDriverSettings } from './driver.js';
