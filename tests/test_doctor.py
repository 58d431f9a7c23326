"""Go or no-go: each thing that can be wrong before the doors open, and what is said of it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gated import __version__
from gated.__main__ import main
from gated.config import parse
from gated.core.scan import TimeTrust
from gated.doctor import Facts, Finding, Level, broken_config, examine, gather
from gated.errors import ConfigError
from gated.pins.chip import LetGo
from gated.show import finding_lines

NOW = datetime(2026, 6, 12, 14, 0, tzinfo=UTC)
CONFIG = """\
[gate]
name = "North"
[api]
username = "scan"
device_info = "DEVICE_ID:1"
[[lanes]]
name = "In"
direction = "entry"
[[lanes.scanners]]
kind = "serial"
device = "/dev/serial/by-id/a"
[lanes.release]
pin = 17
when_off = "locked"
emergency_wired = true
[emergency]
pin = 27
"""


def lane(**changed: object) -> dict[str, Any]:
    scanners = {"a": {"state": "reading", "why": "/dev/ttyACM0"}}
    return {"name": "In", "state": "ready", "mode": "controlled", "scanners": scanners} | changed


def status(**changed: object) -> dict[str, Any]:
    """What a healthy gate answers, but for what is given; ``store`` is merged."""
    store = {
        "complete": True,
        "tickets": 12345,
        "mark": int((NOW - timedelta(minutes=4)).timestamp()),
        "outbox": {"check_ins": 0, "others": 0, "parked": 0, "oldest_ms": None},
        "undurable": 0,
    }
    more = changed.pop("store", {})
    assert isinstance(more, dict)
    return {
        "version": __version__,
        "service": "Summer festival",
        "api": "ok",
        "emergency": False,
        "time_trust": "synchronised",
        "alarms": {},
        "lanes": [lane()],
        **changed,
        "store": store | more,
    }


def waiting(number: int, minutes: int, parked: int = 0) -> dict[str, Any]:
    oldest = int((NOW - timedelta(minutes=minutes)).timestamp() * 1000)
    return {"outbox": {"check_ins": number, "others": 0, "parked": parked, "oldest_ms": oldest}}


HEALTHY = Facts(
    now=NOW, free_bytes=20_000_000_000, let_go=LetGo.INPUT, trust=TimeTrust.SYNCHRONISED, status=status()
)


def found(facts: Facts = HEALTHY, *, old: str = "", new: str = "") -> list[Finding]:
    assert old in CONFIG
    return examine(parse(CONFIG.replace(old, new) if old else CONFIG), facts)


def wrong(findings: list[Finding]) -> list[tuple[Level, str, str]]:
    return [(each.level, each.what, each.told) for each in findings if each.level is not Level.OK]


def test_a_healthy_gate_is_a_go_and_every_line_says_ok() -> None:
    findings = found()
    assert wrong(findings) == []
    assert [finding.what for finding in findings] == [
        "config",
        "password",
        "disk",
        "kernel",
        "clock",
        "gated",
        "API",
        "tickets",
        "outbox",
        "lane In",
    ]


@pytest.mark.parametrize(
    ("old", "new", "level", "told"),
    [
        ("DEVICE_ID:1", "DEVICE_ID:00000000-0000-0000-0000-000000000000", Level.NO_GO, "of zeros"),
        ("[emergency]", '[pins]\nfactory = "mock"\n[emergency]', Level.NO_GO, "moves nothing"),
        ("/dev/serial/by-id/a", "/dev/ttyACM0", Level.LOOK, "/dev/ttyACM0 may be another device tomorrow"),
        ("/dev/serial/by-id/a", "/dev/ttyUSB12", Level.LOOK, "another device tomorrow"),
        ("_wired = true", "_wired = false", Level.LOOK, "emergency_wired = false"),
        ("_wired = true", '_wired = false\nprofile = "hold"', Level.NO_GO, "locked without power"),
        ("_wired = true", '_wired = true\nprofile = "hold"', Level.OK, ""),
        ('"entry"', '"exit"', Level.LOOK, "can't get out while its scanner is lost"),
        ("pin = 17", "pin = 4", Level.LOOK, "GPIO4 is pulled high from power-on"),
        ("pin = 17", "pin = 4\nactive_high = false", Level.OK, ""),
        ("pin = 17", "pin = 17\nactive_high = false", Level.LOOK, "GPIO17 is pulled low from power-on"),
        ("[emergency]\npin = 27\n", "", Level.LOOK, "gated does not see it"),
        ("pin = 27", 'pin = 27\nnormally = "open"', Level.LOOK, "a broken wire goes unnoticed"),
    ],
)  # fmt: skip
def test_what_the_configuration_declares_is_judged(old: str, new: str, level: Level, told: str) -> None:
    told_of = wrong(found(old=old, new=new))
    if level is Level.OK:
        assert told_of == []
    else:
        assert [(each[0], told in each[2]) for each in told_of] == [(level, True)]


@pytest.mark.parametrize(
    ("changed", "level", "what", "told"),
    [
        ({"password_wrong": "there is no password for the API"}, Level.NO_GO, "password", "no password"),
        ({"state_dir_wrong": "/var/lib can't be written"}, Level.NO_GO, "disk", "can't be written"),
        ({"damaged": "journal.1.damaged"}, Level.LOOK, "card", "journal.1.damaged is what it was"),
        ({"free_bytes": 99_000_000}, Level.NO_GO, "disk", "0.1 GB free"),
        ({"free_bytes": 400_000_000}, Level.LOOK, "disk", "0.4 GB free"),
        ({"let_go": LetGo.STAYS}, Level.LOOK, "kernel", "stays on"),
        ({"let_go": LetGo.UNKNOWN}, Level.LOOK, "kernel", "does not say"),
        ({"status": None, "not_running": "no gate answers"}, Level.NO_GO, "gated", "no gate answers"),
        ({"status": status(time_trust="unknown")}, Level.LOOK, "clock", "not known to be right"),
        ({"status": status(version="0.0.9")}, Level.LOOK, "gated", "0.0.9 runs"),
        ({"status": status(emergency=True)}, Level.NO_GO, "alarm", "EMERGENCY"),
        ({"status": status(api="timed out")}, Level.LOOK, "API", "timed out"),
        ({"status": status(api="wrong user", service=None)}, Level.NO_GO, "API", "wrong user"),
        ({"status": status(store={"complete": False})}, Level.NO_GO, "tickets", "not downloaded yet"),
        ({"status": status(store={"tickets": 0})}, Level.NO_GO, "tickets", "has none"),
        ({"status": status(store={"mark": None})}, Level.LOOK, "tickets", "of an unknown time"),
        ({"status": status(store={"mark": 1_781_000_000})}, Level.LOOK, "tickets", "h ago"),
        ({"status": status(store=waiting(7, 40))}, Level.LOOK, "outbox", "7 waiting, the oldest of 40 min"),
        ({"status": status(store=waiting(0, 0, parked=2))}, Level.LOOK, "outbox", "2 refused by the server"),
        ({"status": status(store={"undurable": 3})}, Level.NO_GO, "disk", "can't be written"),
        ({"status": status(alarms={"disk_failing": {}})}, Level.NO_GO, "disk", "can't be written"),
        ({"status": status(alarms={"parked": {"scans": 2}})}, Level.LOOK, "alarm parked", "scans 2"),
        ({"status": status(lanes=[lane(mode="locked", state="locked")])}, Level.LOOK, "lane In", "locked"),
        (
            {"status": status(lanes=[lane(scanners={"a": {"state": "lost", "why": "not there"}})])},
            Level.NO_GO,
            "lane In",
            "scanner a is lost: not there",
        ),
    ],
)  # fmt: skip
def test_what_the_machine_and_the_daemon_say_is_judged(
    changed: Mapping[str, Any], level: Level, what: str, told: str
) -> None:
    [(found_level, found_what, found_told)] = wrong(found(replace(HEALTHY, **changed)))
    assert (found_level, found_what) == (level, what)
    assert told in found_told


def test_scans_that_wait_for_a_moment_are_ordinary() -> None:
    assert wrong(found(replace(HEALTHY, status=status(store=waiting(7, 1))))) == []


def test_every_line_but_ok_says_what_to_do() -> None:
    facts = Facts(NOW, "none", "full", None, LetGo.STAYS, status=None, not_running="no")
    findings = found(facts, old="DEVICE_ID:1", new="00000000-0000-0000-0000-000000000000")
    assert all(bool(finding.advice) is (finding.level is not Level.OK) for finding in findings)


def test_each_finding_is_one_line() -> None:
    findings = [
        {"level": Level.OK, "what": "disk", "told": "20 GB free", "advice": ""},
        {"level": Level.NO_GO, "what": "password", "told": "is empty", "advice": "Write it."},
    ]
    assert finding_lines(findings) == ["ok     disk      20 GB free", "no-go  password  is empty → Write it."]


def test_each_mistake_of_a_configuration_is_a_no_go() -> None:
    findings = broken_config(ConfigError(("line 1: a", "line 2: b")))
    assert [(each.level, each.told) for each in findings] == [
        (Level.NO_GO, "line 1: a"),
        (Level.NO_GO, "line 2: b"),
    ]


def test_the_facts_of_a_machine_without_a_gate_are_found(tmp_path: Path) -> None:
    (tmp_path / "api-password").write_text("secret")
    config = parse(CONFIG.replace('name = "North"', f'name = "North"\nstate_dir = "{tmp_path}/new/state"'))
    facts = gather(config, tmp_path, root=tmp_path)
    assert (facts.password_wrong, facts.state_dir_wrong, facts.status) == ("", "", None)
    assert facts.damaged == ""
    assert facts.free_bytes
    assert facts.let_go is LetGo.UNKNOWN
    assert "no gate answers" in facts.not_running


def test_the_damaged_journal_that_was_kept_last_is_found(tmp_path: Path) -> None:
    for name in ("journal.2026.damaged", "journal.2027.damaged", "journal.2027.damaged-wal", "journal.db"):
        (tmp_path / name).touch()
    config = parse(CONFIG.replace('name = "North"', f'name = "North"\nstate_dir = "{tmp_path}"'))
    assert gather(config, None, root=tmp_path).damaged == "journal.2027.damaged"


def test_the_command_ends_with_its_verdict_and_status_1(tmp_path: Path) -> None:
    path = tmp_path / "gated.toml"
    path.write_text(CONFIG.replace('name = "North"', f'name = "North"\nstate_dir = "{tmp_path}"'))
    plain = CliRunner().invoke(main, ["doctor", "--config", str(path)])
    assert (plain.exit_code, plain.stdout.splitlines()[-1]) == (1, "NO-GO")
    answer = json.loads(CliRunner().invoke(main, ["doctor", "--json", "--config", str(path)]).stdout)
    assert answer["go"] is False
    assert {"level": "no-go", "what": "gated"}.items() <= answer["findings"][-1].items()


def test_a_configuration_that_can_not_be_used_is_a_no_go_of_the_doctor(tmp_path: Path) -> None:
    path = tmp_path / "gated.toml"
    path.write_text("[gate]\nx = 1\n")
    result = CliRunner().invoke(main, ["doctor", "--config", str(path)])
    assert result.exit_code == 1
    assert result.stdout.startswith("no-go  config  line 1: gate.name is missing")
