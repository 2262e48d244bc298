/** Starting programs, waiting for them and for the sockets they make. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';

/** Runs a program to its end; resolves to its standard output. @throws with all it said when it fails */
export function run(program: string, args: readonly string[], cwd?: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
    let out = '';
    let err = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      err += text;
    });
    child.once('error', reject);
    child.once('close', (code, signal) => {
      if (code === 0) resolve(out);
      else reject(new Error(`${program} ${args.join(' ')}: ${signal ?? `exit status ${code}`}\n${out}${err}`));
    });
  });
}

/** A server in the foreground that is ready once its unix socket is there. */
export class Server {
  readonly #child: ChildProcess;
  readonly #over: Promise<void>;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#over = new Promise((resolve) => child.once('close', () => resolve()));
  }

  /** @throws with what it said when it ends before its socket is there */
  static async start(program: string, args: readonly string[], socket: string): Promise<Server> {
    const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let err = '';
    let over = false;
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      err += text;
    });
    child.once('error', (error) => {
      err += error.message;
      over = true;
    });
    child.once('close', () => {
      over = true;
    });
    const server = new Server(child);
    while (!existsSync(socket)) {
      if (over) throw new Error(`${program} ${args.join(' ')} did not start: ${err.trim()}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return server;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async stop(): Promise<void> {
    this.#child.kill('SIGTERM');
    await this.#over;
  }
}

/** CPU time that processes have used so far, all their threads, in ms; steps of 10. One that is gone counts as 0. */
export function cpuTime(pids: readonly number[]): number {
  let ticks = 0;
  for (const pid of pids) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      // The name, in parentheses, may have blanks; behind it come state, ppid, …; utime and stime are the 14th and 15th of all.
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      ticks += Number(fields[11]) + Number(fields[12]);
    } catch {}
  }
  return ticks * 10;
}
