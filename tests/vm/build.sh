#!/usr/bin/env bash
# Builds the virtual Pi: a bootable Debian 13 (the base of current Raspberry Pi OS) with systemd as PID 1, a simulated
# kernel GPIO chip (gpio-sim), a virtual USB bus (dummy_hcd), and the libraries that gated takes from apt.
#
#   build.sh OUT    leaves OUT/vmlinuz, OUT/initrd.gz and OUT/disk.img
#
# Needs root on an amd64 Debian, and the packages in packages.txt beside this script. The Debian mirror is the one
# that this host's apt is configured with. About 2 minutes, 2 GiB while it builds.
set -euo pipefail
out=$(realpath -m "${1:?usage: build.sh OUT}")
suite=trixie
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)
sources="deb [trusted=yes] $mirror $suite main"
mkdir -p "$out"
work=$(mktemp -d -p "$out" work.XXXXXX)
trap 'rm -rf "$work"' EXIT
root=$work/root build=$work/build sim=$work/build/sim

echo "root file system"
mmdebstrap --quiet --mode=root --variant=minbase --include="systemd,systemd-sysv,udev,kmod,dbus,\
python3,python3-venv,python3-apscheduler,python3-click,python3-colorzero,python3-cryptography,python3-evdev,\
python3-httpx,python3-msgspec,python3-rich,python3-serial,python3-structlog,linux-image-amd64" "$suite" "$root" "$sources"
release=$(ls "$root/usr/lib/modules")

echo "gpio-sim, which Debian's kernel leaves out, and lgpio, which Debian leaves to Raspberry Pi OS"
mmdebstrap --quiet --mode=root --variant=minbase --include="build-essential,xz-utils,swig,python3-dev,\
python3-setuptools,python3-wheel,python3-pip,linux-headers-$release,\
linux-source-$(cut -d. -f1,2 <<<"$release")" "$suite" "$build" "$sources"
mkdir "$sim"
tar -C "$sim" --wildcards --strip-components=3 -xf "$build"/usr/src/linux-source-*.tar.xz \
  '*/drivers/gpio/gpio-sim.c' '*/kernel/irq/irq_sim.c'
# irq_to_desc is not exported to modules; generic_handle_irq_safe does the same for a simple irq.
sed -i 's/handle_simple_irq(irq_to_desc(irqnum));/generic_handle_irq_safe(irqnum);/' "$sim/irq_sim.c"
# A freed line keeps its level, as on a Raspberry Pi; the simulator would let it fall back to its pull.
python3 - "$sim/gpio-sim.c" <<'KEEP'
import re, sys
text = open(sys.argv[1]).read()
kept, n = re.subn(r"(static void gpio_sim_free\(.*?)__assign_bit\(offset, chip->value_map,.*?;", r"\1;", text, count=1, flags=re.S)
assert n == 1, "gpio_sim_free looks otherwise"
open(sys.argv[1], "w").write(kept)
KEEP
printf 'obj-m := gpio-simulator.o\ngpio-simulator-y := gpio-sim.o irq_sim.o\n' > "$sim/Makefile"
chroot "$build" make -s -C "/usr/src/linux-headers-$release" M=/sim modules
cp "$sim/gpio-simulator.ko" "$root/usr/lib/modules/$release/"
chroot "$root" depmod "$release"
pip() { /usr/bin/python3 -m pip --disable-pip-version-check -q "$@"; }
pip download --no-deps --no-binary=:all: -d "$sim" lgpio==0.2.2.0
pip download --no-deps -d "$sim" gpiozero==2.0.1.post3
chroot "$build" sh -c 'cd /sim && PYPI=1 pip wheel -q --no-build-isolation --no-deps lgpio-*.tar.gz'
for wheel in "$sim"/*.whl; do
  python3 -m zipfile -e "$wheel" "$root/usr/local/lib/$(basename "$root"/usr/lib/python3.*)/dist-packages"
done

echo "the gpio group and its device rule, as Raspberry Pi OS has them"
chroot "$root" groupadd --system gpio
echo 'SUBSYSTEM=="gpio", GROUP="gpio", MODE="0660"' > "$root/etc/udev/rules.d/99-gpio.rules"

echo "what the guest runs: /srv/run/main.sh from the second disk, its output to the second serial port"
mkdir -p "$root/srv/run" "$root/etc/systemd/system/multi-user.target.wants"
cat > "$root/etc/systemd/system/run.service" <<'UNIT'
[Unit]
ConditionPathExists=/dev/vdb
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'stty -F /dev/ttyS1 raw; mount /dev/vdb /srv/run; cd /srv/run; ./main.sh >/dev/ttyS1 2>&1; echo "exit $?" >/dev/ttyS1'
ExecStopPost=/bin/sh -c 'sync; systemctl --no-block poweroff'
UNIT
ln -sf ../run.service "$root/etc/systemd/system/multi-user.target.wants/run.service"

echo "kernel, initial RAM disk, disk"
cp "$root/boot/vmlinuz-$release" "$out/vmlinuz"
modules="crc16 mbcache jbd2 crc32c_generic libcrc32c ext4 virtio_blk"
ram=$work/ram; mkdir -p "$ram"/{bin,dev,proc,sys,mnt,m}
cp /bin/busybox "$ram/bin/"
for module in $modules; do
  file=$(find "$root/usr/lib/modules" -name "$module.ko.xz")
  [[ -z $file ]] || xz -dc "$file" > "$ram/m/$module.ko"
done
cat > "$ram/init" <<INIT
#!/bin/busybox sh
B=/bin/busybox
\$B mount -t proc p /proc; \$B mount -t sysfs s /sys; \$B mount -t devtmpfs d /dev
for m in $modules; do [ -f /m/\$m.ko ] && \$B insmod /m/\$m.ko; done
n=0; while [ ! -b /dev/vda ] && [ \$n -lt 50 ]; do \$B sleep 0.1; n=\$((n+1)); done
\$B mount -t ext4 /dev/vda /mnt
for d in dev sys proc; do \$B mount --move /\$d /mnt/\$d; done
exec \$B switch_root /mnt /lib/systemd/systemd
INIT
chmod +x "$ram/init"
(cd "$ram" && find . | cpio -o -H newc --quiet | gzip -1 > "$out/initrd.gz")
rm -rf "$root"/var/cache/apt/*.bin "$root"/usr/share/{doc,locale,man}
truncate -s 1500M "$work/disk.img"
mke2fs -q -t ext4 -d "$root" "$work/disk.img"
mv "$work/disk.img" "$out/disk.img"
echo "built $out: kernel $release, $(du -sh "$root" | cut -f1) root file system"
