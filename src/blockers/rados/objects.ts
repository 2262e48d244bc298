/**
 * Objects as wholes. Each change is one operation of RADOS: done or not done, never in part. The deadline is asked in the turn in which it
 * is handed to librados.
 */
import type { Pool, WriteStep } from '../../rados/types.js';
import { errnos, SystemError } from '../../sys/errno.js';
import { sha256, withoutTrailingZeros } from '../digest.js';
import type { ObjectInfo } from '../driver.js';
import { adviceFor, checkDeadline, isErrno } from '../errors.js';
import { missing } from '../names.js';
import { contentSteps, readWhole } from './content.js';
import { ROOM, readIntoRoom, type Whole } from './rooms.js';

/** SHA-256 in hex, as an object's name and as a memo's content. */
const DIGEST = /^[0-9a-f]{64}$/;

/** Runs work with the pool of the client that there is; with its successor's again when Ceph refuses it. */
export type Attempt = <T>(work: (pool: Pool) => Promise<T>) => Promise<T>;

export class RadosObjects {
  readonly #attempt: Attempt;
  readonly #mayChange: (deadline: number) => boolean;

  /** @param mayChange whether a change with this deadline may be begun now */
  constructor(attempt: Attempt, mayChange: (deadline: number) => boolean) {
    this.#attempt = attempt;
    this.#mayChange = mayChange;
  }

  async #change(name: string, deadline: number, steps: readonly WriteStep[]): Promise<void> {
    await this.#attempt(async (pool) => {
      // Whoever asks looks at the lock again then, and asks again.
      if (!this.#mayChange(deadline)) throw new SystemError(errnos.ETIME, adviceFor(errnos.ETIME));
      await pool.operate(name, steps, deadline);
    });
  }

  /** As #change; a missing object is an error of the driver's own words. */
  async #changeExisting(name: string, deadline: number, steps: readonly WriteStep[]): Promise<void> {
    try {
      await this.#change(name, deadline, steps);
    } catch (error) {
      throw isErrno(error, errnos.ENOENT) ? missing(name) : error;
    }
  }

  reset(name: string, deadline: number): Promise<void> {
    return this.#change(name, deadline, [
      { do: 'create', exclusive: false },
      { do: 'truncate', size: 0 },
    ]);
  }

  delete(name: string, deadline: number): Promise<void> {
    return this.#changeExisting(name, deadline, [{ do: 'remove' }]);
  }

  truncate(name: string, size: number, deadline: number): Promise<void> {
    return this.#changeExisting(name, deadline, [{ do: 'assertExists' }, { do: 'truncate', size }]);
  }

  async info(name: string): Promise<ObjectInfo> {
    try {
      const { size, modified } = await this.#attempt((pool) => pool.stat(name));
      return { size, allocated: size, modified };
    } catch (error) {
      throw isErrno(error, errnos.ENOENT) ? missing(name) : error;
    }
  }

  /** Reads the source and makes the target of it, in one operation: librados' C interface has nothing that copies inside the cluster. */
  async copy(source: string, target: string, size: number, exclusive: boolean, deadline: number): Promise<void> {
    checkDeadline(deadline);
    const { bytes, giveBack } = await this.#readWhole(source, size);
    try {
      await this.#change(target, deadline, contentSteps(bytes, exclusive));
    } catch (error) {
      throw isErrno(error, errnos.EEXIST) ? new SystemError(errnos.EEXIST, `object ${target} exists already`) : error;
    } finally {
      giveBack();
    }
  }

  async #readWhole(name: string, size: number): Promise<Whole> {
    if (size > ROOM) return { bytes: await this.#read(name, size), giveBack: () => undefined };
    return await this.#existing(name, (pool) => readIntoRoom(pool, name, size));
  }

  #read(name: string, size: number): Promise<Buffer> {
    return this.#existing(name, (pool) => readWhole(pool, name, size));
  }

  /** Reads of an object; a missing one is an error of the driver's own words. */
  async #existing<T>(name: string, read: (pool: Pool) => Promise<T>): Promise<T> {
    try {
      return await this.#attempt(read);
    } catch (error) {
      throw isErrno(error, errnos.ENOENT) ? missing(name) : error;
    }
  }

  /** Content addressing as the original's: the content first, then what names it. */
  async hash(name: string, size: number): Promise<string> {
    const memo = `${name}_hash`;
    const known = await this.#memo(memo);
    if (known !== null) return known;
    const content = withoutTrailingZeros(await this.#read(name, size));
    const digest = await sha256(content);
    try {
      await this.#change(digest, 0, contentSteps(content, true));
    } catch (error) {
      // The same content is stored already: whole, as each object is written at once.
      if (!isErrno(error, errnos.EEXIST)) throw error;
    }
    await this.#change(memo, 0, contentSteps(Buffer.from(digest, 'latin1'), false));
    return digest;
  }

  async #memo(memo: string): Promise<string | null> {
    try {
      const text = (await this.#read(memo, 64)).toString('latin1');
      return DIGEST.test(text) ? text : null;
    } catch (error) {
      if (isErrno(error, errnos.ENOENT)) return null;
      throw error;
    }
  }
}
