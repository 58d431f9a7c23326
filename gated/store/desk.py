"""The desk: look-up, overlay, decision and journal entry as one uninterrupted step of the database thread.

So two lanes that read the same ticket at once can't both admit it. Where the server has to be asked, the desk
holds the ticket until the answer is written down, under the text that was scanned as well as under its
barcode_id, since a download may make the ticket known meanwhile; another lane is told that it is busy.

When the journal can't be written, the lane is told so and follows ``[disk] on_failure``: what was decided
then waits in memory, counts in the overlay, and is written first when the disk is back. What the server has
recorded itself is admitted in any case: nothing could be lost.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from gated.core.decide import Now, Question, Rules, decide
from gated.core.outbox import UPLOAD_ALL, UploadRules, Window, kind_of
from gated.core.overlay import NOTHING, Movement, Overlay, exceeds, left, overlay_of, used
from gated.core.scan import Direction, Scan, TimeTrust
from gated.core.ticket import Ticket
from gated.core.verdict import Origin, Reason, Verdict, admit, deny
from gated.store.journal import Entry, Journal, Lapsed
from gated.store.mirror import Ambiguous, Found, Mirror
from gated.store.running import RunningTime

# A guest whose check-in was lost on the way comes again within this time (running milliseconds).
_LOST_CALL_MS = 120_000
_VALID = admit(100, Reason.VALID)


@dataclass(frozen=True, slots=True)
class DeskRules:
    """What holds for every scan at this gate."""

    reentry_after_checkout: bool = False
    regrant: timedelta = timedelta(minutes=15)
    upload: UploadRules = UPLOAD_ALL
    admit_undurable: bool = True


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
    digest: bytes | None
    found: Found | None = None
    lapsed: Lapsed | None = None
    overlay: Overlay = NOTHING

    @property
    def ticket(self) -> Ticket | None:
        return self.found.ticket if self.found else None

    @property
    def barcode_id(self) -> str:
        """What the server knows the ticket by, or at least what was scanned."""
        return self.found.ticket.barcode_id if self.found else self.scan.barcode


class Desk:
    """Takes the decisions of a gate, one at a time."""

    def __init__(self, mirror: Mirror, journal: Journal, running: RunningTime, rules: DeskRules) -> None:
        self._mirror = mirror
        self._journal = journal
        self._running = running
        self._rules = rules
        self._held: set[bytes] = set()
        self._unwritten: list[Entry] = []
        wall_ms, self._latest_ms = journal.latest_time()
        self._latest = datetime.fromtimestamp(wall_ms / 1000, UTC)
        self.service = ""
        self.service_types: frozenset[str] = frozenset()
        self.service_read_ms = 0  # running time; types count only for rows asked for before

    def decide(self, scan: Scan, terms: Terms) -> Decided | Ask:
        """Decides a scan and writes it down, or says that the server has to be asked."""
        case, answer = self._weigh(scan, terms)
        if isinstance(answer, Ask):
            self._held |= answer.holds
            return answer
        origin = Origin.REGRANT if _regrants(answer) else Origin.LOCAL
        return self._conclude(case, Reply(answer, origin))

    def _weigh(self, scan: Scan, terms: Terms) -> tuple[_Case, Ask | Verdict]:
        found = self._mirror.find(scan.barcode)
        if isinstance(found, Ambiguous):
            return _Case(scan, self._mirror.digest(scan.barcode)), deny(None, Reason.AMBIGUOUS)
        case = self._look_up(scan, found)
        if not self._held.isdisjoint(self._digests(case)):
            return case, deny(None, Reason.BUSY)
        return case, self._question(case, self._local(case, terms), terms)

    def settle(self, ask: Ask, reply: Reply) -> Decided:
        """Writes down what came of a question, and lets the ticket go."""
        self._held -= ask.holds
        return self._conclude(self._look_up(ask.scan, self._found(ask.scan.barcode)), reply)

    def _conclude(self, case: _Case, reply: Reply) -> Decided:
        """Writes down a verdict; one that a lost call of ours explains becomes an ADMIT."""
        lost = self._lost_call(case, reply.verdict)
        if lost is not None:
            answered = case.scan.at.monotonic if reply.answered is None else reply.answered
            reply = Reply(_VALID, reply.origin, answered)
        return self._write(case, reply, redeems=lost)

    def _lost_call(self, case: _Case, verdict: Verdict) -> int | None:
        """The lost call that made this ticket "already scanned": its guest did not get in, and does now.

        The server, or its row in the mirror, says 50 with a time at which it may have carried out our own
        call about this ticket, of the last two minutes, and nobody was admitted with the ticket here since.
        Somebody else's copy, scanned elsewhere in those very seconds, is what this can't tell apart.
        """
        if verdict.code != 50 or verdict.time is None:
            return None
        digests = self._digests(case)
        if any(_admits(entry) and entry.ticket in digests for entry in self._unwritten):
            return None
        since_ms = self._running.at(case.scan.at.monotonic) - _LOST_CALL_MS
        found = self._journal.lost_call(tuple(digests), since_ms)
        if found is None or not found[1].has(int(verdict.time.timestamp())):
            return None
        return found[0]

    def write_undecided(self, scan: Scan, verdict: Verdict) -> Decided:
        """Writes down a scan that was not decided on: the lane took no tickets, or the text was malformed."""
        digest = self._mirror.digest(scan.barcode) if scan.barcode else None
        return self._write(_Case(scan, digest), Reply(verdict, Origin.LOCAL))

    def override(self, scan: Scan) -> Decided:
        """Writes down that an operator admitted a ticket, whatever the rules say."""
        verdict = (
            admit(100, Reason.VALID) if scan.direction is Direction.ENTRY else admit(200, Reason.CHECKED_OUT)
        )
        return self._write(self._look_up(scan, self._found(scan.barcode)), Reply(verdict, Origin.OVERRIDE))

    def write_waiting(self) -> int:
        """Writes what waits in memory since the disk failed; returns how much still waits."""
        if self._unwritten:
            try:
                self._journal.write(self._unwritten)
            except sqlite3.Error:
                return len(self._unwritten)
            self._unwritten.clear()
        return 0

    def doubles(self, tickets: Iterable[Ticket]) -> tuple[Double, ...]:
        """Which of these downloaded tickets were checked in too often, once here.

        Each count is told once, and once more when the organiser has reset the ticket in between.
        """
        found = []
        told = self._journal.doubles_told()
        for ticket in tickets:
            if ticket.checked_in > 1 and exceeds(ticket):
                digest = self._mirror.digest(ticket.barcode_id)
                external = self._mirror.digest(ticket.external_barcode_id or ticket.barcode_id)
                here = self._journal.report_double(digest, external, ticket.checked_in)
                if here:
                    found.append(Double(ticket, here))
            elif told and not ticket.checked_in:
                self._journal.forget_double(self._mirror.digest(ticket.barcode_id))
        return tuple(found)

    def consider(self, scan: Scan, terms: Terms) -> Considered:
        """What :meth:`decide` would answer now, and why. Nothing is held or written."""
        case, answer = self._weigh(scan, terms)
        verdict = answer.fallback if isinstance(answer, Ask) else answer
        return Considered(
            found=case.found,
            digests=self._digests(case),
            question=Question(case.ticket, case.overlay, self._rules_for(case, terms), self._now(scan)),
            left=self._left(case),
            verdict=verdict if self._lost_call(case, verdict) is None else _VALID,
            asks=isinstance(answer, Ask),
        )

    def unwritten(self) -> tuple[Entry, ...]:
        """What waits in memory since the disk failed."""
        return tuple(self._unwritten)

    def _found(self, barcode: str) -> Found | None:
        found = self._mirror.find(barcode)
        return None if isinstance(found, Ambiguous) else found

    def _digests(self, case: _Case) -> frozenset[bytes]:
        scanned = self._mirror.digest(case.scan.barcode)
        return frozenset((scanned, case.digest or scanned))

    def _look_up(self, scan: Scan, found: Found | None) -> _Case:
        scanned = self._mirror.digest(scan.barcode)
        digest = found.digest if found else scanned
        asked_ms = found.asked_ms if found else -1
        history = self._journal.history(digest, asked_ms, scanned)
        waiting = [entry for entry in self._unwritten if entry.ticket in (digest, scanned)]
        movements = history.movements + tuple(_movement(entry, asked_ms) for entry in waiting if entry.moves)
        lapsed = history.lapsed
        if lapsed is not None and (self._too_old(lapsed, scan) or any(_admits(entry) for entry in waiting)):
            lapsed = None
        return _Case(scan, digest, found, lapsed, overlay_of(movements, lapsed=lapsed is not None))

    def _too_old(self, lapsed: Lapsed, scan: Scan) -> bool:
        age_ms = self._running.at(scan.at.monotonic) - lapsed.running_ms
        return age_ms > self._rules.regrant.total_seconds() * 1000

    def _local(self, case: _Case, terms: Terms) -> Verdict:
        if case.found is None and not self._mirror.note("complete"):
            return deny(None, Reason.NOT_READY)
        rules = self._rules_for(case, terms)
        return decide(case.scan, case.ticket, case.overlay, rules, self._now(case.scan))

    def _rules_for(self, case: _Case, terms: Terms) -> Rules:
        types_count = case.found is not None and self.service_read_ms > case.found.asked_ms
        return Rules(
            terms.lane_types,
            self.service_types if types_count else frozenset(),
            self._rules.reentry_after_checkout,
        )

    def _now(self, scan: Scan) -> Now:
        if scan.at.trust is not TimeTrust.UNKNOWN:
            if scan.at.wall >= self._latest:
                self._latest, self._latest_ms = scan.at.wall, self._running.at(scan.at.monotonic)
            return Now(scan.at.wall, scan.at.trust)
        since_ms = self._running.at(scan.at.monotonic) - self._latest_ms
        return Now(self._latest + timedelta(milliseconds=max(0, since_ms)), TimeTrust.UNKNOWN)

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
        if terms.lane_types or not terms.ask_unknown or exit_knows:
            return verdict
        if terms.rationed and verdict.reason is not Reason.NOT_READY:
            return deny(None, Reason.BUSY)
        return self._ask(case, verdict, Origin.DIRECT if terms.ask_known else Origin.ASK)

    def _ask(self, case: _Case, fallback: Verdict, origin: Origin) -> Ask:
        return Ask(case.scan, case.barcode_id, case.ticket, fallback, origin, self._digests(case))

    def _write(self, case: _Case, reply: Reply, *, redeems: int | None = None) -> Decided:
        entry = self._entry(case, reply, redeems)
        try:
            seq = self._journal.write((*self._unwritten, entry))
        except sqlite3.Error:
            return self._write_later(case, entry, reply)
        self._unwritten.clear()
        return Decided(case.scan, entry.verdict, entry.origin, case.ticket, seq)

    def _write_later(self, case: _Case, entry: Entry, reply: Reply) -> Decided:
        """Keeps in memory what can't be written now."""
        if entry.verdict.admitted and entry.acknowledged_ms is None and not self._rules.admit_undurable:
            entry = self._entry(case, replace(reply, verdict=deny(None, Reason.FAULT)), None)
        self._unwritten.append(replace(entry, undurable=True))
        return Decided(case.scan, entry.verdict, entry.origin, case.ticket, None)

    def _entry(self, case: _Case, reply: Reply, redeems: int | None) -> Entry:
        verdict, regrants = reply.verdict, _regrants(reply.verdict)
        recorded = reply.answered if verdict.admitted else None
        if regrants and case.lapsed is not None:
            redeems = case.lapsed.seq
        return Entry(
            scan=self._bounded(case.scan),
            service=self.service,
            ticket=case.digest,
            verdict=verdict,
            origin=reply.origin,
            moves=verdict.admitted and not regrants,
            count_before=used(case.ticket, case.overlay),
            left_before=self._left(case),
            running_ms=self._running.at(case.scan.at.monotonic),
            acknowledged_ms=None if recorded is None else self._running.at(recorded),
            kind=kind_of(verdict, reply.origin, self._rules.upload) if recorded is None else None,
            barcode_id=case.barcode_id,
            redeems=redeems,
            call=reply.call,
        )

    def _left(self, case: _Case) -> int:
        if case.ticket is None:
            return 0
        return left(case.ticket, case.overlay, reentry_after_checkout=self._rules.reentry_after_checkout)

    def _bounded(self, scan: Scan) -> Scan:
        """The scan with the best lower bound of its time, where that is not known."""
        now = self._now(scan)
        if now.trust is not TimeTrust.UNKNOWN or now.time <= scan.at.wall:
            return scan
        return replace(scan, at=replace(scan.at, wall=now.time))


def _regrants(verdict: Verdict) -> bool:
    return verdict.reason is Reason.REGRANT


def _admits(entry: Entry) -> bool:
    return entry.verdict.admitted


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
