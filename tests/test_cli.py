"""The command line: what is printed where, with which exit status, against a stub of a running gate."""

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from gated import __version__
from gated.__main__ import main
from gated.control import SOCKET, ControlServer
from gated.errors import ControlError
from gated.show import outbox_lines
from tests.test_show import HEALTHY, waiting
from tests.test_show import status as healthy

WITHIN = 20.0  # seconds; a bound for a busy machine

CONFIG = """\
[gate]
name = "North"
state_dir = "{folder}"
[api]
username = "scan"
password_file = "{folder}/password"
device_info = "DEVICE_ID:1"
[[lanes]]
name = "North 1"
direction = "entry"
scanners = [{{ kind = "serial", device = "/dev/serial/by-id/a" }}]
release = {{ pin = 17, when_off = "free" }}
[[lanes]]
name = "out"
direction = "exit"
scanners = [{{ kind = "serial", device = "/dev/serial/by-id/b" }}]
release = {{ pin = 27, when_off = "free" }}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A good configuration, whose gate does not run."""
    (tmp_path / "password").write_text("secret")
    (tmp_path / "password").chmod(0o600)
    path = tmp_path / "gated.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def called(*arguments: str, config: Path | None = None) -> Result:
    at = [] if config is None else ["--config", str(config)]
    result = CliRunner().invoke(main, [*arguments, *at], prog_name="gated")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


WAITING = [waiting(), waiting(lost=True)]


class StubGate:
    """Answers as gated does, on a loop in a thread; remembers what it was asked for."""

    def __init__(self, path: Path) -> None:
        self.asked: list[Any] = []
        self._server = ControlServer(
            path,
            {
                "status": self.status,
                "sync": self.sync,
                "release": self.release,
                "mode": self.mode,
                "emergency-reset": self.reset,
                "outbox": self.outbox,
                "outbox-retry": self.retry,
            },
        )
        self._up, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="stub gate")

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.start()
        self._up.set()
        await self._stop.wait()
        await self._server.close()

    def start(self) -> None:
        self._thread.start()
        assert self._up.wait(WITHIN)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WITHIN)

    async def status(self) -> AsyncIterator[Mapping[str, Any]]:
        yield healthy()

    async def sync(self, *, full: bool, accept_removals: bool) -> AsyncIterator[Mapping[str, Any]]:
        self.asked.append((full, accept_removals))
        yield {"uploaded": 3}
        if not full:
            yield {"changed": 1}
            return
        yield {"page": 1, "pages": 2, "tickets": 500}
        if not accept_removals:
            raise ControlError("the API does not answer", hint="The gate goes on without it.")
        yield {"tickets": 900}

    async def release(self, *, lane: str, why: str, ticket: str) -> AsyncIterator[Mapping[str, Any]]:
        if lane != "North 1":
            raise ControlError(f"there is no lane {lane!r}", hint="One of: North 1, out")
        self.asked.append((lane, why, ticket))
        yield {"released": lane}

    async def mode(self, *, lane: str, mode: str) -> AsyncIterator[Mapping[str, Any]]:
        self.asked.append((lane, mode))
        yield {"lane": lane, "mode": mode}

    async def reset(self, *, why: str) -> AsyncIterator[Mapping[str, Any]]:
        self.asked.append(why)
        if why == "too early":
            raise ControlError("the emergency input is still active", hint="Look at the fire panel.")
        yield {"emergency": False}

    async def outbox(self, *, clear: bool = False) -> AsyncIterator[Mapping[str, Any]]:
        for row in WAITING:
            yield row | {"barcode": "GATED000001"} if clear else row

    async def retry(self) -> AsyncIterator[Mapping[str, Any]]:
        yield {"retried": 2}


@pytest.fixture
def gate(config: Path) -> Iterator[StubGate]:
    stub = StubGate(config.parent / SOCKET)
    stub.start()
    yield stub
    stub.stop()


# Help


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = list(commands(main))


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "gated" for path, _ in ALL])
def test_every_command_has_help_that_fits_a_terminal(
    path: tuple[str, ...], command: click.Command, flag: str
) -> None:
    result = called(*path, flag)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: {' '.join(('gated', *path))} ")
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "..." not in result.stdout.replace("[ARGS]...", "")  # no sentence is cut off
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert all(option.help for option in options)


def test_what_asks_a_running_gate_takes_a_configuration_and_can_answer_in_json() -> None:
    for path, command in ALL:
        names = {parameter.name for parameter in command.params}
        if path and not isinstance(command, click.Group) and path[0] not in ("run", "demo", "lane-table"):
            assert {"config_path", "as_json"} <= names, path


def test_the_first_help_tells_the_commands_in_the_order_of_need() -> None:
    listed = re.findall(r"^  ([a-z][a-z-]+)  +[A-Z]", called("--help").stdout, re.MULTILINE)
    assert listed[:3] == ["run", "demo", "check-config"]


def test_the_version_is_told() -> None:
    assert called("--version").stdout == f"gated, version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["statsu"], "No such command 'statsu'"),
        (["release", "in"], "Missing option '--why'"),
        (["mode", "in", "open"], "'open' is not one of 'controlled', 'free', 'locked', 'out_of_service'"),
        (["sync", "--accept-removals"], "--accept-removals needs --full"),
        (["emergency", "reset"], "Missing option '--why'"),
    ],
)
def test_misuse_is_told_on_standard_error_with_status_2(arguments: list[str], said: str) -> None:
    result = called(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


# check-config


def test_a_good_configuration_is_told_with_its_gate_and_lanes(config: Path) -> None:
    result = called("check-config", config=config)
    assert result.exit_code == 0
    assert result.stdout == f"{config} is good\n  gate   North\n  lanes  North 1 (entry), out (exit)\n"
    assert json.loads(called("check-config", "--json", config=config).stdout) == {
        "good": True,
        "mistakes": [],
    }


BAD = """\
[gate]
nam = "North"
[api]
username = "scan"
device_info = "DEVICE_ID:1"
[[lanes]]
name = "in"
direction = "entri"
scanners = [{ kind = "serial", device = "/dev/serial/by-id/a" }]
release = { pin = 17 }
"""


@pytest.mark.parametrize("command", [["check-config"], ["run"]])
def test_every_mistake_is_told_on_standard_error_with_status_2(command: list[str], config: Path) -> None:
    config.write_text(BAD)
    result = called(*command, config=config)
    assert (result.exit_code, result.stdout) == (2, "")
    first, *mistakes, hint = result.stderr.splitlines()
    assert first == f"gated: {config} can't be used:"
    assert [mistake.partition(":")[0] for mistake in mistakes] == [
        "  line 1",
        "  line 2",
        "  line 8",
        "  line 10",
    ]
    assert 'must be "entry" or "exit"; did you mean entry?' in mistakes[2]
    assert hint == "Mend the lines named, then run: gated check-config"


def test_programs_get_every_mistake_as_json_with_status_2(config: Path) -> None:
    config.write_text(BAD)
    result = called("check-config", "--json", config=config)
    assert (result.exit_code, result.stderr) == (2, "")
    answer = json.loads(result.stdout)
    assert (answer["good"], len(answer["mistakes"])) == (False, 4)
    assert answer["hint"]


@pytest.mark.parametrize(
    ("mode", "said"),
    [(None, "there is no such file"), (0o644, "can be read or written by others")],
    ids=["missing", "readable by all"],
)
def test_a_password_that_can_not_be_used_is_a_mistake_too(mode: int | None, said: str, config: Path) -> None:
    password = config.parent / "password"
    if mode is None:
        password.unlink()
    else:
        password.chmod(mode)
    result = called("check-config", config=config)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == f"gated: {config} can't be used:"
    assert said in result.stderr
    assert "secret" not in result.stderr


@pytest.mark.parametrize("command", [["check-config"], ["run"], ["status"], ["sync"], ["mode", "in", "free"]])
def test_a_missing_configuration_is_told_with_a_hint_and_status_2(command: list[str], tmp_path: Path) -> None:
    result = called(*command, config=tmp_path / "none.toml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"gated: {tmp_path}/none.toml: there is no such file\n"
        "Start from the reference file, config/gated.toml: it is a working example.\n"
    )


# Commands to a running gate

TO_A_GATE = [
    ["status"],
    ["sync"],
    ["release", "North 1", "--why", "pram"],
    ["mode", "out", "free"],
    ["emergency", "reset", "--why", "drill"],
    ["outbox", "list"],
    ["outbox", "retry"],
    ["outbox"],
]


@pytest.mark.parametrize("command", TO_A_GATE, ids=" ".join)
def test_without_a_running_gate_that_is_said_with_a_hint_and_status_1(
    command: list[str], config: Path
) -> None:
    result = called(*command, config=config)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"gated: no gate answers at {config.parent}/control.sock: No such file or directory\n"
        "Is it running? systemctl status gated\n"
    )
    told = json.loads(called(*command, "--json", config=config).stdout)
    assert told["error"].startswith("no gate answers")
    assert told["hint"] == "Is it running? systemctl status gated"


@pytest.mark.parametrize(
    ("command", "text", "answers"),
    [
        (["status"], f"{HEALTHY}\n", [healthy()]),
        (["sync"], "3 scans uploaded\n1 changed ticket fetched\n", [{"uploaded": 3}, {"changed": 1}]),
        (
            ["sync", "--full", "--accept-removals"],
            "3 scans uploaded\n900 tickets fetched\n",
            [{"uploaded": 3}, {"page": 1, "pages": 2, "tickets": 500}, {"tickets": 900}],
        ),
        (TO_A_GATE[2], "North 1: released\n", [{"released": "North 1"}]),
        (TO_A_GATE[3], "out: free\n", [{"lane": "out", "mode": "free"}]),
        (TO_A_GATE[4], "The emergency is over.\n", [{"emergency": False}]),
        (TO_A_GATE[5], "\n".join([*outbox_lines(WAITING), ""]), [WAITING]),
        (TO_A_GATE[7], "\n".join([*outbox_lines(WAITING), ""]), [WAITING]),
        (TO_A_GATE[6], "parked scans that go again: 2\n", [{"retried": 2}]),
    ],
    ids=["status", "sync", "full sync", "release", "mode", "reset", "outbox list", "outbox", "retry"],
)
def test_an_answer_is_shown_to_people_and_as_json_to_programs(
    command: list[str], text: str, answers: list[Any], config: Path, gate: StubGate
) -> None:
    for_people, for_programs = called(*command, config=config), called(*command, "--json", config=config)
    assert (for_people.exit_code, for_people.stdout, for_people.stderr) == (0, text, "")
    assert [json.loads(line) for line in for_programs.stdout.splitlines()] == answers
    assert for_programs.exit_code == 0


def test_options_before_a_command_of_the_outbox_count_as_well(config: Path, gate: StubGate) -> None:
    result = called("outbox", "--config", str(config), "--json", "retry")
    assert json.loads(result.stdout) == {"retried": 2}


def test_the_outbox_is_exported_with_clear_barcodes_and_only_into_the_file(
    config: Path, gate: StubGate
) -> None:
    file = config.parent / "outbox.jsonl"
    result = called("outbox", "export", str(file), config=config)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "scans exported: 2\n")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["barcode"], row["lost"]) for row in rows] == [("GATED000001", False), ("GATED000001", True)]
    assert "GATED000001" not in called("outbox", "list", config=config).stdout
    as_json = called("outbox", "export", "-", "--json", config=config)
    assert [json.loads(line) for line in as_json.stdout.splitlines()] == rows
    assert json.loads(as_json.stderr) == {"exported": 2}


def test_what_was_typed_arrives(config: Path, gate: StubGate) -> None:
    called("release", "North 1", "--why", "Kinderwagen, früh", "--ticket", "0123", config=config)
    called("mode", "out", "out_of_service", config=config)
    called("emergency", "reset", "--why", "drill", config=config)
    called("sync", "--full", config=config)
    assert gate.asked == [
        ("North 1", "Kinderwagen, früh", "0123"),
        ("out", "out_of_service"),
        "drill",
        (True, False),
    ]


@pytest.mark.parametrize(
    ("command", "done", "said"),
    [
        (
            ["release", "Nort", "--why", "pram"],
            [],
            ["gated: there is no lane 'Nort'", "One of: North 1, out"],
        ),
        (
            ["emergency", "reset", "--why", "too early"],
            [],
            ["gated: the emergency input is still active", "Look at the fire panel."],
        ),
        (
            ["sync", "--full"],
            ["3 scans uploaded"],
            ["gated: the API does not answer", "The gate goes on without it."],
        ),
    ],
    ids=["release", "reset", "sync"],
)
def test_a_refusal_is_told_with_its_hint_and_status_1(
    command: list[str], done: list[str], said: list[str], config: Path, gate: StubGate
) -> None:
    result = called(*command, config=config)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == done
    assert result.stderr.splitlines() == said
    answer = json.loads(called(*command, "--json", config=config).stdout.splitlines()[-1])
    assert f"gated: {answer['error']}" == said[0]


def test_a_running_gate_can_be_commanded_though_its_configuration_has_got_a_mistake(
    config: Path, gate: StubGate
) -> None:
    config.write_text(config.read_text().replace('"entry"', '"entri"'))
    assert called("emergency", "reset", "--why", "drill", config=config).exit_code == 0
    config.write_text(config.read_text().replace("[gate]", "[gate"))  # not even TOML: which gate is unknown
    assert called("emergency", "reset", "--why", "drill", config=config).exit_code == 2
    assert gate.asked == ["drill"]


# As a process


def processed(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "gated", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=WITHIN, check=False)


def test_gated_runs_as_a_module(config: Path, gate: StubGate) -> None:
    done = processed("status", "--config", str(config))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{HEALTHY}\n", "")


def test_a_gate_that_can_not_start_says_why_and_ends_with_the_status_that_systemd_knows(config: Path) -> None:
    config.write_text(BAD)
    done = processed("run", "--config", str(config))
    assert done.returncode == 2
    assert done.stderr.count("\n  line ") == 4
    assert "did you mean entry?" in done.stderr
    unit = Path(__file__).parent.parent / "systemd" / "gated.service"
    assert "RestartPreventExitStatus=2\n" in unit.read_text()
