/** Unix sockets that nobody can connect to who may not, from the first moment on. */
import fs from 'node:fs';
import type net from 'node:net';

/** Who may write to a socket may connect to it. */
const WRITE = 0o222;
/** Where the system does not tell the umask: only the owner is served meanwhile. */
const STRICT = 0o077;

/**
 * Listens on a unix socket of a mode. Whom the mode leaves out is left out before the socket is there, by the umask; a chmod alone
 * would let others in between. The umask is the whole process's, and threads of it may be making files and directories at that
 * moment: only the bits for writing are taken away from what it leaves, so that no directory lacks what its owner needs to enter it.
 * @param listening called when it listens and has its mode; what goes wrong is an `error` of the listener
 */
export function listenWithMode(
  listener: net.Server,
  options: { readonly path: string; readonly backlog?: number },
  mode: number,
  listening: () => void,
): void {
  const before = process.umask(currentMask() | (WRITE & ~mode));
  try {
    listener.listen(options, () => {
      try {
        // A name in the abstract name space has no mode.
        if (!options.path.startsWith('\0')) fs.chmodSync(options.path, mode);
      } catch (error) {
        listener.close();
        listener.emit('error', error);
        return;
      }
      listening();
    });
  } finally {
    process.umask(before);
  }
}

/** The umask, without the change and change back that process.umask() would tell it by. */
function currentMask(): number {
  const [, mask] = /^Umask:\s*([0-7]+)$/m.exec(fs.readFileSync('/proc/self/status', 'utf8')) ?? [];
  return mask === undefined ? STRICT : Number.parseInt(mask, 8);
}
