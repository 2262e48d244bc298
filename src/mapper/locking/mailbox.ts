/**
 * Messages of other nodes about locks. They may be repeated, late or lost, and nothing is done on their word alone: the lock is looked at
 * first, or what they ask for does no harm.
 */
import type { LockClient } from '../../requests/lock-client.js';
import type { LockMail } from '../../requests/locks.js';
import type { Volume, Volumes } from '../volume.js';
import type { LockChecks } from './checks.js';

export interface MailboxOptions {
  readonly volumes: Volumes;
  /** This node's owner string. */
  readonly owner: string;
  readonly client: LockClient;
  readonly checks: () => LockChecks;
  /** Another node wants the lock of a volume that it has open shared. */
  readonly want: (name: string) => void;
  /** The old holder of a lock that this node broke says that it has ended. */
  readonly gone: (volume: Volume, id: string) => void;
  /** Resolves when nobody goes on by leases of an earlier mapper. */
  readonly ready: () => Promise<void>;
  /** A composer that may have had a lease of the volume by an earlier mapper has not answered: what it sent may still be under way. */
  readonly isOpen: (volume: Volume) => boolean;
}

export class Mailbox {
  readonly #options: MailboxOptions;
  /** Questions that are being answered. */
  readonly #answering = new Set<string>();

  constructor(options: MailboxOptions) {
    this.#options = options;
  }

  receive(mail: LockMail): void {
    const volume = this.#options.volumes.get(mail.name);
    if (mail.kind === 'want') this.#options.want(mail.name);
    else if (mail.kind === 'broken') void this.#broken(mail);
    else if (volume) this.#options.gone(volume, mail.id);
  }

  /** Another node says that it broke the lock: when that is so and all has ended here, it is told. */
  async #broken({ name, from, id }: LockMail): Promise<void> {
    const { client, owner, volumes, ready } = this.#options;
    const key = `${id} ${from}`;
    if (this.#answering.has(key)) return;
    this.#answering.add(key);
    try {
      await ready();
      if (await volumes.use(name, (volume) => this.#hasEnded(volume))) {
        await client.mail(from, { kind: 'gone', name, from: owner, id });
      }
    } catch {
      // It asks again until its time is over, and then goes on without an answer.
    } finally {
      this.#answering.delete(key);
    }
  }

  async #hasEnded(volume: Volume): Promise<boolean> {
    // What is broken here was broken again there: the first holder's time is not over before that is done.
    if (volume.breaking) return false;
    // The lock that was broken may be one that is just being taken: then it counts as held in a moment, and leases go out by it.
    await volume.locking.exclusive(async () => {});
    if (volume.locked) {
      const held = await this.#options
        .checks()
        .verify(volume)
        .then(
          () => true,
          () => false,
        );
      if (held || !volume.lost) return false;
    }
    await volume.drained;
    return !volume.locked && !this.#options.isOpen(volume);
  }
}
