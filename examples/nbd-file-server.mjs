// A file as a disk, by a device of its own: node nbd-file-server.mjs FILE SOCKET
import fs from 'node:fs';
import { BufferPool, IoCommand, NbdServer } from 'archipelago/nbd';

const [, , file, socket] = process.argv;
const fd = fs.openSync(file, 'r+');
const { size } = fs.fstatSync(fd);
const maxIo = 1024 * 1024;
const buffers = new BufferPool(maxIo, 64);
const info = {
  readOnly: false,
  canFlush: true,
  canFua: true,
  canTrim: false,
  canWriteZeroes: false,
  canFastZero: false,
  canCache: false,
  canResize: false,
  multiConn: true, // one descriptor: what one connection flushed, all have flushed
  rotational: false,
  blockSize: { minimum: 1, preferred: 4096, maximum: 32 * 1024 * 1024 },
  metaContexts: [],
  description: file,
};

/** Reads or writes all of an operation's buffer. */
function transfer(io, call, done = 0) {
  call(fd, io.buffer.bytes, done, io.length - done, io.offset + done, (error, count) => {
    if (error) io.complete(-error.errno, error.message);
    else if (count === 0) io.complete(5, `${file} is shorter than it was`);
    else if (done + count < io.length) transfer(io, call, done + count);
    else if (io.fua) fs.fdatasync(fd, (failed) => io.complete(failed ? -failed.errno : 0));
    else io.complete(0);
  });
}

const device = {
  info,
  size,
  maxIo,
  allocate: () => buffers.allocate(),
  release: (buffer) => buffers.release(buffer),
  whenAvailable: (callback) => buffers.whenAvailable(callback),
  submit(io) {
    if (io.command === IoCommand.READ) transfer(io, fs.read);
    else if (io.command === IoCommand.WRITE) transfer(io, fs.write);
    else fs.fdatasync(fd, (error) => io.complete(error ? -error.errno : 0)); // FLUSH: nothing else was offered
  },
  async close() {}, // the descriptor is for all connections
};

const unknown = (name) => Object.assign(new Error(`there is no export ${name}`), { errno: 2 });
const server = new NbdServer({
  list: async () => [{ name: '' }],
  open: async (name) => (name === '' ? device : Promise.reject(unknown(name))),
  describe: async (name) => (name === '' ? { info, size } : Promise.reject(unknown(name))),
});
await server.listen({ path: socket });
console.log(`nbd+unix:///?socket=${socket}`);
process.once('SIGTERM', () => server.close({ graceful: true }));
