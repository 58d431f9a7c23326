"""What the gate makes of its parts: keyboards of every kind, scanners taken away at any time, the fire alarm.

Prints one JSON object a step, and judges nothing.
"""

import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from pi import (
    CONFIG,
    FIRST_HID,
    KEYBOARD,
    OUTPUTS,
    RELEASES,
    SECOND_HID,
    SERIAL,
    Fact,
    Journal,
    Outputs,
    Scanner,
    Unit,
    ask,
    pull,
    run,
    servers,
    set_up,
    tell,
    wait_for,
)

NAMES = {pin: lane for lane, pin in RELEASES.items()}
GRANT_S, GAP_S = 3.0, 1.0  # as begin() writes the config, and the default repeat_gap_ms
EMERGENCY_PIN = 27
RESET_S = 2.5  # more than the input must have been normal before an emergency can be reset
CTRL_ALT, DELETE = 0x05, 0x4C  # left modifiers of the boot report; USB HID Usage Tables, keyboard page

outputs = Outputs(OUTPUTS)
scanner = Scanner()
journal = Journal("gated")
unit = Unit("gated")
tickets = (f"GATED{number:06}" for number in itertools.count(1))
strangers = (f"NOBODY-SOLD-{number}" for number in itertools.count(1))


def begin() -> Fact:
    """A gate that gives time to take a scanner away: while it asks about a ticket, and while it releases."""
    config = Path("gated.toml")
    text = config.read_text().replace("[[lanes]]", "direct_timeout_ms = 5000\n\n[[lanes]]", 1)
    config.write_text(text.replace("_ms = 2000", "_ms = 3000"))
    return set_up(80)


def scans(since: float, lane: str) -> list[Fact]:
    """What was logged of the scans at a lane."""
    return journal.since(since, "scan", lane=lane)


def edges(since: float) -> list[tuple[float, str, bool]]:
    """What the releases did, from then on."""
    return [(round(at - since, 3), NAMES[pin], on) for at, pin, on in outputs.edges(since) if pin in NAMES]


def drill() -> Fact:
    """The fire panel's test, as the technician holds it."""
    command = ("gated", "hardware", "drill", "--within", "60", "--json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as drilling:
        assert drilling.stdout is not None
        waiting = json.loads(drilling.stdout.readline())
        at = pull(EMERGENCY_PIN, "down")
        released = wait_for("release", lambda: outputs.released(RELEASES["side"], since=at), within=60)
        answers = [json.loads(line) for line in drilling.stdout]
    during = ask("status")[0]
    pull(EMERGENCY_PIN, "up")
    time.sleep(RESET_S)
    still = [NAMES.get(pin) for pin in outputs.energised()]
    reset = run("gated", "emergency", "reset", "--why", "drill")
    wait_for("relock", lambda: outputs.relocked(RELEASES["side"], since=at), within=60)
    return {
        "waiting": waiting,
        "answers": answers,
        "released_after_ms": round((released[0] - at) * 1000, 1),
        "emergency": during["emergency"],
        "still": still,
        "reset": reset.returncode,
        "edges": edges(at),
    }


def two_keyboards() -> Fact:
    """Two guests, typed by two scanners at the same time, key by key."""
    at = time.monotonic()
    barcodes = {device: next(tickets) for device in (FIRST_HID, SECOND_HID)}
    typing = [threading.Thread(target=scanner.type, args=(text, device)) for device, text in barcodes.items()]
    for each in typing:
        each.start()
    for each in typing:
        each.join()
    wait_for("scans", lambda: scans(at, "entry") and scans(at, "side"), within=60)
    time.sleep(GRANT_S + GAP_S)
    return {"entry": scans(at, "entry"), "side": scans(at, "side"), "edges": edges(at)}


def typed(key_s: float, count: int) -> Fact:
    """So many guests at the entry, typed with so long between two reports."""
    began = time.monotonic()
    took = []
    for _ in range(count):
        at = time.monotonic()
        typed = scanner.type(next(tickets), key_s=key_s)
        took.append(round(typed - at, 3))
        wait_for("scan", partial(scans, at, "entry"), within=60)
        time.sleep(GRANT_S + GAP_S)
    return {
        "took_s": took,
        "codes": [each["code"] for each in scans(began, "entry")],
        "malformed": journal.since(began, "malformed"),
    }


def fast() -> Fact:
    """As fast as the bus takes reports."""
    return typed(0, count=10)


def slow() -> Fact:
    """A key a second: the config allows three seconds between two."""
    return typed(0.5, count=1)


def ctrl_alt_del() -> Fact:
    """A keyboard asks for a reboot, while gated holds it and when nobody does; masked as the guide says."""
    masked = run("systemctl", "mask", "ctrl-alt-del.target").returncode

    def heard(press: Callable[[], None]) -> int:
        """How many lines systemd had to say of it."""
        before = count()
        press()
        time.sleep(3)
        return count() - before

    def count() -> int:
        return run("journalctl", "--output", "cat", "--no-pager", "_PID=1").stdout.count("ctrl-alt-del")

    def press() -> None:
        scanner.press(CTRL_ALT, DELETE, FIRST_HID)

    held = heard(press)
    unit.do("stop")
    return {"masked": masked, "held": held, "let_go": heard(press)}


def held_up() -> Fact:
    """How long a barcode may be for a reader whose loop stands still. gated is stopped."""
    done = run("/opt/gated/bin/python", "held_up.py", limit=300)
    fact: Fact = json.loads(done.stdout or "{}")
    return fact | {"status": done.returncode, "said": done.stderr}


def detach() -> Fact:
    """Each lane's scanner taken away in each of its states, and brought back: keyboard in, port out."""
    return detach_each({"entry": KEYBOARD, "exit": SERIAL})


def detach_crosswise() -> Fact:
    """The same with a serial port in and a keyboard out."""
    hid, serial = (
        f'kind = "{kind}"\ndevice = "{device}"\n' for kind, device in (("hid", KEYBOARD), ("serial", SERIAL))
    )
    text = CONFIG.read_text().replace(hid, "@").replace(serial, hid).replace("@", serial)
    CONFIG.write_text(text)
    unit.do("stop")
    return detach_each({"entry": SERIAL, "exit": KEYBOARD})


def detach_each(devices: dict[str, Path]) -> Fact:
    began = time.monotonic()
    unit.do("start")
    wait_for("scanners", lambda: len(journal.since(began, "scanner_found")) == len(RELEASES), within=60)
    process = unit.show("MainPID")
    states = ("ready", "deciding", "granted", "denied", "free", "locked", "out_of_service", "emergency")
    # An exit asks nobody, so it decides in no time; one that opens always can't be locked.
    impossible = {("exit", "deciding"), ("exit", "locked")}
    fact: Fact = {
        f"{lane}, {state}": detached(lane, device, state)
        for lane, device in devices.items()
        for state in states
        if (lane, state) not in impossible
    }
    return fact | {"same_process": process == unit.show("MainPID")}


def detached(lane: str, device: Path, state: str) -> Fact:
    """The scanner is taken away in that state, and brought back."""
    at = time.monotonic()
    with ExitStack() as after:
        bring_about(state, lane, device, after)
        before = wait_for("state", lambda: state_of(lane), within=60)
        scanner.detach(device)
    lost = wait_for("lost scanner", lambda: journal.since(at, "scanner_lost", lane=lane), within=60)
    if state in ("deciding", "granted", "denied"):
        time.sleep(GRANT_S + GAP_S)
    while_lost, still = state_of(lane), [NAMES.get(pin) for pin in outputs.energised()]
    scanner.attach(device)
    wait_for("found scanner", lambda: journal.since(lost[0]["at"], "scanner_found", lane=lane), within=60)
    found = state_of(lane)
    if state in ("free", "locked", "out_of_service"):
        ask("mode", lane=lane, mode="controlled")
    elif state == "emergency":
        pull(EMERGENCY_PIN, "up")
        time.sleep(RESET_S)
        ask("emergency-reset", why="test")
    return {
        "states": [before, while_lost, found],
        "reasons": [each["reason"] for each in scans(at, lane)],
        "lost_after_s": round(lost[0]["at"] - at, 3),
        "edges": [edge for edge in edges(at) if edge[1] == lane],
        "still": [name for name in still if name == lane],
    }


def bring_about(state: str, lane: str, device: Path, after: ExitStack) -> None:
    """Brings a lane into a state; ``after`` is closed as soon as the scanner is gone."""
    if state in ("free", "locked", "out_of_service"):
        ask("mode", lane=lane, mode=state)
    elif state == "emergency":
        pull(EMERGENCY_PIN, "down")
        wait_for("emergency", lambda: state_of(lane) == state, within=60)
    elif state == "deciding":  # the server is asked, and does not answer as long as the scanner is there
        server = servers[-1].pid
        os.kill(server, signal.SIGSTOP)
        after.callback(os.kill, server, signal.SIGCONT)
        read(device, next(strangers))
        wait_for("deciding", lambda: state_of(lane) == state, within=60)
    elif state != "ready":
        at = read(device, next(tickets) if state == "granted" else next(strangers))
        wait_for("scan", lambda: scans(at, lane), within=60)


def read(device: Path, barcode: str) -> float:
    return scanner.send(barcode) if device == SERIAL else scanner.type(barcode)


def state_of(lane: str) -> str:
    """What the running gate says of it."""
    [status] = ask("status")
    [state] = (each["state"] for each in status["lanes"] if each["name"] == lane)
    return str(state)


# Each with the seconds it may take on an emulated processor of an idle host.
STEPS: tuple[tuple[Callable[[], Fact], int], ...] = (
    (begin, 900),
    (drill, 180),
    (two_keyboards, 90),
    (fast, 180),
    (slow, 90),
    (ctrl_alt_del, 90),
    (held_up, 300),
    (detach, 600),
    (detach_crosswise, 600),
)

for step, limit in STEPS:
    tell(step.__name__, step, 4 * limit, journal)
