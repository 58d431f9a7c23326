#!/bin/sh
# Installs gated on a Raspberry Pi, or upgrades it. Run as root, from a checkout:
#
#   sudo systemd/install.sh           takes gated from this checkout, and what it needs from apt and pip
#   sudo systemd/install.sh WHEEL     takes gated from that wheel; pip fetches nothing, so a gate without a network
#                                     can be upgraded (wheels of missing libraries may lie beside it)
#
# Safe to run again. It keeps the config and the password, and neither starts nor restarts the gate: that is the
# technician's to do, between two guests.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(dirname "$here")
venv=/opt/gated
etc=/etc/gated
wheel=${1:-}

say() { printf '%s\n' "$*"; }
fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

check_arguments() {
    [ $# -le 1 ] || fail "too many arguments; usage: install.sh [WHEEL]"
    [ "$(id -u)" -eq 0 ] || fail "must be run as root: sudo $0"
    [ -z "$wheel" ] || [ -f "$wheel" ] || fail "no such wheel: $wheel"
    [ -f "$checkout/config/gated.toml" ] || fail "not a checkout of gated: $checkout"
    command -v systemctl >/dev/null || fail "systemd is needed"
}

# Prints the Debian package behind each Python module that the system lacks. The module is looked for, not the
# package: a library may have come another way.
missing_packages() {
    /usr/bin/python3 - <<'PYTHON'
from importlib.util import find_spec

PACKAGES = {"ensurepip": "python3-venv", "evdev": "python3-evdev", "lgpio": "python3-lgpio"}
print(*(package for module, package in PACKAGES.items() if find_spec(module) is None))
PYTHON
}

install_packages() {
    [ -x /usr/bin/python3 ] || fail "there is no /usr/bin/python3; run: apt-get install python3"
    /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or later is needed"
    missing=$(missing_packages)
    [ -n "$missing" ] || return 0
    say "System packages: $missing"
    apt-get update -qq || say "  apt can't reach its archive; trying with what it knows"
    for package in $missing; do
        if ! apt-cache show "$package" >/dev/null 2>&1; then
            say "  apt knows no $package here (Raspberry Pi OS has it)"
        elif ! DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package"; then
            say "  $package could not be installed; with a network, run: apt-get install $package"
        fi
    done
    missing=$(missing_packages)
    case $missing in
    *python3-venv*) fail "nothing more can be done without python3-venv" ;;
    esac
    [ -z "$missing" ] || say "  Going on without: $missing. Real scanners need python3-evdev, real pins python3-lgpio."
}

# An upgrade of Debian brings another Python, which sees nothing of the libraries in the old venv: made anew.
make_venv() {
    say "Python environment: $venv"
    version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ -d "$venv/lib/python$version" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    /usr/bin/python3 -m venv --clear --system-site-packages "$venv"
}

# pip takes an equal version number for the same thing; whoever upgrades wants what was given, so that is forced.
install_gated() {
    say "gated: from ${wheel:-$checkout}"
    again=
    [ ! -e "$venv/bin/gated" ] || again=yes
    if [ -n "$wheel" ]; then
        set -- --no-index --find-links "$(dirname "$wheel")" "$wheel"
    else
        set -- "$checkout"
    fi
    pip install "$@"
    [ -z "$again" ] || pip install --no-deps --force-reinstall "$@"
    ln -sfn "$venv/bin/gated" /usr/local/bin/gated
}

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@" && return
    [ -n "$wheel" ] || fail "pip failed, see above. Without a network give it a wheel: install.sh WHEEL"
    fail "pip failed, see above. Wheels of missing libraries may lie beside $wheel"
}

install_system_files() {
    say "User, device rules, unit"
    install -D -m 644 "$here/gated.sysusers" /etc/sysusers.d/gated.conf
    systemd-sysusers /etc/sysusers.d/gated.conf
    install -D -m 644 "$here/99-gated.rules" /etc/udev/rules.d/99-gated.rules
    install -m 644 "$here/gated.service" /etc/systemd/system/gated.service
    systemctl daemon-reload
    udevadm control --reload
    # For scanners that are plugged in already.
    udevadm trigger --subsystem-match=usb --action=change
}

# What the technician wrote is never touched.
install_config() {
    say "Config: $etc"
    install -d -m 750 -g gated "$etc"
    [ -e "$etc/gated.toml" ] || install -m 640 -g gated "$checkout/config/gated.toml" "$etc/gated.toml"
    [ -e "$etc/api-password" ] || install -m 600 /dev/null "$etc/api-password"
}

say_what_is_next() {
    say ""
    say "Installed: gated $("$venv/bin/python" -c 'import gated; print(gated.__version__)')"
    if systemctl is-active --quiet gated; then
        say "The gate still runs what it ran before. Between two guests, run: sudo systemctl restart gated"
        return
    fi
    say "What is left:"
    say "  - Describe this gate in $etc/gated.toml"
    [ -s "$etc/api-password" ] || say "  - Write the scan user's password into $etc/api-password"
    say "  - sudo gated check-config"
    say "  - sudo systemctl enable --now gated"
    boot=/boot/firmware/config.txt
    if [ -f "$boot" ] && ! grep -q '^dtparam=strict_gpiod' "$boot"; then
        say "  - Add dtparam=strict_gpiod to $boot and reboot: without it a pin keeps its level when gated dies"
    fi
}

check_arguments "$@"
install_packages
make_venv
install_gated
install_system_files
install_config
say_what_is_next
