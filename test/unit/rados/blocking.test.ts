import { expect, it } from 'vitest';
import { type Blocking, BlockingCalls, ENDLESS } from '../../../src/rados/blocking.js';
import { turn } from './support.js';

/** Calls that return when the test says so. */
class Calls {
  readonly begun: string[] = [];
  readonly #returns = new Map<string, () => void>();

  make(name: string): Blocking<string> {
    return (done) => {
      this.begun.push(name);
      this.#returns.set(name, () => done(null, name));
    };
  }
  return(name: string): void {
    const returns = this.#returns.get(name);
    if (!returns) throw new Error(`${name} was not begun`);
    returns();
  }
}

const LONG = 600_000;

it('runs two at a time, the others in order', async () => {
  const calls = new Calls();
  const all = new BlockingCalls();
  const results = ['a', 'b', 'c', 'd'].map((name) => all.run(name, LONG, calls.make(name)));
  expect(calls.begun).toEqual(['a', 'b']);
  calls.return('b');
  expect(calls.begun).toEqual(['a', 'b', 'c']);
  for (const name of ['a', 'c', 'd']) calls.return(name);
  expect(await Promise.all(results)).toEqual(['a', 'b', 'c', 'd']);
  expect(await all.idle(0)).toBe(true);
});

it('calls that may never return leave room for the others, of every cluster', async () => {
  const calls = new Calls();
  const [one, two] = [new BlockingCalls(), new BlockingCalls()];
  const lists = [one, one, two].map((all, i) =>
    all.run(`list ${i}`, LONG, calls.make(`list ${i}`), undefined, ENDLESS),
  );
  const command = two.run('command', LONG, calls.make('command'));
  expect(calls.begun).toEqual(['list 0', 'command']);
  calls.return('command');
  expect(await command).toBe('command');
  expect(calls.begun).toEqual(['list 0', 'command']);
  for (const i of [0, 1, 2]) calls.return(`list ${i}`);
  await Promise.all(lists);
});

it('is not idle while a call waits, whoever keeps it waiting: what it uses must not be given back before', async () => {
  const calls = new Calls();
  const [hung, other] = [new BlockingCalls(), new BlockingCalls()];
  const running = ['x', 'y'].map((name) => hung.run(name, LONG, calls.make(name)));
  const waiting = other.run('z', LONG, calls.make('z'));
  let idle = false;
  void other.idle(LONG).then(() => {
    idle = true;
  });
  await turn();
  expect(idle).toBe(false);
  for (const name of ['x', 'y', 'z']) calls.return(name);
  await Promise.all([...running, waiting]);
  await expect.poll(() => idle).toBe(true);
});

it('a call that waited too long is not made any more, and gives back what it had at once', async () => {
  const calls = new Calls();
  const [hung, other] = [new BlockingCalls(), new BlockingCalls()];
  const running = ['x', 'y'].map((name) => hung.run(name, LONG, calls.make(name)));
  let given = 0;
  const waiting = other.run('z', 1, calls.make('z'), () => given++);
  await expect(waiting).rejects.toMatchObject({ code: 'ETIMEDOUT' });
  expect(given).toBe(1);
  expect(await other.idle(0)).toBe(true);
  for (const name of ['x', 'y']) calls.return(name);
  await Promise.all(running);
  expect(calls.begun).toEqual(['x', 'y']);
  expect(given).toBe(1);
});
