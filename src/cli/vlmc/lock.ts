/** The commands about a volume's lock: open, close, lock; unlock is unlock.ts. */
import type { Command } from 'commander';
import { Flag, Op } from '../../requests/ops.js';
import { attempt } from '../common/exit.js';
import type { Session } from '../common/session.js';
import { formatState, lockState } from './lock-state.js';
import { checkName } from './names.js';
import { addUnlockCommand } from './unlock.js';
import { type V0Options, v0Request, withV0 } from './v0.js';

const OPEN_HELP = `
A volume is open exclusive unless told: its lock stays with this node until vlmc close. Open shared on two nodes, the lock goes to whichever of
them writes, which is what live migration needs; it must never mean two machines that use one disk at the same time.

Examples:
  vlmc open web-root             fails where another node has it, and says which
  vlmc open web-root --shared    on both nodes, before a guest moves
  vlmc close web-root`;

const LOCK_HELP = `
The lock of a volume that clients use is taken by the first write and needs no command. A lock by hand keeps other nodes out until
vlmc unlock; it survives a restart of the node's processes.

Examples:
  vlmc lock web-root
  vlmc lock web-root --show
  vlmc --json lock web-root --show | jq -r .lock.host`;

export function addLockCommands(program: Command, session: Session): void {
  withV0(program.command('open <name>'))
    .description("take the volume's lock for this node, as the first write would, and keep it until close")
    .option('--shared', 'take no lock: it goes to whichever node writes, of those that have the volume open shared')
    .addHelpText('after', OPEN_HELP)
    .action((name: string, options: OpenOptions) =>
      passOn(session, name, options, Op.OPEN, options.shared ? Flag.SHARED : 0),
    );

  withV0(program.command('close <name>'))
    .description('finish and flush what runs on the volume and give up its lock; harmless where it is not held')
    .action((name: string, options: V0Options) => passOn(session, name, options, Op.CLOSE, 0));

  program
    .command('lock <name>')
    .description("take a volume's lock by hand, or tell who holds it")
    .option('--show', 'only tell who holds it, since when, and what this node has to do with it')
    .addHelpText('after', LOCK_HELP)
    .action((name: string, options: { show?: boolean }) => (options.show ? show(session, name) : lock(session, name)));

  addUnlockCommand(program, session);
}

interface OpenOptions extends V0Options {
  readonly shared?: boolean;
}

async function passOn(session: Session, name: string, options: OpenOptions, op: Op, more: number): Promise<void> {
  checkName(name);
  const verb = op === Op.OPEN ? 'open' : 'close';
  const { flags, v0Size } = v0Request(options);
  const request = { op, target: name, flags: flags | more, v0Size };
  await attempt(`vlmc ${verb} failed`, () =>
    session.progress.during(`waiting for ${verb} of ${name}`, session.client.call('composer', request)),
  );
  const shared = op === Op.OPEN ? { shared: options.shared === true } : {};
  await session.result({ name, ...shared }, op === Op.OPEN ? 'Volume opened' : 'Volume closed');
}

/** Through the mapper, which keeps it: a lock that only blockerm knew of would be lost to the mapper's own use of the volume. */
async function lock(session: Session, name: string): Promise<void> {
  checkName(name);
  const request = { op: Op.ACQUIRE, target: name, flags: Flag.NOSYNC };
  await attempt('vlmc lock failed', () => session.client.call('mapper', request));
  await session.result({ name }, 'Volume locked');
}

async function show(session: Session, name: string): Promise<void> {
  checkName(name);
  const state = await attempt('vlmc lock failed', () => lockState(session, name));
  await session.result({ name, ...state }, `Volume ${name}: ${formatState(name, state)}`);
}
