/** `xseg completion bash`: segments of the machine, then commands and their options. */
import type { XsegCommand } from './command.js';

/**
 * The bash script. A segment's name has colons, at which readline breaks words: so it looks at the line itself, and offers what comes behind
 * the last colon that was typed.
 */
export function xsegCompletion(commands: readonly XsegCommand[]): string {
  const options = new Set(commands.flatMap((command) => command.options ?? []));
  const words = [...commands.map(({ name }) => name), ...options, '--json', '--help'].join(' ');
  return `# bash completion of xseg: source <(xseg completion bash)
_xseg_complete() {
  local line=\${COMP_LINE:0:COMP_POINT} word="" offered="" colon bells
  local -a words
  read -ra words <<<"$line"
  if [[ $line != *[[:space:]] ]]; then
    word=\${words[-1]}
    unset 'words[-1]'
  fi
  if ((\${#words[@]} == 1)); then
    offered="completion --json --help"
    for bells in /dev/shm/*.bells; do
      [[ -d $bells ]] || continue
      bells=\${bells##*/}
      offered+=" posix:\${bells%.bells}:"
    done
  elif [[ \${words[1]} == completion ]]; then
    offered=bash
  else
    offered="${words}"
  fi
  COMPREPLY=($(compgen -W "$offered" -- "$word"))
  colon=\${word%"\${word##*:}"}
  if [[ $COMP_WORDBREAKS == *:* ]]; then COMPREPLY=("\${COMPREPLY[@]#"$colon"}"); fi
}
complete -F _xseg_complete xseg
`;
}
