/** The actions that make, change and remove the volumes of disks: create, remove, grow, snapshot, setinfo. */
import { Op } from '../../requests/ops.js';
import { encodeClone, encodeName } from '../../requests/structs.js';
import { errnoOf, errnos, SystemError } from '../../sys/errno.js';
import { detach } from './access.js';
import { type Context, missing, originVersion, remark, reusedVolume, volumeOf } from './call.js';
import { refuseUnknown, required } from './environment.js';
import { deleteRecord, readRecord, writeRecord } from './records.js';

const MiB = 1 << 20;

/**
 * Makes the disk's volume: blank, or a clone of `origin`; with reuse_data it only looks whether there is one. A volume of that name that is there
 * already is never taken for an earlier try: Ganeti gives each try another name.
 */
export async function create(context: Context): Promise<void> {
  const { call, node } = context;
  const { name, origin } = call;
  // Ganeti does not look, and a misspelt origin would be a disk of zeros.
  refuseUnknown(call);
  const size = required(call.size, 'VOL_SIZE', 'create');
  if (call.reuseData) {
    await reuse(context, size);
    return;
  }
  try {
    await node.change('mapper', {
      op: Op.CLONE,
      target: name,
      data: encodeClone({ parent: origin ?? '', size }),
      ...originVersion(call),
    });
  } catch (error) {
    if (errnoOf(error) !== errnos.EEXIST) throw error;
    const way = `if Ganeti knows of no such disk: archipelago-ganeti remove ${name}`;
    throw new SystemError(errnos.EEXIST, `there is a volume ${name} already; ${way}`, { cause: error });
  }
}

async function reuse(context: Context, size: number): Promise<void> {
  const { call, node } = context;
  const volume = call.givenName;
  if (volume === null) {
    throw invalid('reuse_data finds the volume by the name of the disk, and the disk has none: add name=VOLUME');
  }
  const found = await node.info(volume);
  if (found === null) throw new SystemError(errnos.ENOENT, `reuse_data: there is no volume ${volume}`);
  const has = Math.ceil(found.size / MiB);
  if (has !== size / MiB) {
    throw invalid(`reuse_data: volume ${volume} has ${has} MiB and not ${size / MiB}: say size=${has}M`);
  }
  const { name, uuid } = call;
  await writeRecord(node.maps(), name, { volume, name: volume, ...(uuid === null ? {} : { uuid }) });
  remark(context, `disk ${name} is volume ${volume}, as it is`);
}

/**
 * Ends what attach began, then removes the volume; one that is not there is removed already. A volume that was there before its disk stays:
 * Ganeti removes disks also when something else about a new instance fails.
 */
export async function remove(context: Context): Promise<void> {
  const { call, node } = context;
  const { name } = call;
  const maps = node.maps();
  const reused = await reusedVolume(context);
  if (reused !== null) {
    await detach(context);
    await deleteRecord(maps, name);
    remark(
      context,
      `volume ${reused} stays, since disk ${name} was made with reuse_data; vlmc remove ${reused} removes it`,
    );
    return;
  }
  // Of what follows only a volume of the disk's own name may go, whatever name people gave the disk.
  await detach({ ...context, call: { ...call, reuseData: false } });
  try {
    await node.change('composer', { op: Op.DELETE, target: name });
  } catch (error) {
    if (errnoOf(error) !== errnos.ENOENT) throw error;
    remark(context, `there is no volume ${name}: nothing to remove`);
  }
  await deleteRecord(maps, name);
}

/** Makes the volume larger. One that has the new size already is what an earlier call left. */
export async function grow(context: Context): Promise<void> {
  const { call, node, kernel } = context;
  const size = required(call.newSize, 'VOL_NEW_SIZE', 'grow');
  const volume = await volumeOf(context);
  const found = await node.info(volume);
  if (found === null) throw missing(volume);
  if (found.size > size) {
    throw invalid(
      `volume ${volume} has ${found.size} bytes, more than the ${size} that it should be grown to; nothing is changed`,
    );
  }
  if (found.size < size) await node.change('mapper', { op: Op.TRUNCATE, target: volume, offset: size });
  try {
    // Who stays connected is told.
    await node.call('endpoint', { op: Op.INFO, target: volume, capacity: 8 }, { repeatable: true });
  } catch (error) {
    if (errnoOf(error) !== errnos.ENOENT) throw error;
  }
  await (await kernel()).resize(volume, size);
}

/** Freezes the present content under another name, for an export or a backup. */
export async function snapshot(context: Context): Promise<void> {
  const { call, node } = context;
  const snapshot = required(call.snapshot, 'VOL_SNAPSHOT_NAME', 'snapshot');
  const volume = await volumeOf(context);
  try {
    await node.change('composer', { op: Op.SNAPSHOT, target: volume, data: encodeName(snapshot) });
  } catch (error) {
    if (errnoOf(error) !== errnos.EEXIST) throw error;
    const way = `if no export of the instance runs, an interrupted one left it: archipelago-ganeti remove ${snapshot}`;
    throw new SystemError(errnos.EEXIST, `there is a snapshot ${snapshot} already; ${way}`, { cause: error });
  }
}

/** Notes what Ganeti says of the disk. */
export async function setinfo({ call, node }: Context): Promise<void> {
  const metadata = required(call.metadata, 'VOL_METADATA', 'setinfo');
  const maps = node.maps();
  const { name, givenName, uuid } = call;
  await writeRecord(maps, name, {
    ...(await readRecord(maps, name)),
    metadata,
    ...(givenName === null ? {} : { name: givenName }),
    ...(uuid === null ? {} : { uuid }),
  });
}

const invalid = (message: string): SystemError => new SystemError(errnos.EINVAL, message);
