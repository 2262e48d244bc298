/** The handshake: messages, flags, options, replies, information. */
import { extended, handshake as H, inFile, negotiation, row, type Section, tls, tlsCredentials } from './row.js';

const codec = inFile('unit/nbd/codec.test.ts');
const FIXED = 'the greeting is fixed newstyle with NO_ZEROES and no other flag';
const UNKNOWN = 'an export that is unknown is UNKNOWN, without any INFO, with a text, and the handshake goes on';
const INFO = 'NAME, DESCRIPTION and BLOCK_SIZE come when asked for, as the document lays them out';
const EXPORT = 'INFO and GO bring exactly one INFO_EXPORT before the ACK, whatever was asked for';
const ZEROES = 'a client without NO_ZEROES (flags %i) gets 124 zeroes from EXPORT_NAME, none from GO';
const STRUCTURED = 'STRUCTURED_REPLY: data is INVALID, asking twice is answered';
const REQUIRED = 'required: every option but STARTTLS and ABORT is refused with TLS_REQD before, and none after';
const UNKNOWN_OPTION = 'option %i is unknown: UNSUP, its data is skipped, framing stays';
const EXT = 'EXTENDED_HEADERS is acknowledged, with or without structured replies before; data is INVALID';
const EXT_FIRST = 'STRUCTURED_REPLY after it is EXT_HEADER_REQD, and extended headers stay';

export const handshakeSections: Section[] = [
  {
    title: 'Handshake',
    rows: [
      row(
        'oldstyle negotiation',
        null,
        '1.0',
        codec('another protocol, or oldstyle, is no greeting'),
        'no: the document has given it up; newstyle only',
      ),
      row(
        'newstyle, not fixed',
        null,
        '1.0',
        H(ZEROES),
        'in part: a client that does not set the fixed flag is served all the same',
      ),
      row('fixed newstyle', null, '1.0', H(FIXED)),
      row('`NBDMAGIC`', 'MAGIC', '1.0', H(FIXED)),
      row('`IHAVEOPT`', 'OPTION_MAGIC', '1.0', H('an option without its magic number ends the session')),
      row('greeting, bytes', 'GREETING_LENGTH', '1.0', H(FIXED)),
      row('client flags, bytes', 'CLIENT_FLAGS_LENGTH', '1.0', H('the unknown client flags %i close the connection')),
      row(
        'option header, bytes',
        'OPTION_HEADER_LENGTH',
        '1.0',
        H('options that arrive together are answered in order'),
      ),
      row(
        'option reply, magic number',
        'OPTION_REPLY_MAGIC',
        '1.0',
        H('options that arrive together are answered in order'),
      ),
      row(
        'option reply header, bytes',
        'OPTION_REPLY_HEADER_LENGTH',
        '1.0',
        H('options that arrive together are answered in order'),
      ),
      row('answer to EXPORT_NAME, bytes', 'EXPORT_NAME_REPLY_LENGTH', '1.0', H(ZEROES)),
      row('zeroes after it', 'EXPORT_NAME_ZEROES', '1.0', H(ZEROES)),
      row('longest string, bytes', 'MAX_STRING', '1.0', H('a string of 4096 bytes is taken')),
      row(
        'strings: UTF-8 without NUL',
        null,
        '1.0',
        H('a string that is too long, holds a NUL or is not UTF-8 is refused, and enters nothing'),
      ),
      row(
        'default export: the empty name',
        null,
        '1.0',
        H('an empty name is the default export, for EXPORT_NAME, INFO and GO'),
      ),
      row('soft disconnect by ABORT', null, '1.0', H('ABORT is acknowledged, with data too, and the server closes')),
      row(
        'options past any reason end the session',
        null,
        '1.0',
        negotiation('a client that sends options without end is dropped'),
      ),
    ],
  },
  {
    title: 'Handshake flags',
    rows: [
      row('`NBD_FLAG_FIXED_NEWSTYLE`', 'HandshakeFlag.FIXED_NEWSTYLE', '1.0', H(FIXED)),
      row('`NBD_FLAG_NO_ZEROES`', 'HandshakeFlag.NO_ZEROES', '1.0', H(FIXED)),
      row(
        'any other flag of a client: hard disconnect',
        null,
        '1.0',
        H('the unknown client flags %i close the connection'),
      ),
    ],
  },
  {
    title: 'Options',
    rows: [
      row(
        '`NBD_OPT_EXPORT_NAME`',
        'Option.EXPORT_NAME',
        '1.0',
        H('a client without NO_ZEROES (flags %i) gets 124 zeroes from EXPORT_NAME, none from GO'),
      ),
      row(
        'EXPORT_NAME of an unknown export: hard disconnect',
        null,
        '1.0',
        H('EXPORT_NAME of an unknown export ends the session without a byte'),
      ),
      row('`NBD_OPT_ABORT`', 'Option.ABORT', '1.0', H('ABORT is acknowledged, with data too, and the server closes')),
      row(
        '`NBD_OPT_LIST`',
        'Option.LIST',
        '1.0',
        H('LIST has one SERVER reply for each export and an ACK; data makes it INVALID'),
      ),
      row(
        '`NBD_OPT_PEEK_EXPORT`',
        'Option.PEEK_EXPORT',
        '1.0',
        H(UNKNOWN_OPTION),
        'no: withdrawn; answered with UNSUP',
      ),
      row('`NBD_OPT_STARTTLS`', 'Option.STARTTLS', '1.1', tls('a second STARTTLS is invalid, and so is one with data')),
      row('`NBD_OPT_INFO`', 'Option.INFO', '1.0', H('INFO, then GO with the same parameters: the same information')),
      row('`NBD_OPT_GO`', 'Option.GO', '1.0', H(EXPORT)),
      row('`NBD_OPT_STRUCTURED_REPLY`', 'Option.STRUCTURED_REPLY', '1.0', H(STRUCTURED)),
      row(
        '`NBD_OPT_LIST_META_CONTEXT`',
        'Option.LIST_META_CONTEXT',
        '1.0',
        H('LIST without a query names all, with id zero'),
      ),
      row(
        '`NBD_OPT_SET_META_CONTEXT`',
        'Option.SET_META_CONTEXT',
        '1.0',
        H('each selected context has an id of its own'),
      ),
      row('`NBD_OPT_EXTENDED_HEADERS`', 'Option.EXTENDED_HEADERS', '1.1', extended(EXT)),
      row('an unknown option: UNSUP, framing stays', null, '1.0', H(UNKNOWN_OPTION)),
      row(
        'EXPORT_NAME after EXTENDED_HEADERS: hard disconnect',
        null,
        '1.1',
        extended('EXPORT_NAME after it does not enter transmission with the wrong headers'),
      ),
    ],
  },
  {
    title: 'Option replies',
    rows: [
      row('`NBD_REP_ACK`', 'Reply.ACK', '1.0', H(EXPORT)),
      row(
        '`NBD_REP_SERVER`',
        'Reply.SERVER',
        '1.0',
        H('LIST has one SERVER reply for each export and an ACK; data makes it INVALID'),
      ),
      row('`NBD_REP_INFO`', 'Reply.INFO', '1.0', H(EXPORT)),
      row('`NBD_REP_META_CONTEXT`', 'Reply.META_CONTEXT', '1.0', H('each selected context has an id of its own')),
      row('`NBD_REP_ERR_UNSUP`', 'Reply.ERR_UNSUP', '1.0', H(UNKNOWN_OPTION)),
      row(
        '`NBD_REP_ERR_POLICY`',
        'Reply.ERR_POLICY',
        '1.0',
        negotiation('what the provider throws is POLICY with its text'),
      ),
      row(
        '`NBD_REP_ERR_INVALID`',
        'Reply.ERR_INVALID',
        '1.0',
        H('malformed INFO and GO are INVALID and lose no framing'),
      ),
      row(
        '`NBD_REP_ERR_PLATFORM`',
        'Reply.ERR_PLATFORM',
        '1.0',
        H('STARTTLS is UNSUP or POLICY and the handshake goes on'),
        'no: nothing depends on the platform',
      ),
      row('`NBD_REP_ERR_TLS_REQD`', 'Reply.ERR_TLS_REQD', '1.1', tls(REQUIRED)),
      row('`NBD_REP_ERR_UNKNOWN`', 'Reply.ERR_UNKNOWN', '1.0', H(UNKNOWN)),
      row(
        '`NBD_REP_ERR_SHUTDOWN`',
        'Reply.ERR_SHUTDOWN',
        '1.1',
        inFile('unit/nbd/shutdown.test.ts')('an option gets ERR_SHUTDOWN, and the handshake ends'),
      ),
      row(
        '`NBD_REP_ERR_BLOCK_SIZE_REQD`',
        'Reply.ERR_BLOCK_SIZE_REQD',
        '1.0',
        H('the block size is never required of the client'),
        'no: block sizes are never required, as common clients do not ask for them',
      ),
      row(
        '`NBD_REP_ERR_TOO_BIG`',
        'Reply.ERR_TOO_BIG',
        '1.0',
        negotiation('unknown options are UNSUP and their data is skipped, however much it is'),
      ),
      row('`NBD_REP_ERR_EXT_HEADER_REQD`', 'Reply.ERR_EXT_HEADER_REQD', '1.1', extended(EXT_FIRST)),
      row('errors carry a text', null, '1.0', H(UNKNOWN)),
    ],
  },
  {
    title: 'Information types',
    rows: [
      row('`NBD_INFO_EXPORT`', 'Info.EXPORT', '1.0', H(EXPORT)),
      row('`NBD_INFO_NAME`', 'Info.NAME', '1.0', H(INFO)),
      row('`NBD_INFO_DESCRIPTION`', 'Info.DESCRIPTION', '1.0', H(INFO)),
      row('`NBD_INFO_BLOCK_SIZE`', 'Info.BLOCK_SIZE', '1.0', H(INFO)),
      row(
        'information requests that are unknown are ignored',
        null,
        '1.0',
        H('INFO requests that are unknown are ignored'),
      ),
    ],
  },
  {
    title: 'TLS',
    rows: [
      row('NOTLS', null, '1.0', H('TLS_REQD is the answer to nothing')),
      row('FORCEDTLS', null, '1.1', tls(REQUIRED)),
      row(
        'FORCEDTLS: EXPORT_NAME in plaintext ends the session',
        null,
        '1.1',
        tls('required: EXPORT_NAME in plaintext closes the connection, inside it works'),
      ),
      row(
        'SELECTIVETLS',
        null,
        '1.1',
        tls('selective: the client may stay in plaintext, unless the provider insists; inside it never hears of TLS'),
      ),
      row(
        'SELECTIVETLS: EXPORT_NAME of a TLS-only export ends the session',
        null,
        '1.1',
        tls('selective: EXPORT_NAME of an export that needs TLS closes the connection'),
      ),
      row(
        'nothing negotiated in plaintext holds inside',
        null,
        '1.1',
        tls('nothing that was agreed on in plaintext holds inside'),
      ),
      row('a second STARTTLS is INVALID', null, '1.1', tls('a second STARTTLS is invalid, and so is one with data')),
      row('TLS 1.2 and later, none before', null, '1.1', tls('TLS 1.1 is refused')),
      row('X.509', null, '1.1', tlsCredentials('%s: the right one is let in and named')),
      row('pre-shared keys', null, '1.1', tlsCredentials('%s: with and without a certificate beside')),
    ],
  },
  {
    title: 'Block size constraints',
    rows: [
      row('minimum, preferred, maximum: powers of two and their order', null, '1.0', H(INFO)),
      row('a client that does not ask is served', null, '1.0', H('the block size is never required of the client')),
      row(
        'off the minimum: EINVAL, nothing changes',
        null,
        '1.0',
        inFile('unit/nbd/conformance-transmission.test.ts')(
          'offsets and lengths off the minimum block size are EINVAL and change nothing',
        ),
      ),
      row(
        'payloads of 2^25 bytes are taken',
        null,
        '1.0',
        inFile('unit/nbd/conformance-transmission.test.ts')('a payload of 32 MiB goes both ways'),
      ),
      row(
        'effects longer than the maximum payload',
        null,
        '1.0',
        inFile('unit/nbd/conformance-transmission.test.ts')(
          'TRIM, WRITE_ZEROES and CACHE may be longer than any payload',
        ),
      ),
    ],
  },
  {
    title: 'Metadata contexts',
    rows: [
      row('`base:allocation`', 'BASE_ALLOCATION', '1.0', H('LIST without a query names all, with id zero')),
      row(
        '`NBD_STATE_HOLE`',
        'STATE_HOLE',
        '1.0',
        inFile('unit/nbd/commands.test.ts')('block status tells holes and data exactly, one extent with REQ_ONE'),
      ),
      row(
        '`NBD_STATE_ZERO`',
        'STATE_ZERO',
        '1.0',
        inFile('unit/nbd/commands.test.ts')('block status tells holes and data exactly, one extent with REQ_ONE'),
      ),
      row('`base:` is a wildcard in LIST only', null, '1.0', H('`base:` is a wildcard for LIST and nothing for SET')),
      row(
        'unknown namespaces and leaves are ignored',
        null,
        '1.0',
        H('unknown leaves and unknown namespaces are ignored'),
      ),
      row(
        'SET replaces what was chosen',
        null,
        '1.0',
        H('SET without a query selects none, and takes back what was chosen'),
      ),
      row(
        'SET clears even when it fails; bound to the export',
        null,
        '1.0',
        negotiation('a choice is bound to its export, and a failed SET clears it'),
      ),
      row('SET before structured replies is INVALID', null, '1.0', H('SET before structured replies is INVALID')),
      row(
        'malformed requests are INVALID',
        null,
        '1.0',
        H('requests that are malformed are INVALID, wherever they are cut'),
      ),
    ],
  },
];
