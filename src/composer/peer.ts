/** The composer as a role of a node: its port, its start and its end. */
import type { ComposerSettings } from '../config/types.js';
import type { RoleContext, RunningRole } from '../peer/role.js';
import type { LockLook } from '../requests/lock-look.js';
import { Composer } from './composer.js';

/** @param lockLook how the locks can be looked at without asking the mapper; null: they cannot */
export async function start(
  { segment, settings, config, ports, name, log }: RoleContext<ComposerSettings>,
  lockLook: LockLook | null = null,
): Promise<RunningRole> {
  const port = segment.bind(ports.first, { name });
  const composer = new Composer({
    port,
    blockerPort: settings.blockerPort,
    mapperPort: settings.mapperPort,
    nrOps: settings.nrOps,
    writeThrough: config.cache === 'writethrough',
    lockLook,
  });
  port.serve(
    (request) => composer.handle(request),
    (request) => composer.direct(request),
  );
  return {
    stop: async (): Promise<void> => {
      try {
        for (const sentence of await composer.drain()) log.warn(sentence);
      } finally {
        // What could not be flushed was not promised to be durable; the port must go to its next owner all the same.
        port.close();
      }
    },
    status: () => composer.status(),
  };
}
