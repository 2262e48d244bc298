// A disk in memory for everybody who connects: node nbd-server.mjs [PORT]
import { MemoryDisk, MemoryProvider, NbdServer } from 'archipelago/nbd';

const GiB = 2 ** 30;
const disk = new MemoryDisk({ size: 1 * GiB, info: { description: 'gone when the server stops' } });
const provider = new MemoryProvider([
  ['', disk], // the default export
  ['scratch', disk],
]);
const server = new NbdServer(provider, { log: console, limits: { connections: 16 } });

const { host, port } = await server.listen({ host: '127.0.0.1', port: Number(process.argv[2] ?? 10809) });
console.log(`nbd://${host}:${port}/scratch`);

process.once('SIGTERM', async () => {
  await server.close({ graceful: true }); // what is in flight is answered first
});
