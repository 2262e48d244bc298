/** The rados driver: objects in a pool of a Ceph cluster. */
export { RadosDriver, type RadosDriverSettings } from './driver.js';
