/** complete: makes the partial objects of this node's directories whole. The one command that is at a store itself: no node may have it. */
import fs from 'node:fs';
import { kernel } from '../../blockers/file/kernel.js';
import { makeStoreWhole, type WholeStoreReport } from '../../blockers/file/partial/whole-store.js';
import type { Config, FileBlockerSettings } from '../../config/types.js';
import { dropPrivileges, requireAccount } from '../../peer/privileges.js';
import { errnos, SystemError } from '../../sys/errno.js';
import { print, printError, printJson } from '../common/io.js';
import { Problems } from '../common/program.js';
import type { Session } from '../common/session.js';
import { formatSize } from '../vlmc/size.js';

/** Problems that are printed; more than that are of one kind. */
const MOST_PROBLEMS = 20;

/**
 * Makes all stores of the configuration that are directories whole, one after the other.
 * @param options.dryRun tells what there is to do
 * @throws SystemError as makeStoreWhole; Problems when objects could not be made whole: that is printed already
 */
export async function complete(session: Session, { dryRun }: { dryRun: boolean }): Promise<void> {
  const { config, io, json, progress } = session;
  // As the node would have made them.
  requireAccount(config);
  dropPrivileges(config);
  process.umask(config.umask);
  const reports: WholeStoreReport[] = [];
  for (const { archipDir, umask } of storesOf(config)) {
    const report = await makeStoreWhole({
      root: archipDir,
      system: kernel,
      umask,
      dryRun,
      free: () => freeIn(archipDir),
      checkOwner,
      progress: (what, done, total) => progress.update(`${archipDir}: ${what}`, done, total),
    });
    progress.clear();
    reports.push(report);
    if (json) continue;
    await print(io, `${lineOf(report, dryRun)}\n`);
    for (const { object, reason } of report.problems.slice(0, MOST_PROBLEMS)) printError(io, `${object}: ${reason}`);
    const more = report.problems.length - MOST_PROBLEMS;
    if (more > 0) printError(io, `and ${more} more`);
  }
  const advice = adviceOf(config, reports, dryRun);
  if (json) await printJson(io, { dryRun, stores: reports, advice });
  else await print(io, `${advice}\n`);
  if (reports.some(({ problems, isWhole }) => problems.length > 0 || !(isWhole || dryRun))) throw new Problems();
}

/** The directories of objects, each once. */
function storesOf({ roles }: Config): FileBlockerSettings[] {
  const found = new Map<string, FileBlockerSettings>();
  for (const role of roles) if (role.type === 'file_blocker') found.set(role.archipDir, role);
  return [...found.values()];
}

/** A node whose account is not in the configuration (systemd's User=) could not use what root made anew. */
async function checkOwner(file: string): Promise<void> {
  const { uid } = await fs.promises.stat(file);
  if (uid === process.geteuid?.()) return;
  throw new SystemError(errnos.EPERM, `it belongs to user ${uid}: run this as that user, or set USER`);
}

async function freeIn(directory: string): Promise<number> {
  const { bavail, bsize } = await fs.promises.statfs(directory);
  return bavail * bsize;
}

function lineOf(
  { directory, objects, partial, completed, needed, free, isWhole }: WholeStoreReport,
  dryRun: boolean,
): string {
  const found = `${directory}: ${partial} of ${objects} objects ${partial === 1 ? 'is' : 'are'} partial`;
  if (partial > 0 && dryRun)
    return `${found}; to be whole they need up to ${formatSize(needed)}, and ${formatSize(free)} are free`;
  if (isWhole && completed > 0)
    return `${directory}: ${completed} objects made whole; none of ${objects} is partial now`;
  if (completed > 0) return `${found}, ${completed} of them made whole`;
  return found;
}

/** What is to be done next, for a person. */
function adviceOf({ roles }: Config, reports: readonly WholeStoreReport[], dryRun: boolean): string {
  if (reports.length === 0) return 'No store of this node is a directory: there are no partial objects elsewhere.';
  if (reports.some(({ problems }) => problems.length > 0))
    return 'Not everything is whole: what could not be read is told above. Mend it and run this again.';
  if (dryRun && reports.some(({ isWhole }) => !isWhole))
    return 'Nothing was changed. Without --dry-run everything is made whole; stop all nodes first.';
  const making = roles.find((role) => role.type === 'file_blocker' && makesThem(role, reports));
  if (making)
    return `Before a node of this version starts, set partial_copies = False in [${making.name}]: it would make them anew.`;
  return 'Everything is whole. Nodes of this version make partial objects here only when asked to (partial_copies = True).';
}

/** Also `auto` does in a store where nothing is yet. */
const makesThem = ({ partialCopies, archipDir }: FileBlockerSettings, reports: readonly WholeStoreReport[]): boolean =>
  partialCopies === true ||
  (partialCopies === 'auto' && reports.some(({ directory, objects }) => directory === archipDir && objects === 0));
