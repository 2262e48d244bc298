#!/usr/bin/env bash
# uml.sh KERNEL INITRAMFS CMDLINE [ARGUMENT...] : as qemu.sh, with the kernel as a program of this machine (uml-kernel.sh): its console is on stdin and stdout, and
# it runs until the machine powers off. Arguments are more words for the kernel, such as ubd0r=IMAGE: a disk, /dev/ubda, that is only read.
# One processor, at nearly the speed of this machine. Replaces itself with the kernel: a signal to the group of this process ends the machine.
set -euo pipefail
kernel=$1 initramfs=$2 cmdline=$3
shift 3
# The machine's memory is a file, and must be one that can be executed.
exec "$kernel" mem=2048M initrd="$initramfs" con=null con0=fd:0,fd:1 panic=-1 $cmdline "$@"
