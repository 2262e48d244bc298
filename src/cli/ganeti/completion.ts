/** `archipelago-ganeti completion bash`: actions, the options of list, files, and disks that may be removed. */

const NAME = 'archipelago-ganeti';

/** @param actions what Ganeti calls for */
export function ganetiCompletion(actions: readonly string[]): string {
  const disks = `${NAME} $config list 2>/dev/null | awk 'NR > 1 { print $1 }'`;
  return `# bash completion of ${NAME}: source <(${NAME} completion bash)
_archipelago_ganeti_complete() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} command="" config="" i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case \${COMP_WORDS[i]} in
      -c|--config) config="-c \${COMP_WORDS[i+1]}"; ((i++)) ;;
      -*) ;;
      *) command=\${COMP_WORDS[i]}; break ;;
    esac
  done
  case $prev in
    -c|--config|--leaked) [[ $cur == -* ]] || { COMPREPLY=($(compgen -f -- "$cur")); return; } ;;
  esac
  case $command in
    "") COMPREPLY=($(compgen -W "${[...actions, 'list', 'completion', '-c', '--config', '--help'].join(' ')}" -- "$cur")) ;;
    list) COMPREPLY=($(compgen -W "--leaked --json" -- "$cur")) ;;
    remove) COMPREPLY=($(compgen -W "$(${disks})" -- "$cur")) ;;
    completion) COMPREPLY=($(compgen -W "bash" -- "$cur")) ;;
  esac
}
complete -F _archipelago_ganeti_complete ${NAME}
`;
}
