/** qemu's monitor protocol: commands and events of a running machine, on a unix socket. The agent in a guest speaks it too. */
import net from 'node:net';
import { createInterface } from 'node:readline';
import { expect } from 'vitest';

interface Message {
  readonly QMP?: object;
  readonly event?: string;
  readonly data?: object;
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
}

/** Leaves memory that is a file which both qemus have out of a migration; since qemu 4.0. */
const LEAVE_SHARED = 'x-ignore-shared';

export class Monitor {
  readonly #socket: net.Socket;
  readonly #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  readonly #names = new Set<string>();
  /** Every event as it was told, with the time of this machine. */
  readonly events: string[] = [];
  #next = 1;

  private constructor(socket: net.Socket) {
    this.#socket = socket;
    createInterface(socket)
      .on('line', (line) => this.#take(JSON.parse(line) as Message))
      // Passes the socket's errors on.
      .on('error', () => {});
    socket.on('close', () => {
      this.events.push(`${new Date().toISOString()} qemu closed its monitor`);
      for (const { reject } of this.#waiting.values()) reject(new Error('qemu closed its monitor'));
      this.#waiting.clear();
    });
    // The end follows, which tells those who wait.
    socket.on('error', () => {});
  }

  /** Connects as soon as qemu listens. @throws when it does not within the time of expect.poll */
  static async connect(path: string): Promise<Monitor> {
    const monitor = await Monitor.agent(path);
    await monitor.execute('qmp_capabilities');
    return monitor;
  }

  /** Connects to the guest agent's socket, which greets nobody. @throws as connect */
  static async agent(path: string): Promise<Monitor> {
    const attempt = (): Promise<net.Socket | null> =>
      new Promise((resolve) => {
        const socket = net.connect(path, () => resolve(socket)).once('error', () => resolve(null));
      });
    let socket: net.Socket | null = null;
    await expect
      .poll(async () => {
        socket ??= await attempt();
        return socket !== null;
      })
      .toBe(true);
    return new Monitor(socket as unknown as net.Socket);
  }

  /** Runs a command; resolves to what it returned. @throws Error in qemu's words */
  execute<T>(command: string, parameters: object = {}): Promise<T> {
    const id = this.#next++;
    return new Promise<T>((resolve, reject) => {
      this.#waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: parameters, id })}\n`);
    });
  }

  /** Whether the machine's processor is emulated. */
  async emulated(): Promise<boolean> {
    return !(await this.execute<{ enabled: boolean }>('query-kvm')).enabled;
  }

  /** Whether the machine's memory is a file that it can take along by name. */
  async sharesMemory(): Promise<boolean> {
    const backends = await this.execute<{ share: boolean }[]>('query-memdev');
    const capabilities = await this.execute<{ capability: string }[]>('query-migrate-capabilities');
    return backends.some(({ share }) => share) && capabilities.some(({ capability }) => capability === LEAVE_SHARED);
  }

  /**
   * Moves the machine to one that was started with `-incoming URI`; resolves to how long it stood still, in ms. It runs until the other one has it, but for
   * an emulated one whose memory is not shared: emulators lose pages that it writes while its memory is sent (docs/testing.md), so it stands still from
   * the beginning. For its disk that is no other: requests end when it is stopped, and it goes on at once when the other qemu has it.
   * @param target the monitor of the other one
   */
  async migrate(uri: string, target: Monitor): Promise<number> {
    const shared = (await this.sharesMemory()) && (await target.sharesMemory());
    const capabilities = [{ capability: LEAVE_SHARED, state: true }];
    if (shared) for (const side of [this, target]) await side.execute('migrate-set-capabilities', { capabilities });
    const still = !shared && (await this.emulated());
    const begun = Date.now();
    if (still) await this.execute('stop');
    await this.execute('migrate', { uri });
    let downtime = Number.NaN;
    await expect
      .poll(
        async () => {
          const state = await this.execute<{ status: string; downtime?: number; 'error-desc'?: string }>(
            'query-migrate',
          );
          if (state.downtime !== undefined) downtime = state.downtime;
          return state.status === 'failed' ? `failed: ${state['error-desc']}` : state.status;
        },
        { timeout: 60_000 },
      )
      .toMatch(/completed|failed/);
    const { status, ...rest } = await this.execute<{ status: string }>('query-migrate');
    if (status !== 'completed') throw new Error(`migration ${status}: ${JSON.stringify(rest)}`);
    if (!still) return downtime;
    await target.arrived();
    return Date.now() - begun;
  }

  /** A machine that stood still on its way goes on here as soon as all of it has come. */
  async arrived(): Promise<void> {
    const status = async (): Promise<string> => (await this.execute<{ status: string }>('query-status')).status;
    await expect.poll(status, { interval: 10, timeout: 240_000 }).toBe('paused');
    await this.execute('cont');
  }

  /** Resolves when qemu has told of an event of this name, now or before. */
  async event(name: string): Promise<void> {
    await expect.poll(() => this.#names.has(name), { interval: 20, timeout: 60_000 }).toBe(true);
  }

  close(): void {
    this.#socket.destroy();
  }

  #take({ id, event, return: value, error, data }: Message): void {
    if (event !== undefined) {
      this.#names.add(event);
      this.events.push(`${new Date().toISOString()} ${event} ${JSON.stringify(data ?? {})}`);
    }
    // The greeting and events have no id.
    const waiting = id === undefined ? undefined : this.#waiting.get(id);
    if (!waiting) return;
    this.#waiting.delete(id as number);
    if (error) waiting.reject(new Error(`${error.class}: ${error.desc}`));
    else waiting.resolve(value);
  }
}
