/** Stores in memory that tell of changes by themselves, as RADOS does. */
import type { LockNews } from '../../../src/requests/locks.js';
import type { TestClock } from './nodes.js';
import type { Node } from './support.js';

/** What a node's blocker has to tell. */
export class Bell {
  readonly #clock: TestClock;
  readonly #changed = new Set<string>();
  #mail = false;
  #answer: (() => void) | null = null;
  /** What it was asked: for how long it may wait. */
  readonly questions: number[] = [];
  /** It answers every question at once. */
  hasty = false;

  constructor(clock: TestClock) {
    this.#clock = clock;
  }

  ring({ changed = [], mail = false }: Partial<LockNews>): void {
    for (const name of changed) this.#changed.add(name);
    this.#mail ||= mail;
    this.#answer?.();
  }

  async next(ms: number): Promise<LockNews> {
    this.questions.push(ms);
    if (this.#changed.size === 0 && !this.#mail && ms > 0 && !this.hasty) {
      await new Promise<void>((resolve) => {
        const cancel = this.#clock.after(ms, resolve);
        this.#answer = () => {
          cancel();
          resolve();
        };
      });
    }
    this.#answer = null;
    const news = { changed: [...this.#changed], mail: this.#mail };
    this.#changed.clear();
    this.#mail = false;
    return news;
  }
}

/** From now on these nodes are told of locks that are released or broken, and of mail. @param nodes by owner string */
export function tellNews(clock: TestClock, nodes: Readonly<Record<string, Node>>): Record<string, Bell> {
  const bells = Object.fromEntries(Object.keys(nodes).map((owner) => [owner, new Bell(clock)]));
  const all = (name: string): void => {
    for (const bell of Object.values(bells)) bell.ring({ changed: [name] });
  };
  for (const [owner, node] of Object.entries(nodes)) {
    const { driver } = node.maps;
    const release = driver.release.bind(driver);
    const breakLock = driver.breakLock.bind(driver);
    const sendMail = driver.sendMail.bind(driver);
    driver.nextNews = (ms) => bells[owner].next(ms);
    driver.release = async (name, force) => {
      await release(name, force);
      all(name);
    };
    driver.breakLock = async (name) => {
      const before = await breakLock(name);
      all(name);
      return before;
    };
    driver.sendMail = async (to, mail) => {
      await sendMail(to, mail);
      bells[to]?.ring({ mail: true });
    };
  }
  return bells;
}
