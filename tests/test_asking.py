"""Asking the API about one scan: deadline, answers and what they mean, in virtual time."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest

from gated.api.client import Dated, TicketScanApi
from gated.api.wire import DirectAnswer
from gated.asking import Asker, AskingRules, verdict_of
from gated.core.scan import Direction, LaneName, Moment, Scan, ScanId, TimeTrust
from gated.core.verdict import Origin, Reason, Verdict, admit, deny
from gated.errors import ApiAnswerLost, ApiError, ApiRefused, ApiUnreachable
from gated.store import Ask, Decided, Store
from tests import virtual_time

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
    settled: list[tuple[Verdict, Origin, bool]] = field(default_factory=list)
    recorded: list[int] = field(default_factory=list)

    async def settle(self, ask: Ask, verdict: Verdict, origin: Origin, *, by_server: bool) -> Decided:
        self.settled.append((verdict, origin, by_server))
        return Decided(ask.scan, verdict, origin, ask.ticket, len(self.settled))

    async def recorded_by_server(self, seq: int, monotonic: float) -> None:
        self.recorded.append(seq)


class Rig:
    def __init__(self, api: FakeApi, *, fall_back: bool = True) -> None:
        self.api = api
        self.store = FakeStore()
        rules = AskingRules(timedelta(seconds=1), fall_back)
        loop = asyncio.get_running_loop()
        self.asker = Asker(cast(TicketScanApi, api), cast(Store, self.store), rules, loop.time)
        self.asker.service = "service"

    async def ask(self, fallback: Verdict, direction: Direction = ENTRY) -> Decided:
        moment = Moment(NOON, TimeTrust.SYNCHRONISED, asyncio.get_running_loop().time(), "boot")
        scan = Scan(ScanId(UUID(int=1)), "A", LaneName("in"), direction, moment)
        return await self.asker.ask(Ask(scan, "A", None, fallback, Origin.DIRECT, frozenset()))


VALID, UNKNOWN = admit(100, Reason.VALID), deny(40, Reason.UNKNOWN)


def virtually(test: Coroutine[Any, Any, None]) -> None:
    virtual_time.run(test)


def test_an_admission_by_the_server_is_written_as_recorded_there() -> None:
    async def act() -> None:
        rig = Rig(FakeApi())
        decided = await rig.ask(UNKNOWN)
        assert (decided.verdict, decided.origin) == (VALID, Origin.DIRECT)
        assert rig.store.settled == [(VALID, Origin.DIRECT, True)]
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


def test_a_late_admission_does_not_settle_a_guest_who_was_denied() -> None:
    async def act() -> None:
        rig = Rig(FakeApi(delay=3.0), fall_back=False)
        decided = await rig.ask(VALID)
        assert decided.verdict == deny(None, Reason.NO_ANSWER)
        await asyncio.sleep(3)
        assert rig.store.recorded == []

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
