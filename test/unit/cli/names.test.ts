import { describe, expect, it } from 'vitest';
import { checkName, checkNewName, checkNewSnapshot, checkNewVolume } from '../../../src/cli/vlmc/names.js';

describe('names on the command line', () => {
  const reserved = [
    'archip_volume',
    'volume_lock',
    'vol_0123456789abcdef',
    'vol_0123456789abcdef_more',
    'with/slash',
    'with\nline',
    `v${'x'.repeat(82)}`,
  ];

  it.each(reserved)('refuses %j for anything new, with the words of the original', (name) => {
    expect(() => checkNewVolume(name)).toThrow(/^Invalid volume name: /);
    expect(() => checkNewSnapshot(name)).toThrow(/^Invalid snapshot name: /);
    expect(() => checkNewName(name)).toThrow(/^Invalid new name: /);
  });

  it('says which rule was broken', () => {
    expect(() => checkNewVolume('archip_volume')).toThrow(/start with archip_/);
    expect(() => checkNewVolume('volume_lock')).toThrow(/end in _lock/);
    expect(() => checkNewVolume('vol_0123456789abcdef')).toThrow(/16 hexadecimal digits/);
    expect(() => checkNewVolume('ü'.repeat(42))).toThrow(/84 bytes, the limit is 82/);
  });

  it('refuses short names with the words of the original', () => {
    expect(() => checkNewVolume('short')).toThrow('Name should have at least len 6');
    expect(() => checkName('short')).toThrow('Name should have at least len 6');
    expect(() => checkNewName('short')).toThrow('New name should have at least len 6');
    expect(() => checkNewSnapshot('short')).toThrow(/^Invalid snapshot name: .*less than 6/);
  });

  it.each(['sixsix', 'x'.repeat(82), 'volume_0123456789ABCDEF', 'with space', 'vol_lock_', 'drei-ü'])(
    'accepts %j',
    (name) => {
      for (const check of [checkName, checkNewVolume, checkNewSnapshot, checkNewName]) check(name);
    },
  );

  it('lets commands reach volumes whose names are no longer made', () => {
    for (const name of ['archip_volume', 'volume_lock', 'vol_0123456789abcdef', 'x'.repeat(255)]) checkName(name);
    expect(() => checkName('x'.repeat(256))).toThrow(/longer than 255/);
    expect(() => checkName('../../etc/passwd')).toThrow(/slash/);
  });
});
