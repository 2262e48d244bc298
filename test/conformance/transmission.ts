/** Transmission: messages, flags, commands, chunks, errors; and URIs. */
import {
  commands,
  handshake as H,
  inFile,
  row,
  type Section,
  server,
  transmission as T,
  extended as X,
} from './row.js';

const FLAGS = 'flags tell what the export can do, and nothing more';
const COOKIE = 'every command is answered with the cookie of its request';
const REPLY = 'every reply has the extended magic number, the cookie and the offset of its request, errors too';
const STATUS = 'BLOCK_STATUS: one chunk for each context, extents that are true and end where they may';
const CONTENT = 'content chunks cover the request once, DONE is on the last chunk only, no other flag is set';
const MOVE = 'READ and WRITE move the bytes';
const PAST = 'past the end: WRITE and WRITE_ZEROES are ENOSPC, READ, TRIM and CACHE are EINVAL';
const FILTER = 'answers for the contexts it names, each once';
const DISC = 'DISC has no reply: what came before is answered, then the server closes';
const DEVICE = 'errors of the device arrive as values the protocol knows';
const FAST = 'FAST_ZERO is EINVAL where it was not offered, and ENOTSUP comes only with it';
const DF = 'DF: %i bytes, data and holes, are one chunk of data';
const WIDE = 'TRIM, WRITE_ZEROES, CACHE and BLOCK_STATUS take lengths over 32 bits';
const resize = inFile('unit/nbd/resize.test.ts');
const uri = inFile('unit/nbd/uri.test.ts');

export const transmissionSections: Section[] = [
  {
    title: 'Transmission messages',
    rows: [
      row('request, magic number', 'REQUEST_MAGIC', '1.0', T('a request without its magic number ends the connection')),
      row('request, bytes', 'REQUEST_LENGTH', '1.0', T(COOKIE)),
      row(
        'simple reply, magic number',
        'SIMPLE_REPLY_MAGIC',
        '1.0',
        T('without negotiation every reply is simple, errors too'),
      ),
      row(
        'simple reply, bytes',
        'SIMPLE_REPLY_LENGTH',
        '1.0',
        T('without negotiation every reply is simple, errors too'),
      ),
      row('structured reply chunk, magic number', 'STRUCTURED_REPLY_MAGIC', '1.0', T(CONTENT)),
      row('structured reply chunk header, bytes', 'CHUNK_HEADER_LENGTH', '1.0', T(CONTENT)),
      row(
        'extended request, magic number',
        'EXTENDED_REQUEST_MAGIC',
        '1.1',
        X('a request with a compact header ends the connection'),
      ),
      row('extended request, bytes', 'EXTENDED_REQUEST_LENGTH', '1.1', X(REPLY)),
      row('extended reply chunk, magic number', 'EXTENDED_REPLY_MAGIC', '1.1', X(REPLY)),
      row('extended reply chunk header, bytes', 'EXTENDED_CHUNK_HEADER_LENGTH', '1.1', X(REPLY)),
      row(
        'structured READ is never answered by a simple reply',
        null,
        '1.0',
        T('READ is never answered by a simple reply, not even for an early EINVAL'),
      ),
      row('extended replies repeat the offset of the request', null, '1.1', X(REPLY)),
      row('effect lengths of 64 bits', null, '1.1', X(WIDE)),
      row('lengths past every end are refused', null, '1.1', X('lengths that pass the end are refused, however large')),
      row(
        'requests in any order of completion',
        null,
        '1.0',
        commands('pieces and requests may complete later and in any order'),
      ),
      row('requests of length zero', null, '1.0', T('requests of length zero do not end the connection')),
      row(
        'shutdown: what is in flight is finished, later requests have no answer (ESHUTDOWN is an I/O error to guests of qemu)',
        null,
        '1.0',
        server('a graceful close finishes what is in flight and answers nothing of what comes after'),
      ),
    ],
  },
  {
    title: 'Transmission flags',
    rows: [
      row('`NBD_FLAG_HAS_FLAGS`', 'TransmissionFlag.HAS_FLAGS', '1.0', H(FLAGS)),
      row('`NBD_FLAG_READ_ONLY`', 'TransmissionFlag.READ_ONLY', '1.0', H(FLAGS)),
      row('`NBD_FLAG_SEND_FLUSH`', 'TransmissionFlag.SEND_FLUSH', '1.0', H(FLAGS)),
      row('`NBD_FLAG_SEND_FUA`', 'TransmissionFlag.SEND_FUA', '1.0', H(FLAGS)),
      row(
        '`NBD_FLAG_ROTATIONAL`',
        'TransmissionFlag.ROTATIONAL',
        '1.0',
        H(FLAGS),
        'yes: for devices that say so; volumes never do',
      ),
      row('`NBD_FLAG_SEND_TRIM`', 'TransmissionFlag.SEND_TRIM', '1.0', H(FLAGS)),
      row('`NBD_FLAG_SEND_WRITE_ZEROES`', 'TransmissionFlag.SEND_WRITE_ZEROES', '1.0', H(FLAGS)),
      row(
        '`NBD_FLAG_SEND_DF`',
        'TransmissionFlag.SEND_DF',
        '1.0',
        H('DF is offered exactly when chunks were agreed on'),
      ),
      row('`NBD_FLAG_CAN_MULTI_CONN`', 'TransmissionFlag.CAN_MULTI_CONN', '1.0', H(FLAGS)),
      row(
        '`NBD_FLAG_SEND_RESIZE`',
        'TransmissionFlag.SEND_RESIZE',
        '1.1',
        resize('where it is not offered it is unknown; a read-only export says EPERM'),
        'yes: for devices that can; an extension',
      ),
      row('`NBD_FLAG_SEND_CACHE`', 'TransmissionFlag.SEND_CACHE', '1.0', H(FLAGS)),
      row('`NBD_FLAG_SEND_FAST_ZERO`', 'TransmissionFlag.SEND_FAST_ZERO', '1.0', H(FLAGS)),
      row(
        '`NBD_FLAG_BLOCK_STATUS_PAYLOAD`',
        'TransmissionFlag.BLOCK_STATUS_PAYLOAD',
        '1.1',
        X('DF and BLOCK_STATUS_PAYLOAD are offered'),
      ),
    ],
  },
  {
    title: 'Commands',
    rows: [
      row('`NBD_CMD_READ`', 'Command.READ', '1.0', T(MOVE)),
      row('`NBD_CMD_WRITE`', 'Command.WRITE', '1.0', T(MOVE)),
      row('`NBD_CMD_DISC`', 'Command.DISC', '1.0', T(DISC)),
      row(
        '`NBD_CMD_FLUSH`',
        'Command.FLUSH',
        '1.0',
        commands('flush, trim, write zeroes and cache reach the device with their flags'),
      ),
      row('`NBD_CMD_TRIM`', 'Command.TRIM', '1.0', commands('trim and write zeroes may be longer than any payload')),
      row(
        '`NBD_CMD_CACHE`',
        'Command.CACHE',
        '1.0',
        commands('flush, trim, write zeroes and cache reach the device with their flags'),
      ),
      row(
        '`NBD_CMD_WRITE_ZEROES`',
        'Command.WRITE_ZEROES',
        '1.0',
        T('NO_HOLE is taken by WRITE_ZEROES, and what it zeroes reads as zeros'),
      ),
      row('`NBD_CMD_BLOCK_STATUS`', 'Command.BLOCK_STATUS', '1.0', T(STATUS)),
      row('`NBD_CMD_BLOCK_STATUS` with a payload', null, '1.1', X(FILTER)),
      row(
        '`NBD_CMD_RESIZE`',
        'Command.RESIZE',
        '1.1',
        resize('the new size holds for what follows on the connection'),
        'yes: for devices that can; an extension',
      ),
      row('an unknown command is EINVAL', null, '1.0', T('an unknown command is EINVAL, and the connection goes on')),
      row('a command that was not offered is EINVAL', null, '1.0', T('what was not offered is EINVAL')),
    ],
  },
  {
    title: 'Command flags',
    rows: [
      row('`NBD_CMD_FLAG_FUA`', 'CommandFlag.FUA', '1.0', T('FUA is accepted with every command')),
      row(
        '`NBD_CMD_FLAG_NO_HOLE`',
        'CommandFlag.NO_HOLE',
        '1.0',
        T('NO_HOLE is taken by WRITE_ZEROES, and what it zeroes reads as zeros'),
      ),
      row('`NBD_CMD_FLAG_DF`', 'CommandFlag.DF', '1.0', T(DF)),
      row(
        '`NBD_CMD_FLAG_REQ_ONE`',
        'CommandFlag.REQ_ONE',
        '1.0',
        T('BLOCK_STATUS with REQ_ONE: one extent, no longer than the request'),
      ),
      row('`NBD_CMD_FLAG_FAST_ZERO`', 'CommandFlag.FAST_ZERO', '1.0', T(FAST)),
      row(
        '`NBD_CMD_FLAG_PAYLOAD_LEN`',
        'CommandFlag.PAYLOAD_LEN',
        '1.1',
        X('a payload that the command does not take is consumed and EINVAL'),
      ),
      row(
        'a WRITE with extended headers must have PAYLOAD_LEN',
        null,
        '1.1',
        X("a WRITE without PAYLOAD_LEN, as qemu's client sends it, has its data all the same"),
        'in part: without it the data is taken all the same, as clients leave it out',
      ),
      row(
        'a payload over the maximum: hard disconnect',
        null,
        '1.1',
        X('a payload longer than the maximum ends the connection and is written nowhere'),
      ),
      row(
        'a flag that is unknown or misplaced is EINVAL',
        null,
        '1.0',
        T('a flag that is unknown or does not belong to the command is EINVAL'),
      ),
    ],
  },
  {
    title: 'Reply chunks',
    rows: [
      row('`NBD_REPLY_FLAG_DONE`', 'CHUNK_FLAG_DONE', '1.0', T(CONTENT)),
      row('`NBD_REPLY_TYPE_NONE`', 'Chunk.NONE', '1.0', T(CONTENT)),
      row('`NBD_REPLY_TYPE_OFFSET_DATA`', 'Chunk.OFFSET_DATA', '1.0', T(CONTENT)),
      row(
        '`NBD_REPLY_TYPE_OFFSET_HOLE`',
        'Chunk.OFFSET_HOLE',
        '1.1',
        T('a hole in the answer to READ is zeros, where the request lies, and never without a byte'),
      ),
      row('`NBD_REPLY_TYPE_BLOCK_STATUS`', 'Chunk.BLOCK_STATUS', '1.0', T(STATUS)),
      row('`NBD_REPLY_TYPE_BLOCK_STATUS_EXT`', 'Chunk.BLOCK_STATUS_EXT', '1.1', X(WIDE)),
      row(
        '`NBD_REPLY_TYPE_ERROR`',
        'Chunk.ERROR',
        '1.0',
        T('errors come with a text for people, UTF-8 of at most 4096 bytes'),
      ),
      row(
        '`NBD_REPLY_TYPE_ERROR_OFFSET`',
        'Chunk.ERROR_OFFSET',
        '1.1',
        T('a READ that fails in its middle tells where, inside the request, after the chunks that are good'),
      ),
      row('most extents of a chunk', 'MAX_EXTENTS', '1.0', inFile('unit/nbd/parts.test.ts')('are at most 2^20')),
      row('DF up to 65,536 bytes is one chunk', null, '1.0', T(DF)),
      row(
        'extents are multiples of the minimum block size',
        null,
        '1.0',
        T('extents are multiples of an advertised minimum block size'),
      ),
      row(
        'extents with REQ_ONE, 64 bits',
        null,
        '1.1',
        X('BLOCK_STATUS with REQ_ONE: one extent, no longer than the request, also beyond 32 bits'),
      ),
    ],
  },
  {
    title: 'Error values',
    rows: [
      row(
        '`NBD_EPERM`',
        'WireError.EPERM',
        '1.0',
        T('a read-only export answers everything that writes with EPERM, after its data'),
      ),
      row('`NBD_EIO`', 'WireError.EIO', '1.0', T(DEVICE)),
      row(
        '`NBD_ENOMEM`',
        'WireError.ENOMEM',
        '1.0',
        inFile('unit/nbd/parts.test.ts')('no errno of a device becomes a value the protocol does not know'),
        'in part: only when a device says so',
      ),
      row('`NBD_EINVAL`', 'WireError.EINVAL', '1.0', T(PAST)),
      row('`NBD_ENOSPC`', 'WireError.ENOSPC', '1.0', T(PAST)),
      row('`NBD_EOVERFLOW`', 'WireError.EOVERFLOW', '1.0', commands('a read with DF that is too long says EOVERFLOW')),
      row('`NBD_ENOTSUP`', 'WireError.ENOTSUP', '1.0', T(FAST)),
      row('`NBD_ESHUTDOWN`', 'WireError.ESHUTDOWN', '1.0', T(DEVICE), 'in part: only when a device says so'),
      row('EDQUOT and EFBIG become ENOSPC, EROFS becomes EPERM', null, '1.0', T(DEVICE)),
    ],
  },
  {
    title: 'URIs',
    rows: [
      row(
        '`nbd:`, `nbds:`, `nbd+unix:`, `nbds+unix:`',
        null,
        '1.1',
        uri('what is formatted is parsed back to the same parts'),
      ),
      row('anything else is refused', null, '1.1', uri('anything at all is parsed or refused by a SystemError')),
    ],
  },
];
