/**
 * What requests to the mapper say and what their answers are: from the fields and structs of a request to a call of the mapper,
 * and back. A request is checked completely before anything is done.
 */
import { decodeJson, decodeMapStatus, encodeJson, parseListRequest } from '../requests/json.js';
import type { LeaseRequest } from '../requests/lease.js';
import { Flag, Op, opName } from '../requests/ops.js';
import {
  decodeBlocks,
  decodeClone,
  decodeCreate,
  decodeName,
  encodeMapReply,
  encodeVolumeInfo,
  MAP_REPLY_HEADER,
  MAP_SEGMENT_SIZE,
  VOLUME_INFO_SIZE,
  type VolumeInfo,
} from '../requests/structs.js';
import { errnos, SystemError } from '../sys/errno.js';
import type { OpenOptions } from './map-store.js';
import type { Mapper } from './mapper.js';

/** The fields of a request that the mapper reads; src/xseg's Request has them. */
export interface MapperRequest {
  readonly op: number;
  readonly target: string;
  readonly offset: number;
  readonly size: number;
  readonly flags: number;
  readonly v0Size: number;
  /** Port of the asker. */
  readonly src: number;
  /** Bytes the asker has room for. */
  readonly dataLength: number;
  readonly data: Buffer;
  /** The asker is gone. */
  readonly orphaned: boolean;
  /** See requests/once.ts. */
  note: string;
}

const nothing = Buffer.alloc(0);
/** Most names of one page: each costs a request or two to the blocker. */
const MAX_PAGE = 512;

/**
 * Does what the request asks. @param status the peer's state, for STATUS
 * @returns the data of the answer
 * @throws SystemError
 */
export async function perform(mapper: Mapper, request: MapperRequest, status: () => object): Promise<Uint8Array> {
  const { op, target, offset, size } = request;
  const options = openOptions(request);
  switch (op) {
    case Op.PING:
      return nothing;
    case Op.STATUS:
      return encodeJson(status());
    case Op.CLONE:
      await makeVolume(mapper, request, options);
      return nothing;
    case Op.CREATE:
      await mapper.createFromObjects(target, size, decodeCreate(request.data), request);
      return nothing;
    case Op.SNAPSHOT:
      await mapper.snapshot(target, decodeName(request.data, 'SNAPSHOT'), options, request);
      return nothing;
    case Op.RENAME:
      await mapper.rename(target, decodeName(request.data, 'RENAME'), options, request);
      return nothing;
    case Op.DELETE:
      await mapper.remove(target, options, request);
      return nothing;
    case Op.TRUNCATE:
      await mapper.resize(target, offset, (request.flags & Flag.FORCE) !== 0, options);
      return nothing;
    case Op.UPDATE:
      await mapper.upgrade(target, options);
      return nothing;
    case Op.OPEN:
      await mapper.open(target, options, (request.flags & Flag.SHARED) !== 0);
      return nothing;
    case Op.CLOSE:
      await mapper.close(target, (request.flags & Flag.IMPLICIT) !== 0, (request.flags & Flag.HEARD) !== 0);
      return nothing;
    case Op.ACQUIRE:
      await mapper.lock(target);
      return nothing;
    case Op.RELEASE: {
      const force = (request.flags & Flag.FORCE) !== 0;
      const reply = encodeJson(await mapper.unlock(target, force, request));
      // Whoever brings no room wants no answer but that it is done.
      return force && request.dataLength >= reply.length ? reply : nothing;
    }
    case Op.LOCKINFO:
      return encodeJson(await mapper.lockState(target));
    case Op.ABANDON:
      mapper.abandon(target, request.src);
      return nothing;
    case Op.INFO:
      return infoReply(request, await mapper.describe(target, options));
    case Op.STAT:
      return encodeJson(await mapper.stat(target, options, wantsAllocated(request)));
    case Op.LIST:
      return await listPage(mapper, request);
    case Op.LEASE:
      return encodeJson(
        await mapper.lease(target, leaseRequest(request), request.src, options, () => request.orphaned),
      );
    case Op.MAPR:
      return encodeMapReply(await mapper.mapRead(target, offset, size, options, roomFor(request)));
    case Op.MAPW:
      return encodeMapReply(await mapper.mapWrite(target, offset, size, request.src, options, roomFor(request)));
    case Op.MAPOWN:
      return encodeMapReply(
        await mapper.mapOwn(target, decodeBlocks(body(request)), request.src, options, roomFor(request)),
      );
    case Op.MAPZERO:
      await mapper.mapZero(target, offset, size, request.src, options);
      return nothing;
    case Op.MAPFETCH:
      return await mapper.mapFetch(target, offset, size, request.dataLength, options);
    case Op.MAPSTATUS:
      return await mapper.mapStatus(
        target,
        decodeMapStatus(request.data.subarray(0, request.dataLength)),
        offset,
        size,
        request.dataLength,
        options,
      );
    case Op.FLUSH:
      await mapper.flush(target, (request.flags & Flag.WRITTEN) !== 0, request.src);
      return nothing;
    case Op.HASH:
      throw new SystemError(errnos.EOPNOTSUPP, `volume ${target}: hashing whole volumes is not supported`);
    default:
      throw new SystemError(errnos.EOPNOTSUPP, `the mapper does not serve ${opName(op)}`);
  }
}

/** CLONE without a parent makes a volume of zeros, as the original's. */
async function makeVolume(mapper: Mapper, request: MapperRequest, options: OpenOptions): Promise<void> {
  const { parent, size } = decodeClone(request.data);
  if (parent === '') await mapper.create(request.target, size, request);
  else await mapper.clone(request.target, parent, size, options, request);
}

function openOptions(request: MapperRequest): OpenOptions {
  const assumeV0 = (request.flags & Flag.ASSUMEV0) !== 0;
  return { assumeV0, v0Size: assumeV0 ? request.v0Size : -1 };
}

/** A page that is too long for the buffer is made again with fewer names. */
async function listPage(mapper: Mapper, request: MapperRequest): Promise<Buffer> {
  const list = parseListRequest(body(request));
  for (let limit = Math.min(list.limit, MAX_PAGE); ; limit = Math.max(1, limit >> 1)) {
    const page = encodeJson(await mapper.list({ ...list, limit }));
    if (page.length <= request.dataLength || limit === 1) return page;
  }
}

/** Blocks that the answer to MAPR or MAPW has room for. */
const roomFor = (request: MapperRequest): number =>
  Math.max(0, Math.floor((request.dataLength - MAP_REPLY_HEADER) / MAP_SEGMENT_SIZE));

function body(request: MapperRequest): Buffer {
  return request.data.subarray(0, Math.min(request.size, request.dataLength));
}

function wantsAllocated(request: MapperRequest): boolean {
  if (request.size === 0 || request.dataLength === 0) return false;
  return decodeJson(body(request), 'STAT')?.allocated === true;
}

function leaseRequest(request: MapperRequest): LeaseRequest {
  const value = decodeJson(body(request), 'LEASE');
  if (typeof value?.write !== 'boolean') throw new SystemError(errnos.EINVAL, 'LEASE: write is not true or false');
  return { write: value.write };
}

/** The whole of it where there is room, else the size alone, as the original answers. */
function infoReply(request: MapperRequest, info: VolumeInfo): Buffer {
  const reply = encodeVolumeInfo(info);
  if (request.dataLength >= reply.length) return reply;
  return reply.subarray(0, request.dataLength >= VOLUME_INFO_SIZE ? VOLUME_INFO_SIZE : 8);
}
