/** The endpoint's own requests: MAP, UNMAP, SHOWMAPPED, INFO (look at a volume's size again), STATUS, PING. */

import type { NbdServer } from '../nbd/index.js';
import { decodeJson, encodeJson } from '../requests/json.js';
import { Op, opName } from '../requests/ops.js';
import { encodeInfo } from '../requests/structs.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { Request } from '../xseg/index.js';
import type { Exports } from './exports.js';
import type { Mapping, Registry } from './registry.js';
import type { Volumes } from './volumes.js';

export interface ControlOptions {
  readonly server: NbdServer;
  readonly exports: Exports;
  readonly registry: Registry;
  readonly volumes: Volumes;
  /** URIs of an export, the unix socket's first. */
  readonly urisOf: (name: string) => string[];
  readonly status: () => object;
}

export class Control {
  readonly #options: ControlOptions;

  constructor(options: ControlOptions) {
    this.#options = options;
  }

  handle(request: Request): void {
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
      case Op.INFO:
        return encodeInfo({ size: await this.#options.exports.refresh(request.target) });
      default:
        throw new SystemError(errnos.EOPNOTSUPP, `the NBD endpoint does not serve ${opName(request.op)}`);
    }
  }

  async #map(body: Record<string, unknown>): Promise<{ name: string; uris: string[] }> {
    const { name, readOnly = false, assumeV0 = false, v0Size = -1 } = body;
    if (typeof name !== 'string' || name === '') throw new SystemError(errnos.EINVAL, 'MAP: a volume name is needed');
    if (typeof readOnly !== 'boolean' || typeof assumeV0 !== 'boolean' || typeof v0Size !== 'number') {
      throw new SystemError(errnos.EINVAL, 'MAP: readOnly and assumeV0 are true or false, v0Size is a number');
    }
    if (!Number.isSafeInteger(v0Size) || v0Size < -1) {
      throw new SystemError(errnos.EINVAL, `MAP: v0Size is a number of bytes, or -1 for none, not ${v0Size}`);
    }
    const { registry, volumes, exports, urisOf } = this.#options;
    if (!registry.get(name)) await volumes.info({ name, assumeV0, v0Size });
    // Another MAP may have come while the mapper was asked.
    const known = registry.get(name);
    if (!known) {
      registry.add({ name, readOnly, assumeV0, v0Size, since: Date.now() });
      exports.changed();
    } else if (known.readOnly !== readOnly || known.assumeV0 !== assumeV0 || known.v0Size !== v0Size) {
      throw new SystemError(errnos.EEXIST, `Volume ${name} already mapped with other options; unmap it first`);
    }
    return { name, uris: urisOf(name) };
  }

  async #unmap(body: Record<string, unknown>): Promise<{ name: string }> {
    const mapping = this.#find(body);
    const { exports, registry, server } = this.#options;
    const clients = exports.clients(mapping.name);
    if (clients > 0 && body.force !== true) {
      throw new SystemError(
        errnos.EBUSY,
        `Volume ${mapping.name} is in use by ${clients} connection${clients > 1 ? 's' : ''}; disconnect them or use -f`,
      );
    }
    registry.remove(mapping.name);
    exports.changed();
    await server.closeExport(mapping.name);
    return { name: mapping.name };
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
    const mapping = registry.all().find((candidate) => urisOf(candidate.name).includes(uri));
    if (mapping) return mapping;
    throw new SystemError(errnos.ENOENT, `${uri}: no volume is mapped there`);
  }

  #show(): object {
    const { registry, exports, server, urisOf } = this.#options;
    return {
      mapped: registry.all().map((mapping) => ({
        ...mapping,
        uris: urisOf(mapping.name),
        clients: exports.clients(mapping.name),
      })),
      connections: server
        .connections()
        .filter(({ exportName }) => exportName !== null)
        .map(({ exportName, peer, since }) => ({ name: exportName, peer, since })),
    };
  }
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
