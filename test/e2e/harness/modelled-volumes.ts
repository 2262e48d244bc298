/** Volumes that go through everything a volume can, and what each must read back as. */
import { Model } from './model.js';
import { bytes, type TestNode } from './node.js';

const MiB = 1 << 20;
export const BLOCK = 4 * MiB;

/** Volumes of a node by name, changed by `vlmc` and by NBD as their models are. */
export class ModelledVolumes {
  readonly models = new Map<string, Model>();
  readonly #node: TestNode;

  constructor(node: TestNode) {
    this.#node = node;
  }

  model(name: string): Model {
    const found = this.models.get(name);
    if (!found) throw new Error(`no model of ${name}`);
    return found;
  }

  async create(name: string, size: number): Promise<Model> {
    await this.#node.create(name, size);
    this.models.set(name, new Model(size));
    return this.model(name);
  }

  async snapshot(name: string, snap: string): Promise<void> {
    await this.#node.vlmc('snapshot', name, snap);
    this.models.set(snap, this.model(name).copy());
  }

  async clone(snap: string, name: string, size = this.model(snap).size): Promise<Model> {
    await this.#node.vlmc('create', name, '--snap', snap, '--size', bytes(size));
    this.models.set(name, this.model(snap).copy(size));
    return this.model(name);
  }

  async resize(name: string, size: number): Promise<Model> {
    await this.#node.vlmc('resize', name, '--size', bytes(size), '--force');
    return this.model(name).resize(size);
  }

  async remove(name: string): Promise<void> {
    await this.#node.vlmc('remove', name);
    this.models.delete(name);
  }

  async rename(name: string, to: string): Promise<void> {
    await this.#node.vlmc('rename', name, to);
    this.models.set(to, this.model(name));
    this.models.delete(name);
  }

  /** Does to the volume what was done to its model, and flushes. */
  apply(name: string): Promise<void> {
    return this.model(name).apply(this.#node.uri(name));
  }

  /** The list of volumes that the independent readers take: name, size, SHA-256. */
  get list(): string {
    return [...this.models].map(([name, model]) => `${name} ${model.size} ${model.sha256}\n`).join('');
  }
}

/** Makes the volumes. */
export async function makeVolumes(volumes: ModelledVolumes): Promise<void> {
  await copies(volumes);
  await sizes(volumes);
  await names(volumes);
}

/** Snapshots, clones, clones of clones. */
async function copies(volumes: ModelledVolumes): Promise<void> {
  const base = await volumes.create('tree-base', 10 * BLOCK);
  base
    .write(0, BLOCK, 1)
    .write(BLOCK + 512, 1536, 2)
    .write(3 * BLOCK - 4096, 8192, 3)
    .write(10 * BLOCK - 65536, 65536, 4);
  await volumes.apply('tree-base');
  await volumes.snapshot('tree-base', 'tree-snap-1');
  base.write(8192, 4096, 5).write(7 * BLOCK, 4096, 6);
  await volumes.apply('tree-base');
  await volumes.snapshot('tree-base', 'tree-snap-2');
  base.zero(0, BLOCK, 'discard').write(2 * BLOCK, 100, 7);
  await volumes.apply('tree-base');

  const first = await volumes.clone('tree-snap-1', 'tree-clone-1');
  first
    .write(BLOCK, 4096, 11)
    .write(6 * BLOCK + 77, 512, 12)
    .write(2 * MiB - 100, 200, 15);
  await volumes.apply('tree-clone-1');
  await volumes.snapshot('tree-clone-1', 'tree-clone-snap');
  const second = await volumes.clone('tree-clone-snap', 'tree-clone-2', 13 * BLOCK);
  second.write(0, 512, 13).write(12 * BLOCK + 1, 4096, 14);
  await volumes.apply('tree-clone-2');

  // A block of it is written piece by piece, until nothing is as it was, and shared again.
  const filled = await volumes.clone('tree-snap-1', 'tree-filled');
  for (let at = 0; at < BLOCK; at += MiB) filled.write(at, MiB, 16 + at / MiB);
  await volumes.apply('tree-filled');
  await volumes.snapshot('tree-filled', 'tree-filled-snap');
  (await volumes.clone('tree-filled-snap', 'tree-filled-clone')).write(3 * MiB, 100, 20);
  await volumes.apply('tree-filled-clone');
}

async function sizes(volumes: ModelledVolumes): Promise<void> {
  (await volumes.create('tree-resized', 6 * BLOCK)).write(0, 6 * BLOCK, 21);
  await volumes.apply('tree-resized');
  (await volumes.resize('tree-resized', 2 * BLOCK + 512 * 3)).write(100, 100, 22);
  await volumes.apply('tree-resized');
  (await volumes.resize('tree-resized', 9 * BLOCK)).write(2 * BLOCK + 2 * MiB, 512, 23).write(8 * BLOCK, 512, 24);
  await volumes.apply('tree-resized');
  (await volumes.resize('tree-resized', 11 * BLOCK)).write(4096, 4096, 25);
  await volumes.apply('tree-resized');
  (await volumes.create('tree-odd', 2 * BLOCK + 512)).write(2 * BLOCK, 512, 51);
  await volumes.apply('tree-odd');
}

/** Renamed, removed, made again under a name. */
async function names(volumes: ModelledVolumes): Promise<void> {
  const moved = (await volumes.create('tree-before', 3 * BLOCK)).write(BLOCK - 100, 200, 31);
  await volumes.apply('tree-before');
  await volumes.rename('tree-before', 'tree-after');
  moved.write(2 * BLOCK, 4096, 32).write(0, 10, 33);
  await volumes.apply('tree-after');

  (await volumes.create('tree-again', 4 * BLOCK)).write(0, 4 * BLOCK, 41);
  await volumes.apply('tree-again');
  await volumes.remove('tree-again');
  (await volumes.create('tree-again', 5 * BLOCK)).write(BLOCK, 1000, 42);
  await volumes.apply('tree-again');

  await volumes.create('tree-removed', 2 * BLOCK);
  await volumes.remove('tree-removed');
  await volumes.create('tree-blank', 4 * BLOCK);
}
