/**
 * Writes into a store of files what a store of that size would have after years: blocks of a map that have objects, and headers of volumes.
 * Large volumes get map entries without objects: what is measured on them (making, copying, listing and looking at maps) reads none.
 */
import { createHash } from 'node:crypto';
import { closeSync, mkdirSync, openSync, readSync, writeFileSync, writeSync } from 'node:fs';
import path from 'node:path';

const ENTRY = 128;
/** WRITABLE and ARCHIP: the entry of a block with an object of its own. */
const OWN = 3;
const BLOCK = 4 << 20;
const PER_OBJECT = BLOCK / ENTRY;

const hex = (value: number): string => value.toString(16).padStart(16, '0');

/** Where a store in `root` has the object of that name. */
export function objectPath(root: string, name: string): string {
  const digits = createHash('sha256').update(name, 'utf8').digest('hex');
  return path.join(root, digits.slice(0, 2), digits.slice(2, 4), digits.slice(4, 6), name);
}

/**
 * Gives every `every`th block of a new volume of `blocks` blocks an object of its own.
 * @param root of the maps store; the node must not have read the map
 */
export function allocate(root: string, volume: string, blocks: number, every: number): void {
  for (let first = 0; first < blocks; first += PER_OBJECT) {
    const count = Math.min(PER_OBJECT, blocks - first);
    const bytes = Buffer.alloc(count * ENTRY);
    const fd = openSync(objectPath(root, `${volume}_${hex(first / PER_OBJECT)}`), 'r+');
    try {
      readSync(fd, bytes, 0, bytes.length, 0);
      for (let i = first; i < first + count; i += every) {
        const at = (i - first) * ENTRY;
        bytes.fill(0, at, at + ENTRY);
        bytes[at] = OWN;
        const name = `${volume}_${hex(1)}_${hex(i)}`;
        bytes.writeUInt32LE(name.length, at + 1);
        bytes.write(name, at + 5, 'latin1');
      }
      writeSync(fd, bytes, 0, bytes.length, 0);
    } finally {
      closeSync(fd);
    }
  }
}

/** Blocks of each volume that putVolumes makes that have objects, from the first on. */
export const FILLED_BLOCKS = 8;
/** Bytes of each object it makes. */
const OBJECT_BYTES = 4096;

function put(root: string, name: string, bytes: Buffer): void {
  const file = objectPath(root, name);
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, bytes);
}

function header(size: number): Buffer {
  const bytes = Buffer.alloc(32);
  bytes.write('AMF.', 0, 'latin1');
  bytes.writeUInt32BE(2, 4);
  bytes.writeBigUInt64BE(BigInt(size), 8);
  bytes.writeUInt32BE(BLOCK, 16);
  bytes.writeBigUInt64BE(1n, 24);
  return bytes;
}

/** Puts the headers of volumes `<prefix>-<from>` to `<prefix>-<to - 1>` into the store `maps`: volumes of 1 GiB, as the original makes them. */
export function putHeaders(maps: string, prefix: string, from: number, to: number): void {
  for (let i = from; i < to; i++) put(maps, `${prefix}-${i}`, header(2 ** 30));
}

/** Puts complete volumes of FILLED_BLOCKS blocks, all with data, into the stores. */
export function putVolumes(stores: { maps: string; blocks: string }, names: readonly string[]): void {
  const data = Buffer.alloc(OBJECT_BYTES, 'data');
  for (const volume of names) {
    const entries = Buffer.alloc(FILLED_BLOCKS * ENTRY);
    for (let i = 0; i < FILLED_BLOCKS; i++) {
      const name = `${volume}_${hex(1)}_${hex(i)}`;
      entries[i * ENTRY] = OWN;
      entries.writeUInt32LE(name.length, i * ENTRY + 1);
      entries.write(name, i * ENTRY + 5, 'latin1');
      put(stores.blocks, name, data);
    }
    put(stores.maps, `${volume}_${hex(0)}`, entries);
    put(stores.maps, volume, header(FILLED_BLOCKS * BLOCK));
  }
}
