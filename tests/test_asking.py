"""Asking the API about one scan.

Deadline, answers and what they mean, in virtual time; then what comes of a lost answer, with a real store on
a disk, whose thread knows no virtual time: there the deadline is a few milliseconds.
"""

import asyncio
import contextlib
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from gated.api.client import Dated, TicketScanApi
from gated.api.wire import DirectAnswer
from gated.asking import Asker, AskingRules, verdict_of
from gated.clock import new_scan_id
from gated.core.outbox import Window
from gated.core.scan import Direction, LaneName, Moment, Scan, ScanId, TimeTrust
from gated.core.ticket import Ticket
from gated.core.verdict import Origin, Reason, Verdict, admit, deny
from gated.errors import (
    ApiAnswerLost,
    ApiBadAnswer,
    ApiError,
    ApiLoginRefused,
    ApiRefused,
    ApiUnreachable,
)
from gated.store import Ask, Decided, DeskRules, Reply, Store, Terms
from tests import virtual_time
from tests.store.desks import ASK_ALL, ASK_UNKNOWN, ticket

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
ENTRY, EXIT = Direction.ENTRY, Direction.EXIT


def answer(
    code: int | None, *, matches: bool = True, elements: int = 1, at: datetime | None = None
) -> DirectAnswer:
    return DirectAnswer(code, None, "", at, matches, elements)


@pytest.mark.parametrize(
    ("direction", "given", "verdict"),
    [
        (ENTRY, answer(100), admit(100, Reason.VALID)),
        (EXIT, answer(200), admit(200, Reason.CHECKED_OUT)),
        (ENTRY, answer(200), deny(None, Reason.REFUSED)),
        (EXIT, answer(100), deny(None, Reason.REFUSED)),
        (ENTRY, answer(100, matches=False), deny(None, Reason.REFUSED)),
        (ENTRY, answer(100, elements=2), deny(None, Reason.REFUSED)),
        (ENTRY, answer(110), deny(None, Reason.REFUSED)),
        (ENTRY, answer(50, at=NOON), deny(50, Reason.ALREADY_SCANNED, time=NOON)),
        (ENTRY, answer(50, at=NOON, matches=False), deny(50, Reason.ALREADY_SCANNED)),
        (ENTRY, answer(40), deny(40, Reason.UNKNOWN)),
        (ENTRY, answer(45), deny(45, Reason.NOT_ALLOWED)),
        (ENTRY, answer(60), deny(60, Reason.EXPIRED)),
        (EXIT, answer(210), deny(210, Reason.ALREADY_CHECKED_OUT)),
        (EXIT, answer(220), deny(220, Reason.NOT_CHECKED_IN)),
        (EXIT, answer(230), deny(230, Reason.NOT_IN_SERVICE)),
        (ENTRY, answer(None), None),
    ],
)
def test_only_the_code_of_the_direction_for_the_ticket_alone_admits(
    direction: Direction, given: DirectAnswer, verdict: Verdict | None
) -> None:
    assert verdict_of(given, direction) == verdict


@dataclass
class FakeApi:
    """Answers after ``delay`` seconds, or fails with ``error``."""

    given: DirectAnswer = field(default_factory=lambda: answer(100))
    delay: float = 0.0
    error: ApiError | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def check_in(self, service: str, barcode_id: str) -> Dated[DirectAnswer]:
        self.asked.append((service, barcode_id))
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        return Dated(self.given, NOON, 0.0, 0.0)

    check_out = check_in


@dataclass
class FakeStore:
    noted: list[Window] = field(default_factory=list)
    settled: list[Reply] = field(default_factory=list)
    recorded: list[int] = field(default_factory=list)
    not_recorded: list[int] = field(default_factory=list)

    def note_question(self, ask: Ask, call: Window) -> None:
        self.noted.append(call)

    async def settle(self, ask: Ask, reply: Reply) -> Decided:
        self.settled.append(reply)
        return Decided(ask.scan, reply.verdict, reply.origin, ask.ticket, len(self.settled))

    async def recorded_by_server(self, seq: int, monotonic: float) -> bool:
        self.recorded.append(seq)
        return True

    async def not_recorded_by_server(self, seq: int) -> None:
        self.not_recorded.append(seq)


class VirtualClock:
    """It was noon when the loop's time was 1000 s."""

    def now(self) -> Moment:
        monotonic = asyncio.get_running_loop().time()
        wall = NOON + timedelta(seconds=monotonic - 1000)
        return Moment(wall, TimeTrust.SYNCHRONISED, monotonic, "boot")

    def learn(self, server: datetime, monotonic: float) -> None:
        raise AssertionError("an asker teaches nobody the time")


class Rig:
    def __init__(self, api: FakeApi, *, fall_back: bool = True) -> None:
        self.api = api
        self.store = FakeStore()
        rules = AskingRules(timedelta(seconds=1), fall_back)
        self.asker = Asker(cast(TicketScanApi, api), cast(Store, self.store), rules, VirtualClock())
        self.asker.service = "service"

    async def ask(self, fallback: Verdict, direction: Direction = ENTRY) -> Decided:
        scan = Scan(ScanId(UUID(int=1)), "A", LaneName("in"), direction, VirtualClock().now())
        return await self.asker.ask(Ask(scan, "A", None, fallback, Origin.DIRECT, frozenset()))


VALID, UNKNOWN = admit(100, Reason.VALID), deny(40, Reason.UNKNOWN)


def virtually(test: Coroutine[Any, Any, None]) -> None:
    virtual_time.run(test)


def test_an_admission_by_the_server_is_written_as_recorded_there() -> None:
    async def act() -> None:
        rig = Rig(FakeApi())
        decided = await rig.ask(UNKNOWN)
        assert (decided.verdict, decided.origin) == (VALID, Origin.DIRECT)
        noon = int(NOON.timestamp())
        assert rig.store.noted == [Window(noon - 5, noon + 11)]
        assert rig.store.settled == [Reply(VALID, Origin.DIRECT, answered=1000.0)]
        assert rig.api.asked == [("service", "A")]

    virtually(act())


def test_after_the_deadline_the_local_decision_stands_in_and_the_call_goes_on() -> None:
    async def act() -> None:
        rig = Rig(FakeApi(delay=3.0))
        began = asyncio.get_running_loop().time()
        decided = await rig.ask(VALID)
        assert asyncio.get_running_loop().time() - began == pytest.approx(1.0)
        assert (decided.verdict, decided.origin) == (VALID, Origin.FALLBACK)
        await asyncio.sleep(3)
        assert rig.store.recorded == [1]

    virtually(act())


def test_a_late_admission_is_told_to_the_store_though_the_guest_was_denied() -> None:
    async def act() -> None:
        rig = Rig(FakeApi(delay=3.0), fall_back=False)
        decided = await rig.ask(VALID)
        assert decided.verdict == deny(None, Reason.NO_ANSWER)
        await asyncio.sleep(3)
        assert (rig.store.recorded, rig.store.not_recorded) == ([1], [])

    virtually(act())


@pytest.mark.parametrize("fall_back", [True, False])
@pytest.mark.parametrize(
    ("api", "not_recorded"),
    [
        (FakeApi(answer(50), 3.0), [1]),
        (FakeApi(delay=3.0, error=ApiUnreachable("no route")), [1]),
        (FakeApi(delay=3.0, error=ApiRefused("bad request", status=400)), [1]),
        (FakeApi(delay=3.0, error=ApiAnswerLost("cut off")), []),
        (FakeApi(delay=3.0, error=ApiRefused("broken", status=500)), []),
        (FakeApi(answer(None), 3.0), []),
        (FakeApi(answer(100, matches=False), 3.0), []),
        (FakeApi(answer(100, elements=2), 3.0), []),
    ],
    ids=["denied", "nothing sent", "a bare 400", "cut off", "500", "unreadable", "another's", "of several"],
)
def test_a_late_end_that_leaves_it_open_says_nothing_and_any_other_no_that_it_is_not_recorded(
    api: FakeApi, not_recorded: list[int], fall_back: bool
) -> None:
    async def act() -> None:
        rig = Rig(api, fall_back=fall_back)
        await rig.ask(VALID)
        await asyncio.sleep(3)
        assert (rig.store.recorded, rig.store.not_recorded) == ([], not_recorded)

    virtually(act())


@pytest.mark.parametrize(
    ("api", "lost"),
    [
        (FakeApi(delay=3.0), True),
        (FakeApi(error=ApiAnswerLost("cut off")), True),
        (FakeApi(error=ApiBadAnswer("no JSON")), True),
        (FakeApi(error=ApiRefused("broken", status=502)), True),
        (FakeApi(answer(None)), True),
        (FakeApi(error=ApiUnreachable("no route")), False),
        (FakeApi(error=ApiRefused("not now", status=503)), False),
        (FakeApi(error=ApiRefused("forbidden", status=403)), False),
        (FakeApi(error=ApiLoginRefused("who?")), False),
    ],
    ids=["late", "cut off", "no JSON", "502", "unreadable", "no route", "503", "403", "login refused"],
)
def test_a_call_that_may_be_recorded_is_written_with_the_time_in_which_it_may(
    api: FakeApi, lost: bool
) -> None:
    async def act() -> None:
        rig = Rig(api)
        await rig.ask(VALID)
        noon = int(NOON.timestamp())
        window = Window(noon - 5, noon + 11) if lost else None
        assert rig.store.settled == [Reply(VALID, Origin.FALLBACK, call=window)]

    virtually(act())


@pytest.mark.parametrize(
    ("given", "tickets"),
    [
        (answer(100, elements=2, matches=False), 2),
        (answer(100, matches=False), 1),
        (answer(110), 1),
        (answer(200), 1),
        (answer(50, elements=2, matches=False, at=NOON), 2),
    ],
    ids=["of several", "another's", "unknown", "of the other direction", "of several, one of them used"],
)
def test_an_answer_that_admits_nobody_may_have_recorded_a_check_in_all_the_same_and_is_alarmed(
    given: DirectAnswer, tickets: int
) -> None:
    async def act() -> None:
        rig = Rig(FakeApi(given))
        alarms: list[dict[str, Any]] = []
        rig.asker.alarm = lambda **detail: alarms.append(detail)
        assert not (await rig.ask(VALID)).verdict.admitted
        noon = int(NOON.timestamp())
        assert rig.store.settled[0].call == Window(noon - 5, noon + 11)
        assert [(each["what"], each["tickets"]) for each in alarms] == [("answer_odd", tickets)]
        assert ("order" in alarms[0]["hint"]) is (tickets > 1)

    virtually(act())


@pytest.mark.parametrize("code", [40, 45, 50, 60])
def test_a_plain_refusal_has_recorded_nothing_and_is_no_alarm(code: int) -> None:
    async def act() -> None:
        rig = Rig(FakeApi(answer(code)))
        alarms: list[dict[str, Any]] = []
        rig.asker.alarm = lambda **detail: alarms.append(detail)
        await rig.ask(VALID)
        assert (rig.store.settled[0].call, alarms) == (None, [])

    virtually(act())


@pytest.mark.parametrize(
    "error",
    [ApiUnreachable("no route"), ApiAnswerLost("cut off"), ApiRefused("broken", status=500)],
    ids=lambda error: type(error).__name__,
)
def test_after_two_failures_in_a_row_asking_is_not_worthwhile_until_a_probe_answers(error: ApiError) -> None:
    async def act() -> None:
        rig = Rig(FakeApi(error=error))
        assert rig.asker.worthwhile
        for _ in range(2):
            assert (await rig.ask(UNKNOWN)).origin is Origin.FALLBACK
        assert not rig.asker.worthwhile
        rig.asker.answered()
        assert rig.asker.worthwhile

    virtually(act())


def test_a_bare_400_is_a_refusal_and_any_other_status_says_nothing_of_the_ticket() -> None:
    async def act() -> None:
        rig = Rig(FakeApi(error=ApiRefused("bad request", status=400)))
        assert (await rig.ask(VALID)).verdict == UNKNOWN
        rig.api.error = ApiRefused("forbidden", status=403)
        assert (await rig.ask(VALID)).verdict == VALID

    virtually(act())


def test_ten_unknown_barcodes_a_minute_use_up_a_lanes_questions() -> None:
    async def act() -> None:
        rig = Rig(FakeApi(given=answer(40)))
        lane = LaneName("in")
        for _ in range(10):
            assert not rig.asker.rationed(lane)
            await rig.ask(UNKNOWN)
        assert rig.asker.rationed(lane)
        assert not rig.asker.rationed(LaneName("another"))
        await asyncio.sleep(61)
        assert not rig.asker.rationed(lane)

    virtually(act())


def test_nothing_can_be_asked_before_a_service_is_chosen() -> None:
    async def act() -> None:
        rig = Rig(FakeApi())
        rig.asker.service = None
        assert not rig.asker.worthwhile

    virtually(act())


# ---- a lost answer, with a real store: four outcomes

DEADLINE = timedelta(milliseconds=5)
MINE = ticket("A", last_checked_in=None)


class Watch:
    """A clock that is set forward by hand, and goes on after a restart."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.started = time.monotonic()

    def now(self) -> Moment:
        wall = NOON + timedelta(seconds=self.elapsed)
        return Moment(wall, TimeTrust.SYNCHRONISED, self.started + self.elapsed, "boot")

    def learn(self, server: datetime, monotonic: float) -> None:
        raise AssertionError("an asker teaches nobody the time")

    def restart(self) -> None:
        """What is now has been the same moment of a process that starts now."""
        self.started = time.monotonic() - self.elapsed


@dataclass
class Server:
    """Knows the ticket A, good for one entry, and goes by the script that it is given for the next call."""

    clock: Watch
    script: str = "answers"
    last_in: datetime | None = None
    calls: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def used(self) -> DirectAnswer:
        """Records the check-in, or says when that was."""
        if self.last_in is not None:
            return answer(50, at=self.last_in)
        self.last_in = self.clock.now().wall
        return answer(100)

    async def check_in(self, service: str, barcode_id: str) -> Dated[DirectAnswer]:
        assert (service, barcode_id) == ("S1", "A")
        self.calls += 1
        script, self.script = self.script, "answers"
        if script == "never gets it":
            await self.released.wait()
            raise ApiUnreachable("no route")
        given = self.used()
        if script == "answers late":
            await self.released.wait()
        elif script == "is cut off":
            raise ApiAnswerLost("cut off")
        elif script == "answers for several":
            return Dated(replace(given, matches=False, elements=2), NOON, 0.0, 0.0)
        return Dated(given, NOON, 0.0, 0.0)

    check_out = check_in


class Gate:
    """An asker on a real store."""

    def __init__(self, folder: Path, *, fall_back: bool) -> None:
        self.folder = folder
        self.clock = Watch()
        self.server = Server(self.clock)
        self.rules = AskingRules(DEADLINE, fall_back)

    async def open(self) -> None:
        self.store = Store(self.folder, DeskRules())
        self.store.start()
        await self.store.bind("S1")
        self.asker = Asker(cast(TicketScanApi, self.server), self.store, self.rules, self.clock)
        self.asker.service = "S1"

    async def close(self) -> None:
        self.server.released.set()
        await self.asker.close()
        await self.store.close()

    async def restart(self) -> None:
        await self.close()
        self.clock.restart()
        await self.open()

    def after_a_power_cut(self, folder: Path) -> "Gate":
        """The same gate as it would be if the power had gone now, not yet open."""
        after = Gate(shutil.copytree(self.folder, folder, ignore=lambda *_: {folder.name}), fall_back=False)
        self.clock.restart()
        after.clock, after.server = self.clock, self.server
        return after

    async def download(self, *tickets: Ticket) -> None:
        """A whole download, asked for now, and what it says of lost answers."""
        asked = self.clock.now().monotonic
        await self.store.put(tickets, asked=asked, run=1)
        await self.store.remember(complete=1)
        await self.store.settle_lost(asked)

    async def scan(self, script: str = "answers", *, lane: str = "in", terms: Terms = ASK_ALL) -> Decided:
        self.server.script = script
        at = self.clock.now()
        what = Scan(new_scan_id(at), "A", LaneName(lane), ENTRY, at)
        decided = await self.store.decide(what, terms)
        return await self.asker.ask(decided) if isinstance(decided, Ask) else decided

    async def late_answer(self) -> None:
        self.server.released.set()
        await self.asker.close()  # it lets what is under way end

    async def waiting(self) -> list[tuple[int, int]]:
        """The outbox: code of each row, and whether it waits for a download to tell what became of it."""
        return [(row.code, row.lost) for row in await self.store.outbox_rows(0, 99)]

    async def written(self) -> list[tuple[str, int]]:
        """The journal's scans: reason, and whether a call about it was lost."""
        await self.store.health()  # what was handed in before has been done
        with contextlib.closing(sqlite3.connect(self.folder / "journal.db")) as journal:
            return journal.execute("SELECT reason, call_from IS NOT NULL FROM scan ORDER BY seq").fetchall()

    async def marked(self) -> list[int]:
        """Scans that the server may have, or has, twice."""
        with contextlib.closing(sqlite3.connect(self.folder / "journal.db")) as journal:
            return [seq for (seq,) in journal.execute("SELECT seq FROM scan WHERE marked = 1")]

    async def uploaded(self) -> list[int]:
        """The codes of what goes up now; the server takes it all."""
        rows = await self.store.freeze(50, self.clock.now())
        for row in rows:
            self.server.last_in = datetime.fromtimestamp(row.checked_in_time, UTC)
        await self.store.acknowledge(rows, self.clock.now().monotonic)
        return [row.status_code for row in rows]


@pytest.fixture
async def gate(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Gate]:
    """A gate that decides by itself if there is no answer, unless told otherwise."""
    gate = Gate(tmp_path, fall_back=getattr(request, "param", True))
    await gate.open()
    await gate.download(MINE)
    yield gate
    await gate.close()


never_alone = pytest.mark.parametrize("gate", [False], indirect=True, ids=["fallback deny"])


async def test_recorded_and_admitted_here_is_one_check_in_and_is_not_uploaded(gate: Gate) -> None:
    decided = await gate.scan("answers late")
    assert (decided.verdict, decided.origin) == (VALID, Origin.FALLBACK)
    assert (await gate.waiting(), await gate.uploaded()) == ([(100, True)], [])
    await gate.late_answer()
    assert (await gate.waiting(), await gate.uploaded()) == ([], [])
    gate.clock.elapsed = 30.0
    assert not (await gate.scan()).verdict.admitted


async def test_recorded_and_admitted_here_is_found_by_a_download_if_no_answer_ever_comes(gate: Gate) -> None:
    assert (await gate.scan("is cut off")).verdict.admitted
    await gate.restart()
    assert (await gate.waiting(), await gate.uploaded()) == ([(100, True)], [])
    gate.clock.elapsed = 30.0
    await gate.download(MINE._replace(remaining=0, checked_in=1, last_checked_in=gate.server.last_in))
    assert await gate.waiting() == []
    assert not (await gate.scan()).verdict.admitted


async def test_not_recorded_and_admitted_here_is_uploaded(gate: Gate) -> None:
    decided = await gate.scan("never gets it")
    assert (decided.verdict, decided.origin) == (VALID, Origin.FALLBACK)
    assert await gate.uploaded() == []
    await gate.late_answer()
    assert await gate.uploaded() == [100]
    gate.clock.elapsed = 30.0
    assert not (await gate.scan()).verdict.admitted


async def test_not_recorded_and_admitted_here_is_uploaded_if_a_download_says_so(gate: Gate) -> None:
    assert (await gate.scan("never gets it")).verdict.admitted
    await gate.download(MINE)
    assert await gate.uploaded() == []  # the call could still be carried out
    gate.clock.elapsed = 30.0
    await gate.download(MINE)
    assert await gate.uploaded() == [100]


@never_alone
@pytest.mark.parametrize("lane", ["in", "other"])
@pytest.mark.parametrize("script", ["answers late", "is cut off"])
async def test_recorded_and_not_admitted_is_admitted_once_when_it_comes_again(
    gate: Gate, script: str, lane: str
) -> None:
    assert (await gate.scan(script)).verdict == deny(None, Reason.NO_ANSWER)
    await gate.late_answer()
    gate.clock.elapsed = 60.0
    again = await gate.scan(lane=lane)
    assert (again.verdict, again.origin) == (VALID, Origin.DIRECT)
    for elapsed in (61.0, 100.0, 119.0):  # a second copy
        gate.clock.elapsed = elapsed
        copy = await gate.scan(lane=lane)
        assert copy.verdict == deny(50, Reason.ALREADY_SCANNED, time=gate.server.last_in)
    assert await gate.waiting() == []
    assert gate.server.calls == 5


@never_alone
async def test_recorded_with_an_answer_that_admits_nobody_is_admitted_once_when_it_comes_again(
    gate: Gate,
) -> None:
    assert (await gate.scan("answers for several")).verdict == deny(None, Reason.REFUSED)
    gate.clock.elapsed = 60.0
    assert [(await gate.scan()).verdict.admitted for _ in range(2)] == [True, False]
    assert await gate.waiting() == []


@never_alone
async def test_recorded_late_and_admitted_by_another_scan_meanwhile_is_one_check_in(gate: Gate) -> None:
    assert (await gate.scan("answers late")).verdict == deny(None, Reason.NO_ANSWER)
    assert (await gate.scan(terms=Terms())).verdict == VALID  # the API is given up meanwhile
    assert await gate.waiting() == [(100, False)]
    await gate.late_answer()
    assert (await gate.waiting(), await gate.uploaded(), await gate.marked()) == ([], [], [])
    assert not (await gate.scan(terms=Terms())).verdict.admitted


@never_alone
async def test_recorded_late_and_uploaded_for_another_scan_meanwhile_is_marked(gate: Gate) -> None:
    await gate.scan("answers late")
    again = await gate.scan(terms=Terms())
    assert await gate.uploaded() == [100]
    alarms: list[dict[str, Any]] = []
    gate.asker.alarm = lambda **detail: alarms.append(detail)
    await gate.late_answer()
    assert await gate.marked() == [again.seq]
    assert [(each["what"], each["lane"]) for each in alarms] == [("recorded_twice", "in")]


@never_alone
async def test_recorded_late_while_another_scan_of_it_is_on_its_way_up_is_marked(gate: Gate) -> None:
    await gate.scan("answers late")
    again = await gate.scan(terms=Terms())
    rows = await gate.store.freeze(50, gate.clock.now())
    await gate.late_answer()
    assert await gate.marked() == [again.seq]
    await gate.store.keep(rows)  # it has not arrived after all
    assert await gate.waiting() == [(100, False)]


@never_alone
async def test_recorded_late_and_redeemed_meanwhile_is_one_check_in_and_not_marked(gate: Gate) -> None:
    await gate.scan("answers late")
    assert (await gate.scan()).verdict == VALID  # answered 50, within the call's time
    await gate.late_answer()
    assert (await gate.waiting(), await gate.marked()) == ([], [])


@never_alone
async def test_recorded_and_not_admitted_is_admitted_once_after_a_restart_too(gate: Gate) -> None:
    await gate.scan("is cut off")
    await gate.restart()
    gate.clock.elapsed = 60.0
    assert (await gate.scan()).verdict.admitted
    await gate.restart()
    assert not (await gate.scan()).verdict.admitted


@never_alone
async def test_recorded_as_the_power_goes_is_admitted_once_when_it_comes_again(
    gate: Gate, tmp_path: Path
) -> None:
    gate.rules = AskingRules(timedelta(minutes=1), fall_back=False)
    await gate.restart()
    gate.server.released.clear()
    cut_off = asyncio.create_task(gate.scan("answers late"))
    while not gate.server.calls:
        await asyncio.sleep(0)
    assert await gate.written() == []
    after = gate.after_a_power_cut(tmp_path / "after")
    await after.open()
    assert await after.written() == [("no_answer", True)]
    after.clock.elapsed = 60.0
    assert [(await after.scan()).verdict.admitted for _ in range(2)] == [True, False]
    assert await after.waiting() == []
    await after.close()
    gate.server.released.set()
    await cut_off


@pytest.mark.parametrize(
    ("script", "written"),
    [("answers", ("valid", False)), ("answers late", ("valid", True)), ("never gets it", ("valid", False))],
)
async def test_a_question_that_came_to_something_is_no_more_than_that_after_a_restart(
    gate: Gate, script: str, written: tuple[str, bool]
) -> None:
    await gate.scan(script)
    await gate.restart()
    assert await gate.written() == [written]


@never_alone
async def test_recorded_and_not_admitted_is_admitted_after_another_call_was_lost_too(gate: Gate) -> None:
    await gate.scan("is cut off")
    gate.clock.elapsed = 30.0
    await gate.scan("never gets it")
    gate.clock.elapsed = 60.0
    assert (await gate.scan()).verdict.admitted


@never_alone
async def test_recorded_and_not_admitted_is_forgotten_after_two_minutes(gate: Gate) -> None:
    await gate.scan("is cut off")
    gate.clock.elapsed = 121.0
    assert not (await gate.scan()).verdict.admitted


@never_alone
@pytest.mark.parametrize(("used", "admitted"), [(-6, False), (-5, True), (11, True), (12, False)])
async def test_recorded_outside_of_the_calls_window_is_somebody_elses_check_in(
    gate: Gate, used: float, admitted: bool
) -> None:
    await gate.scan("is cut off")
    gate.server.last_in = NOON + timedelta(seconds=used)
    gate.clock.elapsed = 60.0
    assert (await gate.scan()).verdict.admitted is admitted


async def test_recorded_and_denied_by_the_local_decision_is_admitted_once_when_it_comes_again(
    gate: Gate,
) -> None:
    await gate.download(MINE._replace(checkin_allowed=False))  # the organiser has allowed it since
    assert (await gate.scan("answers late")).verdict == deny(45, Reason.NOT_ALLOWED)
    await gate.late_answer()
    gate.clock.elapsed = 10.0
    assert [(await gate.scan()).verdict.admitted for _ in range(2)] == [True, False]


async def test_recorded_and_unknown_here_is_admitted_once_when_it_comes_again(tmp_path: Path) -> None:
    gate = Gate(tmp_path, fall_back=True)
    await gate.open()
    await gate.download(ticket("another"))
    assert (await gate.scan("answers late", terms=ASK_UNKNOWN)).verdict == UNKNOWN
    await gate.late_answer()
    gate.clock.elapsed = 10.0
    again = [await gate.scan(terms=ASK_UNKNOWN) for _ in range(2)]
    assert [decided.verdict.admitted for decided in again] == [True, False]
    assert again[0].origin is Origin.ASK
    await gate.close()


@never_alone
async def test_not_recorded_and_not_admitted_is_asked_about_again(gate: Gate) -> None:
    assert not (await gate.scan("never gets it")).verdict.admitted
    gate.clock.elapsed = 4.0
    again = await gate.scan()
    assert (again.verdict, again.origin) == (VALID, Origin.DIRECT)
    gate.clock.elapsed = 8.0  # a copy, while the lost call could be what the server tells of
    assert not (await gate.scan()).verdict.admitted
    assert (gate.server.calls, await gate.waiting()) == (3, [])


@never_alone
async def test_not_recorded_and_not_admitted_admits_no_copy_of_a_ticket_that_was_used_elsewhere(
    gate: Gate,
) -> None:
    gate.server.last_in = NOON - timedelta(seconds=2)  # at another gate
    assert not (await gate.scan("answers late")).verdict.admitted
    await gate.late_answer()  # it says so
    gate.clock.elapsed = 8.0
    assert not (await gate.scan()).verdict.admitted
