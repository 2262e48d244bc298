/**
 * Who uses a device or one of its partitions: what is mounted, swap, what the kernel has made of it (device-mapper, md, loop), processes that
 * have it open. Plain files of /proc and /sys; what this process may not see is left out, so ask as root.
 */
import fs from 'node:fs';
import path from 'node:path';
import { type BlockNode, blockNodes, names } from './sysfs.js';
import { SYSTEM_ROOTS, type SystemRoots } from './types.js';

export interface Use {
  /** `open` alone can be overridden: all else would lose its data. */
  readonly kind: 'mount' | 'swap' | 'holder' | 'open';
  /** In words, to follow "it is". */
  readonly what: string;
}

/** Everything that uses a device, what matters most first. @param except processes that do not count, as the one that asks */
export function usesOf(index: number, except: readonly number[] = [], roots: SystemRoots = SYSTEM_ROOTS): Use[] {
  const nodes = blockNodes(index, roots);
  return [...mounts(nodes, roots), ...swaps(nodes, roots), ...holders(nodes, roots), ...openers(nodes, except, roots)];
}

const readLines = (file: string): string[] => {
  try {
    return fs.readFileSync(file, 'utf8').split('\n').filter(Boolean);
  } catch {
    return [];
  }
};

const processes = (roots: SystemRoots): string[] => names(roots.proc).filter((name) => /^\d+$/.test(name));

/** The kernel writes blanks and backslashes in paths as octal numbers. */
const unescaped = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));

/** In all mount namespaces that have a process: a container's mounts are not this process's. */
function mounts(nodes: readonly BlockNode[], roots: SystemRoots): Use[] {
  const found = new Map<string, Use>();
  const seen = new Set<string>();
  for (const pid of ['self', ...processes(roots)]) {
    const namespace = linkOf(path.join(roots.proc, pid, 'ns', 'mnt')) ?? `of ${pid}`;
    if (seen.has(namespace)) continue;
    seen.add(namespace);
    for (const line of readLines(path.join(roots.proc, pid, 'mountinfo'))) {
      const words = line.split(' ');
      const source = words[words.indexOf('-') + 2];
      // File systems of several devices have a number of their own; their source is one of the devices.
      const node = nodes.find(({ number, path: file }) => number === words[2] || file === unescaped(source ?? ''));
      if (node === undefined) continue;
      const where = unescaped(words[4] ?? '');
      const elsewhere = seen.size > 1 ? ` in the mount namespace of process ${pid}` : '';
      const part = partOf(nodes, node);
      const key = `${node.name} ${where}`;
      if (!found.has(key)) found.set(key, { kind: 'mount', what: `mounted on ${where}${part}${elsewhere}` });
    }
  }
  return [...found.values()];
}

const partOf = (nodes: readonly BlockNode[], node: BlockNode): string => (node === nodes[0] ? '' : ` (${node.path})`);

function swaps(nodes: readonly BlockNode[], roots: SystemRoots): Use[] {
  const uses: Use[] = [];
  for (const line of readLines(path.join(roots.proc, 'swaps')).slice(1)) {
    const file = unescaped(line.split(/\s/)[0] ?? '');
    const node = nodes.find(({ path: known }) => known === file);
    if (node) uses.push({ kind: 'swap', what: `swap space${partOf(nodes, node)}; swapoff ${node.path} ends that` });
  }
  return uses;
}

/** Other block devices of the kernel that are made of it. */
function holders(nodes: readonly BlockNode[], roots: SystemRoots): Use[] {
  const uses: Use[] = [];
  for (const node of nodes) {
    for (const holder of names(path.join(node.directory, 'holders'))) {
      uses.push({ kind: 'holder', what: `held by ${holderName(holder, roots)}${partOf(nodes, node)}` });
    }
  }
  // A loop device has it open like a process that no descriptor tells of.
  for (const name of names(path.join(roots.sys, 'block')).filter((block) => /^loop\d+$/.test(block))) {
    const [file] = readLines(path.join(roots.sys, 'block', name, 'loop', 'backing_file'));
    const node = nodes.find(({ path: known }) => known === file);
    if (node) uses.push({ kind: 'holder', what: `held by ${path.join(roots.dev, name)}${partOf(nodes, node)}` });
  }
  return uses;
}

function holderName(holder: string, roots: SystemRoots): string {
  const [name] = readLines(path.join(roots.sys, 'block', holder, 'dm', 'name'));
  return name === undefined ? path.join(roots.dev, holder) : `device-mapper ${name} (${holder})`;
}

function openers(nodes: readonly BlockNode[], except: readonly number[], roots: SystemRoots): Use[] {
  const uses: Use[] = [];
  for (const pid of processes(roots)) {
    if (except.includes(Number(pid))) continue;
    const directory = path.join(roots.proc, pid, 'fd');
    const node = firstOpen(nodes, directory);
    if (node === undefined) continue;
    const [name = '?'] = readLines(path.join(roots.proc, pid, 'comm'));
    uses.push({ kind: 'open', what: `open in process ${pid} (${name})${partOf(nodes, node)}` });
  }
  return uses;
}

function firstOpen(nodes: readonly BlockNode[], directory: string): BlockNode | undefined {
  for (const fd of names(directory)) {
    const target = linkOf(path.join(directory, fd));
    if (target === null || !target.startsWith('/')) continue;
    const node = nodes.find(({ path: file }) => file === target) ?? byNumber(nodes, path.join(directory, fd), target);
    if (node !== undefined) return node;
  }
  return undefined;
}

/** A node under another name, as containers have them. Only what may be one is looked at: other files may be on a server that hangs. */
function byNumber(nodes: readonly BlockNode[], link: string, target: string): BlockNode | undefined {
  if (!/\/dev\/|nbd/.test(target)) return undefined;
  try {
    const stat = fs.statSync(link);
    const number = stat.isBlockDevice() ? numberOf(stat.rdev) : '';
    return nodes.find((node) => number !== '' && node.number === number);
  } catch {
    // Closed meanwhile, or not for us to see.
    return undefined;
  }
}

/** `major:minor` of a device number of the C library. */
export function numberOf(rdev: number): string {
  const device = BigInt(rdev);
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n);
  const minor = (device & 0xffn) | ((device >> 12n) & 0xffffff00n);
  return `${major}:${minor}`;
}

function linkOf(file: string): string | null {
  try {
    return fs.readlinkSync(file);
  } catch {
    return null;
  }
}
