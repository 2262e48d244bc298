/** The serial console of an instance: the unix socket that qemu listens on. What the guest says while nobody listens is lost. */
import net from 'node:net';
import { expect } from 'vitest';

/** Milliseconds that Ganeti may take until a guest's qemu listens, on a loaded machine. */
const LIMIT = 240_000;

export class Console {
  readonly #socket: net.Socket;
  #text = '';
  /** Where the next expectation begins to look. */
  #seen = 0;
  #over = false;
  readonly #watchers = new Set<() => void>();

  private constructor(socket: net.Socket) {
    this.#socket = socket;
    socket.setEncoding('utf8').on('data', (text) => {
      this.#text += `${text}`.replaceAll('\r', '');
      this.#wake();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#over = true;
      this.#wake();
    });
  }

  /** Listens as soon as qemu does. @throws when it does not come to that */
  static async open(path: string): Promise<Console> {
    let console: Console | null = null;
    const attempt = (): Promise<Console | null> =>
      new Promise((resolve) => {
        const socket = net.connect(path);
        socket.once('error', () => resolve(null)).once('connect', () => resolve(new Console(socket)));
      });
    // An ended qemu's socket may still be there.
    await expect
      .poll(
        async () => {
          console ??= await attempt();
          return console !== null;
        },
        { timeout: LIMIT },
      )
      .toBe(true);
    return console as unknown as Console;
  }

  /** All that was heard. */
  get text(): string {
    return this.#text;
  }

  type(line: string): void {
    this.#socket.write(`${line}\n`);
  }

  /** What was heard until now is not what later calls wait for. */
  skip(): void {
    this.#seen = this.#text.length;
  }

  close(): void {
    this.#socket.destroy();
  }

  /**
   * Waits until the guest says `pattern` after what earlier calls matched; resolves to the match.
   * @throws when the console ends first or `timeout` ms pass, with the end of what was heard
   */
  expect(pattern: RegExp, timeout: number): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#watchers.delete(look);
      };
      const fail = (why: string): void => {
        done();
        reject(new Error(`${why}, waiting for ${pattern}:\n${this.#text.slice(-4000)}`));
      };
      const look = (): void => {
        const match = pattern.exec(this.#text.slice(this.#seen));
        if (match) {
          this.#seen += match.index + match[0].length;
          done();
          resolve(match);
        } else if (/RIG-FAIL.*\n/.test(this.#text)) {
          const sick = this.#text.includes('RIG-SICK');
          fail(sick ? 'the guest itself failed, which no disk can bring about' : 'the guest found something wrong');
        } else if (this.#over) {
          fail('the console ended');
        }
      };
      const timer = setTimeout(() => fail(`nothing for ${timeout} ms`), timeout);
      this.#watchers.add(look);
      look();
    });
  }

  #wake(): void {
    for (const watch of [...this.#watchers]) watch();
  }
}
