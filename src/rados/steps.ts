/** Write operations: steps become one operation of librados, which holds a copy of their data. */
import { errnos } from '../sys/errno.js';
import { RadosError } from './error.js';
import type { Library } from './library.js';
import { live, packStrings } from './memory.js';
import type { WriteStep } from './types.js';

/** LIBRADOS_CMPXATTR_OP_EQ */
const EQUAL = 1;

/**
 * An operation of librados with these steps; give it back with `releaseOperation` once it was handed over, or not used.
 * @throws RadosError EINVAL when a name or key has a NUL, which C would take for its end
 */
export function buildOperation(library: Library, steps: readonly WriteStep[]): number {
  for (const step of steps) checkStep(step);
  const operation = library.writeOpCreate();
  live.operations++;
  try {
    for (const step of steps) addStep(library, operation, step);
  } catch (error) {
    releaseOperation(library, operation);
    throw error;
  }
  return operation;
}

export function releaseOperation(library: Library, operation: number): void {
  live.operations--;
  library.writeOpRelease(operation);
}

function checkStep(step: WriteStep): void {
  if (step.do === 'setXattr' || step.do === 'removeXattr' || step.do === 'compareXattr') checkText(step.name);
  else if (step.do === 'exec') {
    checkText(step.class);
    checkText(step.method);
  } else if (step.do === 'writeSame') {
    if (step.data.length === 0 || step.length % step.data.length !== 0) {
      throw new RadosError(
        errnos.EINVAL,
        `cannot write the same ${step.data.length} bytes over ${step.length} bytes: not a multiple`,
      );
    }
  }
}

/** @throws RadosError EINVAL */
export function checkText(text: string): void {
  if (text.includes('\0')) {
    throw new RadosError(errnos.EINVAL, `the name ${JSON.stringify(text)} is not usable in Ceph: it has a NUL`);
  }
}

function addStep(library: Library, op: number, step: WriteStep): void {
  switch (step.do) {
    case 'create':
      library.opCreate(op, step.exclusive ? 1 : 0, 0);
      break;
    case 'assertExists':
      library.opAssertExists(op);
      break;
    case 'remove':
      library.opRemove(op);
      break;
    case 'write':
      library.opWrite(op, step.data, step.data.length, step.offset);
      break;
    case 'writeFull':
      library.opWriteFull(op, step.data, step.data.length);
      break;
    case 'writeSame':
      library.opWriteSame(op, step.data, step.data.length, step.length, step.offset);
      break;
    case 'truncate':
      library.opTruncate(op, step.size);
      break;
    case 'zero':
      library.opZero(op, step.offset, step.length);
      break;
    case 'setXattr':
      library.opSetXattr(op, step.name, step.value, step.value.length);
      break;
    case 'removeXattr':
      library.opRemoveXattr(op, step.name);
      break;
    case 'compareXattr':
      library.opCompareXattr(op, step.name, EQUAL, step.value, step.value.length);
      break;
    case 'setOmap':
      addOmap(library, op, step.entries);
      break;
    case 'removeOmap': {
      const keys = packStrings(step.keys.map((key) => Buffer.from(key)));
      library.opRemoveOmap(op, keys.pointers, keys.lengths, step.keys.length);
      keys.room.free();
      break;
    }
    case 'exec':
      library.opExec(op, step.class, step.method, step.input, step.input.length, 0);
      break;
    default: {
      const unknown: never = step;
      throw new RadosError(errnos.EINVAL, `no such step: ${JSON.stringify(unknown)}`);
    }
  }
}

function addOmap(library: Library, op: number, entries: ReadonlyMap<string, Uint8Array>): void {
  const keys = packStrings([...entries.keys()].map((key) => Buffer.from(key)));
  const values = packStrings([...entries.values()]);
  library.opSetOmap(op, keys.pointers, values.pointers, keys.lengths, values.lengths, entries.size);
  keys.room.free();
  values.room.free();
}
