"""The drill: what is measured, on made-up events and on a whole gate with fake pins."""

import asyncio
import sqlite3
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gated.app import App
from gated.config import parse
from gated.control import SOCKET, ask
from gated.core.emergency import Came
from gated.core.events import Profile
from gated.core.scan import LaneName
from gated.core.signals import Outcome
from gated.drill import drill
from gated.errors import ControlError
from gated.pins.fake import FakePins
from gated.show import drill_line
from tests import virtual_time

IN, OUT = LaneName("in"), LaneName("out")
LANES = {IN: Profile.HOLD, OUT: Profile.PULSE}
BEGAN = {"lane": "", "what": "emergency", "came": Came.BEGAN, "edge": 5.0}


def released(lane: str, at: float) -> dict[str, Any]:
    return {"lane": lane, "what": "barrier", "released": True, "at": at}


def shown(lane: str, at: float, outcome: Outcome = Outcome.EMERGENCY) -> dict[str, Any]:
    return {"lane": lane, "what": "shown", "outcome": outcome, "at": at}


def told(events: Iterable[Mapping[str, Any]], seconds: float = 120) -> list[dict[str, Any]]:
    async def act() -> list[dict[str, Any]]:
        queue: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        for event in events:
            queue.put_nowait(event)
        return [answer async for answer in drill(queue, LANES, timedelta(seconds=seconds))]

    return virtual_time.run(act())


def test_a_held_barrier_is_timed_by_its_release_and_any_other_by_its_lamps() -> None:
    answers = told([BEGAN, shown(IN, 5.001), shown(OUT, 5.0021), released(IN, 5.0014)])
    assert answers == [
        {"waiting_s": 120},
        {"lane": "in", "profile": "hold", "took_ms": 1.4, "late": False},
        {"lane": "out", "profile": "pulse", "took_ms": 2.1, "late": False},
    ]


def test_what_happened_before_the_edge_does_not_count() -> None:
    answers = told([released(IN, 3.0), shown(OUT, 3.0), BEGAN, shown(OUT, 5.3), released(IN, 5.2)])
    assert [answer["took_ms"] for answer in answers[1:]] == [200, 300]
    assert all(answer["late"] for answer in answers[1:])


def test_a_disturbance_before_does_not_end_the_wait() -> None:
    answers = told([BEGAN | {"came": Came.DISTURBED}, BEGAN, released(IN, 5.0), shown(OUT, 5.0)])
    assert [answer["took_ms"] for answer in answers[1:]] == [0, 0]


def test_a_lane_that_never_answers_is_told() -> None:
    *_, first, second = told([BEGAN, shown(IN, 5.0), shown(OUT, 5.0, Outcome.DENY)])
    assert (first["took_ms"], first["late"], second["took_ms"]) == (None, True, None)


def test_an_input_that_does_not_move_is_told_with_where_to_look() -> None:
    with pytest.raises(ControlError, match="did not move in 3 s") as raised:
        told([released(IN, 1.0)], seconds=3)
    assert "contact 2" in raised.value.hint


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ({"waiting_s": 120.0}, "Set off the fire panel's test now, within 120 s."),
        (
            {"lane": "in", "profile": "hold", "took_ms": 1.4, "late": False},
            "  in  released 1.4 ms after the edge",
        ),
        ({"lane": "in", "profile": "hold", "took_ms": None, "late": True}, "! in  released NEVER"),
        (
            {"lane": "out", "profile": "pulse", "took_ms": 2.0, "late": False},
            "  out  told by pulses: its own input opens it, look whether it did; shown 2.0 ms after the edge",
        ),
    ],
)
def test_a_drill_is_shown_as(answer: Mapping[str, Any], line: str) -> None:
    assert drill_line(answer) == line


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
release = {{ pin = 17, when_off = "free", profile = "hold" }}
[pins]
factory = "mock"
"""
EMERGENCY = '[emergency]\npin = 27\nnormally = "open"\n'


@pytest.fixture
async def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """The pins of a whole gate that runs in this process."""
    fake = FakePins(time.monotonic)
    monkeypatch.setattr("gated.app.open_pins", lambda *_: fake)
    text = CONFIG.format(folder=tmp_path) + getattr(request, "param", EMERGENCY)
    app = App(parse(text), "secret")
    running = asyncio.create_task(app.run())
    while not (tmp_path / SOCKET).exists():
        assert not running.done(), running.result()
        await asyncio.sleep(0.01)
    yield fake
    app._stopping.set()
    await running


async def test_a_running_gate_measures_itself_and_journals_it(pins: FakePins, tmp_path: Path) -> None:
    answers: list[dict[str, Any]] = []

    def ask_it() -> None:
        for answer in ask(tmp_path / SOCKET, "drill", within_s=20):
            answers.append(answer)

    asking = asyncio.create_task(asyncio.to_thread(ask_it))
    while not answers:
        await asyncio.sleep(0.01)
    pins.drive(27, True)
    await asking
    assert pins.outputs[17].active
    assert answers[1]["lane"] == "in"
    assert 0 <= answers[1]["took_ms"] < 100
    with sqlite3.connect(f"file:{tmp_path}/journal.db?mode=ro", uri=True) as journal:
        rows = journal.execute("SELECT lane, what FROM occurrence WHERE kind = 'drill'").fetchall()
    assert rows == [("in", f"hold: {answers[1]['took_ms']} ms")]
    with pytest.raises(ControlError, match="an emergency already"):
        await asyncio.to_thread(list, ask(tmp_path / SOCKET, "drill", within_s=1))


@pytest.mark.parametrize("pins", [""], indirect=True)
async def test_a_gate_that_watches_no_alarm_can_not_be_drilled(pins: FakePins, tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="watches no alarm"):
        await asyncio.to_thread(list, ask(tmp_path / SOCKET, "drill", within_s=1))
