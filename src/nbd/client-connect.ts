/** The short way to a client: connect, negotiate, enter. */
import type { NbdClient } from './client.js';
import { type NbdAddress, NbdHandshake } from './client-handshake.js';
import { BASE_ALLOCATION } from './constants.js';

export interface ConnectOptions {
  /** Default "": the server's default export. */
  readonly exportName?: string;
  /** Ask for structured replies; default true. */
  readonly structured?: boolean;
  /** Default base:allocation. Contexts the server does not have are left out. */
  readonly metaContexts?: readonly string[];
}

/**
 * Connects and enters an export.
 * @throws NbdError when the server refuses (ENOENT: no such export); SystemError when nobody listens; ProtocolError
 */
export async function connectNbd(address: NbdAddress, options: ConnectOptions = {}): Promise<NbdClient> {
  const { exportName = '', structured = true, metaContexts = [BASE_ALLOCATION] } = options;
  const handshake = await NbdHandshake.connect(address);
  try {
    if (structured && (await handshake.structuredReply()) && metaContexts.length > 0) {
      await handshake.setMetaContexts(exportName, metaContexts);
    }
    return await handshake.go(exportName);
  } catch (error) {
    handshake.destroy();
    throw error;
  }
}
