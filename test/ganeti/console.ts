/** The serial console of an instance: the unix socket that qemu listens on. What the guest says while nobody listens is lost. */
import net from 'node:net';

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

  /** @throws when nothing listens at the path */
  static open(path: string): Promise<Console> {
    return new Promise((resolve, reject) => {
      const socket = net.connect(path);
      socket.once('error', reject).once('connect', () => {
        socket.off('error', reject);
        resolve(new Console(socket));
      });
    });
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
        } else if (this.#text.includes('RIG-FAIL')) {
          fail('the guest found something wrong');
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
