/**
 * Cleans up after tests that did not come to do it: a shell of its own session that outlives this process, whatever ends it, and then ends
 * every process that was given one of the directories or something below, and removes these with their segments and mounts.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type net from 'node:net';

// Supervisors start roles again: until none is left. What a test froze is killed as well, and who was given the directory itself: the zeros
// between arguments become slashes.
const SCRIPT = `
IFS='
'
set -f
all=
while read -r line; do
  dir=\${line#?}
  case $line in
    +*) all="$all$IFS$dir" ;;
    -*) rest=; for each in $all; do [ "$each" = "$dir" ] || rest="$rest$IFS$each"; done; all=$rest ;;
  esac
done
for dir in $all; do
  for attempt in 1 2 3 4 5 6 7 8 9 10; do
    found=
    for process in $(ls /proc | grep '^[0-9]'); do
      if tr '\\0' '/' < "/proc/$process/cmdline" 2> /dev/null | grep -qF "$dir/"; then
        kill -9 "$process" 2> /dev/null && found=yes
      fi
    done
    [ "$found" ] || break
  done
  umount -l "$dir" 2> /dev/null
  rm -rf --one-file-system "$dir" "/dev/shm/\${dir##*/}" "/dev/shm/\${dir##*/}.bells"
done
`;

let shell: ChildProcess | null = null;

function tell(line: string): void {
  if (!shell) {
    shell = spawn('sh', ['-c', SCRIPT], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
    // Tests end without waiting for it, and without it where there is no shell.
    shell.on('error', () => {});
    shell.stdin?.on('error', () => {});
    shell.unref();
    (shell.stdin as net.Socket).unref();
  }
  shell.stdin?.write(`${line}\n`);
}

/** From now on the directory of a node or a disk, an absolute path, goes with this process. */
export function guard(directory: string): void {
  tell(`+${directory}`);
}

/** The directory was removed, or is to stay. */
export function unguard(directory: string): void {
  tell(`-${directory}`);
}
