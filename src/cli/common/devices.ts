/** The kernel's devices as the tools use them. The code behind is loaded when a command asks for it. */
import { type Config, findRole } from '../../config/index.js';
import type { Devices } from '../../devices/index.js';
import { kernelDevices as inKernel } from '../../devices/sysfs.js';
import { readTableOrNone, reconcile } from '../../devices/table.js';
import type { AttachOptions, Device, EndpointAddress } from '../../devices/types.js';

export interface DeviceAccess {
  attach(options: AttachOptions): Promise<Device>;
  /** @param volumeOrPath a volume, or `/dev/nbdN` */
  detach(volumeOrPath: string, options: { readonly force: boolean }): Promise<Device>;
  list(): Promise<Device[]>;
  /** @returns null when the volume has no device */
  resize(volume: string, size: number): Promise<Device | null>;
  /** Sees to it that devices are connected again after the node was away. @throws SystemError when nobody will */
  ensureKeeper(): Promise<void>;
}

/** @param endpoint where a new device connects; null: as configured */
export type OpenDevices = (config: Config, endpoint: EndpointAddress | null) => Promise<DeviceAccess>;

export const kernelDevices: OpenDevices = async (config, endpoint) => {
  const { runDir, logDir, path: configPath, xseg } = config;
  const load = async (): Promise<Devices> => {
    const { Devices } = await import('../../devices/index.js');
    return new Devices({
      runDir,
      segment: xseg.name,
      endpoint: endpoint ?? configuredEndpoint(config),
      timeout: findRole(config, 'nbd')?.deviceTimeout,
    });
  };
  // To see that there is none needs no netlink, whose native library takes longer to load than most commands.
  const hasNone = (): boolean => {
    const kernel = inKernel();
    return reconcile(readTableOrNone(runDir, kernel), kernel, xseg.name, Date.now(), true).entries.length === 0;
  };
  return {
    attach: async (options) => (await load()).attach(options),
    detach: async (volumeOrPath, options) => (await load()).detach(volumeOrPath, options),
    list: async () => (hasNone() ? [] : (await load()).list()),
    resize: async (volume, size) => (hasNone() ? null : (await load()).resize(volume, size)),
    ensureKeeper: async () => {
      const { ensureKeeper } = await import('../../devices/index.js');
      await ensureKeeper({ runDir, logDir, configPath });
    },
  };
};

/** Where the endpoint listens unless systemd gave it other sockets. */
function configuredEndpoint(config: Config): EndpointAddress {
  const settings = findRole(config, 'nbd');
  if (settings && settings.socket === null && settings.listen.length > 0) return settings.listen[0];
  return { path: settings?.socket ?? `${config.runDir}/nbd.sock` };
}
