/** What `xseg --help` prints. */
import type { XsegCommand } from './command.js';

const line = (command: XsegCommand): string => {
  const args = command.args.map((arg) => (arg.endsWith('?') ? `[${arg.slice(0, -1)}]` : arg));
  const options = (command.options ?? []).map((option) => `[${option}]`);
  return `  ${[command.name, ...args, ...options].join(' ').padEnd(30)}  ${command.help}`;
};

export function helpText(segmentCommands: readonly XsegCommand[], requestCommands: readonly XsegCommand[]): string {
  return `Usage: xseg SPEC [SRC:DST] COMMAND [ARGUMENT]... [COMMAND [ARGUMENT]...]...
       xseg completion bash

Looks at a segment of shared memory, repairs it, and sends requests to its peers. Commands run one after the other; a failed one does
not stop those behind it. The exit status is the last one's: 0 done, 255 failed; 255 at once when the segment cannot be joined.

SPEC     posix:NAME: for a segment that exists; to create one posix:NAME:PORTS:DYNPORTS:SIZE_MIB:PAGE_SHIFT
SRC:DST  ports that the requests behind it go from and to; SRC is bound if it is not yet, and may be left out (:1001)
--json   anywhere: reports as JSON

The segment:
${segmentCommands.map(line).join('\n')}

Requests, behind SRC:DST:
${requestCommands.map(line).join('\n')}

Examples:
  xseg posix:archipelago: reportall
  xseg posix:archipelago: verify
  xseg posix:archipelago: bind 1012 1012:500 info web-root wait 1
  xseg posix:archipelago: :1001 ping :1000 ping
  xseg posix:archipelago: :1000 read web-root_0000000000000001_0000000000000000 0 512 | hexdump -C
  xseg posix:scratch:64:32:64:12 create reportall destroy
`;
}
