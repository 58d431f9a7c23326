"""``gated doctor``: whether the doors may open, one line for each thing that could keep them from it.

- *no-go*: guests would be refused, locked in, or let in unseen. *look*: it works, and somebody should know
  that it is so. Every line but *ok* says what to do.
- :func:`examine` knows the answers and asks nothing itself; :func:`gather` finds the facts.
- What only the running daemon knows is asked of it: a second login as the same scan user could end its own.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from gated import __version__
from gated.clock import SystemClock
from gated.config import Config, LaneConfig, WhenOff, password
from gated.control import SOCKET, ask
from gated.core.events import Mode, Profile
from gated.core.scan import Direction, TimeTrust
from gated.errors import ConfigError, ControlError, PinError
from gated.pins import Normally, PinFactory
from gated.pins.chip import STRICT_HINT, LetGo, find_chip, when_let_go
from gated.scanners import ScannerState
from gated.systemd import runtime_directory

# Estimates, on the safe side: 1 kB a scan in the journal, and 400 bytes a ticket in the mirror. The first is
# room for the scans of an event, the second for a big mirror beside them.
_FULL_BYTES, _TIGHT_BYTES = 100_000_000, 500_000_000
# A delta runs at least every 15 minutes, and asks for what is two minutes older.
_STALE = timedelta(minutes=30)
# A scan that waits for so long waits for a reason.
_WAITS_LONG = timedelta(minutes=5)
# Names of devices that the kernel gives out anew at each start.
_UNSTABLE = re.compile(r"/dev/(tty(ACM|USB|AMA|S)\d+|input/event\d+)")
# Raspberry Pi's GPIO 0 to 8 are pulled up from power-on until somebody drives them; 9 to 27 down.
_PULLED_UP = range(9)
_NO_ID = "00000000-0000-0000-0000-000000000000"


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    LOOK = "look"
    NO_GO = "no-go"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: how bad what is, in words, and what to do about it."""

    level: Level
    what: str
    told: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found on this machine. Blank texts and None: nothing is wrong, nothing is known."""

    now: datetime
    password_wrong: str = ""
    state_dir_wrong: str = ""
    free_bytes: int | None = None
    damaged: str = ""
    """The damaged journal that was kept last."""
    let_go: LetGo | None = None
    trust: TimeTrust = TimeTrust.UNKNOWN
    status: Mapping[str, Any] | None = None
    """What the running daemon answers to ``status``; None if none runs."""
    not_running: str = ""


Findings = Iterator[Finding]


def _ok(what: str, told: str) -> Finding:
    return Finding(Level.OK, what, told)


def _look(what: str, told: str, advice: str) -> Finding:
    return Finding(Level.LOOK, what, told, advice)


def _no_go(what: str, told: str, advice: str) -> Finding:
    return Finding(Level.NO_GO, what, told, advice)


def examine(config: Config, facts: Facts) -> list[Finding]:
    """Everything that is to be said of a gate, the machine first, then what runs on it."""
    found = [
        *_config(config, facts),
        *_machine(config, facts),
        *(finding for lane in config.lanes for finding in _wiring(lane)),
        *_emergency(config),
    ]
    if facts.status is None:
        advice = "sudo systemctl start gated, then again: gated doctor"
        return [*found, _no_go("gated", facts.not_running or "does not run", advice)]
    return [*found, *_running(facts.status, facts.now)]


def broken_config(error: ConfigError) -> list[Finding]:
    """All that can be said of a gate whose configuration can't be used."""
    return [_no_go("config", mistake, error.hint) for mistake in error.mistakes]


# The configuration and the machine


def _config(config: Config, facts: Facts) -> Findings:
    lanes = ", ".join(lane.name for lane in config.lanes)
    yield _ok("config", f"{config.gate.name}: {lanes}")
    if facts.password_wrong:
        yield _no_go("password", facts.password_wrong, "See [api] password_file in config/gated.toml.")
    else:
        yield _ok("password", "there")
    if _NO_ID in config.api.device_info:
        yield _no_go(
            "device_info", "the example's, of zeros", "Write the one that CM gave you for this gate."
        )
    if config.pins.factory is PinFactory.MOCK:
        yield _no_go("pins", 'factory = "mock" moves nothing', 'Write factory = "lgpio".')
    for each in (scanner.device for lane in config.lanes for scanner in lane.scanners):
        if _UNSTABLE.fullmatch(each):
            yield _look(
                "scanners", f"{each} may be another device tomorrow", "Use its name under by-id or by-path."
            )


def _machine(config: Config, facts: Facts) -> Findings:
    state_dir, free = config.gate.state_dir, facts.free_bytes
    if facts.state_dir_wrong:
        yield _no_go(
            "disk", facts.state_dir_wrong, "Check the card, its mount options, and [gate] state_dir."
        )
    elif free is not None:
        told, advice = f"{free / 1e9:.1f} GB free at {state_dir}", "Make room: journalctl --vacuum-size=100M"
        if free < _FULL_BYTES:
            yield _no_go("disk", told, advice)
        else:
            yield _look("disk", told, advice) if free < _TIGHT_BYTES else _ok("disk", told)
    if facts.damaged:
        yield _look(
            "card",
            f"the journal was damaged: {facts.damaged} is what it was",
            "Replace the card. What was lost: journalctl -u gated -g journal_damaged",
        )
    if facts.let_go is LetGo.STAYS:
        yield _look("kernel", "an output stays on when gated is killed", STRICT_HINT)
    elif facts.let_go is LetGo.UNKNOWN:
        yield _look("kernel", "does not say whether an output stays on when gated is killed", "Try it.")
    elif facts.let_go is not None:
        yield _ok("kernel", "an output goes off when gated is killed")
    yield _trust(str(facts.status["time_trust"]) if facts.status else facts.trust)


def _trust(trust: str) -> Finding:
    if trust == TimeTrust.UNKNOWN:
        return _look("clock", "not known to be right", "Connect the network, or fit a real-time clock.")
    return _ok("clock", trust)


def _wiring(lane: LaneConfig) -> Findings:
    release, what = lane.release, f"lane {lane.name}"
    locks_in = release.profile is Profile.HOLD and release.when_off is WhenOff.LOCKED
    if locks_in and not release.emergency_wired:
        yield _no_go(
            what,
            "locked without power, and no fire alarm opens it past this Pi",
            "Wire the alarm to the barrier itself, try it with the Pi off, then emergency_wired = true.",
        )
    elif not release.emergency_wired:
        yield _look(
            what,
            "emergency_wired = false",
            "Wire the alarm to the barrier itself, or know that it is a way out.",
        )
    if lane.direction is Direction.EXIT and release.profile is Profile.PULSE and lane.button is None:
        yield _look(
            what,
            "a guest can't get out while its scanner is lost, and nobody can be let out by hand",
            "Fit a button for the way out: [lanes.button] pin.",
        )
    if (release.pin in _PULLED_UP) is release.active_high:
        level = "high" if release.active_high else "low"
        yield _look(
            what,
            f"GPIO{release.pin} is pulled {level} from power-on: the relay may be on while the Pi starts",
            "Active high belongs on 9 to 27, active low on 4 to 8; or fit the resistor of the wiring guide.",
        )


def _emergency(config: Config) -> Findings:
    if config.emergency is None:
        yield _look("alarm", "gated does not see it", "Wire its second contact, and write [emergency] pin.")
    elif config.emergency.normally is Normally.OPEN:
        yield _look("alarm", "normally open: a broken wire goes unnoticed", "Use a contact that opens.")


# What runs


def _running(status: Mapping[str, Any], now: datetime) -> Findings:
    if status["version"] == __version__:
        yield _ok("gated", f"{status['version']} runs")
    else:
        told = f"{status['version']} runs, {__version__} is installed"
        yield _look("gated", told, "sudo systemctl restart gated")
    if status["emergency"]:
        yield _no_go("alarm", "EMERGENCY", "When its cause is over: gated emergency reset --why …")
    yield _api(status)
    yield from _tickets(status["store"], now)
    yield _outbox(status["store"]["outbox"], now)
    if status["store"]["undurable"] or "disk_failing" in status["alarms"]:
        yield _no_go("disk", "scans can't be written", "Replace the card: see journalctl -u gated")
    for alarm, detail in status["alarms"].items():
        if alarm == "disk_failing":
            continue
        told = ", ".join(f"{key} {value}" for key, value in detail.items())
        yield _look(f"alarm {alarm}", told or "raised", "See: journalctl -u gated")
    for lane in status["lanes"]:
        yield from _lane(lane)


def _api(status: Mapping[str, Any]) -> Finding:
    if status["api"] == "ok":
        return _ok("API", f"answers; service {status['service']}")
    if status["service"] is None:
        return _no_go("API", status["api"], "No service was ever chosen: check [api], then the network.")
    return _look("API", status["api"], "The gate works without it; new tickets and other gates stay unknown.")


def _tickets(store: Mapping[str, Any], now: datetime) -> Findings:
    if not store["complete"]:
        yield _no_go("tickets", "not downloaded yet", "Wait for it: gated sync --full")
    elif not store["tickets"]:
        yield _no_go("tickets", "the service has none", "Is it the right one? See [api] service.")
    else:
        yield from _age(store, now)


def _age(store: Mapping[str, Any], now: datetime) -> Findings:
    mark = store["mark"]
    age = None if mark is None else now - datetime.fromtimestamp(mark, UTC)
    told = f"{store['tickets']}, of {'an unknown time' if age is None else _ago(age)}"
    if age is None or age > _STALE:
        yield _look("tickets", told, "gated sync shows why they do not come.")
    else:
        yield _ok("tickets", told)


def _outbox(outbox: Mapping[str, Any], now: datetime) -> Finding:
    waiting = outbox["check_ins"] + outbox["others"]
    if outbox["parked"]:
        return _look("outbox", f"{outbox['parked']} refused by the server", "gated outbox list")
    if not waiting:
        return _ok("outbox", "empty")
    oldest = now - datetime.fromtimestamp(outbox["oldest_ms"] / 1000, UTC)
    told = f"{waiting} waiting, the oldest of {_ago(oldest)}"
    return (
        _look("outbox", told, "gated sync shows why they wait.")
        if oldest > _WAITS_LONG
        else _ok("outbox", told)
    )


def _lane(lane: Mapping[str, Any]) -> Findings:
    what = f"lane {lane['name']}"
    lost = [name for name, each in lane["scanners"].items() if each["state"] == ScannerState.LOST]
    for name in lost:
        why = lane["scanners"][name]["why"]
        yield _no_go(what, f"scanner {name} is lost: {why}", "Check its cable and its device name.")
    if lane["mode"] != Mode.CONTROLLED:
        yield _look(
            what, f"mode {lane['mode']}", f'If it should take tickets: gated mode "{lane["name"]}" controlled'
        )
    if not lost and lane["mode"] == Mode.CONTROLLED:
        yield _ok(what, f"{lane['state']}, reads {', '.join(lane['scanners'])}")


def _ago(age: timedelta) -> str:
    minutes = round(age.total_seconds() / 60)
    if minutes < 1:
        return "a moment ago"
    return f"{minutes} min ago" if minutes < 120 else f"{minutes // 60} h ago"


# The facts


def gather(config: Config, credentials: Path | None, *, root: Path = Path("/")) -> Facts:
    """Looks at this machine, and asks the daemon, if one runs. ``root`` is where sys and proc are."""
    now = SystemClock(root=root).now()
    status, not_running = _status(config)
    wrong, free = _disk(config.gate.state_dir)
    return Facts(
        now=now.wall,
        password_wrong=_password_wrong(config, credentials),
        state_dir_wrong=wrong,
        free_bytes=free,
        damaged=max((path.name for path in config.gate.state_dir.glob("*.damaged")), default=""),
        let_go=_let_go(config, root),
        trust=now.trust,
        status=status,
        not_running=not_running,
    )


def _status(config: Config) -> tuple[Mapping[str, Any] | None, str]:
    try:
        return next(ask(runtime_directory(config.gate.state_dir) / SOCKET, "status")), ""
    except ControlError as error:
        return None, str(error)


def _password_wrong(config: Config, credentials: Path | None) -> str:
    try:
        password(config, credentials)
    except ConfigError as error:
        return str(error)
    return ""


def _disk(state_dir: Path) -> tuple[str, int | None]:
    """What is wrong with the state directory, or will be when it is made, and the bytes free there."""
    try:
        there = next(each for each in (state_dir, *state_dir.parents) if each.exists())
        if not os.access(there, os.W_OK):
            return f"{there} can't be written", None
        return "", shutil.disk_usage(there).free
    except OSError as error:
        return f"{state_dir}: {error.strerror}", None


def _let_go(config: Config, root: Path) -> LetGo | None:
    if config.pins.factory is PinFactory.MOCK:
        return None
    try:
        return when_let_go(find_chip(root), root)
    except PinError:
        return LetGo.UNKNOWN
