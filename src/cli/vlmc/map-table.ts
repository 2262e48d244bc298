/** `vlmc map --table` and `vlmc unmap --table`: all that can be done is done, and what could not is told at the end by the exit status. */
import { errnoOf, errnos, messageOf } from '../../sys/errno.js';
import { attempt } from '../common/exit.js';
import { print, printError, printWarning } from '../common/io.js';
import { Problems } from '../common/program.js';
import type { Session } from '../common/session.js';
import { mapVolume } from './attach.js';
import { untilThere } from './await-node.js';
import { unmapVolume } from './detach.js';
import { type MapOptions, requestOf } from './map-options.js';
import { reachedBy } from './mapped.js';
import { type MaptabEntry, readMaptab } from './maptab.js';

/** What became of a line that failed. */
interface Failure {
  readonly volume: string;
  readonly error: string;
  /** A failure that the table says is none. */
  readonly nofail: boolean;
}

/**
 * Maps every volume of a table, in its order; prints `VOLUME<TAB>DEVICE` for each.
 * @param waitMs how long to wait for a node that is being started
 * @throws CliError for a table that cannot be read, Problems when a line without nofail failed
 */
export async function mapTable(session: Session, file: string, waitMs: number): Promise<void> {
  const entries = readMaptab(file);
  if (waitMs > 0 && entries.length > 0) await attempt('vlmc map failed', () => untilThere(session, waitMs));
  const mapped: { volume: string; device: string | null; uris: readonly string[] }[] = [];
  const failed: Failure[] = [];
  for (const entry of entries) {
    const { volume } = entry;
    try {
      const { device, uris } = await mapVolume(session, requestOf(session, volume, optionsOf(entry)));
      mapped.push({ volume, device: device?.path ?? null, uris });
      if (!session.json) await print(session.io, `${volume}\t${device?.path ?? reachedBy({ uris })}\n`);
    } catch (error) {
      failed.push(tell(session, `vlmc map failed: ${volume} (${file}:${entry.line})`, entry, error));
    }
  }
  await conclude(session, { mapped, failed }, failed);
}

/** Unmaps the volumes of a table, the last one first; what is not mapped is passed over. @throws as mapTable */
export async function unmapTable(session: Session, file: string, force: boolean): Promise<void> {
  const unmapped: string[] = [];
  const failed: Failure[] = [];
  for (const entry of readMaptab(file).toReversed()) {
    const { volume } = entry;
    try {
      await unmapVolume(session, volume, force);
      unmapped.push(volume);
    } catch (error) {
      if (errnoOf(error) === errnos.ENOENT) continue;
      // A volume that stays in use is told, whatever the line says: nofail is about what is not there.
      const strict = { ...entry, nofail: false };
      failed.push(tell(session, `vlmc unmap failed: ${volume} (${file}:${entry.line})`, strict, error));
    }
  }
  await conclude(session, { unmapped, failed }, failed);
}

function optionsOf(entry: MaptabEntry): MapOptions {
  return {
    readonly: entry.readOnly,
    writethrough: entry.writeThrough,
    endpoint: entry.endpoint ?? undefined,
    connections: entry.connections ?? undefined,
  };
}

function tell(session: Session, what: string, { volume, nofail }: MaptabEntry, error: unknown): Failure {
  const message = messageOf(error);
  if (nofail) printWarning(session.io, `${what}: ${message}`);
  else printError(session.io, `${what}: ${message}`);
  return { volume, error: message, nofail };
}

async function conclude(session: Session, outcome: object, failed: readonly Failure[]): Promise<void> {
  if (session.json) await session.result(outcome);
  if (failed.some(({ nofail }) => !nofail)) throw new Problems();
}
