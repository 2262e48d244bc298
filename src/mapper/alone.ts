/**
 * Operations that change maps, one at a time for a volume.
 *
 * Such an operation enters the volume's intent gate (no lease is granted from then on), takes all leases back while requests of
 * the draining holders are still served, then enters the volume's gate alone. With several volumes, all intents come before all
 * gates, each in the order of names: no two operations can wait for each other.
 */
import type { MapperContext } from './context.js';
import type { Volume } from './volume.js';

export interface AloneOptions {
  /** Of REVOKE. */
  readonly flags?: number;
  /**
   * What is done before the work of what the stored maps do not tell yet (Committer); default: commit, as the work goes by the stored maps, and may
   * drop what is cached.
   */
  readonly before?: (volume: Volume) => Promise<void>;
  /** What is looked at when no lease is granted any more, before those that are there are taken back; when it throws, nothing is done. */
  readonly entered?: () => void;
}

/**
 * Works alone on some volumes, without leases on them, and together with readers on others.
 * @param work gets the volumes, and whether all who had leases live and answered
 */
export async function withAlone<T>(
  context: Pick<MapperContext, 'volumes' | 'leases'>,
  alone: string[],
  read: string[],
  work: (volumes: Volume[], answered: boolean) => Promise<T>,
  { flags = 0, before = (volume) => context.volumes.committer.commit(volume), entered = () => {} }: AloneOptions = {},
): Promise<T> {
  const names = [...alone, ...read];
  const inUse: Volume[] = [];
  const leave: (() => void)[] = [];
  const run = async (): Promise<T> => {
    const sorted = [...new Set(inUse)].sort((a, b) => (a.name < b.name ? -1 : 1));
    const changed = new Set(inUse.slice(0, alone.length));
    try {
      for (const volume of sorted) if (changed.has(volume)) leave.push(await volume.intent.enter(true));
      entered();
      let answered = true;
      for (const volume of changed) if (!(await context.leases.revoke(volume, { flags }))) answered = false;
      for (const volume of sorted) leave.push(await volume.gate.enter(changed.has(volume)));
      for (const volume of changed) await before(volume);
      for (const volume of changed) volume.generation = context.volumes.newGeneration();
      return await work(inUse, answered);
    } finally {
      for (const exit of leave.reverse()) exit();
    }
  };
  const use = (i: number): Promise<T> =>
    i === names.length
      ? run()
      : context.volumes.use(names[i], (volume) => {
          inUse.push(volume);
          return use(i + 1);
        });
  return use(0);
}
