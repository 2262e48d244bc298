/** Commands that look at a segment or repair it; they send no requests. */

import { describeProblem, findProblems, type Problem, report, type SegmentReport } from '../../xseg/index.js';
import { print, printJson } from '../common/io.js';
import { parseNumber, UsageError } from './chain.js';
import type { XsegCommand } from './command.js';
import type { ChainState } from './state.js';

export const segmentCommands: readonly XsegCommand[] = [
  {
    name: 'create',
    args: [],
    help: 'make the segment; the spec says its ports and size',
    run: ({ state }) => void state.create(),
  },
  {
    name: 'join',
    args: [],
    help: 'join the segment, to see whether it can be (other commands join by themselves)',
    run: ({ state }) => void state.segment,
  },
  {
    name: 'destroy',
    args: [],
    help: 'remove the segment; refused while a living process owns a port of it, unless --force',
    options: ['--force'],
    run: ({ state, options }) => {
      // A segment that cannot be joined (damaged, of another version) is removed as it is.
      if (!options.has('--force')) refuseIfUsed(state);
      state.destroy();
      return undefined;
    },
  },
  {
    name: 'reportall',
    args: [],
    help: 'the segment: heap, requests, locks, and every port with its owner and counters',
    run: async ({ state }) => {
      const all = report(state.segment);
      if (state.json) await printJson(state.io, all);
      else await print(state.io, formatReport(all));
      return undefined;
    },
  },
  {
    name: 'report',
    args: [],
    help: 'the two ports of SRC:DST',
    sends: true,
    run: async ({ state, ports }) => {
      const all = report(state.segment);
      const bound = all.bound.filter((p) => p.port === ports?.src || p.port === ports?.dst);
      if (state.json) await printJson(state.io, bound);
      else await print(state.io, formatPorts(bound));
      return undefined;
    },
  },
  {
    name: 'verify',
    args: [],
    help: 'check the segment: problems are printed with the way out, and the status is 255 when there are any',
    run: ({ state }) => tellProblems(state),
  },
  {
    name: 'verify-fix',
    args: [],
    help: 'clean up after dead processes (their locks and ports), make the free lists anew, then verify',
    run: async ({ state }) => {
      const { segment } = state;
      const locks = segment.recoverLocks();
      const dead = report(segment).bound.filter((p) => !p.alive);
      for (const { port } of dead) segment.recoverPort(port);
      segment.rebuild();
      if (!state.json) await print(state.io, `recovered ${locks} locks and ${dead.length} ports\n`);
      return tellProblems(state);
    },
  },
  {
    name: 'recoverport',
    args: ['PORT'],
    options: ['--fail'],
    help: "clean up after a port's dead owner; its requests wait for a successor, or fail now with --fail",
    run: async ({ state, args, options }) => {
      const port = parseNumber(args[0], 'port');
      const free = state.segment.portOwner(port) === null;
      const result = state.segment.recoverPort(port, { fail: options.has('--fail') });
      if (free && Object.values(result).every((count) => count === 0)) {
        if (state.json) await printJson(state.io, { port, ...result });
        else await print(state.io, `port ${port} is free\n`);
        return undefined;
      }
      const { requeued, resent, failed, freed, waiting, buffers } = result;
      const text =
        `recovered port ${port}: ${requeued} requests wait for its next owner, ${resent} are sent again, ` +
        `${failed} failed, ${freed} freed, ${waiting} wait for an answer, ${buffers} buffers freed\n`;
      if (state.json) await printJson(state.io, { port, ...result });
      else await print(state.io, text);
      return undefined;
    },
  },
  {
    name: 'recoverlocks',
    args: ['PORT?'],
    help: 'release the locks that dead processes hold (on behalf of a port, or all), and repair what they guard',
    run: async ({ state, args }) => {
      const released = state.segment.recoverLocks(args[0] === undefined ? undefined : parseNumber(args[0], 'port'));
      if (state.json) await printJson(state.io, { released });
      else await print(state.io, `released ${released} locks\n`);
      return undefined;
    },
  },
  {
    name: 'bind',
    args: ['PORT'],
    help: 'bind a port until the end of the chain',
    run: async ({ state, args }) => {
      const port = state.bind(parseNumber(args[0], 'port'));
      if (!state.json) await print(state.io, `bound port ${port.number}\n`);
      return undefined;
    },
  },
  {
    name: 'free',
    args: ['PORT'],
    help: 'give up a port that this chain bound',
    run: ({ state, args }) => {
      const port = parseNumber(args[0], 'port');
      if (!state.free(port)) {
        throw new UsageError(`port ${port} is not bound by this command line (a dead owner's: recoverport ${port})`);
      }
      return undefined;
    },
  },
  {
    name: 'signal',
    args: ['PORT'],
    help: "ring a port's doorbell: its owner looks at everything that waits for it",
    run: ({ state, args }) => {
      const port = parseNumber(args[0], 'port');
      const { ports } = state.segment.geometry;
      if (port >= ports) throw new UsageError(`the segment has no port ${port}, only 0 to ${ports - 1}`);
      state.segment.forceScan(port);
      return undefined;
    },
  },
];

function refuseIfUsed(state: ChainState): void {
  const living = report(state.segment).bound.filter((p) => p.alive && p.pid !== process.pid);
  if (living.length === 0) return;
  const owners = living.map((p) => `${p.port} (${p.name || 'unnamed'}, process ${p.pid})`).join(', ');
  throw new UsageError(`segment ${state.spec.name} is in use by port ${owners}; stop the node first, or add --force`);
}

/** Looks taken before a problem is believed, and the time between them in ms. */
const LOOKS = 3;
const BETWEEN_LOOKS_MS = 50;

/** Counters of a busy segment change while they are compared: only what every look shows is a problem. */
async function lastingProblems(state: ChainState): Promise<Problem[]> {
  let problems = findProblems(state.segment);
  for (let look = 1; look < LOOKS && problems.length > 0; look++) {
    await new Promise((resolve) => setTimeout(resolve, BETWEEN_LOOKS_MS));
    const now = new Set(findProblems(state.segment).map(({ what }) => what));
    problems = problems.filter(({ what }) => now.has(what));
  }
  return problems;
}

async function tellProblems(state: ChainState): Promise<boolean> {
  const problems = await lastingProblems(state);
  const lines = problems.map(describeProblem);
  const restart = problems.some(({ needsRestart }) => needsRestart);
  if (state.json) await printJson(state.io, { problems: lines, restart });
  else await print(state.io, lines.length === 0 ? 'no problems\n' : `${lines.join('\n')}\n`);
  return problems.length === 0;
}

/** The text of `reportall`. */
export function formatReport(all: SegmentReport): string {
  const mib = (pages: number): string => `${Math.round((pages * all.pageSize) / (1 << 20))} MiB`;
  const locks = all.locks.map((l) => `${l.name}: process ${l.pid}${l.alive ? '' : ' (dead: recoverlocks)'}`);
  return [
    `segment   ${all.name}, ${all.sizeMiB} MiB, ${all.ports} ports, dynamic from ${all.dynamicFrom}`,
    `requests  ${all.requests}: ${all.freeRequests} free, ${all.inFlight} in flight`,
    `heap      ${mib(all.heapPages)}: ${mib(all.freePages)} free, pages of ${all.pageSize} bytes`,
    `locks     ${locks.length === 0 ? 'none held' : locks.join('; ')}`,
    '',
    formatPorts(all.bound),
  ].join('\n');
}

function formatPorts(bound: SegmentReport['bound']): string {
  if (bound.length === 0) return 'no port is bound\n';
  const head = 'PORT NAME PROCESS QUEUED REPLIES HELD PAGES SUBMITTED ACCEPTED REPLIED RECEIVED'.split(' ');
  const rows = bound.map((p) => [
    p.port,
    p.name || '-',
    p.alive ? p.pid : `${p.pid} (dead)`,
    p.requestQueue,
    p.replyQueue,
    p.requests,
    `${p.heapPages}/${p.heapLimit}`,
    p.submitted,
    p.accepted,
    p.replied,
    p.received,
  ]);
  const table = [head, ...rows.map((row) => row.map(String))];
  const widths = head.map((_, i) => Math.max(...table.map((row) => row[i].length)));
  return `${table
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i]))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')}\n`;
}
