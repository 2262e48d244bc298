/** Whether somebody starts again what died of a node. Only files are read. */
import type { Config } from '../../config/types.js';
import { isSupervisor, supervisorPidfile } from '../../peer/paths.js';
import { livingPid } from '../../peer/pidfile.js';

/** Is there a supervisor? */
export const isSupervised = (config: Config): boolean =>
  livingPid(supervisorPidfile(config), (pid) => isSupervisor(pid, config)) !== null;
