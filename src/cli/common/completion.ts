/** `completion bash`: a script made from the commands themselves, so that it never lags behind them. */
import type { Command } from 'commander';

/** What the tool's commands take as first word: names (of volumes, of roles) that are asked for when they are needed. */
export interface CompletionOptions {
  /** Subcommands whose arguments are such names. */
  readonly volumeCommands: readonly string[];
  /** Options whose value is such a name. */
  readonly volumeOptions?: readonly string[];
  /** Options whose value is a file, besides -c. */
  readonly fileOptions?: readonly string[];
  /** Subcommands whose arguments are other names, and the shell commands that print those. */
  readonly namesOf?: Readonly<Record<string, string>>;
  /** A shell command that prints the names, with $config standing for the options that choose the node. */
  readonly listNames: string;
}

/** The bash script that completes subcommands, options, files after -c, and names. */
export function bashCompletion(program: Command, options: CompletionOptions): string {
  const name = program.name();
  const flags = (command: Command): string[] =>
    command.options.flatMap((o) => [o.short, o.long]).filter((flag): flag is string => flag !== undefined);
  const commands = program.commands.flatMap((c) => [c.name(), ...c.aliases()]);
  const cases = program.commands.map(
    (c) =>
      `    ${[c.name(), ...c.aliases()].join('|')}) flags="${[...flags(c), ...flags(program), '--help'].join(' ')}" ;;`,
  );
  const choices = new Map(
    program.commands.flatMap((c) => c.options.flatMap((o) => (o.argChoices ? [[o.long, o.argChoices] as const] : []))),
  );
  const values: [option: string, words: string][] = [
    ...(options.volumeOptions ?? []).map((o): [string, string] => [o, `-W "$(${options.listNames} 2>/dev/null)"`]),
    ...(options.fileOptions ?? []).map((o): [string, string] => [o, '-f']),
    ...[...choices].map(([o, words]): [string, string] => [`${o}`, `-W "${words.join(' ')}"`]),
  ];
  const valueCases = values
    .map(([o, words]) => `    ${o}) COMPREPLY=($(compgen ${words} -- "$cur")); return ;;\n`)
    .join('');
  const valuesOf = valueCases === '' ? '' : `  case $prev in\n${valueCases}  esac\n`;
  const nameCases = Object.entries(options.namesOf ?? {})
    .map(([command, list]) => `    ${command}) COMPREPLY=($(compgen -W "$(${list} 2>/dev/null)" -- "$cur")) ;;\n`)
    .join('');
  return `# bash completion of ${name}: source <(${name} completion bash)
_${name}_complete() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} command="" config="" flags="" i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case \${COMP_WORDS[i]} in
      -c|--config) config="-c \${COMP_WORDS[i+1]}"; ((i++)) ;;
      -*) ;;
      *) command=\${COMP_WORDS[i]}; break ;;
    esac
  done
  if [[ $prev == -c || $prev == --config ]]; then
    COMPREPLY=($(compgen -f -- "$cur"))
    return
  fi
  case $command in
    "") COMPREPLY=($(compgen -W "${[...commands, ...flags(program), '--help'].join(' ')}" -- "$cur")); return ;;
${cases.join('\n')}
  esac
${valuesOf}  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$cur"))
    return
  fi
  case $command in
${nameCases}    ${options.volumeCommands.join('|')}) COMPREPLY=($(compgen -W "$(${options.listNames} 2>/dev/null)" -- "$cur")) ;;
  esac
}
complete -F _${name}_complete ${name}
`;
}
