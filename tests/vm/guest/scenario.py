"""A day at the gate, as a technician and its guests live it. Prints one JSON object a step, for the tests.

It judges nothing itself: a step that can't go on says so in ``error`` and the next one begins. The steps
build on one another, since a boot is dear. GATED000001 and so on are the simulator's plain tickets, each
valid for one entry.
"""

import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pi import KEYBOARD, SERIAL, Journal, Lines, Scanner, Simulator, Unit, run, wait_for

ENTRY, EXIT = 17, 22
GRANT_S = 2.0  # gated.toml's longest grant
GAP_S = 1.0  # the default repeat_gap_ms
CONFIG = Path("/etc/gated/gated.toml")
PASSWORD = Path("/etc/gated/api-password")

Fact = dict[str, Any]

lines = Lines()
scanner = Scanner()
journal = Journal("gated")
unit = Unit("gated")
servers: list[Simulator] = []


def read(lane: str, barcode: str, *, opens: bool = True) -> Fact:
    """Reads a barcode at a lane: what was logged of it, and when the release line rose and fell.

    A barcode that came mutilated is read once more, as a guest would: the kernel keeps some ten keys for a
    reader, and an emulated processor may be busy for longer than that.
    """
    pin = ENTRY if lane == "entry" else EXIT
    tries = 1
    at, event = read_once(lane, barcode)
    if event["reason"] == "malformed":
        time.sleep(GAP_S)
        tries = 2
        at, event = read_once(lane, barcode)
    fact: Fact = {"scan": event, "tries": tries, "logged_after_s": round(event["at"] - at, 3)}
    if opens:
        rise = wait_for("release", lambda: lines.rises(pin, since=at), within=15)[0]
        fall = wait_for("relock", lambda: lines.falls(pin, since=rise), within=15)[0]
        fact |= {"released_after_s": round(rise - at, 3), "pulse_s": round(fall - rise, 3)}
        time.sleep(GRANT_S)
    time.sleep(GAP_S)
    return fact | {"rises": len(lines.rises(pin, since=at))}


def read_once(lane: str, barcode: str) -> tuple[float, Fact]:
    """When a barcode's last character left the scanner, and the scan that was logged of it."""
    at = scanner.type(barcode) if lane == "entry" else scanner.send(barcode)
    return at, wait_for("scan", lambda: journal.since(at, "scan", lane=lane), within=15)[0]


def read_and_wait_for_release(barcode: str) -> float:
    """Reads a barcode at the entry and returns the moment its line rose."""
    at = scanner.type(barcode)
    return wait_for("release", lambda: lines.rises(ENTRY, since=at), within=15)[0]


def levels() -> Fact:
    """Both release lines, as the world outside sees them."""
    return {"entry": lines.level(ENTRY), "exit": lines.level(EXIT)}


def install() -> Fact:
    """As the technician does, from a wheel, without a network."""
    [wheel] = Path.cwd().glob("gated-*.whl")
    began = time.monotonic()
    done = run("systemd/install.sh", str(wheel), limit=240)
    return {
        "status": done.returncode,
        "took_s": round(time.monotonic() - began, 1),
        "output": done.stdout + done.stderr,
        "groups": run("id", "--name", "--groups", "gated").stdout.split(),
        "modes": run(
            "stat", "--format", "%n %a %U:%G", "/etc/gated", str(CONFIG), str(PASSWORD)
        ).stdout.split("\n"),
        "command": str(Path("/usr/local/bin/gated").resolve()),
    }


def install_again() -> Fact:
    """An upgrade, to the same version, after the technician wrote the config and the password."""
    CONFIG.write_text(Path("gated.toml").read_text())
    PASSWORD.write_text("secret\n")
    [wheel] = Path.cwd().glob("gated-*.whl")
    done = run("systemd/install.sh", str(wheel), limit=240)
    return {
        "status": done.returncode,
        "output": done.stdout + done.stderr,
        "config_kept": CONFIG.read_text() == Path("gated.toml").read_text(),
        "password_kept": PASSWORD.read_text() == "secret\n",
        "modes": run("stat", "--format", "%n %a %U:%G", str(CONFIG), str(PASSWORD)).stdout.split("\n"),
    }


def udev() -> Fact:
    """What the device rules made of the scanner."""
    [device] = (
        path.parent
        for path in Path("/sys/bus/usb/devices").glob("*/product")
        if "Barcode" in path.read_text()
    )
    properties = run("udevadm", "info", "--query", "property", "--path", str(device.resolve())).stdout.split(
        "\n"
    )
    return {
        "power": (device / "power/control").read_text().strip(),
        "no_modem": "ID_MM_DEVICE_IGNORE=1" in properties,
        "rules": run("udevadm", "verify", "/etc/udev/rules.d/99-gated.rules").returncode,
    }


def sandbox() -> Fact:
    """Runs probe.py under the gate's own unit, with only the command and what belongs to it replaced."""
    override = Path("/run/systemd/system/gated.service.d/probe.conf")
    override.parent.mkdir(parents=True)
    override.write_text(
        "[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\n"
        f"ExecStart=/opt/gated/bin/python {Path.cwd()}/probe.py\n"
    )
    try:
        run("systemctl", "daemon-reload")
        unit.do("start")
        said = wait_for("answer", lambda: [text for text in journal.texts if text.startswith("{")], within=10)
    finally:
        override.unlink()
        override.parent.rmdir()
        run("systemctl", "daemon-reload")
    security = run("systemd-analyze", "security", "--no-pager", "gated").stdout.split("\n")
    [score] = (float(line.split(":")[1].split()[0]) for line in security if "Overall exposure" in line)
    return {"may": json.loads(said[0]), "exposure": score}


def check_config() -> Fact:
    """The config as written, before the gate is started."""
    done = run("gated", "check-config")
    return {"status": done.returncode, "output": done.stdout + done.stderr}


def start() -> Fact:
    """The API's server, then the gate for the first time."""
    servers.append(Simulator(tickets=20))
    began = time.monotonic()
    unit.do("enable")
    took = unit.do("start")
    ready = wait_for("ready", lambda: journal.since(began, "ready"), within=10)
    sync = run("gated", "sync", "--full")
    return {
        "server": servers[-1].banner,
        "took_s": took,
        "ready": ready,
        "enabled": unit.show("UnitFileState"),
        "sync": {"status": sync.returncode, "output": sync.stdout + sync.stderr},
        "levels": levels(),
    }


def status() -> Fact:
    """What the running gate says of itself."""
    done = run("gated", "status", "--json")
    return {"status": done.returncode, "output": done.stdout + done.stderr}


def valid_ticket() -> Fact:
    return read("entry", "GATED000001")


def same_ticket_again() -> Fact:
    return read("entry", "GATED000001", opens=False)


def unknown_ticket() -> Fact:
    return read("entry", "NOBODY-SOLD-THIS", opens=False)


def ticket_leaves() -> Fact:
    return read("exit", "GATED000001")


def upload() -> Fact:
    """What the server has of all that, once the gate was asked to bring it."""
    done = run("gated", "sync")
    return {"status": done.returncode, "output": done.stdout + done.stderr, "server": servers[-1].state()}


def release() -> Fact:
    """The operator lets somebody in."""
    at = time.monotonic()
    done = run("gated", "release", "entry", "--why", "lost their ticket")
    rise = wait_for("release", lambda: lines.rises(ENTRY, since=at), within=15)[0]
    fall = wait_for("relock", lambda: lines.falls(ENTRY, since=rise), within=15)[0]
    time.sleep(GRANT_S)
    return {"status": done.returncode, "output": done.stdout + done.stderr, "pulse_s": round(fall - rise, 3)}


def stop_in_a_pulse() -> Fact:
    """A stop while the line is high."""
    rise = read_and_wait_for_release("GATED000002")
    took = unit.do("stop")
    falls = lines.falls(ENTRY, since=rise)
    return {
        "took_s": took,
        "levels": levels(),
        "pulse_s": round(falls[0] - rise, 3) if falls else None,
        "result": unit.show("Result"),
    }


def start_again() -> Fact:
    """A start in the middle of the day: what was learnt is on disk."""
    return {"took_s": unit.do("start"), "levels": levels(), "then": read("entry", "GATED000003")}


def restart_in_a_pulse() -> Fact:
    """A restart while the line is high."""
    rise = read_and_wait_for_release("GATED000004")
    took = unit.do("restart")
    falls = lines.falls(ENTRY, since=rise)
    return {
        "took_s": took,
        "levels": levels(),
        "pulse_s": round(falls[0] - rise, 3) if falls else None,
        "then": read("entry", "GATED000005"),
    }


def kill_in_a_pulse() -> Fact:
    """SIGKILL while the line is high: nobody can lower it but the next start."""
    rise = read_and_wait_for_release("GATED000006")
    killed = time.monotonic()
    os.kill(int(unit.show("MainPID")), signal.SIGKILL)
    wait_for("ready", lambda: journal.since(killed, "ready"), within=60)
    back = time.monotonic()
    falls = lines.falls(ENTRY, since=rise)
    return {
        "back_after_s": round(back - killed, 2),
        "low_after_s": round(falls[0] - killed, 2) if falls else None,
        "levels": levels(),
        "restarts": int(unit.show("NRestarts")),
        "same_ticket": read("entry", "GATED000006", opens=False),
        "then": read("entry", "GATED000007"),
    }


def hang() -> Fact:
    """SIGSTOP: alive, and doing nothing. The watchdog's turn."""
    before = int(unit.show("NRestarts"))
    stopped = time.monotonic()
    os.kill(int(unit.show("MainPID")), signal.SIGSTOP)
    wait_for("ready", lambda: journal.since(stopped, "ready"), within=90)
    return {
        "back_after_s": round(time.monotonic() - stopped, 1),
        "restarts": int(unit.show("NRestarts")) - before,
        "levels": levels(),
    }


def unplug() -> Fact:
    """The scanner's cable is pulled and put back."""
    process = unit.show("MainPID")
    pulled = time.monotonic()
    scanner.unplug()
    time.sleep(3)
    back = time.monotonic()
    scanner.plug_in()
    wait_for("opened scanner", lambda: unit.holds(KEYBOARD) and unit.holds(SERIAL), within=30)
    found = time.monotonic()
    time.sleep(1)
    return {
        "found_after_s": round(found - back, 2),
        "events": [event for event in journal.events if event["at"] >= pulled],
        "entry": read("entry", "GATED000008"),
        "exit": read("exit", "GATED000008"),
        "same_process": process == unit.show("MainPID"),
    }


def start_without_server() -> Fact:
    """The API is gone before the gate starts."""
    servers[-1].stop()
    began = time.monotonic()
    took = unit.do("restart")
    wait_for("ready", lambda: journal.since(began, "ready"), within=30)
    return {
        "took_s": took,
        "valid": read("entry", "GATED000009"),
        "used": read("entry", "GATED000003", opens=False),
    }


def bad_config() -> Fact:
    """A technician's mistakes, two of them, and a restart all the same."""
    good = CONFIG.read_text()
    CONFIG.write_text(
        good.replace('when_off = "locked"', 'when_off = "lokced"', 1).replace(
            "pulse_ms = 500", "pulse_ms = 9"
        )
    )
    checked = run("gated", "check-config")
    heard = len(journal.texts)
    restarted = run("systemctl", "restart", "gated")
    time.sleep(4)  # RestartSec, and more
    fact = {
        "check": {"status": checked.returncode, "output": checked.stdout + checked.stderr},
        "restart": restarted.returncode,
        "exit_status": int(unit.show("ExecMainStatus")),
        "state": unit.show("ActiveState"),
        "restarts": int(unit.show("NRestarts")),
        "log": "\n".join(journal.texts[heard:]),
        "levels": levels(),
    }
    CONFIG.write_text(good)
    return fact


def day() -> Fact:
    """The whole day once more: every rise of a release line, whatever step it was in."""
    return {
        "entry_rises": len(lines.rises(ENTRY)),
        "exit_rises": len(lines.rises(EXIT)),
        "scans": len(journal.since(0, "scan")),
        "clear_barcodes": [text for text in journal.texts if "GATED0" in text],
        "levels": levels(),
    }


# Each with the seconds it may take on an emulated processor.
STEPS: tuple[tuple[Callable[[], Fact], int], ...] = (
    (install, 240),
    (install_again, 240),
    (udev, 30),
    (sandbox, 60),
    (check_config, 30),
    (start, 90),
    (status, 30),
    (valid_ticket, 60),
    (same_ticket_again, 60),
    (unknown_ticket, 60),
    (ticket_leaves, 60),
    (upload, 60),
    (release, 60),
    (stop_in_a_pulse, 60),
    (start_again, 90),
    (restart_in_a_pulse, 90),
    (kill_in_a_pulse, 120),
    (hang, 120),
    (unplug, 120),
    (start_without_server, 120),
    (bad_config, 60),
    (day, 10),
)


def said(step: Callable[[], Fact], limit: int) -> Fact:
    """The step's fact, or the error that ended it."""
    signal.alarm(limit)
    began = time.monotonic()
    try:
        fact = step()
    except Exception:
        fact = {"error": traceback.format_exc(), "journal": journal.texts[-20:]}
    finally:
        signal.alarm(0)
    return {"step": step.__name__, "seconds": round(time.monotonic() - began, 1)} | fact


def on_alarm(*_: object) -> None:
    raise TimeoutError("the step took too long")


signal.signal(signal.SIGALRM, on_alarm)
for step, limit in STEPS:
    print(json.dumps(said(step, limit)), flush=True)
