/** Completion for bash: `source <(archipelago completion bash)`. */

export const BASH_COMPLETION = `# bash completion for archipelago: source <(archipelago completion bash)
_archipelago() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} command= word config=()
  local index
  for ((index = 1; index < COMP_CWORD; index++)); do
    word=\${COMP_WORDS[index]}
    case $word in
      -c|--config) index=$((index + 1)); config=(-c "\${COMP_WORDS[index]}") ;;
      -*) ;;
      *) command=\${command:-$word} ;;
    esac
  done
  case $prev in
    -c|--config) COMPREPLY=($(compgen -f -- "$cur")); return ;;
  esac
  case $command in
    '') COMPREPLY=($(compgen -W 'start stop restart status completion --config --json --help --version' -- "$cur")) ;;
    start|stop|restart)
      local options='--help --json'
      [[ $command == start ]] && options+=' --foreground' || options+=' --force'
      COMPREPLY=($(compgen -W "$options $("\${COMP_WORDS[0]}" "\${config[@]}" completion roles 2>/dev/null)" -- "$cur")) ;;
    status) COMPREPLY=($(compgen -W '--json --help' -- "$cur")) ;;
    completion) COMPREPLY=($(compgen -W 'bash roles' -- "$cur")) ;;
  esac
}
complete -F _archipelago archipelago
`;
