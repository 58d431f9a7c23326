"""The desk: look-up, overlay, decision and journal entry as one uninterrupted step of the database thread.

So two lanes that read the same ticket at once can't both admit it. Where the server has to be asked, the desk
holds the ticket until the answer is written down, under the text that was scanned as well as under its
barcode_id, since a download may make the ticket known meanwhile; another lane is told that it is busy.

When the journal can't be written, the lane is told so and follows ``[disk] on_failure``: what was decided
then waits in memory, counts in the overlay, and is written first when the disk is back. What the server has
recorded itself is admitted in any case: nothing could be lost.

A gate has two desks on one :class:`Memory`. The first looks up, decides and writes. The second decides where
the disk holds the first one up (gated/store/front.py): it has connections of its own, only reads, and leaves
what it decides in memory. Memory is locked while a scan is looked up and decided, never while the disk is
waited for; a scan is in it from its decision until it is on disk, so that neither desk overlooks it.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gated.core.decide import Now, Question, Rules, decide
from gated.core.outbox import Window, kind_of
from gated.core.overlay import NOTHING, Movement, Overlay, exceeds, left, overlay_of, used
from gated.core.scan import Direction, Scan, ScanId, TimeTrust
from gated.core.ticket import Ticket
from gated.core.verdict import Origin, Reason, Verdict, admit, deny
from gated.store.database import damaged
from gated.store.journal import Entry, Journal, Lapsed, Overused
from gated.store.memory import Memory, Pending
from gated.store.mirror import Ambiguous, Found, Mirror

# A guest whose check-in was lost on the way comes again within this time (running milliseconds).
_LOST_CALL_MS = 120_000
_VALID = admit(100, Reason.VALID)
# As many as wait in memory are written with the next scan; if more do, they wait for a look at the disk.
_TRIED_AT_A_SCAN = 100
# Scans that are written in one piece when the disk is back: a scan waits for no more than that.
_WRITTEN_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for one scan: its lane's ticket types, and what the server may be asked.

    ``ask_known`` is the direct strategy; ``ask_unknown`` is asking about tickets that nobody here knows;
    ``rationed`` says that this lane has used up its questions for now.
    """

    lane_types: frozenset[str] = frozenset()
    ask_known: bool = False
    ask_unknown: bool = False
    rationed: bool = False
    unasked: bool = False
    """The server should be asked and can't be, and the local decision may not stand in for it."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A verdict that is written down. ``seq`` is its number in the journal, None while the disk fails."""

    scan: Scan
    verdict: Verdict
    origin: Origin
    ticket: Ticket | None
    seq: int | None


@dataclass(frozen=True, slots=True)
class Ask:
    """The server has to be asked about ``barcode_id``; ``fallback`` stands if it gives no answer.

    The ticket is held until :meth:`Desk.settle`.
    """

    scan: Scan
    barcode_id: str
    ticket: Ticket | None
    fallback: Verdict
    origin: Origin
    holds: frozenset[bytes]
    """Digests of the barcode_id and of the text that was scanned."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a question."""

    verdict: Verdict
    origin: Origin
    answered: float | None = None
    """The monotonic time of the server's answer, if it is the server's: what it admits it has recorded."""
    call: Window | None = None
    """When the server may have carried out the call, if its answer was lost."""


@dataclass(frozen=True, slots=True)
class Double:
    """A ticket that was checked in more often than it allows, and when this gate admitted it."""

    ticket: Ticket
    here: tuple[datetime, ...]


@dataclass(frozen=True, slots=True)
class Considered:
    """What a scan would be answered now, and all that this would rest on.

    ``asks`` says that the server would be asked: ``verdict`` stands if it does not answer. ``digests`` are
    those under which the journal may have filed the ticket's scans.
    """

    found: Found | None
    digests: frozenset[bytes]
    question: Question
    left: int
    verdict: Verdict
    asks: bool


@dataclass(frozen=True, slots=True)
class _Case:
    """A scan with all that was looked up for it."""

    scan: Scan
    scanned: bytes | None
    """The digest of the text that was scanned; None where that was malformed."""
    now: Now
    found: Found | None = None
    lapsed: Lapsed | None = None
    overlay: Overlay = NOTHING

    @property
    def ticket(self) -> Ticket | None:
        return self.found.ticket if self.found else None

    @property
    def digest(self) -> bytes | None:
        """The digest that the scan is filed under."""
        return self.found.digest if self.found else self.scanned

    @property
    def barcode_id(self) -> str:
        """What the server knows the ticket by, or at least what was scanned."""
        return self.found.ticket.barcode_id if self.found else self.scan.barcode


_Entered = tuple[Pending, tuple[Pending, ...]]
"""A scan that has just been decided, and all that waits for the disk, itself the last."""


class Desk:
    """Takes the decisions of a gate, one at a time."""

    def __init__(self, mirror: Mirror, journal: Journal, memory: Memory, *, writes: bool = True) -> None:
        """The second desk is the one that does not write."""
        self._mirror = mirror
        self._journal = journal
        self._memory = memory
        self._running = memory.running
        self._rules = memory.rules
        self._writes = writes

    def decide(self, scan: Scan, terms: Terms) -> Decided | Ask:
        """Decides a scan and writes it down, or says that the server has to be asked."""
        with self._memory.lock:
            case, answer = self._weigh(scan, terms)
            if isinstance(answer, Ask):
                self._memory.held |= answer.holds
                self._memory.asked.add(scan.id)
                return answer
            origin = Origin.REGRANT if _regrants(answer) else Origin.LOCAL
            entered = self._conclude(case, Reply(answer, origin))
        return self._write(entered)

    def _weigh(self, scan: Scan, terms: Terms) -> tuple[_Case, Ask | Verdict]:
        scanned = self._mirror.digest(scan.barcode)
        found = self._mirror.find(scan.barcode, scanned)
        if isinstance(found, Ambiguous):
            return _Case(scan, scanned, self._now(scan)), deny(None, Reason.AMBIGUOUS)
        case = self._look_up(scan, scanned, found)
        if self._memory.held and not self._memory.held.isdisjoint(_digests(case)):
            return case, deny(None, Reason.BUSY)
        return case, self._question(case, self._local(case, terms), terms)

    def note(self, ask: Ask, call: Window) -> None:
        """Writes down that the server is being asked: should gated end before the answer, it is a lost call.

        So a guest whose check-in was recorded as the power went gets in when he scans again. While the disk
        fails nothing is noted.
        """
        unanswered = Reply(deny(None, Reason.NO_ANSWER), ask.origin, call=call)
        with self._memory.lock:
            if ask.scan.id not in self._memory.asked:  # answered already, while the disk made this wait
                return
            entry = self._entry(self._case(ask.scan), unanswered, None)
        try:
            self._journal.note_question(entry)
        except sqlite3.Error as error:
            if damaged(error):
                raise

    def settle(self, ask: Ask, reply: Reply) -> Decided:
        """Writes down what came of a question, and lets the ticket go."""
        with self._memory.lock:
            self._let_go(ask)
            entered = self._conclude(self._case(ask.scan), reply)
        return self._write(entered)

    def let_go(self, ask: Ask) -> None:
        """Nobody will put that question: its scan was answered otherwise meanwhile."""
        with self._memory.lock:
            self._let_go(ask)

    def _let_go(self, ask: Ask) -> None:
        self._memory.held -= ask.holds
        self._memory.asked.discard(ask.scan.id)

    def _conclude(self, case: _Case, reply: Reply) -> _Entered:
        """Enters a verdict; one that a lost call of ours explains becomes an ADMIT."""
        lost = self._lost_call(case, reply.verdict)
        if lost is not None:
            answered = case.scan.at.monotonic if reply.answered is None else reply.answered
            reply = Reply(_VALID, reply.origin, answered)
        return self._enter(case, reply, redeems=lost)

    def _lost_call(self, case: _Case, verdict: Verdict) -> int | None:
        """The lost call that made this ticket "already scanned": its guest did not get in, and does now.

        The server, or its row in the mirror, says 50 with a time at which it may have carried out our own
        call about this ticket, of the last two minutes, and nobody was admitted with the ticket here since.
        What this can't tell apart: somebody else's copy, scanned elsewhere in those very seconds; and a guest
        whom we let in with it while the disk failed, if the power went before that could be written.
        """
        if verdict.code != 50 or verdict.time is None:
            return None
        digests = _digests(case)
        if any(entry.verdict.admitted for entry in self._waiting(digests)):
            return None
        since_ms = self._running.at(case.scan.at.monotonic) - _LOST_CALL_MS
        return self._journal.lost_call(tuple(digests), since_ms, int(verdict.time.timestamp()))

    def write_undecided(self, scan: Scan, verdict: Verdict) -> Decided:
        """Writes down a scan that was not decided on: the lane took no tickets, or the text was malformed."""
        scanned = self._mirror.digest(scan.barcode) if scan.barcode else None
        with self._memory.lock:
            entered = self._enter(_Case(scan, scanned, self._now(scan)), Reply(verdict, Origin.LOCAL))
        return self._write(entered)

    def override(self, scan: Scan) -> Decided:
        """Writes down that an operator admitted a ticket, whatever the rules say."""
        verdict = (
            admit(100, Reason.VALID) if scan.direction is Direction.ENTRY else admit(200, Reason.CHECKED_OUT)
        )
        with self._memory.lock:
            entered = self._enter(self._case(scan), Reply(verdict, Origin.OVERRIDE))
        return self._write(entered)

    def write_waiting(self) -> int:
        """Writes what waits in memory since the disk failed; returns how much still waits."""
        with self._memory.lock:
            batch = tuple(self._memory.waiting[:_WRITTEN_AT_ONCE])
        try:
            if batch:
                self._written(batch, self._journal.write([each.entry for each in batch]))
            self._write_refused()
        except sqlite3.Error as error:
            if damaged(error):
                raise
            # The disk still fails: all of it still waits.
        return len(self._memory.waiting)

    def _write_refused(self) -> None:
        while self._memory.refused:
            with self._memory.lock:  # the other desk adds to them
                refused = self._memory.refused.pop()
            try:
                self._journal.refuse(*refused)
            except sqlite3.Error:
                with self._memory.lock:
                    self._memory.refused.append(refused)
                raise

    # While the disk holds a scan up

    def overtake(self, scan: ScanId) -> Decided | None:
        """The verdict on a scan that the disk does not take, to be acted on; None if that is not known here.

        Follows ``[disk] on_failure``, as if the disk had failed already.
        """
        with self._memory.lock:
            for place, pending in enumerate(self._memory.waiting):
                if pending.entry.scan.id == scan:
                    overtaken = replace(pending, entry=self._undurable(pending.entry))
                    self._memory.waiting[place] = overtaken
                    return _decided(overtaken)
        return None

    def disown(self, decided: Decided) -> None:
        """Takes back an admission that came too late: its guest was turned away, and may come again."""
        with self._memory.lock:
            if decided.seq is not None:
                self._memory.refused.append((decided.seq, None))
            for place, pending in enumerate(self._memory.waiting):
                if pending.entry.scan.id == decided.scan.id:
                    self._memory.waiting[place] = replace(pending, entry=_turned_away(pending.entry))

    def doubles(self, tickets: Sequence[Ticket]) -> tuple[Double, ...]:
        """Which of these downloaded tickets were checked in too often, once here.

        Each count is told once, and once more when the organiser has reset the ticket in between.
        """
        told, digest = self._journal.doubles_told(), self._mirror.digest
        over = [ticket for ticket in tickets if ticket.checked_in > 1 and exceeds(ticket)]
        unused = (digest(ticket.barcode_id) for ticket in tickets if told and not ticket.checked_in)
        overused = [
            Overused(
                digest(ticket.barcode_id),
                digest(ticket.external_barcode_id or ticket.barcode_id),
                ticket.checked_in,
            )
            for ticket in over
        ]
        here = self._journal.report_doubles(overused, told.intersection(unused))
        return tuple(Double(ticket, times) for ticket, times in zip(over, here, strict=True) if times)

    def consider(self, scan: Scan, terms: Terms) -> Considered:
        """What :meth:`decide` would answer now, and why. Nothing is held or written."""
        with self._memory.lock:
            case, answer = self._weigh(scan, terms)
            verdict = answer.fallback if isinstance(answer, Ask) else answer
            return Considered(
                found=case.found,
                digests=_digests(case),
                question=Question(case.ticket, case.overlay, self._rules_for(case, terms), case.now),
                left=self._left(case.ticket, case.overlay),
                verdict=verdict if self._lost_call(case, verdict) is None else _VALID,
                asks=isinstance(answer, Ask),
            )

    def unwritten(self) -> tuple[Entry, ...]:
        """What waits in memory since the disk failed."""
        with self._memory.lock:
            return tuple(pending.entry for pending in self._memory.waiting)

    def _waiting(self, digests: frozenset[bytes]) -> list[Entry]:
        """What waits in memory of a ticket, but for what has come to the disk this very moment."""
        waiting = [each.entry for each in self._memory.waiting if each.entry.ticket in digests]
        return [entry for entry in waiting if not self._journal.has(entry)]

    def _case(self, scan: Scan) -> _Case:
        scanned = self._mirror.digest(scan.barcode)
        found = self._mirror.find(scan.barcode, scanned)
        return self._look_up(scan, scanned, None if isinstance(found, Ambiguous) else found)

    def _look_up(self, scan: Scan, scanned: bytes, found: Found | None) -> _Case:
        digest = found.digest if found else scanned
        asked_ms = found.asked_ms if found else -1
        history = self._journal.history(digest, asked_ms, scanned)
        waiting = self._waiting(frozenset((digest, scanned))) if self._memory.waiting else []
        now = self._now(scan)
        if not (history.movements or history.lapsed or waiting):
            return _Case(scan, scanned, now, found)
        movements = history.movements + tuple(_movement(entry, asked_ms) for entry in waiting if entry.moves)
        lapsed = history.lapsed
        admitted_since = any(entry.verdict.admitted for entry in waiting)
        if lapsed is not None and (admitted_since or self._too_old(lapsed, scan)):
            lapsed = None
        return _Case(scan, scanned, now, found, lapsed, overlay_of(movements, lapsed=lapsed is not None))

    def _too_old(self, lapsed: Lapsed, scan: Scan) -> bool:
        age_ms = self._running.at(scan.at.monotonic) - lapsed.running_ms
        return age_ms > self._rules.regrant.total_seconds() * 1000

    def _local(self, case: _Case, terms: Terms) -> Verdict:
        if case.found is None and self._mirror.is_order(case.scan.barcode):
            return deny(40 if case.scan.direction is Direction.ENTRY else 230, Reason.ORDER)
        if case.found is None and not self._mirror.note("complete"):
            return deny(None, Reason.NOT_READY)
        rules = self._rules_for(case, terms)
        return decide(case.scan, case.ticket, case.overlay, rules, case.now)

    def _rules_for(self, case: _Case, terms: Terms) -> Rules:
        memory = self._memory
        types_count = case.found is not None and memory.service_read_ms > case.found.asked_ms
        return Rules(
            terms.lane_types,
            memory.service_types if types_count else frozenset(),
            self._rules.reentry_after_checkout,
        )

    def _now(self, scan: Scan) -> Now:
        memory = self._memory
        if scan.at.trust is not TimeTrust.UNKNOWN:
            if scan.at.wall >= memory.latest:
                memory.latest, memory.latest_ms = scan.at.wall, self._running.at(scan.at.monotonic)
            return Now(scan.at.wall, scan.at.trust)
        since_ms = self._running.at(scan.at.monotonic) - memory.latest_ms
        return Now(memory.latest + timedelta(milliseconds=max(0, since_ms)), TimeTrust.UNKNOWN)

    def _question(self, case: _Case, verdict: Verdict, terms: Terms) -> Ask | Verdict:
        """The question for the server, or the verdict that needs none."""
        if case.ticket is None:
            return self._question_unknown(case, verdict, terms)
        wrong_type = verdict.reason is Reason.NOT_ALLOWED and case.ticket.checkin_allowed
        # A ticket that moved here without the server's knowledge is decided here: the server would admit it
        # once more, or find that a guest who wants to leave was never in.
        if wrong_type or _regrants(verdict) or case.overlay.unsent:
            return verdict
        if terms.ask_known:
            return self._ask(case, verdict, Origin.DIRECT)
        return deny(None, Reason.NO_ANSWER) if terms.unasked and verdict.admitted else verdict

    def _question_unknown(self, case: _Case, verdict: Verdict, terms: Terms) -> Ask | Verdict:
        """About a ticket that nobody here knows. An exit asks in the direct strategy alone."""
        exit_knows = case.scan.direction is Direction.EXIT and not terms.ask_known
        if terms.lane_types or not terms.ask_unknown or exit_knows or verdict.reason is Reason.ORDER:
            return verdict
        if terms.rationed and verdict.reason is not Reason.NOT_READY:
            return deny(None, Reason.BUSY)
        return self._ask(case, verdict, Origin.DIRECT if terms.ask_known else Origin.ASK)

    def _ask(self, case: _Case, fallback: Verdict, origin: Origin) -> Ask:
        return Ask(case.scan, case.barcode_id, case.ticket, fallback, origin, _digests(case))

    def _enter(self, case: _Case, reply: Reply, *, redeems: int | None = None) -> _Entered:
        pending = Pending(self._entry(case, reply, redeems), case.ticket)
        self._memory.waiting.append(pending)
        return pending, tuple(self._memory.waiting)

    def _write(self, entered: _Entered) -> Decided:
        """Makes a decision durable, with all that waits; as far as the disk lets us."""
        pending, batch = entered
        if not self._writes or len(batch) > _TRIED_AT_A_SCAN:
            return self._put_off(pending)
        try:
            seq = self._written(batch, self._journal.write([each.entry for each in batch]))
        except sqlite3.Error:
            return self._put_off(pending)
        return _decided(pending, seq)

    def _written(self, batch: tuple[Pending, ...], last: int) -> int:
        """These are on disk, the last under that number. Who was turned away meanwhile may come again."""
        memory = self._memory
        with memory.lock:
            now, memory.waiting = memory.waiting[: len(batch)], memory.waiting[len(batch) :]
            first = last - len(batch) + 1
            memory.refused += [
                (first + place, was.entry.redeems)
                for place, (was, is_now) in enumerate(zip(batch, now, strict=True))
                if was.entry.verdict.admitted and not is_now.entry.verdict.admitted
            ]
        return last

    def _put_off(self, pending: Pending) -> Decided:
        """Keeps in memory what can't be written now."""
        decided = self.overtake(pending.entry.scan.id)
        assert decided is not None
        return decided

    def _undurable(self, entry: Entry) -> Entry:
        """An entry as it is acted on while it is not on disk: an admission only if that is the rule."""
        admitted = entry.verdict.admitted and entry.acknowledged_ms is None
        if admitted and not self._rules.admit_undurable:
            entry = _turned_away(entry)
        return entry._replace(undurable=True)

    def _entry(self, case: _Case, reply: Reply, redeems: int | None) -> Entry:
        verdict, ticket, regrants = reply.verdict, case.ticket, _regrants(reply.verdict)
        recorded = reply.answered if verdict.admitted else None
        if regrants and case.lapsed is not None:
            redeems = case.lapsed.seq
        return Entry(
            scan=_bounded(case),
            service=self._memory.service,
            ticket=case.digest,
            verdict=verdict,
            origin=reply.origin,
            moves=verdict.admitted and not regrants,
            count_before=used(ticket, case.overlay),
            left_before=self._left(ticket, case.overlay),
            running_ms=self._running.at(case.scan.at.monotonic),
            acknowledged_ms=None if recorded is None else self._running.at(recorded),
            kind=kind_of(verdict, reply.origin, self._rules.upload) if recorded is None else None,
            barcode_id=case.barcode_id,
            redeems=redeems,
            call=reply.call,
        )

    def _left(self, ticket: Ticket | None, overlay: Overlay) -> int:
        if ticket is None:
            return 0
        return left(ticket, overlay, reentry_after_checkout=self._rules.reentry_after_checkout)


def _regrants(verdict: Verdict) -> bool:
    return verdict.reason is Reason.REGRANT


def _digests(case: _Case) -> frozenset[bytes]:
    """The digests that the ticket's scans may be filed under."""
    return frozenset(each for each in (case.scanned, case.digest) if each is not None)


def _bounded(case: _Case) -> Scan:
    """The scan with the best lower bound of its time, where that is not known."""
    scan, now = case.scan, case.now
    if now.trust is not TimeTrust.UNKNOWN or now.time <= scan.at.wall:
        return scan
    return replace(scan, at=replace(scan.at, wall=now.time))


def _decided(pending: Pending, seq: int | None = None) -> Decided:
    entry = pending.entry
    return Decided(entry.scan, entry.verdict, entry.origin, pending.ticket, seq)


def _turned_away(entry: Entry) -> Entry:
    """The entry of a guest who was not let in since the disk failed: nothing is spent."""
    fault = deny(None, Reason.FAULT)
    return entry._replace(verdict=fault, moves=False, kind=None, redeems=None, undurable=True)


def _movement(entry: Entry, asked_ms: int) -> Movement:
    scan = entry.scan
    return Movement(
        scan.direction,
        entry.acknowledged_ms is not None,
        entry.count_before,
        entry.left_before,
        scan.at.wall,
        scan.lane,
        newer=entry.acknowledged_ms is not None and entry.acknowledged_ms > asked_ms,
    )
