"""What systemd hears, on real sockets, and where things are."""

import asyncio
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gated.app import App
from gated.config import GateConfig, parse
from gated.systemd import STATE_DIRECTORY, Notifier, credentials_directory, runtime_directory

UNIT = (Path(__file__).parent.parent / "systemd" / "gated.service").read_text()


@contextmanager
def listening(name: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.settimeout(2)
        ear.bind(name)
        yield ear


def test_states_arrive_together_at_a_socket_with_a_path(tmp_path: Path) -> None:
    with listening(str(tmp_path / "notify")) as ear:
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).send("READY=1", "STATUS=Lanes are working")
        assert ear.recv(1000) == b"READY=1\nSTATUS=Lanes are working"


def test_states_arrive_at_an_abstract_socket() -> None:
    name = f"gated-test-{os.getpid()}"
    with listening(f"\0{name}") as ear:
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).send("WATCHDOG=1")
        assert ear.recv(1000) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    "environment",
    [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/notify"}, {"NOTIFY_SOCKET": "/" + "x" * 200}],
    ids=["not told", "blank", "gone", "no path for a socket"],
)
def test_without_systemd_nothing_is_sent_and_nothing_fails(environment: dict[str, str]) -> None:
    Notifier(environment).send("READY=1")


def test_a_systemd_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    with listening(str(tmp_path / "notify")):
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        begun = time.monotonic()
        for _ in range(1000):  # many more than its queue takes
            notifier.send("WATCHDOG=1")
        assert time.monotonic() - begun < 1


CONFIG = """\
[gate]
name = "North"
state_dir = "{folder}"
[api]
base_url = "http://127.0.0.1:9"
username = "scan"
device_info = "DEVICE_ID:1"
[[lanes]]
name = "in"
direction = "entry"
scanners = [{{ kind = "serial", device = "{folder}/none" }}]
release = {{ pin = 17, when_off = "locked" }}
[pins]
factory = "mock"
"""


async def test_a_start_may_last_while_a_journal_is_salvaged_and_is_watched_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with listening(str(tmp_path / "notify")) as ear:
        app = App(parse(CONFIG.format(folder=tmp_path)), "secret")
        running = asyncio.create_task(app.run())
        states = [await asyncio.to_thread(ear.recv, 1000) for _ in range(3)]
        app._stopping.set()
        await running
    assert states == [b"EXTEND_TIMEOUT_USEC=600000000", b"WATCHDOG=1", b"READY=1\nSTATUS=Lanes are working"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"CREDENTIALS_DIRECTORY": ""}, None),
        ({"CREDENTIALS_DIRECTORY": "/run/credentials/gated.service"}, Path("/run/credentials/gated.service")),
    ],
)
def test_credentials_are_where_systemd_says(environment: dict[str, str], expected: Path | None) -> None:
    assert credentials_directory(environment) == expected


def test_the_control_socket_of_this_machines_gate_is_in_its_runtime_directory() -> None:
    assert runtime_directory(Path("/var/lib/gated")) == Path("/run/gated")


def test_the_control_socket_of_any_other_gate_is_beside_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/gated")  # of the unit, or of whoever calls the command
    assert runtime_directory(Path("/data/gated")) == Path("/data/gated")


def test_unit_configuration_and_code_agree_on_the_directories() -> None:
    defaults = {field.name: field.default for field in GateConfig.__dataclass_fields__.values()}
    assert defaults["state_dir"] == STATE_DIRECTORY
    for key, parent in (("StateDirectory", "/var/lib"), ("RuntimeDirectory", "/run")):
        found = re.search(rf"^{key}=(\S+)$", UNIT, re.MULTILINE)
        assert found is not None
        directory = Path(parent, found[1])
        assert directory in (STATE_DIRECTORY, runtime_directory(STATE_DIRECTORY))
