/** What must hold of maps and objects after any cut, looked at on the disk itself. */

import { BASES_DIRECTORY } from '../../src/blockers/file/partial/bases.js';
import { DURABLE, decodeMark, decodeTail, tailLength, tailOffset } from '../../src/blockers/file/partial/tail.js';
import { hashedPath } from '../../src/blockers/file/paths.js';
import { MapStore, noV0 } from '../../src/mapper/map-store.js';
import { mayBeHeader } from '../../src/mapper/names.js';
import type { ObjectClient } from '../../src/requests/object-client.js';
import { EntryFlag } from '../../src/requests/resolved-map.js';
import type { Disk } from './disk.js';
import { FileInode } from './inode.js';
import { type Model, Violation } from './model.js';
import { BLOCKS_ROOT, MAPS_ROOT } from './node.js';

/** Objects of a store as they are on the disk. */
function reader(disk: Disk, root: string): Pick<ObjectClient, 'read' | 'info'> & { checkBase(name: string): void } {
  const find = (name: string): FileInode => {
    const inode = disk.find(hashedPath(root, name));
    if (!(inode instanceof FileInode)) throw new Violation(`${name} is a directory`);
    return inode;
  };
  return {
    checkBase: (name) => {
      const file = find(name);
      if (file.mark === null) return;
      const length = decodeMark(file.mark) ?? 0;
      if (file.size === length) return;
      const bytes = Buffer.alloc(tailLength(length));
      file.read(bytes, tailOffset(length));
      const tail = decodeTail(bytes, length);
      if (tail === null) throw new Violation(`${name} is partial, and its tail is none`);
      if (tail.states.every((state) => state === DURABLE) || disk.exists(`${root}/${BASES_DIRECTORY}/${tail.base}`))
        return;
      throw new Violation(`${name} is partial, and its base is missing`);
    },
    read: async (name, offset, length) => {
      const out = Buffer.alloc(length);
      find(name).read(out, offset);
      return out;
    },
    info: async (name) => {
      const { size } = find(name);
      return { size, allocated: size };
    },
  };
}

/**
 * No object is named by two maps if one of them may write it in place, none twice in one map, and every object that is named exists:
 * also one's own, since the next snapshot would share it. Volumes that are being removed are past that.
 * @throws Violation
 */
export async function checkStore(disk: Disk, model: Model): Promise<void> {
  const store = new MapStore(reader(disk, MAPS_ROOT) as Partial<ObjectClient> as ObjectClient);
  const blocks = reader(disk, BLOCKS_ROOT);
  const removing = new Set([...model.changes].map((change) => (change.kind === 'remove' ? change.name : '')));
  const writers = new Map<string, string>();
  const users = new Map<string, Set<string>>();
  for (const name of objectNames(disk, MAPS_ROOT)) {
    if (!mayBeHeader(name) || removing.has(name)) continue;
    const map = await store.open(name, noV0);
    if (!map || map.header.deleted || map.frozenReason !== null) continue;
    await map.check(0, map.blocks);
    for (let i = 0; i < map.blocks; i++) {
      const flags = map.entries.flags(i);
      if (flags & EntryFlag.ZERO) continue;
      const object = map.entries.objectName(i);
      const others = users.get(object) ?? new Set<string>();
      if (others.has(name)) throw new Violation(`${object} is named twice by ${name}`);
      users.set(object, others.add(name));
      if (flags & EntryFlag.WRITABLE) {
        const other = writers.get(object);
        if (other !== undefined) throw new Violation(`${object} is writable from ${other} and ${name}`);
        writers.set(object, name);
      }
      await blocks.info(object).catch(() => Promise.reject(new Violation(`${object} of ${name} is missing`)));
      blocks.checkBase(object);
    }
  }
  for (const [object, writer] of writers) {
    const all = [...(users.get(object) ?? [])];
    if (all.length !== 1) throw new Violation(`${object}, writable from ${writer}, is in ${all.join(', ')}`);
  }
}

function objectNames(disk: Disk, root: string): string[] {
  const names: string[] = [];
  for (const line of disk.paths()) {
    const file = line.slice(0, line.lastIndexOf(' '));
    const name = file.slice(file.lastIndexOf('/') + 1);
    if (file.startsWith(`${root}/`) && hashedPath(root, name) === file) names.push(name);
  }
  return names;
}
