/** NBD URIs: the URI document's examples, what libnbd's users write, and what must not be guessed at. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { formatNbdUri, type NbdUri, parseNbdUri } from '../../../src/nbd/uri.js';
import { errnos } from '../../../src/sys/errno.js';

const plain: NbdUri = {
  tls: false,
  host: null,
  port: 10809,
  socket: null,
  exportName: '',
  user: null,
  tlsCertificates: null,
  tlsPskFile: null,
  tlsHostname: null,
  tlsVerifyPeer: null,
};
const tcp = { ...plain, host: 'example.com' };

describe('parsing', () => {
  test.each<[string, NbdUri]>([
    ['nbd://example.com:10809/export', { ...tcp, exportName: 'export' }],
    ['nbd://example.com/disk', { ...tcp, exportName: 'disk' }],
    ['nbd+unix:///disk?socket=sock', { ...plain, socket: 'sock', exportName: 'disk' }],
    ['nbd://example.com/', tcp],
    ['nbd://example.com', tcp],
    ['nbd://example.com//disk', { ...tcp, exportName: '/disk' }],
    ['nbd://example.com/hello%20world', { ...tcp, exportName: 'hello world' }],
    ['nbd://example.com/a/b', { ...tcp, exportName: 'a/b' }],
    ['nbd://example.com/vol@-1h', { ...tcp, exportName: 'vol@-1h' }],
    ['nbd://example.com/vol@2026-11-19T03:00', { ...tcp, exportName: 'vol@2026-11-19T03:00' }],
    ['nbd://example.com/a+b', { ...tcp, exportName: 'a+b' }],
    ['nbd://example.com/%E2%82%AC', { ...tcp, exportName: '€' }],
    ['NBD://example.com/x', { ...tcp, exportName: 'x' }],
    ['nbd://example.com:1', { ...tcp, port: 1 }],
    ['nbd://example.com:/x', { ...tcp, exportName: 'x' }],
    ['nbd://[::1]:99/x', { ...tcp, host: '::1', port: 99, exportName: 'x' }],
    ['nbd://[fe80::1%25eth0]', { ...tcp, host: 'fe80::1%eth0' }],
    ['nbds://alice@example.com/', { ...tcp, tls: true, user: 'alice' }],
    ['nbds://a%40b@example.com/', { ...tcp, tls: true, user: 'a@b' }],
    ['nbds://example.com?tls-certificates=/a%20b', { ...tcp, tls: true, tlsCertificates: '/a b' }],
    ['nbds://example.com?tls-psk-file=k&tls-type=psk', { ...tcp, tls: true, tlsPskFile: 'k' }],
    ['nbds+unix:///?socket=/s&tls-hostname=h', { ...plain, tls: true, socket: '/s', tlsHostname: 'h' }],
    ['nbds://example.com?tls-verify-peer=0', { ...tcp, tls: true, tlsVerifyPeer: false }],
    ['nbds://example.com?tls-verify-peer=1', { ...tcp, tls: true, tlsVerifyPeer: true }],
    ['nbd+unix://alice@/?socket=s', { ...plain, socket: 's', user: 'alice' }],
    ['nbd+unix:///?socket=%00/abstract', { ...plain, socket: '\0/abstract' }],
    ['nbd://example.com?x-experiment=1', tcp],
    ['nbd://example.com?', tcp],
  ])('%s', (uri, parts) => {
    expect(parseNbdUri(uri)).toEqual(parts);
  });

  test.each<[string, RegExp]>([
    ['', /begin with/],
    ['/dev/sda', /begin with/],
    ['http://example.com', /another scheme/],
    ['nbd:example.com:10809:exportname=x', /"\/\/" must follow/],
    ['nbd:///x', /host is missing/],
    ['nbd+unix:///x', /socket=PATH/],
    ['nbd+unix:///x?socket=', /socket=PATH/],
    ['nbd+unix://host/x?socket=s', /no host/],
    ['nbd+unix://:99/x?socket=s', /no host/],
    ['nbd://h?socket=s', /nbd\+unix/],
    ['nbd://h:0', /no port 0/],
    ['nbd://h:65536', /no port/],
    ['nbd://h:port', /host and port/],
    ['nbd://::1/x', /brackets/],
    ['nbd://[::1/x', /brackets/],
    ['nbd://[host]/x', /IPv6/],
    ['nbd://h/%zz', /percent-encoding/],
    ['nbd://h/%ff', /percent-encoding/],
    ['nbd://h/a%00b', /NUL/],
    ['nbd://h/x#y', /%23/],
    ['nbd://h?nonsense=1', /"nonsense" is not known/],
    ['nbd+unix:///?socket=a&socket=b', /twice/],
    ['nbds://h?tls-hostname', /no value/],
    ['nbds://h?tls-verify-peer=yes', /0 or 1/],
    ['nbds://h?tls-type=anon', /anon/],
    ['nbds://h?tls-type=md5', /not known/],
    ['nbds://h?tls-type=psk', /needs tls-psk-file/],
    ['nbds://h?tls-type=x509&tls-psk-file=k', /no tls-psk-file/],
    ['nbds://h?tls-certificates=a&tls-psk-file=b', /exclude/],
  ])('%s is refused with a reason', (uri, message) => {
    expect(() => parseNbdUri(uri)).toThrow(
      expect.objectContaining({ errno: errnos.EINVAL, message: expect.stringMatching(message) }),
    );
  });

  test.each(['nbd+vsock://2/x', 'nbds+vsock://2:10809', 'nbd+ssh://h/x'])(
    '%s is a transport that is not there',
    (uri) => {
      expect(() => parseNbdUri(uri)).toThrow(expect.objectContaining({ errno: errnos.EOPNOTSUPP }));
    },
  );

  test('no error repeats what stands before the host', () => {
    expect(() => parseNbdUri('nbd://alice:secret@h/%zz')).toThrow(
      expect.objectContaining({ message: expect.not.stringContaining('secret') }),
    );
  });

  test('anything at all is parsed or refused by a SystemError', () => {
    const pieces = fc.constantFrom(
      'nbd',
      's',
      '+unix',
      ':',
      '//',
      '/',
      '@',
      '[',
      ']',
      '?',
      '&',
      '=',
      '#',
      '%',
      '%00',
      '%41',
      'socket',
      'a',
      '1',
      ' ',
      '\n',
    );
    const texts = fc.oneof(
      fc.string(),
      fc.array(pieces).map((all) => `nbd://${all.join('')}`),
      fc.array(pieces).map((all) => all.join('')),
    );
    fc.assert(
      fc.property(texts, (text) => {
        try {
          const parts = parseNbdUri(text);
          expect((parts.host === null) !== (parts.socket === null)).toBe(true);
        } catch (error) {
          expect(error).toMatchObject({ name: 'SystemError' });
        }
      }),
      { numRuns: 2000 },
    );
  });
});

test('what is formatted is parsed back to the same parts', () => {
  const text = fc.string({ unit: 'binary', minLength: 1 }).filter((value) => !value.includes('\0'));
  const maybe = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: null });
  const place = fc.oneof(
    fc.record({
      host: fc.oneof(fc.domain(), fc.ipV4(), fc.ipV6()),
      port: fc.integer({ min: 1, max: 65535 }),
      socket: fc.constant(null),
    }),
    fc.record({ host: fc.constant(null), port: fc.constant(10809), socket: text }),
  );
  const credentials = fc.oneof(
    fc.record({ tlsCertificates: maybe(text), tlsPskFile: fc.constant(null) }),
    fc.record({ tlsCertificates: fc.constant(null), tlsPskFile: maybe(text) }),
  );
  const rest = fc.record({
    tls: fc.boolean(),
    exportName: fc.oneof(fc.constant(''), text),
    user: maybe(text),
    tlsHostname: maybe(text),
    tlsVerifyPeer: maybe(fc.boolean()),
  });
  fc.assert(
    fc.property(fc.tuple(place, credentials, rest), (parts) => {
      const uri: NbdUri = Object.assign({}, ...parts);
      expect(parseNbdUri(formatNbdUri(uri))).toEqual(uri);
    }),
    { numRuns: 1000 },
  );
});

test('formatting gives what people write', () => {
  expect(formatNbdUri({ host: 'h', exportName: 'vol@-1h' })).toBe('nbd://h/vol@-1h');
  expect(formatNbdUri({ host: '::1', port: 99, tls: true })).toBe('nbds://[::1]:99/');
  expect(formatNbdUri({ socket: '/run/a b', exportName: 'x' })).toBe('nbd+unix:///x?socket=/run/a%20b');
  expect(() => formatNbdUri({})).toThrow(/host or a unix socket/);
  expect(() => formatNbdUri({ host: 'h', socket: 's' })).toThrow(/either/);
});
