/** What is noted of Ganeti's disks beside the maps. */
import { describe, expect, it } from 'vitest';
import {
  decodeRecord,
  deleteRecord,
  encodeRecord,
  instanceOf,
  readRecord,
  recordedNames,
  writeRecord,
} from '../../../../src/cli/ganeti/records.js';
import { errnos, SystemError } from '../../../../src/sys/errno.js';

/** Objects as a blocker has them: written in place, zeros past the end. */
function store() {
  const objects = new Map<string, Buffer>();
  const missing = (name: string): SystemError => new SystemError(errnos.ENOENT, `no object ${name}`);
  return {
    objects,
    async read(name: string, offset: number, length: number): Promise<Buffer> {
      const object = objects.get(name);
      if (!object) throw missing(name);
      const out = Buffer.alloc(length);
      object.copy(out, 0, offset, offset + length);
      return out;
    },
    async write(name: string, offset: number, bytes: Uint8Array): Promise<void> {
      const old = objects.get(name) ?? Buffer.alloc(0);
      const grown = Buffer.alloc(Math.max(old.length, offset + bytes.length));
      old.copy(grown);
      grown.set(bytes, offset);
      objects.set(name, grown);
    },
    async delete(name: string): Promise<void> {
      if (!objects.delete(name)) throw missing(name);
    },
    async list(cursor: string | null, limit: number): Promise<{ names: string[]; cursor: string | null }> {
      const names = [...objects.keys()].sort();
      const at = cursor === null ? 0 : Number(cursor);
      const next = at + Math.min(limit, 2);
      return { names: names.slice(at, next), cursor: next < names.length ? String(next) : null };
    },
  };
}

describe('records of disks', () => {
  it('are read as they were written', async () => {
    const maps = store();
    const record = { metadata: 'originstname+web1', volume: 'web-data', name: 'web-data', uuid: 'u-1' };
    await writeRecord(maps, 'disk0', record);
    expect([...maps.objects.keys()]).toEqual(['.archipelago-ganeti-disk0']);
    expect(await readRecord(maps, 'disk0')).toEqual(record);
    expect(await readRecord(maps, 'disk1')).toBeNull();
  });

  it('are replaced by shorter ones without a trace', async () => {
    const maps = store();
    await writeRecord(maps, 'disk0', { metadata: 'x'.repeat(3000) });
    await writeRecord(maps, 'disk0', { metadata: 'short' });
    expect(await readRecord(maps, 'disk0')).toEqual({ metadata: 'short' });
  });

  it('are deleted once or more often', async () => {
    const maps = store();
    await writeRecord(maps, 'disk0', {});
    await deleteRecord(maps, 'disk0');
    await deleteRecord(maps, 'disk0');
    expect(maps.objects.size).toBe(0);
  });

  it('are listed over all pages, other objects left out', async () => {
    const maps = store();
    for (const name of ['a', 'b', 'c', 'd']) await writeRecord(maps, name, {});
    for (const name of ['volume', '.archipelago-mail-node1', 'zz_lock']) await maps.write(name, 0, Buffer.alloc(1));
    expect((await recordedNames(maps)).sort()).toEqual(['a', 'b', 'c', 'd']);
  });

  it('that are damaged count as none', () => {
    for (const text of ['', '\0\0\0\0', '{"metadata": "a', '[1]', 'null', '12\n']) {
      expect(decodeRecord(Buffer.from(text))).toBeNull();
    }
    expect(decodeRecord(Buffer.from('{"metadata": 5, "uuid": "u"}\n'))).toEqual({ uuid: 'u' });
  });

  it('are whole pieces, and no map', () => {
    const bytes = encodeRecord({ name: 'ä'.repeat(600) });
    expect(bytes.length).toBe(2048);
    expect(decodeRecord(bytes)).toEqual({ name: 'ä'.repeat(600) });
    // A v1 map begins with its version.
    expect(bytes.readUInt32LE(0)).not.toBe(1);
  });

  it('name the instance as Ganeti writes it', () => {
    expect(instanceOf({ metadata: 'originstname+web1.example.com' })).toBe('web1.example.com');
    expect(instanceOf({ metadata: 'something else' })).toBe('something else');
    expect(instanceOf({})).toBeNull();
  });
});
