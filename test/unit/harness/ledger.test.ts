/** The oracle of the tests with two nodes: what it must find, it finds. */
import { describe, expect, it } from 'vitest';
import { Ledger, SECTOR } from '../../e2e/harness/ledger.js';

const SECTORS = 8;

/** A volume in memory, and its ledger. */
function volume(): {
  ledger: Ledger;
  bytes: Buffer;
  write: (sector: number, answer?: boolean) => Buffer;
  read: () => void;
} {
  const ledger = new Ledger(SECTORS * SECTOR, 3);
  const bytes = Buffer.alloc(SECTORS * SECTOR);
  const write = (sector: number, answer = true): Buffer => {
    ledger.claim(sector, 1);
    const content = ledger.write(sector, 1);
    content.copy(bytes, sector * SECTOR);
    if (answer) ledger.answer(sector, 1);
    else ledger.release(sector, 1);
    return content;
  };
  return { ledger, bytes, write, read: () => ledger.check(ledger.since(0, SECTORS), bytes) };
}

describe('the ledger', () => {
  it('is content with what was written, and with a write that failed done or not done', () => {
    const { ledger, bytes, write, read } = volume();
    read();
    const first = write(2);
    read();
    write(2, false);
    read();
    first.copy(bytes, 2 * SECTOR);
    read();
    expect(ledger.claim(1, 3)).toBe(true);
    expect(ledger.claim(3, 1)).toBe(false);
  });

  it('finds a write that was answered and is not there, or an older one in its place', () => {
    const { bytes, write, read } = volume();
    const old = write(1);
    bytes.fill(0, SECTOR, 2 * SECTOR);
    expect(read).toThrow(/sector 1 .*is zeros, but write 1 was answered/);
    write(1);
    old.copy(bytes, SECTOR);
    expect(read).toThrow(/sector 1 .*has write 1, but write 2 was answered/);
  });

  it('finds what was meant for another place, what is torn, what nobody wrote, and what was never sent', () => {
    const { ledger, bytes, write, read } = volume();
    write(1).copy(bytes, 3 * SECTOR);
    expect(read).toThrow(/sector 3 .*written to sector 1 of volume 3/);
    bytes.fill(0, 3 * SECTOR + 512, 4 * SECTOR);
    bytes.copy(bytes, 3 * SECTOR, SECTOR, SECTOR + 512);
    expect(read).toThrow(/sector 3/);
    bytes.fill(0, 3 * SECTOR, 4 * SECTOR);
    bytes[SECTOR + 4095] ^= 1;
    expect(read).toThrow(/sector 1 .*has write .* \(from byte 4080 on\)/);
    bytes[SECTOR + 4095] ^= 1;
    bytes[SECTOR] ^= 1;
    expect(read).toThrow(/sector 1 .*nobody wrote/);
    bytes[SECTOR] ^= 1;
    read();
    const later = ledger.copy();
    later.claim(1, 1);
    later.write(1, 1).copy(bytes, SECTOR);
    expect(read).toThrow(/never sent/);
  });

  it('lets a read see half of a write that is under way at the same time, and of no other', () => {
    const { ledger, bytes, write, read } = volume();
    const old = write(2);
    ledger.claim(2, 1);
    const next = ledger.write(2, 1);
    old.copy(bytes, 2 * SECTOR);
    next.copy(bytes, 2 * SECTOR, 0, 512);
    read();
    const since = ledger.since(0, SECTORS);
    ledger.answer(2, 1);
    ledger.check(since, bytes);
    expect(read).toThrow(/has write 1, but write 2 was answered .*from byte 512 on/);
    bytes.fill(0, 2 * SECTOR + 512, 3 * SECTOR);
    expect(read).toThrow(/is zeros, but write 2 was answered/);
  });

  it('knows zeros that were asked for from zeros that were not', () => {
    const { ledger, bytes, write, read } = volume();
    const old = write(0);
    ledger.claim(0, 1);
    ledger.zero(0, 1);
    // A trim: either.
    ledger.release(0, 1);
    read();
    bytes.fill(0, 0, SECTOR);
    read();
    ledger.claim(0, 1);
    ledger.zero(0, 1);
    ledger.answer(0, 1);
    read();
    old.copy(bytes);
    expect(read).toThrow(/has write 1, but write 3 was answered/);
    write(0);
    bytes.fill(0, 0, SECTOR);
    expect(read).toThrow(/is zeros/);
  });

  it('asks after a cut for what was flushed, and afterwards for what was found', () => {
    const { ledger, bytes, write, read } = volume();
    const flushed = write(4);
    ledger.flush()();
    const unflushed = write(4);
    ledger.cut();
    flushed.copy(bytes, 4 * SECTOR);
    read();
    bytes.fill(0, 4 * SECTOR, 5 * SECTOR);
    expect(read).toThrow(/is zeros/);
    unflushed.copy(bytes, 4 * SECTOR);
    ledger.settle(ledger.since(0, SECTORS), bytes);
    flushed.copy(bytes, 4 * SECTOR);
    expect(read).toThrow(/has write 1, but write 2/);
  });

  it('judges a read by what was answered before it, not by what came while it ran', () => {
    const { ledger, bytes, write } = volume();
    const old = write(6);
    const since = ledger.since(0, SECTORS);
    write(6);
    ledger.check(since, bytes);
    old.copy(bytes, 6 * SECTOR);
    ledger.check(since, bytes);
    expect(() => ledger.check(ledger.since(0, SECTORS), bytes)).toThrow(/write 1/);
  });
});
