/** What scripts/rigs/guest/devices-*.mjs play, in this order. */

/** devices-scenes.mjs: what devices do. */
export const SCENES: readonly string[] = [
  'attach',
  'attach again',
  'a file system',
  'a new size while it is mounted',
  'fio verifies what it wrote',
  'who else uses it',
  'several connections',
  'the node killed under load',
  'the node stopped and started under load',
  'the same without a keeper',
  'several connections are all back',
  'read-only, and a size of sectors',
  'detach',
  'twenty at once, from two processes',
  'a table that is lost',
  'a table that is damaged',
  'a device that somebody else ended',
  'no error was seen',
  'by force while it is open',
  'detach while the node is away',
];

/** Those of devices-scenes.mjs with QUICK=1. */
export const QUICK_SCENES: readonly string[] = [
  'attach',
  'attach again',
  'a file system',
  'a new size while it is mounted',
  'fio verifies what it wrote',
  'several connections',
  'the node killed under load',
  'several connections are all back',
  'read-only, and a size of sectors',
  'detach',
  'no error was seen',
];

/** devices-vlmc.mjs: what the commands print, and refuse. */
export const VLMC_SCENES: readonly string[] = [
  'vlmc keeper',
  'vlmc map',
  'vlmc showmapped',
  'vlmc resize',
  'vlmc refusals',
  'vlmc unmap',
  'vlmc a snapshot, several connections, and its own socket',
  'vlmc a table',
  'vlmc twenty at once',
  'vlmc a node that does not run',
  'vlmc keeper stopped',
];
