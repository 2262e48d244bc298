/** What real clients say about an export, parsed; and the few client commands that many tests share. */
import { attempt, hashOutput, type Outcome, run } from './run.js';

/** An export as `nbdinfo --json` describes it (only what tests look at). */
export interface ExportInfo {
  readonly 'export-name': string;
  readonly description?: string;
  readonly contexts?: readonly string[];
  readonly 'export-size': number;
  readonly is_read_only: boolean;
  readonly is_rotational: boolean;
  readonly can_cache: boolean;
  readonly can_df: boolean;
  readonly can_fast_zero: boolean;
  readonly can_flush: boolean;
  readonly can_fua: boolean;
  readonly can_multi_conn: boolean;
  readonly can_trim: boolean;
  readonly can_zero: boolean;
  readonly block_size_minimum?: number;
  readonly block_size_preferred?: number;
  readonly block_size_maximum?: number;
}

/** One extent of `nbdinfo --map --json`; type as base:allocation: 1 hole, 2 zero. */
export interface MapExtent {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

export async function nbdinfo(uri: string): Promise<ExportInfo> {
  const { stdout } = await run('nbdinfo', ['--json', uri]);
  return (JSON.parse(stdout) as { exports: ExportInfo[] }).exports[0];
}

/** Every export the server lists. */
export async function nbdlist(uri: string): Promise<ExportInfo[]> {
  const { stdout } = await run('nbdinfo', ['--list', '--json', uri]);
  return (JSON.parse(stdout) as { exports: ExportInfo[] }).exports;
}

export async function nbdmap(uri: string): Promise<MapExtent[]> {
  const { stdout } = await run('nbdinfo', ['--map', '--json', uri]);
  const extents = JSON.parse(stdout) as MapExtent[];
  // A server may cut extents as it likes; neighbours of one kind say the same as one extent.
  return extents.reduce<MapExtent[]>((merged, { offset, length, type }) => {
    const last = merged.at(-1);
    if (last?.type === type) merged[merged.length - 1] = { ...last, length: last.length + length };
    else merged.push({ offset, length, type });
    return merged;
  }, []);
}

/** SHA-256 and length of an export's content. */
export function sha256(uri: string): Promise<{ sha256: string; length: number }> {
  return hashOutput('nbdcopy', [uri, '-']);
}

/** Runs qemu-io commands, in order, on one connection. qemu-io's own status covers failed verification too. */
export function qemuIo(uri: string, ...commands: string[]): Promise<Outcome> {
  return run('qemu-io', qemuIoArguments(uri, commands));
}

/** As qemuIo, on an export that is opened for reading only: what a snapshot needs. */
export function qemuRead(uri: string, ...commands: string[]): Promise<Outcome> {
  return run('qemu-io', ['-r', ...qemuIoArguments(uri, commands)]);
}

/** As qemuIo, whatever comes out. */
export function tryQemuIo(uri: string, ...commands: string[]): Promise<Outcome> {
  return attempt('qemu-io', qemuIoArguments(uri, commands));
}

function qemuIoArguments(uri: string, commands: readonly string[]): string[] {
  return ['-f', 'raw', ...commands.flatMap((command) => ['-c', command]), uri];
}

/** nbdkit's nbd plugin in front of an export: which filters, outermost first, with which parameters. */
export interface Proxy {
  readonly filters: readonly string[];
  readonly parameters?: readonly string[];
  /** More options of nbdkit itself. */
  readonly options?: readonly string[];
}

/** Arguments of an nbdkit that runs a shell command, `$uri` being the export behind the filters, and ends with its status. */
export function proxyArguments(
  uri: string,
  { filters, parameters = [], options = [] }: Proxy,
  command: string,
): string[] {
  const chain = filters.map((filter) => `--filter=${filter}`);
  return ['-U', '-', ...options, ...chain, 'nbd', `uri=${uri}`, ...parameters, '--run', command];
}

/** Runs a shell command on an export behind nbdkit's filters; both must succeed. */
export function throughNbdkit(uri: string, proxy: Proxy, command: string): Promise<Outcome> {
  return run('nbdkit', proxyArguments(uri, proxy, command));
}

/** As throughNbdkit, whatever comes out. */
export function tryThroughNbdkit(uri: string, proxy: Proxy, command: string): Promise<Outcome> {
  return attempt('nbdkit', proxyArguments(uri, proxy, command));
}

/** Debian's Python, the one that libnbd's module is installed for. */
const PYTHON = '/usr/bin/python3';

/** Runs a Python script that may `import nbd` (of python3-libnbd); it must succeed. Resolves to what it printed. */
export async function python(script: string, ...args: string[]): Promise<string> {
  return (await run(PYTHON, ['-', ...args], { input: script })).stdout;
}

/** A shell command that gives `script` a libnbd handle `h`, connected to `$uri`: for throughNbdkit. */
export function nbdsh(script: string): string {
  return `${PYTHON} -m nbd -u "$uri" -c '${script}'`;
}
