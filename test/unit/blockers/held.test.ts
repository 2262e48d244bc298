/** A store that is in use cannot be unmounted: what lies below would be taken for an empty one. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { FileDriver } from '../../../src/blockers/file/index.js';
import { temporaryDirectory } from './support.js';

const run = (command: string, ...args: string[]): void => void execFileSync(command, args, { stdio: 'pipe' });

it.for(['objects', 'locks'])(
  'the file system of the %s is busy from the start of the driver to its end',
  async (which, { skip }) => {
    const directory = temporaryDirectory();
    const [root, lockDir] = ['objects', 'locks'].map((name) => path.join(directory, name));
    for (const each of [root, lockDir]) fs.mkdirSync(each);
    const at = path.join(directory, which);
    try {
      run('mount', '-t', 'tmpfs', '-o', 'size=1m', 'none', at);
    } catch (error) {
      skip(`nothing can be mounted here (root is needed): ${(error as Error).message}`);
    }
    let isMounted = true;
    onTestFinished(() => {
      if (isMounted) run('umount', '--lazy', at);
    });
    const driver = new FileDriver({ root, lockDir, uniqueStr: 'node1_1002' });
    await driver.open();
    // Nothing is open but what the driver has for itself.
    expect(() => run('umount', at)).toThrow('busy');
    await driver.close();
    run('umount', at);
    isMounted = false;
  },
);
