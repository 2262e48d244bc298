/** The volumes and snapshots of a node as they must be, and the client processes that use them. */
import { ActorProcess } from './actor-process.js';
import { type Disk, type Operation, type Reading, WrongData } from './model.js';
import type { Control, Outcome, Work } from './protocol.js';

export interface Volume {
  readonly disk: Disk;
  /** A command has it for itself: nobody starts anything on it. */
  exclusive: boolean;
  /** Client processes have it open, or are about to. */
  wanted: boolean;
  inFlight: number;
  /** Called when inFlight gets to 0. */
  onIdle: (() => void) | null;
}

/** A snapshot that was asked for: `reading` is what it may show, until somebody has looked. */
export interface Snapshot {
  readonly name: string;
  readonly source: Volume;
  reading: Reading | null;
  /** Once it was looked at: what it is for ever. */
  disk: Disk | null;
}

interface Lost {
  readonly volume: Volume;
  readonly op: Operation;
}

/** Client processes. Each has all volumes open on several connections. */
export const ACTORS = 2;

/** What an answer may not be. */
export class Refused extends Error {}

export class Fleet {
  readonly volumes = new Map<string, Volume>();
  readonly snapshots = new Map<string, Snapshot>();
  /** Commands without an answer: whether they were done is seen when all is quiet. */
  readonly unknown: Control[] = [];
  readonly counts = { requests: 0, lost: 0, commands: 0, repeated: 0, bytes: 0 };
  /** The longest time between two answers of data, in ms. */
  longestPause = 0;
  #lastAnswer = performance.now();
  readonly #conf: string;
  readonly #socket: string;
  readonly #actors: Promise<ActorProcess>[];
  readonly #lost: Lost[][] = Array.from({ length: ACTORS }, () => []);
  #processes: ActorProcess[] = [];
  /** How often each was killed. */
  readonly #kills: number[] = new Array<number>(ACTORS).fill(0);

  constructor(conf: string, socket: string) {
    this.#conf = conf;
    this.#socket = socket;
    this.#actors = Array.from({ length: ACTORS }, (_, index) => this.#spawn(index));
  }

  static volume(disk: Disk): Volume {
    return { disk, exclusive: false, wanted: false, inFlight: 0, onIdle: null };
  }

  async #spawn(index: number): Promise<ActorProcess> {
    const actor = new ActorProcess(this.#conf, this.#socket, (name) => this.#over(index, name));
    this.#processes[index] = actor;
    for (const volume of this.volumes.values()) {
      if (!volume.wanted) continue;
      const outcome = await actor.ask({ do: 'open', volume: volume.disk.name });
      if (outcome.state === 'failed') throw new Refused(`opening ${volume.disk.name}: ${outcome.message}`);
      if (outcome.state === 'done') this.#over(index, volume.disk.name);
    }
    return actor;
  }

  /** A client process is there again on a volume: what it had under way there before is over. */
  #over(index: number, name: string): void {
    this.#lost[index] = this.#lost[index].filter(({ volume, op }) => {
      if (volume.disk.name !== name) return true;
      volume.disk.over(op);
      return false;
    });
  }

  /** The client process, once it is there. */
  actor(index: number): Promise<ActorProcess> {
    return this.#actors[index];
  }

  get waiting(): number {
    return this.#processes.reduce((sum, actor) => sum + actor.waiting, 0);
  }

  /** kill -9 of a client process, and another in its place. */
  killActor(index: number): void {
    const killed = this.#processes[index].kill();
    const kills = ++this.#kills[index];
    // Killed again before there was another: one is enough.
    this.#actors[index] = killed.then(() => (kills === this.#kills[index] ? this.#spawn(index) : this.#actors[index]));
    // Whoever waits for it is told.
    this.#actors[index].catch(() => undefined);
  }

  async ask(index: number, work: Work): Promise<Outcome> {
    return (await this.#actors[index]).ask(work);
  }

  /** Sends a change and keeps the books. @throws Refused */
  async change(index: number, volume: Volume, work: Extract<Work, { tag: number }>): Promise<void> {
    const outcome = await this.#during(index, volume, async (actor) => {
      const op = volume.disk.begin(work.tag, work.do, work.first, work.count);
      const answer = await actor.ask(work);
      if (answer.state === 'done') volume.disk.answered(op);
      else this.#lost[index].push({ volume, op });
      return answer;
    });
    this.#account(outcome, work);
  }

  /** Reads and compares. @throws Refused, WrongData */
  async read(index: number, volume: Volume, work: Extract<Work, { do: 'read' }>): Promise<void> {
    const outcome = await this.#during(index, volume, async (actor) => {
      const reading = volume.disk.startReading(work.first, work.count);
      const answer = await actor.ask(work);
      if (answer.state === 'done' && answer.runs && !answer.damage) volume.disk.read(reading, answer.runs);
      else volume.disk.forget(reading);
      return answer;
    });
    this.#account(outcome, work);
    if (outcome.state !== 'done' || !outcome.damage) return;
    throw new WrongData(`${work.volume}: sector ${outcome.damage.sector} ${outcome.damage.what}`);
  }

  /** @throws Refused */
  async flush(index: number, volume: Volume, connection: number): Promise<void> {
    const work = { do: 'flush', volume: volume.disk.name, connection } as const;
    this.#account(await this.#during(index, volume, (actor) => actor.ask(work)), work);
  }

  /** The volume is in use from now on, also while its client process is being started. */
  async #during(index: number, volume: Volume, use: (actor: ActorProcess) => Promise<Outcome>): Promise<Outcome> {
    volume.inFlight++;
    try {
      return await use(await this.#actors[index]);
    } finally {
      if (--volume.inFlight === 0) volume.onIdle?.();
    }
  }

  #account(outcome: Outcome, work: Work): void {
    if (outcome.state === 'failed') throw new Refused(`${JSON.stringify(work)}: ${outcome.errno} ${outcome.message}`);
    if (outcome.state === 'lost') {
      this.counts.lost++;
      return;
    }
    this.counts.requests++;
    const now = performance.now();
    this.longestPause = Math.max(this.longestPause, now - this.#lastAnswer);
    this.#lastAnswer = now;
  }

  /** Pauses between rounds do not count. */
  startClock(): void {
    this.#lastAnswer = performance.now();
    this.longestPause = 0;
  }

  /** Nobody starts anything on the volume any more, and what ran has ended, when this resolves. */
  async takeAlone(volume: Volume): Promise<void> {
    volume.exclusive = true;
    if (volume.inFlight === 0) return;
    await new Promise<void>((resolve) => {
      volume.onIdle = resolve;
    });
    volume.onIdle = null;
  }

  /** All client processes connect to the volume. @throws Refused */
  async open(volume: Volume): Promise<void> {
    volume.wanted = true;
    await this.#everywhere({ do: 'open', volume: volume.disk.name });
    volume.exclusive = false;
  }

  async close(volume: Volume): Promise<void> {
    volume.wanted = false;
    await this.#everywhere({ do: 'close', volume: volume.disk.name });
  }

  async #everywhere(work: Work): Promise<void> {
    await Promise.all(
      this.#actors.map(async (_, index) => {
        const outcome = await this.ask(index, work);
        // A new process opens what is wanted by itself, and has nothing to close.
        if (outcome.state === 'failed' && work.do === 'open') throw new Refused(`${work.do}: ${outcome.message}`);
      }),
    );
  }

  async end(): Promise<void> {
    await Promise.all(this.#processes.map((actor) => actor.kill()));
  }
}
