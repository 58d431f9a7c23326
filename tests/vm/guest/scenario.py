"""A day at the gate, as a technician and its guests live it. Prints one JSON object a step, for the tests.

It judges nothing itself: a step that can't go on says so in ``error`` and the next one begins. The steps
build on one another, since a boot is dear. GATED000001 and so on are the simulator's plain tickets, each
valid for one entry.
"""

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from pi import (
    CONFIG,
    KEYBOARD,
    OUTPUTS,
    PASSWORD,
    PATIENT,
    RELEASES,
    SERIAL,
    USB,
    Fact,
    Journal,
    Outputs,
    Scanner,
    Simulator,
    Unit,
    change_unit,
    run,
    servers,
    tell,
    wait_for,
)

ENTRY, EXIT, SIDE = RELEASES.values()
NAMES = {pin: lane for lane, pin in RELEASES.items()} | {5: "green", 6: "red"}
GRANT_S = 2.0  # gated.toml's longest grant
GAP_S = 1.0  # the default repeat_gap_ms
TICKETS = 80

outputs = Outputs(OUTPUTS)
scanner = Scanner()
journal = Journal("gated")
unit = Unit("gated")
tickets = (f"GATED{number:06}" for number in itertools.count(20))


def read(lane: str, barcode: str, *, opens: bool = True) -> Fact:
    """Reads a barcode at a lane: what was logged of it, and when its barrier was released and relocked."""
    pin = RELEASES[lane]
    at = scanner.read(lane, barcode)
    event = wait_for("scan", lambda: journal.since(at, "scan", lane=lane), within=60)[0]
    fact: Fact = {"scan": event, "logged_after_s": round(event["at"] - at, 3)}
    if opens:
        began = wait_for("release", lambda: outputs.released(pin, since=at), within=60)[0]
        ended = wait_for("relock", lambda: outputs.relocked(pin, since=began), within=60)[0]
        fact |= {"released_after_s": round(began - at, 3), "pulse_s": round(ended - began, 3)}
        time.sleep(GRANT_S)
    time.sleep(GAP_S)
    return fact | {"releases": len(outputs.released(pin, since=at))}


def read_and_wait_for_release(barcode: str) -> float:
    """Reads a barcode at the entry and returns the moment its barrier was released."""
    at = scanner.type(barcode)
    return wait_for("release", lambda: outputs.released(ENTRY, since=at), within=60)[0]


def energised() -> list[str]:
    """The outputs that are energised, as the world outside sees them."""
    return [NAMES[pin] for pin in outputs.energised()]


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
    [device] = (path.parent for path in USB.glob("*/serial") if path.read_text().strip() == "SN1")
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
        said = wait_for("answer", lambda: [text for text in journal.texts if text.startswith("{")], within=60)
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
    as_shipped = unit.show("TimeoutStartUSec")
    change_unit(PATIENT)
    servers.append(Simulator(tickets=TICKETS))
    began = time.monotonic()
    unit.do("enable")
    took = unit.do("start")
    ready = wait_for("ready", lambda: journal.since(began, "ready"), within=60)
    sync = run("gated", "sync", "--full")
    return {
        "server": servers[-1].banner,
        "took_s": took,
        "ready": ready,
        "outputs_outlive_gated": journal.since(began, "outputs_outlive_gated"),
        "time_out": as_shipped,
        "enabled": unit.show("UnitFileState"),
        "sync": {"status": sync.returncode, "output": sync.stdout + sync.stderr},
        "energised": energised(),
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
    began = wait_for("release", lambda: outputs.released(ENTRY, since=at), within=60)[0]
    ended = wait_for("relock", lambda: outputs.relocked(ENTRY, since=began), within=60)[0]
    time.sleep(GRANT_S)
    return {
        "status": done.returncode,
        "output": done.stdout + done.stderr,
        "pulse_s": round(ended - began, 3),
    }


def stop_in_a_pulse() -> Fact:
    """A stop while the barrier is released."""
    began = read_and_wait_for_release("GATED000002")
    took = unit.do("stop")
    ended = outputs.relocked(ENTRY, since=began)
    return {
        "took_s": took,
        "energised": energised(),
        "pulse_s": round(ended[0] - began, 3) if ended else None,
        "result": unit.show("Result"),
    }


def start_again() -> Fact:
    """A start in the middle of the day: what was learnt is on disk."""
    return {"took_s": unit.do("start"), "energised": energised(), "then": read("entry", "GATED000003")}


def restart_in_a_pulse() -> Fact:
    """A restart while the barrier is released."""
    began = read_and_wait_for_release("GATED000004")
    took = unit.do("restart")
    ended = outputs.relocked(ENTRY, since=began)
    return {
        "took_s": took,
        "energised": energised(),
        "pulse_s": round(ended[0] - began, 3) if ended else None,
        "then": read("entry", "GATED000005"),
    }


def kill_in_a_pulse() -> Fact:
    """SIGKILL while the barrier is released: only the unit's fail-safe can relock it."""
    began = read_and_wait_for_release("GATED000006")
    killed = time.monotonic()
    os.kill(int(unit.show("MainPID")), signal.SIGKILL)
    wait_for("ready", lambda: journal.since(killed, "ready"), within=240)
    back = time.monotonic()
    ended = outputs.relocked(ENTRY, since=began)
    return {
        "back_after_s": round(back - killed, 2),
        "safe_after_s": round(ended[0] - killed, 2) if ended else None,
        "energised": energised(),
        "restarts": int(unit.show("NRestarts")),
        "same_ticket": read("entry", "GATED000006", opens=False),
        "then": read("entry", "GATED000007"),
    }


def hang() -> Fact:
    """SIGSTOP: alive, and doing nothing. The watchdog's turn."""
    before = int(unit.show("NRestarts"))
    stopped = time.monotonic()
    os.kill(int(unit.show("MainPID")), signal.SIGSTOP)
    wait_for("ready", lambda: journal.since(stopped, "ready"), within=240)
    return {
        "back_after_s": round(time.monotonic() - stopped, 1),
        "restarts": int(unit.show("NRestarts")) - before,
        "energised": energised(),
    }


def hang_in_a_start() -> Fact:
    """SIGSTOP before it is ready, when no watchdog counts yet. Times are seconds from there."""
    before = int(unit.show("MainPID"))
    change_unit("TimeoutStartSec=20")
    began = time.monotonic()
    run("systemctl", "--no-block", "restart", "gated")
    process = wait_for("process", lambda: unit.process(unlike=before), within=60)
    os.kill(process, signal.SIGSTOP)
    stopped = time.monotonic()
    wait_for("end", lambda: not Path(f"/proc/{process}").exists(), within=120)
    gone = time.monotonic()
    change_unit(PATIENT)  # before the next start begins
    ready = wait_for("ready", lambda: journal.since(gone, "ready"), within=300)[0]
    return {
        "gone_after_s": round(gone - stopped, 1),
        "ready_before": journal.since(began, "ready")[0]["pid"] == process,
        "stacks": [text for text in journal.texts if text.startswith("Fatal Python error: Aborted")],
        "back_after_s": round(ready["at"] - stopped, 1),
        "then": read("entry", next(tickets)),
    }


def unplug() -> Fact:
    """The scanner's cable is pulled and put back."""
    process = unit.show("MainPID")
    pulled = time.monotonic()
    scanner.unplug()
    time.sleep(3)
    back = time.monotonic()
    scanner.plug_in()
    wait_for("opened scanner", lambda: unit.holds(KEYBOARD) and unit.holds(SERIAL), within=120)
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
    wait_for("ready", lambda: journal.since(began, "ready"), within=120)
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
            "pulse_ms = 2000", "pulse_ms = 9", 1
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
        "energised": energised(),
    }
    CONFIG.write_text(good)
    return fact


def day() -> Fact:
    """The whole day once more: every release, whatever step it was in."""
    return {
        "entry_releases": len(outputs.released(ENTRY)),
        "scans": len(journal.since(0, "scan")),
        "malformed": journal.since(0, "malformed"),
        "clear_barcodes": [text for text in journal.texts if "GATED0" in text],
        "energised": energised(),
    }


def fail_safe() -> Fact:
    """The fail-safe alone, on lines that somebody energised and left, one of which another program holds."""
    unit.do("stop")
    record = Path("/run/gated-outputs")
    record.write_text(f"0\n{ENTRY} 0\n{EXIT} 1\n5 0\n")
    energise = "import lgpio; chip = lgpio.gpiochip_open(0); "
    energise += f"lgpio.gpio_claim_output(chip, {ENTRY}, 1); lgpio.gpio_claim_output(chip, 5, 1)"
    run("python3", "-c", energise)
    hold = f"import lgpio, sys; chip = lgpio.gpiochip_open(0); lgpio.gpio_claim_output(chip, {EXIT}, 0); "
    hold += "print(flush=True); sys.stdin.read()"
    with subprocess.Popen(["python3", "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        before, began = energised(), time.monotonic()
        held = run("/opt/gated/bin/python", "-I", "-m", "gated.failsafe", str(record))
        took, after = time.monotonic() - began, energised()
        other.communicate()
    free = run("/opt/gated/bin/python", "-I", "-m", "gated.failsafe", str(record))
    return {
        "before": before,
        "held": {"status": held.returncode, "said": held.stderr, "energised": after},
        "free": {"status": free.returncode, "said": free.stderr, "energised": energised()},
        "took_s": round(took, 2),
    }


# Each with the seconds it may take on an emulated processor of an idle host.
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
    (hang, 240),
    (hang_in_a_start, 600),
    (unplug, 120),
    (start_without_server, 120),
    (bad_config, 60),
    (day, 10),
    (fail_safe, 60),
)


for step, limit in STEPS:
    tell(step.__name__, step, 4 * limit, journal)
