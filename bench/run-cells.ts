/**
 * Runs a suite of cells: contenders take turns in each cell of each round, so that what changes on the machine meanwhile hits all of them; a
 * figure is the median of its rounds. A measurement that something else on the machine disturbed is made again.
 */
import os from 'node:os';
import { type Cell, readsData, SHARED } from './cells.js';
import type { Contender, Disk } from './contender.js';
import type { Curve, Line } from './curves.js';
import { fill, type Measured, measure, warm } from './fio.js';
import { disturbed, machine, watch } from './machine.js';
import type { Options } from './options.js';
import { cpuTime, run } from './process.js';
import { measureProgram, missingPrograms, prepareProgram } from './programs.js';
import { type CellResult, type Results, type Sample, shown } from './results.js';
import type { Suite } from './suite.js';
import { fileTarget, radosTarget } from './targets.js';
import { type Verified, verify } from './verify.js';

/** How often a measurement is made again at most. */
const AGAIN = 2;
/** Contenders that take part only when they are named: what they are is shown better by another one. */
const ON_DEMAND = ['qemu-threads'];

/** Runs one suite of cells. */
export class CellRun {
  readonly #suite: Suite;
  readonly #options: Options;
  readonly #scratch: string;
  readonly #shared = new Map<string, Disk | null>();
  readonly #started: Contender[] = [];

  /** @param scratch an empty directory */
  constructor(suite: Suite, options: Options, scratch: string) {
    this.#suite = suite;
    this.#options = options;
    this.#scratch = scratch;
  }

  async results(): Promise<Results> {
    const suite = this.#suite;
    const { rounds, runtime, dir } = this.#options;
    const load = os.loadavg()[0];
    const { present, missing } = await suite.contenders(this.#scratch);
    const peers = this.#options.peers;
    const chosen = present.filter(
      ({ id, own }, i) => i === 0 || own || (peers === null ? !ON_DEMAND.includes(id) : peers.includes(id)),
    );
    const wanted = suite.cells.filter(({ id }) => this.#options.cells?.includes(id) ?? true);
    const absent = missingPrograms(wanted);
    const cells = wanted.filter(({ program }) => !absent.some((name) => program?.startsWith(name)));
    missing.push(...absent.map((name) => `cells of ${name} (it is not installed)`));
    for (const line of missing) console.error(`not measured: ${line}`);
    for (const contender of chosen) {
      this.#started.push(contender);
      await contender.start();
    }
    const verified = this.#options.verify && suite.name === 'files' ? await this.#verify(chosen) : [];
    await this.#prepare(cells, chosen);
    const measured = await this.#rounds(cells, chosen);
    return {
      suite: suite.name,
      title: suite.title,
      date: new Date().toISOString(),
      machine: { ...machine(dir), ...(await suite.store()) },
      options: { rounds, runtime, diskMiB: suite.diskSize >> 20 },
      missing,
      load,
      curves: curves(cells, measured, chosen),
      contenders: await Promise.all(
        chosen.map(async (c, i) => ({
          id: c.id,
          title: c.title,
          version: await c.version(),
          own: i === 0 || c.own === true,
        })),
      ),
      references: suite.references,
      verified,
      cells: measured.filter((_, index) => !cells[index].place),
    };
  }

  /** Ends the contenders and what belongs to them. */
  async stop(): Promise<void> {
    const tell = (error: Error): void => console.error(error.message);
    for (const disk of this.#shared.values()) await disk?.dispose().catch(tell);
    for (const contender of this.#started) await contender.stop().catch(tell);
    await this.#suite.stop().catch(tell);
  }

  async #verify(contenders: readonly Contender[]): Promise<Verified[]> {
    const all: Verified[] = [];
    for (const contender of contenders) {
      console.error(`writing, trimming, reading back: ${contender.title}`);
      const seen = await verify(contender);
      if (seen) all.push(seen);
    }
    return all;
  }

  /** Makes the disks that cells share, so that nothing is made during the rounds that others would notice. */
  async #prepare(cells: readonly Cell[], contenders: readonly Contender[]): Promise<void> {
    const { diskSize } = this.#suite;
    for (const { program } of cells) if (program) await prepareProgram(program, diskSize, this.#scratch);
    for (const kind of SHARED.filter((one) => cells.some((cell) => cell.kind === one && !cell.task))) {
      for (const contender of contenders) {
        if (contender.measure) continue;
        console.error(`making a disk of ${diskSize >> 20} MiB, ${kind}: ${contender.title}`);
        const disk = await contender.disk(kind, (client) => fill(client, diskSize));
        this.#shared.set(`${contender.id} ${kind}`, disk);
        if (disk && kind !== 'scrap') await warm(disk.client, diskSize);
      }
    }
  }

  async #rounds(cells: readonly Cell[], contenders: readonly Contender[]): Promise<CellResult[]> {
    const target = this.#suite.name === 'files' ? fileTarget : radosTarget;
    const results = cells.map(
      ({ id, title, unit, latency, trims }): CellResult => ({
        id,
        title,
        unit,
        latencyOf: latency ?? 'requests',
        target: target(id),
        trims,
        series: contenders.map((contender) => ({ contender: contender.id, samples: [], repeated: 0 })),
      }),
    );
    for (let round = 0; round < this.#options.rounds; round++) {
      for (const [index, cell] of cells.entries()) {
        // Another one begins each round: nobody always has the machine as the same neighbour left it.
        for (const turn of contenders.map((_, i) => (i + round) % contenders.length)) {
          const contender = contenders[turn];
          const series = results[index].series[turn];
          let sample = await this.#once(contender, cell);
          for (let more = AGAIN; sample?.disturbed && more > 0; more--) {
            series.repeated += 1;
            sample = await this.#once(contender, cell);
          }
          if (!sample) continue;
          series.samples.push(sample);
          console.error(`round ${round + 1}  ${cell.title}  ${contender.title}: ${said(cell, sample)}`);
        }
      }
    }
    return results;
  }

  /** One measurement, on a disk that is made (and removed) for it unless the cell's kind is shared. */
  async #once(contender: Contender, cell: Cell): Promise<Sample | null> {
    if (cell.task) return contender.time ? { value: await contender.time(cell.task) } : null;
    if (contender.measure) {
      const value = await contender.measure(cell, this.#options.runtime);
      return value === null ? null : { value };
    }
    const { diskSize } = this.#suite;
    const shared = SHARED.includes(cell.kind);
    const disk = shared
      ? (this.#shared.get(`${contender.id} ${cell.kind}`) ?? null)
      : await contender.disk(cell.kind, (client) => fill(client, diskSize));
    if (!disk) return null;
    try {
      if (cell.kind === 'scrap') await fill(disk.client, cell.span ?? diskSize);
      if (this.#suite.name === 'files' && readsData(cell)) await warm(disk.client, diskSize);
      // What others wrote before must not be written back during this measurement.
      await run('sync', ['-f', this.#options.dir]);
      return await this.#sample(contender, cell, disk);
    } finally {
      if (!shared) await disk.dispose();
    }
  }

  async #sample(contender: Contender, cell: Cell, disk: Disk): Promise<Sample> {
    const servers = contender.servers?.() ?? [];
    const conditions = watch(servers);
    const before = cpuTime(servers);
    const { rate, requests, latency } = await this.#measure(cell, disk);
    const cpu = servers.length > 0 ? ((cpuTime(servers) - before) * 1000) / requests : undefined;
    const seen = conditions();
    return { value: rate, cpu, latency, conditions: seen, disturbed: disturbed(seen) };
  }

  #measure(cell: Cell, { client, uri }: Disk): Promise<Measured> {
    const { diskSize } = this.#suite;
    if (!cell.program) return measure(cell, client, cell.span ?? diskSize, this.#options.runtime, this.#scratch);
    if (!uri) throw new Error(`${cell.title} needs a disk that is reached by NBD`);
    return measureProgram(cell.program, uri, diskSize, this.#scratch);
  }
}

function said({ unit }: Cell, { value, cpu, latency, disturbed }: Sample): string {
  return [
    `${shown(value)} ${unit}`,
    ...(cpu === undefined ? [] : [`${shown(cpu)} µs of CPU each`]),
    ...(latency ? [`p50/p99/p99.9 ${shown(latency.p50)}/${shown(latency.p99)}/${shown(latency.p999)} µs`] : []),
    ...(disturbed ? ['DISTURBED: the machine does something else'] : []),
  ].join(', ');
}

/** The cells that are places of curves, as these curves. */
function curves(cells: readonly Cell[], results: readonly CellResult[], contenders: readonly Contender[]): Curve[] {
  const titles = [...new Set(cells.flatMap(({ place }) => (place ? [place.curve] : [])))];
  return titles.map((title): Curve => {
    const members = results.flatMap((result, i) =>
      cells[i].place?.curve === title ? [{ result, cell: cells[i] }] : [],
    );
    const series = contenders.map(
      ({ id, title: name }): Line => ({
        name,
        points: members.map(({ result, cell }) => ({
          x: cell.place?.x ?? 0,
          values: (result.series.find(({ contender }) => contender === id)?.samples ?? []).map(({ value }) => value),
        })),
      }),
    );
    const { unit } = members[0].result;
    const sizes = unit === 'MiB/s';
    return {
      title,
      x: sizes ? { title: 'bytes of a request', unit: 'bytes' } : { title: 'requests in flight', unit: 'count' },
      y: { title: sizes ? 'throughput' : 'requests a second', unit, better: 'more' },
      series: series.filter(({ points }) => points.some(({ values }) => values.length > 0)),
    };
  });
}
