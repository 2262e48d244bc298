/** The endpoint's own requests: MAP, UNMAP, SHOWMAPPED, LIMIT, INFO (look at a volume's size again), CLIENTS, STATUS, PING. */

import type { NbdServer } from '../nbd/index.js';
import { decodeJson, encodeJson } from '../requests/json.js';
import { Op, opName } from '../requests/ops.js';
import { encodeInfo } from '../requests/structs.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { Request } from '../xseg/index.js';
import type { Exports } from './exports.js';
import type { Mapping, Registry } from './registry.js';
import type { VolumeSockets } from './sockets.js';
import { changeLimits } from './throttle/control.js';
import type { VolumeLimits } from './throttle/volume-limits.js';
import type { Volumes } from './volumes.js';

export interface ControlOptions {
  readonly server: NbdServer;
  readonly exports: Exports;
  readonly registry: Registry;
  readonly limits: VolumeLimits;
  readonly volumes: Volumes;
  readonly sockets: VolumeSockets;
  /** URIs of a mapping, its own socket's first, then the unix socket's. */
  readonly urisOf: (mapping: Pick<Mapping, 'name'>) => string[];
  readonly status: () => object;
}

export class Control {
  readonly #options: ControlOptions;

  constructor(options: ControlOptions) {
    this.#options = options;
  }

  handle(request: Request): void {
    if (request.op === Op.CLIENTS) {
      request.succeed(this.#options.exports.users(request.target));
      return;
    }
    this.#serve(request).then(
      (reply) => answer(request, reply),
      (error: unknown) => request.fail(errnoOf(error), messageOf(error)),
    );
  }

  async #serve(request: Request): Promise<Buffer> {
    switch (request.op) {
      case Op.PING:
        return Buffer.alloc(0);
      case Op.STATUS:
        return encodeJson(this.#options.status());
      case Op.MAP:
        return encodeJson(await this.#map(parse(request)));
      case Op.UNMAP:
        return encodeJson(await this.#unmap(parse(request)));
      case Op.SHOWMAPPED:
        return encodeJson(this.#show());
      case Op.LIMIT:
        return encodeJson(await changeLimits(this.#options, parse(request)));
      case Op.INFO:
        return encodeInfo({ size: await this.#options.exports.refresh(request.target) });
      default:
        throw new SystemError(errnos.EOPNOTSUPP, `the NBD endpoint does not serve ${opName(request.op)}`);
    }
  }

  async #map(body: Record<string, unknown>): Promise<{ name: string; uris: string[] }> {
    const wanted = parseMapping(body);
    const { name, assumeV0, v0Size } = wanted;
    const { registry, volumes, exports, sockets, urisOf } = this.#options;
    if (!registry.get(name)) await volumes.info({ name, assumeV0, v0Size });
    // Another MAP may have come while the mapper was asked.
    let known = registry.get(name);
    if (!known) {
      known = registry.add({ ...wanted, since: Date.now() });
      exports.changed();
    } else if (options.some((option) => known?.[option] !== wanted[option])) {
      throw new SystemError(errnos.EEXIST, `Volume ${name} already mapped with other options; unmap it first`);
    }
    if (known.ownSocket) await this.#listen(known, sockets);
    return { name, uris: urisOf(known) };
  }

  /** A mapping whose socket cannot be is none. */
  async #listen(mapping: Mapping, sockets: VolumeSockets): Promise<void> {
    try {
      await sockets.open(mapping.name);
    } catch (error) {
      this.#options.registry.remove(mapping.name);
      this.#options.exports.changed();
      throw error;
    }
  }

  async #unmap(body: Record<string, unknown>): Promise<{ name: string }> {
    const { name } = this.#find(body);
    const { exports, registry, server, sockets } = this.#options;
    const clients = exports.clients(name);
    if (clients > 0 && body.force !== true) {
      throw new SystemError(
        errnos.EBUSY,
        `Volume ${name} is in use by ${clients} connection${clients > 1 ? 's' : ''}; disconnect them or use -f`,
      );
    }
    registry.remove(name);
    exports.changed();
    await sockets.close(name);
    const names = exports.names(name);
    await server.closeExport(({ canonicalName }) => canonicalName !== null && names.has(canonicalName));
    return { name };
  }

  #find(body: Record<string, unknown>): Mapping {
    const { registry, urisOf } = this.#options;
    const { name, uri } = body;
    if (typeof name === 'string') {
      const mapping = registry.get(name);
      if (mapping) return mapping;
      throw new SystemError(errnos.ENOENT, `Volume ${name} is not mapped`);
    }
    if (typeof uri !== 'string') throw new SystemError(errnos.EINVAL, 'UNMAP: a volume name or a URI is needed');
    const mapping = registry.all().find((candidate) => urisOf(candidate).includes(uri));
    if (mapping) return mapping;
    throw new SystemError(errnos.ENOENT, `${uri}: no volume is mapped there`);
  }

  #show(): object {
    const { registry, exports, urisOf } = this.#options;
    return {
      mapped: registry.all().map((mapping) => ({
        ...mapping,
        uris: urisOf(mapping),
        clients: exports.clients(mapping.name),
      })),
      // By the volume it is: who asks whether a snapshot is in use does not know by what names clients came to it.
      connections: exports.connections(),
    };
  }
}

/** The options of a mapping, and what they are when a request does not say. */
const defaults = { readOnly: false, assumeV0: false, v0Size: -1, writeThrough: false, ownSocket: false };
const options = Object.keys(defaults) as (keyof typeof defaults)[];

/** Checks the body of MAP. @throws SystemError EINVAL */
function parseMapping(body: Record<string, unknown>): typeof defaults & { name: string } {
  const { name } = body;
  if (typeof name !== 'string' || name === '') throw new SystemError(errnos.EINVAL, 'MAP: a volume name is needed');
  const wanted = { name, ...defaults };
  for (const option of options) {
    const value = body[option];
    if (value === undefined) continue;
    if (typeof value !== typeof defaults[option]) {
      const kind = option === 'v0Size' ? 'a number' : 'true or false';
      throw new SystemError(errnos.EINVAL, `MAP: ${option} is ${kind}, not ${JSON.stringify(value)}`);
    }
    Object.assign(wanted, { [option]: value });
  }
  if (!Number.isSafeInteger(wanted.v0Size) || wanted.v0Size < -1) {
    throw new SystemError(errnos.EINVAL, `MAP: v0Size is a number of bytes, or -1 for none, not ${wanted.v0Size}`);
  }
  return wanted;
}

function parse(request: Request): Record<string, unknown> {
  if (request.size > request.dataLength || !request.hasValidData) {
    throw new SystemError(errnos.EINVAL, `${opName(request.op)}: the data is shorter than said`);
  }
  return decodeJson(request.data.subarray(0, request.size), opName(request.op)) ?? {};
}

function answer(request: Request, reply: Buffer): void {
  if (reply.length > request.dataLength) {
    request.fail(errnos.ERANGE, `the reply needs ${reply.length} bytes`, reply.length);
    return;
  }
  if (reply.length > 0) request.data.set(reply);
  request.succeed(reply.length);
}
