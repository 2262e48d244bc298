/** Where a file store keeps an object, to damage it on purpose (ondisk: file back-end paths). */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

/** Path of the object `name` below a store's directory. */
export function objectPath(store: string, name: string): string {
  const hash = createHash('sha256').update(name).digest('hex');
  return path.join(store, hash.slice(0, 2), hash.slice(2, 4), hash.slice(4, 6), name);
}

/** Name of the map-data object that holds a volume's first entries. */
export function mapDataName(volume: string, id = 0): string {
  return `${volume}_${id.toString(16).padStart(16, '0')}`;
}

/** Name of a volume's own data object. */
export function dataObjectName(volume: string, epoch: number, block: number): string {
  return `${mapDataName(volume, epoch)}_${block.toString(16).padStart(16, '0')}`;
}

/** Puts an object into a store as another program would. */
export function putObject(store: string, name: string, content: Buffer | string): string {
  const file = objectPath(store, name);
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, content);
  return file;
}

/** Locks a volume in a store without a lock directory, as `owner` on another host would. */
export function lockAs(maps: string, volume: string, owner: string): string {
  return putObject(maps, `${volume}_lock`, owner);
}

/** Whether a volume's lock file is there. */
export function isLocked(maps: string, volume: string): boolean {
  return existsSync(objectPath(maps, `${volume}_lock`));
}

/** A version 2 header with whatever in its fields. */
export function header(fields: { size: bigint; blockSize: number; flags?: number; epoch?: bigint }): Buffer {
  const bytes = Buffer.alloc(32);
  bytes.write('AMF.', 0, 'latin1');
  bytes.writeUInt32BE(2, 4);
  bytes.writeBigUInt64BE(fields.size, 8);
  bytes.writeUInt32BE(fields.blockSize, 16);
  bytes.writeUInt32BE(fields.flags ?? 0, 20);
  bytes.writeBigUInt64BE(fields.epoch ?? 1n, 24);
  return bytes;
}

/** One 128-byte map entry with whatever in its fields. */
export function entry(fields: { flags: number; name: string; length?: number }): Buffer {
  const bytes = Buffer.alloc(128);
  bytes[0] = fields.flags;
  bytes.writeUInt32LE(fields.length ?? fields.name.length, 1);
  bytes.write(fields.name, 5, 123, 'latin1');
  return bytes;
}
