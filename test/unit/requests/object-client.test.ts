/** What is asked of a store's blocker. */
import { expect, it } from 'vitest';
import { XsegObjectClient } from '../../../src/requests/object-client.js';
import { Op } from '../../../src/requests/ops.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';

interface Asked {
  readonly op: number;
  readonly target: string;
  readonly data?: Uint8Array;
}

/** A blocker that answers resets of several objects with this. */
function blocker(errno: number): { client: XsegObjectClient; asked: string[] } {
  const asked: string[] = [];
  const call = async (_port: number, { op, target, data }: Asked) => {
    expect(op).toBe(Op.RESET);
    asked.push(target === '' ? Buffer.from(data ?? []).toString() : target);
    if (target === '' && errno !== 0) throw new SystemError(errno, 'no');
    return { serviced: 0, data: Buffer.alloc(0) };
  };
  return { client: new XsegObjectClient({ call } as ConstructorParameters<typeof XsegObjectClient>[0], 1), asked };
}

it('several objects are reset by one request', async () => {
  const { client, asked } = blocker(0);
  await client.reset(['a', 'b'], false);
  await client.reset(['c'], false);
  expect(asked).toEqual(['a\nb', 'c']);
});

it('of a blocker that knows no such request each is asked for by itself', async () => {
  const { client, asked } = blocker(errnos.EINVAL);
  await client.reset(['a', 'b'], false);
  expect(asked).toEqual(['a\nb', 'a', 'b']);
});

it('another failure is the answer', async () => {
  const { client, asked } = blocker(errnos.ENOSPC);
  await expect(client.reset(['a', 'b'], false)).rejects.toMatchObject({ errno: errnos.ENOSPC });
  expect(asked).toEqual(['a\nb']);
});
