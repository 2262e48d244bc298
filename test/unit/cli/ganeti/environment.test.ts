/** What Ganeti says in the environment, as the actions see it. */
import { describe, expect, it } from 'vitest';
import { type GanetiCall, readCall, refuseUnknown, required } from '../../../../src/cli/ganeti/environment.js';
import { errnoOf, errnos } from '../../../../src/sys/errno.js';

const DISK = '1a2b3c4d-0000-4000-8000-123456789abc.ext.disk0';
const usual = { VOL_NAME: DISK, EXTP_PROVIDER: 'archipelago', EXTP_ACCESS: 'userspace', PATH: '/bin' };
const read = (more: Record<string, string>): GanetiCall => readCall({ ...usual, ...more });

describe('the environment of a call', () => {
  it('says little on most calls', () => {
    expect(readCall(usual)).toEqual({
      name: DISK,
      givenName: null,
      uuid: null,
      size: null,
      newSize: null,
      metadata: null,
      snapshot: null,
      exclusive: true,
      access: 'userspace',
      origin: null,
      originSize: null,
      reuseData: false,
      unknown: [],
    });
  });

  it('counts sizes in MiB, and the origin in bytes', () => {
    const sizes = read({ VOL_SIZE: '64', VOL_NEW_SIZE: '96', EXTP_ORIGIN: 'debian-12', EXTP_ORIGIN_SIZE: '1000' });
    expect(sizes).toMatchObject({ size: 64 << 20, newSize: 96 << 20, origin: 'debian-12', originSize: 1000 });
  });

  it('has names, metadata and how the disk is opened', () => {
    const call = read({
      VOL_CNAME: 'web-root',
      VOL_UUID: 'u-1',
      VOL_METADATA: 'originstname+web1',
      VOL_SNAPSHOT_NAME: `${DISK}.snap`,
      VOL_OPEN_EXCLUSIVE: 'False',
      EXTP_REUSE_DATA: 'True',
    });
    expect(call).toMatchObject({
      givenName: 'web-root',
      uuid: 'u-1',
      metadata: 'originstname+web1',
      snapshot: `${DISK}.snap`,
      exclusive: false,
      reuseData: true,
    });
  });

  it.each(['', 'None'])('takes %j for nothing, since Ganeti writes the None of Python', (none) => {
    const call = read({
      EXTP_ORIGIN: none,
      EXTP_ORIGIN_SIZE: none,
      EXTP_REUSE_DATA: none,
      VOL_CNAME: none,
      VOL_SIZE: none,
    });
    expect(call).toMatchObject({ origin: null, originSize: null, reuseData: false, givenName: null, size: null });
    expect(read({ EXTP_ACCESS: none }).access).toBe('kernelspace');
  });

  it('takes -1 for no size of the origin, as the original did', () => {
    expect(read({ EXTP_ORIGIN: 'debian-12', EXTP_ORIGIN_SIZE: '-1' }).originSize).toBeNull();
  });

  it.each([
    ['True', true],
    ['yes', true],
    ['1', true],
    ['False', false],
    ['no', false],
    ['off', false],
  ])('reads reuse_data=%s', (value, meaning) => {
    expect(read({ EXTP_REUSE_DATA: value }).reuseData).toBe(meaning);
  });

  it.each<[Record<string, string>, string]>([
    [{ VOL_SIZE: '0' }, 'VOL_SIZE is 0: a disk has at least one MiB'],
    [{ VOL_SIZE: '1.5' }, 'VOL_SIZE is "1.5", which is no number of MiB'],
    [{ VOL_SIZE: '-3' }, 'VOL_SIZE is "-3", which is no number of MiB'],
    [{ VOL_NEW_SIZE: '9999999999999' }, 'VOL_NEW_SIZE is "9999999999999", which is no number of MiB'],
    [{ EXTP_ORIGIN: 'a', EXTP_ORIGIN_SIZE: '1K' }, 'EXTP_ORIGIN_SIZE is "1K", which is no number of bytes'],
    [{ EXTP_ORIGIN_SIZE: '4096' }, 'origin_size is the size of a Pithos map that origin names, and there is no origin'],
    [{ EXTP_REUSE_DATA: 'maybe' }, 'EXTP_REUSE_DATA is "maybe", which is neither True nor False'],
    [{ VOL_OPEN_EXCLUSIVE: '2' }, 'VOL_OPEN_EXCLUSIVE is "2", which is neither True nor False'],
    [{ EXTP_ACCESS: 'blktap' }, 'access is "blktap": this provider knows kernelspace and userspace'],
    [{ VOL_NAME: '' }, 'the environment has no VOL_NAME: this is called by Ganeti, not by hand'],
  ])('refuses %j', (more, message) => {
    expect(() => read(more)).toThrow(message);
    try {
      read(more);
    } catch (error) {
      expect(errnoOf(error)).toBe(errnos.EINVAL);
    }
  });

  it.each<Record<string, string>>([
    { EXTP_ORIGIN: 'a', EXTP_ORIGIN_SIZE: '1K' },
    { EXTP_ORIGIN_SIZE: '4096' },
    { EXTP_REUSE_DATA: 'maybe' },
  ])('takes no offence at %j of a disk that is there: it could not even be removed', (more) => {
    const call = readCall({ ...usual, ...more }, { made: true });
    expect(call).toMatchObject({ origin: null, originSize: null, reuseData: false });
    expect(() => readCall({ ...usual, ...more })).toThrow();
  });

  it('tells parameters that are not known from those of Ganeti', () => {
    expect(() => refuseUnknown(read({}))).not.toThrow();
    expect(() => refuseUnknown(read({ EXTP_ORGIN: 'debian-12' }))).toThrow(
      'no such parameter: orgin; there are origin, origin_size, reuse_data',
    );
    expect(() => refuseUnknown(read({ EXTP_A: '1', EXTP_B: '2' }))).toThrow('no such parameters: a, b;');
  });

  it('says which variable an action lacks', () => {
    expect(required(5, 'VOL_SIZE', 'create')).toBe(5);
    expect(() => required(null, 'VOL_SIZE', 'create')).toThrow('the environment has no VOL_SIZE, which create needs');
  });

  it('takes the name of the command line before that of the environment', () => {
    expect(readCall(usual, { name: 'other' }).name).toBe('other');
  });
});
