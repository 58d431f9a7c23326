#!/bin/sh
# Makes a machine whose power is cut of the virtual Pi's root file system. Runs in a chroot of it, in the luggage's
# directory, with /proc mounted.
#
#   cut_install.sh PORT    the port of the host's loopback on which the API answers
#
# Nothing of gated is done otherwise than on a Pi: systemd/install.sh installs it, systemd starts it. Everything that
# it does not need is masked, since each boot is emulated.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_IN_CHROOT=1
units=/etc/systemd/system

systemd/install.sh gated-*.whl
cp cut.toml /etc/gated/gated.toml
echo secret > /etc/gated/api-password
python3 -m compileall -q /usr/local/lib/python3*/dist-packages
mkdir -p /srv/cut
cp bench.sh pi.py cut.py /srv/cut/

# The unit's own patience is for a Pi, not for an emulated one on a busy host.
mkdir -p $units/gated.service.d
printf '[Service]\nTimeoutStartSec=600\n' > $units/gated.service.d/patient.conf

# Before gated: the pins and the scanner, and what the last cut has left, out to the second disk.
cat > $units/before.service <<'UNIT'
[Unit]
Before=gated.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'mkdir -p /var/lib/gated; tar -C /var/lib -cf - gated | dd of=/dev/vdb bs=1M iflag=fullblock conv=fsync status=none'
ExecStart=/srv/cut/bench.sh
[Install]
WantedBy=multi-user.target
UNIT
cat > $units/cut.service <<'UNIT'
[Unit]
After=before.service
[Service]
ExecStart=/usr/bin/python3 -u /srv/cut/cut.py
StandardError=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=multi-user.target
UNIT

# 10.0.2.2 is the host, on QEMU's user network.
cat > $units/api.socket <<'UNIT'
[Socket]
ListenStream=127.0.0.1:8081
[Install]
WantedBy=sockets.target
UNIT
printf '[Service]\nExecStart=/usr/lib/systemd/systemd-socket-proxyd 10.0.2.2:%s\n' "$1" > $units/api.service

systemctl enable gated before cut api.socket
systemctl disable run
systemctl mask dbus.service dbus.socket systemd-logind.service getty@tty1.service serial-getty@ttyS0.service \
  systemd-udev-trigger.service systemd-binfmt.service systemd-pstore.service systemd-random-seed.service \
  systemd-modules-load.service kmod-static-nodes.service systemd-user-sessions.service systemd-sysctl.service \
  systemd-udev-load-credentials.service systemd-tmpfiles-clean.timer systemd-update-utmp.service \
  modprobe@drm.service modprobe@fuse.service modprobe@efi_pstore.service modprobe@configfs.service \
  modprobe@loop.service modprobe@dm_mod.service dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount \
  systemd-tmpfiles-setup-dev-early.service systemd-journal-flush.service systemd-hostnamed.socket systemd-sysext.socket \
  systemd-creds.socket systemd-initctl.socket systemd-ask-password-wall.path sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount remote-fs.target timers.target
mkdir -p /etc/systemd/system-generators
for generator in debug fstab getty gpt-auto hibernate-resume rc-local run ssh system-update sysv tpm2; do
  ln -s /dev/null /etc/systemd/system-generators/systemd-$generator-generator
done
# As after a first boot.
echo 0123456789abcdef0123456789abcdef > /etc/machine-id
ldconfig
touch /etc/.updated /var/.updated
