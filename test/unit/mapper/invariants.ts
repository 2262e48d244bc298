/** What must hold of the stores after every operation, looked at as they are on disk, past every cache. */
import { expect } from 'vitest';
import { MapStore, noV0 } from '../../../src/mapper/map-store.js';
import { mayBeHeader } from '../../../src/mapper/names.js';
import { EntryFlag } from '../../../src/requests/resolved-map.js';
import type { Node } from './support.js';

/**
 * No object is named by the maps of two volumes if one of them may write it in place, and none twice in one map; every shared
 * object exists; and if `locked` is given, just these volumes are locked.
 */
export async function checkInvariants(node: Node, locked?: string[]): Promise<void> {
  const store = new MapStore(node.maps);
  const names = (await node.maps.list(null, 10_000)).names.filter(mayBeHeader);
  const writers = new Map<string, string>();
  const users = new Map<string, Set<string>>();
  for (const name of names) {
    const map = await store.open(name, noV0);
    if (!map || map.header.deleted) continue;
    await map.check(0, map.blocks);
    for (let i = 0; i < map.blocks; i++) {
      const flags = map.entries.flags(i);
      if (flags & EntryFlag.ZERO) continue;
      const object = map.entries.objectName(i);
      const others = users.get(object) ?? new Set();
      expect(others.has(name), `${object} is named twice by ${name}`).toBe(false);
      users.set(object, others.add(name));
      if (flags & EntryFlag.WRITABLE) {
        expect(writers.get(object), `${object} is writable from two maps`).toBeUndefined();
        writers.set(object, name);
      } else {
        await node.blocks.info(object);
      }
    }
  }
  for (const [object, writer] of writers) {
    expect([...users.get(object)!], `${object}, writable from ${writer}, is shared`).toEqual([writer]);
  }
  if (locked) {
    const held: string[] = [];
    for (const name of new Set([...names, ...locked])) if (await node.maps.lockHolder(name)) held.push(name);
    expect(held.sort()).toEqual([...locked].sort());
  }
}
