/**
 * RUN_DIR/locks.json: what must outlive the mapper, though not the machine, of the volumes of this node: which are open or locked by hand, whose
 * locks were in use by clients when the mapper ended, which were lost, and which lock was just being broken.
 */
import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { messageOf } from '../../sys/errno.js';
import type { MapperLog } from '../context.js';
import type { Break, LostMark, Volume } from '../volume.js';

export interface LockRecord {
  readonly open: 'exclusive' | 'shared' | null;
  readonly byHand: boolean;
  /** The lock was held. */
  readonly held: boolean;
  readonly lost: LostMark | null;
  /** until: ms of the monotonic clock. */
  readonly breaking: { readonly holder: string; readonly until: number; readonly after?: readonly string[] } | null;
}

interface Stored {
  /** Changes when the machine starts: then none of this counts. */
  readonly boot: string;
  readonly volumes: Record<string, LockRecord>;
}

export class LockRegistry {
  readonly #file: string | null;
  readonly #boot: string;
  readonly #records: Map<string, LockRecord>;
  #writing: Promise<void> | null = null;
  #next: Promise<void> | null = null;

  /** What an earlier mapper of this start of the machine noted is all here. */
  readonly isSound: boolean;

  private constructor(file: string | null, boot: string, records: Map<string, LockRecord>, isSound = true) {
    this.isSound = isSound;
    this.#file = file;
    this.#boot = boot;
    this.#records = records;
  }

  /** One that is forgotten with the process. */
  static volatile(): LockRegistry {
    return new LockRegistry(null, '', new Map());
  }

  /** Reads the file. One that cannot be read is logged, and nothing is known then: the mapper starts all the same. */
  static load(directory: string, log: MapperLog): LockRegistry {
    const file = path.join(directory, 'locks.json');
    const boot = bootId();
    let records = new Map<string, LockRecord>();
    let isSound = false;
    try {
      const stored = parse(fs.readFileSync(file, 'utf8'));
      if (stored.boot === boot) {
        records = new Map(Object.entries(stored.volumes));
        isSound = true;
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
        log.warn(`${file} cannot be read, so nothing is known of volumes that were open before: ${messageOf(error)}`);
      }
    }
    return new LockRegistry(file, boot, records, isSound);
  }

  get records(): ReadonlyMap<string, LockRecord> {
    return this.#records;
  }

  /** Notes how the volume is now. Resolves when that is in the file. @throws Error of the file */
  note(volume: Volume): Promise<void> {
    const record = recordOf(volume);
    const before = this.#records.get(volume.name);
    if (record === null ? before === undefined : same(record, before))
      return this.#next ?? this.#writing ?? Promise.resolve();
    if (record === null) this.#records.delete(volume.name);
    else this.#records.set(volume.name, record);
    if (this.#file === null) return Promise.resolve();
    this.#next ??= (this.#writing ?? Promise.resolve())
      .catch(() => {})
      .then(() => {
        this.#writing = this.#next;
        this.#next = null;
        return this.#write(this.#file!);
      });
    return this.#next;
  }

  async #write(file: string): Promise<void> {
    const stored: Stored = { boot: this.#boot, volumes: Object.fromEntries(this.#records) };
    const temporary = `${file}.${randomUUID()}`;
    try {
      await fs.promises.writeFile(temporary, `${JSON.stringify(stored, null, 1)}\n`, { mode: 0o660 });
      await fs.promises.rename(temporary, file);
    } catch (error) {
      await fs.promises.rm(temporary, { force: true }).catch(() => {});
      throw error;
    }
  }
}

function recordOf(volume: Volume): LockRecord | null {
  const { open, byHand, lost, breaking } = volume;
  const held = volume.locked && !volume.releasing && (volume.kept || volume.leases.size > 0);
  if (open === null && !byHand && !held && lost === null && breaking === null) return null;
  return { open, byHand, held, lost, breaking: breaking && toRecord(breaking) };
}

function toRecord({ holder, until, after }: Break): NonNullable<LockRecord['breaking']> {
  return after.length === 0 ? { holder, until } : { holder, until, after };
}

const same = (a: LockRecord, b: LockRecord | undefined): boolean => JSON.stringify(a) === JSON.stringify(b);

/** @throws Error that says what is wrong with it */
function parse(text: string): Stored {
  const value = JSON.parse(text) as Partial<Stored> | null;
  if (typeof value?.boot !== 'string' || typeof value.volumes !== 'object' || value.volumes === null) {
    throw new Error('it does not have the members boot and volumes');
  }
  for (const [name, record] of Object.entries(value.volumes))
    if (!isRecord(record)) throw new Error(`${name}: not a record`);
  return value as Stored;
}

function isRecord(value: unknown): value is LockRecord {
  const { open, byHand, held, lost, breaking } = (value ?? {}) as Record<string, unknown>;
  return (
    (open === null || open === 'exclusive' || open === 'shared') &&
    typeof byHand === 'boolean' &&
    typeof held === 'boolean' &&
    (lost === null || (typeof lost === 'object' && typeof (lost as LostMark).at === 'number')) &&
    (breaking === null ||
      (typeof breaking === 'object' &&
        typeof (breaking as { until: unknown }).until === 'number' &&
        isList((breaking as { after?: unknown }).after)))
  );
}

const isList = (value: unknown): boolean =>
  value === undefined || (Array.isArray(value) && value.every((each) => typeof each === 'string'));

/** Changes when the machine starts. */
export function bootId(): string {
  try {
    return fs.readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    // Without it, what is in RUN_DIR counts: that is emptied when a machine starts.
    return '';
  }
}
