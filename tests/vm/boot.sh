#!/usr/bin/env bash
# Boots OUT from DISK with its console on standard output; ends when the guest powers off.
#
#   boot.sh OUT DISK [QEMU ARG...]
#
# Multi-user in about 14 s of software emulation on two cores. KVM is not used: where this was tried it refused the
# guest's instructions. A power cut is a SIGKILL to this process, which execs QEMU: the guest's page cache, all that
# it had not yet synced, is gone, and cache=none keeps the host from hiding that. A panic ends QEMU, as -no-reboot
# makes of panic=-1.
set -euo pipefail
usage="usage: boot.sh OUT DISK [QEMU ARG...]"
out=${1:?$usage} disk=${2:?$usage}
shift 2
exec qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 1024 \
  -kernel "$out/vmlinuz" -initrd "$out/initrd.gz" -append "console=ttyS0 quiet rw panic=-1" \
  -drive file="$disk",if=virtio,format=raw,cache=none -nographic -nic none -no-reboot "$@" </dev/null
