/** What the document asks of a server beside values: its MUSTs and SHOULDs that no single constant stands for. */
import {
  commands,
  handshake as H,
  inFile,
  row,
  type Section,
  server,
  transmission as T,
  tls,
  extended as X,
} from './row.js';

const secure = inFile('unit/nbd/conformance-tls.test.ts');
const hostile = inFile('unit/nbd/hostile.test.ts');
const limits = inFile('unit/nbd/limits.test.ts');
const details = inFile('unit/nbd/conformance-details.test.ts');
const manners = inFile('unit/nbd/client-manners.test.ts');

export const behaviourSections: Section[] = [
  {
    title: 'Behaviours: options',
    rows: [
      row(
        'unknown options are UNSUP and ABORT is acknowledged, however long their data is',
        null,
        '1.1',
        details('an unknown option is UNSUP and ABORT is acknowledged, whatever the length of their data'),
      ),
      row(
        'a SET_META_CONTEXT that fails clears, for whatever reason',
        null,
        '1.1',
        details('a SET_META_CONTEXT that is too long takes back what was chosen, as any that fails'),
      ),
      row(
        'INFO, then GO with the same parameters: the same information',
        null,
        '1.0',
        H('INFO, then GO with the same parameters: the same information'),
      ),
      row(
        'BLOCK_STATUS_PAYLOAD only for clients that have chosen contexts',
        null,
        '1.1',
        details(
          'BLOCK_STATUS_PAYLOAD is offered by GO only to a client that has chosen contexts, or has just been told of it by INFO',
        ),
        'yes: INFO tells of it before, and a GO behind the same INFO must not tell anything else',
      ),
    ],
  },
  {
    title: 'Behaviours: ordering and durability',
    rows: [
      row(
        'replies in any order, chunks of several requests between each other',
        null,
        '1.0',
        commands('pieces and requests may complete later and in any order'),
      ),
      row(
        'a slow request does not hold back a later one',
        null,
        '1.0',
        commands('a slow request does not hold back a later one'),
      ),
      row(
        'FLUSH and FUA reach the device, which answers when the data is safe',
        null,
        '1.0',
        commands('flush, trim, write zeroes and cache reach the device with their flags'),
      ),
      row('FUA is valid on any command', null, '1.0', T('FUA is accepted with every command')),
      row(
        'CAN_MULTI_CONN: what one connection has flushed all see',
        null,
        '1.0',
        details('%s on one connection is seen by all when it is answered'),
      ),
      row(
        'a request that fails in part fails, once',
        null,
        '1.0',
        commands('one failed piece fails the whole request, once, and no buffer is lost'),
      ),
      row(
        'a chunk that could still fail is not the last, and is completed when it fails',
        null,
        '1.1',
        details('fails in its middle: the chunk is completed, an error follows, and the connection goes on'),
      ),
      row(
        'DISC: what is in flight is finished, then the connection ends',
        null,
        '1.0',
        commands('DISC lets what is in flight be finished and answered'),
      ),
      row(
        'DISC of a client that is held back and closes at once: what was not read before it is done as well (not over TLS)',
        null,
        '1.4',
        inFile('unit/nbd/throttle.test.ts')('%s, over a unix socket: what comes before its goodbye is done'),
      ),
    ],
  },
  {
    title: 'Behaviours: ends of connections',
    rows: [
      row(
        'only what the document names ends a connection: errors do not',
        null,
        '1.0',
        T('an unknown command is EINVAL, and the connection goes on'),
      ),
      row(
        'framing that is lost ends it after the answers to what came before',
        null,
        '1.0',
        hostile('a request without its magic number ends the connection after the answers to those before it'),
      ),
      row(
        'a client that vanishes: requests in the device are awaited',
        null,
        '1.0',
        hostile(
          'a client that vanishes while its requests are in the device: they are awaited, then the device is closed',
        ),
      ),
      row(
        'shutdown: requests in flight are finished',
        null,
        '1.0',
        server('a graceful close finishes what is in flight and answers nothing of what comes after'),
      ),
      row(
        'shutdown: options are ERR_SHUTDOWN',
        null,
        '1.1',
        inFile('unit/nbd/shutdown.test.ts')('an option gets ERR_SHUTDOWN, and the handshake ends'),
      ),
      row(
        'shutdown: requests are done and answered, or have no answer',
        null,
        '1.1',
        inFile('unit/nbd/shutdown.test.ts')(
          'under load, each request is done and answered, or has no answer; then the connection ends',
        ),
      ),
      row(
        'ABORT of a client that is gone',
        null,
        '1.0',
        H('ABORT of a client that does not wait for the answer harms nobody'),
      ),
    ],
  },
  {
    title: 'Behaviours: TLS',
    rows: [
      row(
        'FORCEDTLS: each option but STARTTLS and ABORT is TLS_REQD',
        null,
        '1.1',
        secure('FORCEDTLS: every option is TLS_REQD before, none after'),
      ),
      row('FORCEDTLS: no information before', null, '1.1', secure('FORCEDTLS: no INFO reply tells anything before')),
      row(
        'FORCEDTLS: EXPORT_NAME is a hard disconnect',
        null,
        '1.1',
        secure('FORCEDTLS: EXPORT_NAME ends the session, ABORT is acknowledged'),
      ),
      row(
        'SELECTIVETLS: TLS_REQD only to INFO and GO',
        null,
        '1.1',
        details('SELECTIVETLS: TLS_REQD is the answer to INFO and GO alone, and to nobody without fixed newstyle'),
      ),
      row('a second STARTTLS is INVALID', null, '1.1', secure('%s: a second STARTTLS is INVALID, the session goes on')),
      row('STARTTLS with data is INVALID', null, '1.1', secure('%s: STARTTLS with data is INVALID and begins nothing')),
      row(
        'NOTLS for clients without fixed newstyle',
        null,
        '1.1',
        secure('a client that did not agree to fixed newstyle is not taken into TLS'),
      ),
      row(
        'STARTTLS forgets what was negotiated',
        null,
        '1.1',
        secure('what was negotiated in plaintext does not hold inside'),
      ),
      row(
        'plaintext behind STARTTLS is never taken for the client’s word',
        null,
        '1.1',
        secure('%i bytes of plaintext behind STARTTLS end the connection, unanswered'),
      ),
      row(
        'no downgrade after the ACK',
        null,
        '1.1',
        secure('plaintext in place of the TLS handshake ends the connection'),
      ),
      row(
        'client certificates of another authority',
        null,
        '1.1',
        secure('a certificate of another authority opens nothing, none opens nothing, a good one does'),
      ),
      row(
        'the deadline covers the TLS handshake',
        null,
        '1.1',
        tls('a client that says nothing after STARTTLS, or half a hello, falls under the deadline'),
      ),
    ],
  },
  {
    title: 'Behaviours: limits',
    rows: [
      row(
        'a deadline for the handshake',
        null,
        '1.0',
        inFile('unit/nbd/negotiation.test.ts')(
          'a client that does not finish the handshake in time is dropped, whatever it has sent',
        ),
      ),
      row(
        'connections of a server',
        null,
        '1.0',
        hostile('two hundred connections are served, the one beyond the limit is turned away'),
      ),
      row(
        'a client that takes no answers costs a bounded number of buffers',
        null,
        '1.0',
        hostile('a client that does not read is held back by its socket and costs a bounded number of buffers'),
      ),
      row(
        'requests in flight of all connections together',
        null,
        '1.1',
        limits('requests of all connections together are bounded, and each has some'),
      ),
      row('idle time-out', null, '1.1', limits('an idle client is disconnected, one that waits for its answer is not')),
      row(
        'payloads over the maximum are refused after their data',
        null,
        '1.0',
        commands('a write longer than the maximum is refused after its data, and the connection goes on'),
      ),
      row(
        'the same with extended headers: hard disconnect',
        null,
        '1.1',
        X('a payload longer than the maximum ends the connection and is written nowhere'),
      ),
      row(
        'random bytes',
        null,
        '1.0',
        hostile('random bytes, before and after the handshake, end in an answer or a closed connection'),
      ),
      row(
        'any bytes against a model of this document',
        null,
        '1.1',
        inFile('e2e/fuzz.test.ts')('a minute of the fuzzer finds nothing'),
      ),
    ],
  },
  {
    title: 'Behaviours: the client',
    rows: [
      row('commands and flags that were not offered are not sent', null, '1.1', manners('what was not offered')),
      row('nothing that writes is sent to a read-only export', null, '1.1', manners('writes to a read-only export')),
      row(
        'ranges keep to the export and to its block sizes',
        null,
        '1.1',
        manners('ranges past the end, off the minimum block size, over the maximum'),
      ),
      row('a client that gives up sends ABORT', null, '1.1', manners('%s: ABORT')),
      row('ERR_SHUTDOWN: soft disconnect', null, '1.1', manners('ERR_SHUTDOWN to any option')),
      row(
        'ESHUTDOWN: soft disconnect',
        null,
        '1.1',
        manners('ESHUTDOWN in transmission: DISC, after what is in flight'),
      ),
      row(
        'no EXPORT_NAME after extended headers',
        null,
        '1.1',
        manners('EXPORT_NAME does not follow extended headers'),
      ),
      row(
        'falls back from GO to EXPORT_NAME',
        null,
        '1.1',
        inFile('unit/nbd/client.test.ts')(
          'a server without GO is entered by EXPORT_NAME, with all that was negotiated',
        ),
      ),
    ],
  },
];
