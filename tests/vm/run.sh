#!/usr/bin/env bash
# Boots OUT with a copy of DIR at /srv/run, runs /srv/run/main.sh there as root, prints what it prints and ends with
# its exit status: 98 where the guest gave none, since it crashed, its power was cut, or SECONDS (300) were over.
#
#   run.sh OUT DIR WORK [SECONDS]
#
# WORK gets the guest's console (console.log) and QEMU's process id (qemu.pid): SIGKILL to that is a power cut.
# What the guest writes is thrown away. DISK=FILE keeps it in FILE, made from OUT's disk if it is not there yet, so
# that a second run with the same FILE boots what a power cut left.
set -euo pipefail
usage="usage: run.sh OUT DIR WORK [SECONDS]"
out=$(realpath "${1:?$usage}") dir=$(realpath "${2:?$usage}") work=$(realpath -m "${3:?$usage}") limit=${4:-300}
here=$(dirname "$(realpath "$0")")
mkdir -p "$work"
rm -f "$work"/{run.img,run.out,qemu.pid}
truncate -s $(($(du -sm "$dir" | cut -f1) * 3 / 2 + 64))M "$work/run.img"
mke2fs -q -t ext4 -d "$dir" "$work/run.img"
disk=$out/disk.img mode=(-snapshot)
if [[ ${DISK:-} ]]; then
  [[ -e $DISK ]] || cp --sparse=always "$disk" "$DISK"
  disk=$DISK mode=()
fi
timeout -s KILL "$limit" "$here/boot.sh" "$out" "$disk" -drive file="$work/run.img",if=virtio,format=raw \
  -serial mon:stdio -serial file:"$work/run.out" -pidfile "$work/qemu.pid" "${mode[@]}" > "$work/console.log" 2>&1 || true
cat "$work/run.out"
status=$(sed -n 's/^exit \([0-9]*\)$/\1/p' "$work/run.out" | tail -n 1)
exit "${status:-98}"
