"""Nothing is half dead: each part of a running gate is killed, and is restarted or ends the gate.

The whole gate in this process, on mock pins and without a server. What ends it, systemd starts again.
"""

import asyncio
import gc
import json
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from gated import log
from gated.app import App
from gated.config import load
from gated.control import SOCKET, ask
from gated.core.barcode import Barcode
from gated.core.emergency import Came
from gated.core.events import State
from gated.core.scan import LaneName
from gated.errors import GatedError, StoreError
from gated.scanners.serial import SerialScanner

WITHIN = 10.0  # seconds; a bound for a busy machine, not what is expected
RELEASE, OTHER, ALARM = 17, 27, 5


@dataclass
class Running:
    """A gate that runs, and where its log goes."""

    app: App
    task: "asyncio.Task[None]"
    log: Path

    @property
    def lane(self) -> Any:
        return self.app._lanes[LaneName("in")]

    async def release_other(self) -> Any:
        """Has a guest pass at the other lane; returns the pin that is active meanwhile."""
        await self.app._lanes[LaneName("side")].release_by_operator()
        pin = self.pins.pin(OTHER)
        assert pin.state
        return pin

    @property
    def pins(self) -> Any:
        return self.app._pins.factory

    def said(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_bytes().splitlines()]
        return [line for line in lines if line["event"] == event]

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN):
            while not what():
                await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at itself often, and is soon impatient with its jobs."""
    monkeypatch.setattr("gated.app._EVERY", timedelta(milliseconds=20))
    monkeypatch.setattr("gated.app._UPKEEP_EVERY", timedelta(milliseconds=20))
    monkeypatch.setattr("gated.jobs.LATE", timedelta(milliseconds=500))
    monkeypatch.setattr("gated.log._FLUSH_WITHIN", 0.1)
    monkeypatch.setattr("gated.scanners.serial.RETRY_FIRST_S", 0.01)
    monkeypatch.setattr("gated.scanners.serial.RETRY_LAST_S", 0.01)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    config = folder / "gated.toml"
    config.write_text(
        f"""
        [gate]
        name = "Test gate"
        state_dir = "{folder}/state"
        [api]
        base_url = "http://127.0.0.1:9/scanapi/v2.0"
        username = "gate"
        device_info = "DEVICE_ID:TEST"
        [pins]
        factory = "mock"
        [emergency]
        pin = {ALARM}
        normally = "open"
        [[lanes]]
        name = "in"
        direction = "entry"
        scanners = [{{ kind = "serial", device = "{folder}/scanner" }}]
        release = {{ pin = {RELEASE}, when_off = "locked", profile = "hold", grant_ms = 60000 }}
        [[lanes]]
        name = "side"
        direction = "entry"
        scanners = [{{ kind = "serial", device = "{folder}/other" }}]
        release = {{ pin = {OTHER}, when_off = "locked", profile = "hold", grant_ms = 60000 }}
        """
    )
    hook = threading.excepthook
    with (folder / "log").open("wb", buffering=0) as out:
        log.set_up(out, {})
        app = App(load(config), "secret")
        task = asyncio.create_task(app.run())
        gate = Running(app, task, folder / "log")
        await gate.until(lambda: bool(gate.said("ready")) or task.done())
        try:
            yield gate
        finally:
            app._stopping.set()
            await asyncio.wait({task}, timeout=WITHIN)
            structlog.get_config()["logger_factory"]().flush()
            structlog.reset_defaults()
            logging.captureWarnings(False)
            logging.getLogger().handlers.clear()
            threading.excepthook = hook
            asyncio.get_running_loop().set_exception_handler(None)


async def raise_a_bug(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("a bug")


def bug(*_: object) -> Any:
    raise ZeroDivisionError("a bug")


async def kill_the_database_thread(gate: Running, _: pytest.MonkeyPatch) -> None:
    gate.app._store._writer._tokens.put(True)  # work is announced, and there is none


async def kill_a_scanners_thread(_: Running, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SerialScanner, "_open", bug)


async def let_a_decision_fail(gate: Running, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gate.app._store._desk, "decide", bug)
    gate.lane.read(Barcode("A"), 0.0)


async def let_a_task_of_a_lane_fail(gate: Running, _: pytest.MonkeyPatch) -> None:
    gate.lane._spawn(raise_a_bug())


async def cancel_a_task_of_a_lane(gate: Running, _: pytest.MonkeyPatch) -> None:
    gate.lane._spawn(asyncio.sleep(WITHIN))
    for task in gate.lane._tasks:
        task.cancel()


async def let_a_timer_of_a_lane_fail(gate: Running, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("gated.lane.passage.step", bug)
    asyncio.get_running_loop().call_soon(gate.lane._timer_ended)


async def kill_the_thread_of_edges(gate: Running, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gate.app._pins, "_edges", threading.Thread())


async def kill_the_logs_thread(gate: Running, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(structlog.get_config()["logger_factory"](), "_write", bug)
    log.get("test").info("the last line")


async def silence_the_scheduler(gate: Running, _: pytest.MonkeyPatch) -> None:
    gate.app._jobs._scheduler.pause()


async def let_a_job_hang_for_good(gate: Running, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("gated.jobs.LONGEST", timedelta(milliseconds=10))

    async def hang() -> None:
        with suppress(asyncio.CancelledError):  # of the bound
            await asyncio.sleep(WITHIN)
        await asyncio.sleep(WITHIN)

    gate.app._jobs._jobs["upkeep"].run = hang


DEATHS: dict[str, tuple[str, Callable[[Running, pytest.MonkeyPatch], Awaitable[None]]]] = {
    "the database thread": ("store", kill_the_database_thread),
    "a scanner's thread": ("lane in", kill_a_scanners_thread),
    "a decision": ("callback", let_a_decision_fail),
    "a lane's task": ("lane in", let_a_task_of_a_lane_fail),
    "a lane's task, cancelled": ("lane in", cancel_a_task_of_a_lane),
    "a lane's timer": ("callback", let_a_timer_of_a_lane_fail),
    "the thread of edges": ("inputs", kill_the_thread_of_edges),
    "the log's thread": ("log", kill_the_logs_thread),
    "the scheduler": ("job upkeep", silence_the_scheduler),
    "a job that can't be ended": ("job upkeep", let_a_job_hang_for_good),
}


@pytest.mark.parametrize("part", DEATHS)
async def test_a_part_that_dies_ends_the_gate_with_its_outputs_off(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, kill = DEATHS[part]
    async with running(tmp_path) as gate:
        released = await gate.release_other()
        await kill(gate, monkeypatch)
        with pytest.raises(GatedError, match=f"dead: .*{told}"):
            await asyncio.wait_for(gate.task, WITHIN)
        assert not released.state
    if told != "log":
        assert told in gate.said("dead")[0]["parts"]


async def test_a_control_socket_that_is_gone_comes_back_and_no_lane_notices(tmp_path: Path) -> None:
    async with running(tmp_path) as gate:
        path = tmp_path / "state" / SOCKET
        released = await gate.release_other()
        for number in (1, 2):
            path.unlink() if number == 1 else gate.app._control._server.close()
            await gate.until(lambda number=number: len(gate.said("control_restarted")) == number)
            assert "lanes" in await asyncio.to_thread(lambda: next(ask(path, "status")))
        assert released.state


async def test_an_alarm_whose_edge_was_never_told_is_seen_all_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as gate:
        gate.pins.pin(ALARM)._state = False  # the contact closes
        await gate.until(lambda: gate.lane.view()["state"] == State.EMERGENCY)
        assert gate.pins.pin(RELEASE).state


async def test_a_latch_that_the_disk_refuses_is_written_as_soon_as_it_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as gate:
        store, refused = gate.app._store, []

        async def refuse(*note: object) -> None:
            refused.append(note)
            raise StoreError("the disk is full")

        with monkeypatch.context() as failing:
            failing.setattr(store, "set_note", refuse)
            gate.pins.pin(ALARM).drive_low()
            await gate.until(lambda: len(refused) > 2)
        await gate.until(lambda: not gate.app._latch.waits)
        assert await store.note("emergency") == 1
        await gate.until(lambda: "emergency_unwritten" not in gate.app._link.alarms)
        assert [alarm["what"] for alarm in gate.said("alarm")] == [
            "emergency_unwritten"
        ]  # not at each attempt


async def test_an_input_that_flutters_while_the_disk_fails_takes_no_reset_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as gate:
        app, refused = gate.app, []

        async def refuse(*_: object) -> None:
            refused.append(_)
            raise StoreError("the disk is full")

        app._emergency.state = replace(app._emergency.state, latched=True)
        app._emergency_came(Came.LATCHED)
        await gate.until(lambda: not app._latch.waits)
        assert await app._store.note("emergency") == 1
        with monkeypatch.context() as failing:
            failing.setattr(app._store, "set_note", refuse)
            failing.setattr(app._store, "occurred", refuse)
            app._emergency.state = replace(app._emergency.state, latched=False)
            app._emergency_came(Came.ENDED)
            for _ in range(100):
                app._emergency_came(Came.BEGAN)
                app._emergency_came(Came.DISTURBED)
            await gate.until(lambda: bool(refused))
        await gate.until(lambda: not app._latch.waits)
        assert await app._store.note("emergency") == 0


async def test_a_latch_that_waits_for_a_slow_disk_is_written_before_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = asyncio.Event()
    async with running(tmp_path) as gate:
        app, occurred = gate.app, gate.app._store.occurred

        async def late(*what: Any) -> None:
            await slow.wait()
            await occurred(*what)

        monkeypatch.setattr(app._store, "occurred", late)
        gate.pins.pin(ALARM).drive_low()
        await gate.until(lambda: app._latch._latch_waits)
        asyncio.get_running_loop().call_later(0.05, slow.set)
    assert not app._latch.waits
    assert _note(tmp_path / "state" / "journal.db", "emergency") == 1


def _note(journal: Path, key: str) -> object:
    with closing(sqlite3.connect(journal)) as connection:
        return connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0]


async def test_a_gate_that_is_ready_collects_garbage_again(tmp_path: Path) -> None:
    gc.disable()  # as the command does while it starts
    try:
        async with running(tmp_path):
            assert gc.isenabled()
    finally:
        gc.enable()
