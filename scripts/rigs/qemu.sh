#!/usr/bin/env bash
# qemu.sh KERNEL INITRAMFS CMDLINE [QEMU ARGUMENT...] : runs a small machine with its serial console on stdin and stdout,
# until it powers off. Replaces itself with qemu, so a signal to this process ends the machine.
# ARCHIPELAGO_TEST_ACCEL = kvm | tcg overrides the choice of accelerator. ARCHIPELAGO_TEST_GUEST_MEMORY = FILE: an emulated machine has its memory
# there, so that it can move to another one that has the same file, and none of it is sent (docs/testing.md).
set -euo pipefail
. "$(dirname "$0")/common.sh"
kernel=$1 initramfs=$2 cmdline=$3
shift 3
megabytes=1024

machine() {
  local accel=$1 cpu=max
  shift
  # Some hosts claim this feature and then refuse the register behind it; no guest here needs it.
  [ "$accel" = kvm ] && cpu=max,-arch-capabilities
  echo qemu-system-x86_64 -accel "$accel" -M q35 -cpu "$cpu" -smp 2 -m "$megabytes" \
    -nodefaults -no-user-config -display none -serial stdio -no-reboot
}

# A readable /dev/kvm proves little: on nested hosts a guest may never run its first instruction. So a kernel without a root
# file system is started under kvm once per boot of this host: it must reach its panic, and so the end, in a few seconds.
choose_accel() {
  local verdict
  verdict=$cache/accel-$(cat /proc/sys/kernel/random/boot_id)
  if [ ! -e "$verdict" ]; then
    if [ -w /dev/kvm ] && timeout -k 1 5 $(machine kvm) -kernel "$kernel" \
      -append "console=ttyS0 panic=-1" </dev/null >/dev/null 2>&1; then
      echo kvm >"$verdict.$$"
    else
      echo tcg >"$verdict.$$"
    fi
    mv "$verdict.$$" "$verdict"
  fi
  cat "$verdict"
}

accel=${ARCHIPELAGO_TEST_ACCEL:-$(choose_accel)}
memory=()
if [ "$accel" = tcg ] && [ -n "${ARCHIPELAGO_TEST_GUEST_MEMORY:-}" ]; then
  memory=(-object "memory-backend-file,id=memory,size=${megabytes}M,mem-path=$ARCHIPELAGO_TEST_GUEST_MEMORY,share=on"
    -machine memory-backend=memory)
fi
exec $(machine "$accel") "${memory[@]}" -device virtio-rng-pci -kernel "$kernel" -initrd "$initramfs" \
  -append "console=ttyS0 panic=-1 oops=panic mitigations=off no_timer_check random.trust_cpu=on $cmdline" "$@"
