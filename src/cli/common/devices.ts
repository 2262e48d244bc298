/** The kernel's devices as the tools use them. The code behind is loaded when a command asks for it. */
import { type Config, findRole } from '../../config/index.js';
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
  const { Devices, ensureKeeper } = await import('../../devices/index.js');
  const { runDir, logDir, path: configPath } = config;
  const devices = new Devices({
    runDir,
    segment: config.xseg.name,
    endpoint: endpoint ?? configuredEndpoint(config),
    timeout: findRole(config, 'nbd')?.deviceTimeout,
  });
  return {
    attach: (options) => devices.attach(options),
    detach: (volumeOrPath, options) => devices.detach(volumeOrPath, options),
    list: () => devices.list(),
    resize: (volume, size) => devices.resize(volume, size),
    ensureKeeper: async () => void (await ensureKeeper({ runDir, logDir, configPath })),
  };
};

/** Where the endpoint listens unless systemd gave it other sockets. */
function configuredEndpoint(config: Config): EndpointAddress {
  const settings = findRole(config, 'nbd');
  if (settings && settings.socket === null && settings.listen.length > 0) return settings.listen[0];
  return { path: settings?.socket ?? `${config.runDir}/nbd.sock` };
}
