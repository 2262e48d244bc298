/** The composer as a role of a node: its port, its start and its end. */
import type { ComposerSettings } from '../config/types.js';
import type { RoleStarter } from '../peer/role.js';
import { Composer } from './composer.js';

export const start: RoleStarter<ComposerSettings> = async ({ segment, settings, config, ports, name, log }) => {
  const port = segment.bind(ports.first, { name });
  const composer = new Composer({
    port,
    blockerPort: settings.blockerPort,
    mapperPort: settings.mapperPort,
    nrOps: settings.nrOps,
    writeThrough: config.cache === 'writethrough',
  });
  port.serve((request) => composer.handle(request));
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
};
