// What an export is and where its data lies: node nbd-client.mjs nbd://HOST/NAME
import { connectNbd } from 'archipelago/nbd';

const nbd = await connectNbd(process.argv[2], { timeoutMs: 5000 });
console.log(`${nbd.size} bytes, ${nbd.info.description ?? 'no description'}`);

if (nbd.can.write) {
  await nbd.write(4096, Buffer.from('hello, disk'), { fua: nbd.can.fua });
  console.log((await nbd.read(4096, 11)).toString());
}
const extents = nbd.contexts.length > 0 ? nbd.extents() : []; // not every server can tell
for await (const { offset, length, flags } of extents) {
  console.log(`${offset}+${length} ${flags & 1 ? 'hole' : 'data'}`);
}
await nbd.read(nbd.size, 512).catch((error) => {
  if (error.code !== 'EINVAL') throw error;
  console.log(`${error.code}: ${error.message}`); // past the end; the connection goes on
});
await nbd.disconnect();
