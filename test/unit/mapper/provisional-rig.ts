/** What the tests of blocks that are provisional share: a volume of eight blocks with its mapper, its notes, and what is looked at of them. */
import { entryRuns } from '../../../src/mapper/formats/v2.js';
import { SimulatedNotes } from '../../sim/notes.js';
import { A, type NodeOptions, startNode, TestClock } from './nodes.js';
import { createSmall, memoryNode, memoryStores, type Node, readVolume, type Stores, writeVolume } from './support.js';

export const BLOCK = 256;
export const SIZE = 8 * BLOCK;
/** The port of the composer that has the lease. */
export const PORT = 500;
export const NAME = 'volume';

/** The volume's own object of a block. */
export const OBJECT = (block: number, epoch = 1): string =>
  `${NAME}_${epoch.toString(16).padStart(16, '0')}_${block.toString(16).padStart(16, '0')}`;

/** The map-data object of the block's entry. */
export const ENTRY = (block: number, name = NAME): string => entryRuns(name, BLOCK, block, 1, 1).next().value!.object;

export interface Scene {
  readonly clock: TestClock;
  readonly stores: Stores;
  readonly notes: SimulatedNotes;
  /** The node whose mapper runs. */
  readonly node: Node;
}

/** A new volume that is leased for writing. */
export async function startScene(): Promise<Scene> {
  const clock = new TestClock();
  const stores = memoryStores();
  const notes = new SimulatedNotes();
  const node = startNode(stores, clock, A, { notes });
  node.holders.set(PORT, async () => {});
  await createSmall(node, NAME, SIZE, BLOCK);
  await node.mapper.lease(NAME, { write: true }, PORT);
  return { clock, stores, notes, node };
}

/** Every change of the stores, in their order. @param looks and every look at the locks */
export function watch(of: Node, looks = false): string[] {
  const order: string[] = [];
  const changing = new Set(['write', 'reset', 'copy', 'delete', 'flush', 'truncate']);
  of.maps.before = (operation, name) => {
    if (changing.has(operation) || (looks && operation === 'check')) order.push(`maps ${operation} ${name}`);
  };
  of.blocks.before = (operation, name) => {
    if (changing.has(operation)) order.push(`blocks ${operation} ${name}`);
  };
  return order;
}

/** The mapper is no more: nothing that it begins reaches anything. */
export function kill(dying: Node): void {
  const never = (): Promise<never> => new Promise(() => {});
  dying.maps.before = never;
  dying.blocks.before = never;
}

/** Another mapper of the same node after the first was killed. */
export function successorOf({ clock, stores, notes, node }: Scene, options: NodeOptions = {}): Node {
  kill(node);
  return startNode(stores, clock, A, { notes, ...options });
}

/** What a reader of the stored map alone finds, as every other node is. */
export const storedIn = (stores: Stores): Promise<Buffer> => readVolume(memoryNode(stores, 'reader_1'), NAME, 0, SIZE);

/** The volume's content: each block is one byte all over. */
export const filled = (...bytes: number[]): Buffer =>
  Buffer.concat(Array.from({ length: SIZE / BLOCK }, (_, i) => Buffer.alloc(BLOCK, bytes[i] ?? 0)));

/** Writes a whole block. */
export const writeBlock = (node: Node, block: number, byte: number): Promise<void> =>
  writeVolume(node, NAME, block * BLOCK, Buffer.alloc(BLOCK, byte), PORT);

/** Lets time pass until it is over. */
export async function endOf<T>(clock: TestClock, promise: Promise<T>): Promise<T> {
  await clock.until(promise, 60_000);
  return promise;
}
