"""Asking the API about one scan, within a deadline, and whether that is worth trying.

- Only code 100 (entry) or 200 (exit), for the ticket that was sent, alone in the answer, admits.
- The request is never cancelled at the deadline: it may already be carried out. Its late answer settles the
  record and never releases a barrier. (A cancelled one also poisons httpcore's pool: encode/httpcore #1093.)
- After two failures in a row lanes decide locally at once, until the API answers again.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from gated import log
from gated.api.client import Dated, TicketScanApi
from gated.api.wire import DirectAnswer
from gated.clock import Clock
from gated.core.outbox import Window
from gated.core.scan import Direction, LaneName
from gated.core.verdict import Origin, Reason, Verdict, admit, deny
from gated.errors import ApiError, ApiRefused
from gated.store import Ask, Decided, Reply, Store

# At most so many questions a lane and minute that the API answers with 40: guessing must not be free.
_UNKNOWN_A_MINUTE = 10
_MINUTE = 60.0
# A call ends within so many seconds (the client's patience); the clocks differ by less than the slack.
_CALL_ENDS_S, _SLACK_S = 6, 5
_FAILURES = 2

_REASONS = {
    40: Reason.UNKNOWN,
    45: Reason.NOT_ALLOWED,
    50: Reason.ALREADY_SCANNED,
    60: Reason.EXPIRED,
    210: Reason.ALREADY_CHECKED_OUT,
    220: Reason.NOT_CHECKED_IN,
    230: Reason.NOT_IN_SERVICE,
}
_ODD = "The ticket may be checked in at the server: a guest who scans again within two minutes may get in."
_TWICE = (
    "The server has counted one guest twice: gated explain SCAN-ID. Ask the organiser to give the entry back."
)
_SEVERAL = "The server may have checked in all these tickets, as for an order's number: let their guests in."
_ADMITS = {Direction.ENTRY: (100, Reason.VALID), Direction.EXIT: (200, Reason.CHECKED_OUT)}


@dataclass(frozen=True, slots=True)
class AskingRules:
    """``deadline`` is how long a guest waits for the API; ``fall_back`` lets the local decision stand in."""

    deadline: timedelta = timedelta(seconds=1)
    fall_back: bool = True


def verdict_of(answer: DirectAnswer, direction: Direction) -> Verdict | None:
    """What the API's answer means at a lane; None if it can't be understood."""
    if answer.code is None:
        return None
    code, reason = _ADMITS[direction]
    if answer.code == code and answer.matches and answer.elements == 1:
        return admit(code, reason)
    if answer.code not in _REASONS:
        return deny(None, Reason.REFUSED)
    expired = answer.ticket.expire_from or answer.ticket.valid_till if answer.ticket else None
    entered = answer.last_checked_in if answer.matches else None  # a lost call of ours is told by this time
    time = {50: entered, 60: expired}.get(answer.code)
    return deny(answer.code, _REASONS[answer.code], time=time)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came of a call: the verdict if it was answered; whether it may be recorded without saying so."""

    verdict: Verdict | None
    maybe_recorded: bool


class Asker:
    """Asks the API about single scans."""

    def __init__(self, api: TicketScanApi, store: Store, rules: AskingRules, clock: Clock) -> None:
        self._api = api
        self._store = store
        self._rules = rules
        self._clock = clock
        self._log = log.get("asking")
        self._failures = 0
        self._unknown: defaultdict[LaneName, deque[float]] = defaultdict(deque)
        self._running: set[asyncio.Task[Any]] = set()
        self.service: str | None = None
        """The chosen service; nothing can be asked before there is one."""
        self.alarm: Callable[..., None] = partial(self._log.error, "alarm")
        """Tells a person what to look at; the link shows it in the status too."""

    @property
    def falls_back(self) -> bool:
        """Whether the local decision may stand in for an answer."""
        return self._rules.fall_back

    @property
    def worthwhile(self) -> bool:
        """Whether the API is thought to answer."""
        return self.service is not None and self._failures < _FAILURES

    def answered(self) -> None:
        """The API has answered a question, or a probe."""
        self._failures = 0

    def did_not_answer(self) -> None:
        """The API has not answered."""
        self._failures += 1

    def rationed(self, lane: LaneName) -> bool:
        """Whether a lane has asked about too many barcodes that nobody knows."""
        times = self._unknown[lane]
        while times and self._clock.now().monotonic - times[0] > _MINUTE:
            times.popleft()
        return len(times) >= _UNKNOWN_A_MINUTE

    async def ask(self, ask: Ask) -> Decided:
        """Puts the question, and writes down what came of it."""
        began = int(self._clock.now().wall.timestamp())
        window = Window(began - _SLACK_S, began + _CALL_ENDS_S + _SLACK_S)
        call = asyncio.create_task(self._call(ask))
        self._keep(call)
        if ask.scan.direction is Direction.ENTRY:  # an exit's lost call keeps nobody out
            self._store.note_question(ask, window)  # on its way to the disk while the call is to the server
        done, _ = await asyncio.wait({call}, timeout=self._rules.deadline.total_seconds())
        answer = call.result() if done else _Answer(None, maybe_recorded=True)
        if answer.verdict is None:
            self.did_not_answer()
            decided = await self._fall_back(ask, window if answer.maybe_recorded else None)
            if not done:
                self._keep(asyncio.create_task(self._settle_late(call, decided)))
            return decided
        self.answered()
        if answer.verdict.reason is Reason.UNKNOWN:
            self._unknown[ask.scan.lane].append(self._clock.now().monotonic)
        answered = self._clock.now().monotonic
        lost = window if answer.maybe_recorded else None
        return await self._store.settle(ask, Reply(answer.verdict, ask.origin, answered, lost))

    async def close(self) -> None:
        """Lets requests under way end; each has a time-out of its own."""
        if self._running:
            await asyncio.wait(self._running, timeout=1.0)
        for task in self._running:
            task.cancel()

    async def _call(self, ask: Ask) -> "_Answer":
        """What the API says, and what it may have done without saying so."""
        send = self._api.check_in if ask.scan.direction is Direction.ENTRY else self._api.check_out
        try:
            answer: Dated[DirectAnswer] = await send(self.service or "", ask.barcode_id)
        except ApiRefused as error:
            self._log.warning("ask_refused", status=error.status, error=str(error))
            return _Answer(_refusal(error.status, ask), maybe_recorded=error.may_be_done)
        except ApiError as error:
            self._log.warning("ask_failed", error=str(error), hint=error.hint)
            return _Answer(None, maybe_recorded=error.may_be_done)
        said, verdict = answer.value, verdict_of(answer.value, ask.scan.direction)
        odd = verdict is None or verdict.reason is Reason.REFUSED or said.elements > 1
        if odd:
            text = said.message.replace(ask.barcode_id, "…").replace(ask.scan.barcode, "…")
            hint = _SEVERAL if said.elements > 1 else _ODD
            self.alarm(what="answer_odd", code=said.code, said=text, tickets=said.elements, hint=hint)
        return _Answer(verdict, maybe_recorded=odd)

    async def _fall_back(self, ask: Ask, call: Window | None) -> Decided:
        verdict = ask.fallback if self._rules.fall_back else deny(None, Reason.NO_ANSWER)
        return await self._store.settle(ask, Reply(verdict, Origin.FALLBACK, call=call))

    async def _settle_late(self, call: "asyncio.Task[_Answer]", decided: Decided) -> None:
        """What became of a call that its guest did not wait for.

        Five ways it can have ended, and what is done:

        - recorded, guest admitted here: it is the same check-in, and is not uploaded;
        - not recorded, guest admitted here: it is uploaded;
        - recorded, guest admitted here by another scan meanwhile: the same, but where that scan has gone up
          already, it is marked, since the server has it twice;
        - recorded, guest not admitted: the same barcode, coming again within two minutes, is answered 50 with
          a time inside the call's window, and is admitted once (:meth:`gated.store.desk.Desk.settle`);
        - not recorded, guest not admitted: coming again, it is asked about again, and an answer of 50 is then
          about somebody else's check-in.

        Where the call itself ended without an answer, a later download shows which it was.
        """
        answer = await call
        if answer.verdict is not None:
            self.answered()
            self._log.info(
                "late_answer",
                lane=decided.scan.lane,
                code=answer.verdict.code,
                verdict=decided.verdict.word,
                scan=str(decided.scan.id),
            )
        if answer.maybe_recorded or decided.seq is None:
            return
        if answer.verdict is None or not answer.verdict.admitted:
            await self._store.not_recorded_by_server(decided.seq)
        else:
            once = await self._store.recorded_by_server(decided.seq, self._clock.now().monotonic)
            if not once:
                scan = decided.scan
                self.alarm(what="recorded_twice", lane=scan.lane, scan=str(scan.id), hint=_TWICE)

    def _keep(self, task: "asyncio.Task[Any]") -> None:
        self._running.add(task)
        task.add_done_callback(self._running.discard)


def _refusal(status: int, ask: Ask) -> Verdict | None:
    """A bare 400 or 422 is a refusal: the server took the question and has not let the guest in.

    Any other status says nothing about the ticket.
    """
    if status not in (400, 422):
        return None
    if ask.ticket is None and ask.scan.direction is Direction.ENTRY:
        return deny(40, Reason.UNKNOWN)
    return deny(None, Reason.REFUSED)
