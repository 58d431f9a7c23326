"""The desk: look-up, overlay, decision and journal entry as one uninterrupted step of the database thread.

So two lanes that read the same ticket at once can't both admit it. Where the server has to be asked, the desk
holds the ticket until the answer is written down, under the text that was scanned as well as under its
barcode_id, since a download may make the ticket known meanwhile; another lane is told that it is busy.

When the journal can't be written, the lane is told so and follows ``[disk] on_failure``: what was decided
then waits in memory, counts in the overlay, and is written first when the disk is back. What the server has
recorded itself is admitted in any case: nothing could be lost.
"""

import sqlite3
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from gated.core.decide import Now, Rules, decide
from gated.core.outbox import UPLOAD_ALL, UploadRules, kind_of
from gated.core.overlay import NOTHING, Movement, Overlay, left, overlay_of, used
from gated.core.scan import Direction, Scan, TimeTrust
from gated.core.ticket import Ticket
from gated.core.verdict import Origin, Reason, Verdict, admit, deny
from gated.store.journal import Entry, Journal, Lapsed
from gated.store.mirror import Ambiguous, Found, Mirror
from gated.store.running import RunningTime


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
        self._latest = datetime.fromtimestamp(journal.latest_wall_ms() / 1000, UTC)
        self.service = ""
        self.service_types: frozenset[str] = frozenset()
        self.service_read_ms = 0  # running time; types count only for rows asked for before

    def decide(self, scan: Scan, terms: Terms) -> Decided | Ask:
        """Decides a scan and writes it down, or says that the server has to be asked."""
        found = self._mirror.find(scan.barcode)
        if isinstance(found, Ambiguous):
            digest = self._mirror.digest(scan.barcode)
            return self._write(_Case(scan, digest), deny(None, Reason.AMBIGUOUS), Origin.LOCAL)
        case = self._look_up(scan, found)
        if not self._held.isdisjoint(self._digests(case)):
            return self._write(case, deny(None, Reason.BUSY), Origin.LOCAL)
        verdict = self._local(case, terms)
        question = self._question(case, verdict, terms)
        if isinstance(question, Ask):
            self._held |= question.holds
            return question
        return self._write(case, question, Origin.REGRANT if _regrants(question) else Origin.LOCAL)

    def settle(self, ask: Ask, verdict: Verdict, origin: Origin, *, recorded: float | None = None) -> Decided:
        """Writes down what came of a question, and lets the ticket go.

        ``recorded`` is the monotonic time at which the server said that it has recorded it.
        """
        self._held -= ask.holds
        case = self._look_up(ask.scan, self._found(ask.scan.barcode))
        acknowledged_ms = None if recorded is None else self._running.at(recorded)
        return self._write(case, verdict, origin, acknowledged_ms)

    def write_undecided(self, scan: Scan, verdict: Verdict) -> Decided:
        """Writes down a scan that was not decided on: the lane took no tickets, or the text was malformed."""
        digest = self._mirror.digest(scan.barcode) if scan.barcode else None
        return self._write(_Case(scan, digest), verdict, Origin.LOCAL)

    def override(self, scan: Scan) -> Decided:
        """Writes down that an operator admitted a ticket, whatever the rules say."""
        verdict = (
            admit(100, Reason.VALID) if scan.direction is Direction.ENTRY else admit(200, Reason.CHECKED_OUT)
        )
        return self._write(self._look_up(scan, self._found(scan.barcode)), verdict, Origin.OVERRIDE)

    def write_waiting(self) -> int:
        """Writes what waits in memory since the disk failed; returns how much still waits."""
        if self._unwritten:
            try:
                self._journal.write(self._unwritten)
            except sqlite3.Error:
                return len(self._unwritten)
            self._unwritten.clear()
        return 0

    def _found(self, barcode: str) -> Found | None:
        found = self._mirror.find(barcode)
        return None if isinstance(found, Ambiguous) else found

    def _digests(self, case: _Case) -> frozenset[bytes]:
        scanned = self._mirror.digest(case.scan.barcode)
        return frozenset((scanned, case.digest or scanned))

    def _look_up(self, scan: Scan, found: Found | None) -> _Case:
        scanned = self._mirror.digest(scan.barcode)
        digest = found.digest if found else scanned
        history = self._journal.history(digest, found.asked_ms if found else -1, scanned)
        waiting = [entry for entry in self._unwritten if entry.ticket in (digest, scanned)]
        movements = history.movements + tuple(_movement(entry) for entry in waiting if entry.moves)
        lapsed = history.lapsed
        if lapsed is not None and (self._too_old(lapsed, scan) or any(_admits(entry) for entry in waiting)):
            lapsed = None
        return _Case(scan, digest, found, lapsed, overlay_of(movements, lapsed=lapsed is not None))

    def _too_old(self, lapsed: Lapsed, scan: Scan) -> bool:
        age_ms = self._running.at(scan.at.monotonic) - lapsed.running_ms
        return age_ms > self._rules.regrant.total_seconds() * 1000

    def _local(self, case: _Case, terms: Terms) -> Verdict:
        types_count = case.found is not None and self.service_read_ms > case.found.asked_ms
        rules = Rules(
            terms.lane_types,
            self.service_types if types_count else frozenset(),
            self._rules.reentry_after_checkout,
        )
        if case.found is None and not self._mirror.note("complete"):
            return deny(None, Reason.NOT_READY)
        return decide(case.scan, case.ticket, case.overlay, rules, self._now(case.scan))

    def _now(self, scan: Scan) -> Now:
        if scan.at.trust is not TimeTrust.UNKNOWN:
            self._latest = max(self._latest, scan.at.wall)
            return Now(scan.at.wall, scan.at.trust)
        return Now(self._latest, TimeTrust.UNKNOWN)

    def _question(self, case: _Case, verdict: Verdict, terms: Terms) -> Ask | Verdict:
        """The question for the server, or the verdict that needs none.

        A ticket that moved here without the server's knowledge is decided here: the server would admit it
        once more, or find that a guest who wants to leave was never in.
        """
        scan, ticket = case.scan, case.ticket
        if ticket is not None:
            wrong_type = verdict.reason is Reason.NOT_ALLOWED and ticket.checkin_allowed
            if not terms.ask_known or wrong_type or _regrants(verdict) or case.overlay.unsent:
                return verdict
            return self._ask(case, verdict, Origin.DIRECT)
        if terms.ask_known and not terms.lane_types:
            return self._ask(case, verdict, Origin.DIRECT)
        if scan.direction is Direction.EXIT or terms.lane_types or not terms.ask_unknown:
            return verdict
        if terms.rationed and verdict.reason is not Reason.NOT_READY:
            return deny(None, Reason.BUSY)
        return self._ask(case, verdict, Origin.ASK)

    def _ask(self, case: _Case, fallback: Verdict, origin: Origin) -> Ask:
        return Ask(case.scan, case.barcode_id, case.ticket, fallback, origin, self._digests(case))

    def _write(
        self, case: _Case, verdict: Verdict, origin: Origin, acknowledged_ms: int | None = None
    ) -> Decided:
        entry = self._entry(case, verdict, origin, acknowledged_ms)
        try:
            seq = self._journal.write((*self._unwritten, entry))
        except sqlite3.Error:
            return self._write_later(case, entry)
        self._unwritten.clear()
        return Decided(case.scan, verdict, origin, case.ticket, seq)

    def _write_later(self, case: _Case, entry: Entry) -> Decided:
        """Keeps in memory what can't be written now."""
        if entry.verdict.admitted and entry.acknowledged_ms is None and not self._rules.admit_undurable:
            entry = self._entry(case, deny(None, Reason.FAULT), entry.origin, None)
        self._unwritten.append(replace(entry, undurable=True))
        return Decided(case.scan, entry.verdict, entry.origin, case.ticket, None)

    def _entry(self, case: _Case, verdict: Verdict, origin: Origin, acknowledged_ms: int | None) -> Entry:
        regrants = case.lapsed if _regrants(verdict) else None
        return Entry(
            scan=self._bounded(case.scan),
            service=self.service,
            ticket=case.digest,
            verdict=verdict,
            origin=origin,
            moves=verdict.admitted and regrants is None,
            count_before=used(case.ticket, case.overlay),
            left_before=self._left(case),
            running_ms=self._running.at(case.scan.at.monotonic),
            acknowledged_ms=acknowledged_ms,
            kind=kind_of(verdict, origin, self._rules.upload),
            barcode_id=case.barcode_id,
            regrants=regrants.seq if regrants else None,
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


def _movement(entry: Entry) -> Movement:
    scan = entry.scan
    return Movement(
        scan.direction,
        entry.acknowledged_ms is not None,
        entry.count_before,
        entry.left_before,
        scan.at.wall,
        scan.lane,
    )
