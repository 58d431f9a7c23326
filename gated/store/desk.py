"""The desk: look-up, overlay, decision and journal entry as one uninterrupted step of the database thread.

So two lanes that read the same ticket at once can't both admit it. Where the server has to be asked, the desk
holds the ticket until the answer is written down; another lane is told that it is busy.

When the journal can't be written, the lane is told so and follows ``[disk] on_failure``: what was decided
then waits in memory, counts in the overlay, and is written first when the disk is back.
"""

import sqlite3
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gated.core.decide import Now, Rules, decide
from gated.core.outbox import UPLOAD_ALL, UploadRules, kind_of
from gated.core.overlay import NOTHING, Movement, Overlay, overlay_of
from gated.core.scan import Direction, Scan, TimeTrust
from gated.core.ticket import Ticket
from gated.core.verdict import Origin, Reason, Verdict, admit, deny
from gated.store.journal import NO_HISTORY, Entry, History, Journal
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


@dataclass(frozen=True, slots=True)
class _Case:
    """A scan with all that was looked up for it."""

    scan: Scan
    digest: bytes
    found: Found | None = None
    history: History = NO_HISTORY
    overlay: Overlay = NOTHING

    @property
    def ticket(self) -> Ticket | None:
        return self.found.ticket if self.found else None


class Desk:
    """Takes the decisions of a gate, one at a time."""

    def __init__(self, mirror: Mirror, journal: Journal, running: RunningTime, rules: DeskRules) -> None:
        self._mirror = mirror
        self._journal = journal
        self._running = running
        self._rules = rules
        self._held: set[bytes] = set()
        self._unwritten: deque[Entry] = deque()
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
        if case.digest in self._held:
            return self._write(case, deny(None, Reason.BUSY), Origin.LOCAL)
        verdict = self._local(case, terms)
        question = self._question(case, verdict, terms)
        if isinstance(question, Ask):
            self._held.add(case.digest)
            return question
        return self._write(case, question, Origin.REGRANT if _regrants(question) else Origin.LOCAL)

    def settle(self, ask: Ask, verdict: Verdict, origin: Origin, *, by_server: bool) -> Decided:
        """Writes down what came of a question, and lets the ticket go.

        ``by_server`` says that the server has recorded it: it counts as acknowledged.
        """
        case = self._look_up(ask.scan, self._found(ask.scan.barcode))
        self._held.discard(case.digest)
        return self._write(case, verdict, origin, acknowledged=by_server)

    def write_undecided(self, scan: Scan, verdict: Verdict) -> Decided:
        """Writes down a scan that was not decided on: the lane took no tickets, or the text was malformed."""
        return self._write(_Case(scan, self._mirror.digest(scan.barcode)), verdict, Origin.LOCAL)

    def override(self, scan: Scan) -> Decided:
        """Writes down that an operator admitted a ticket, whatever the rules say."""
        verdict = (
            admit(100, Reason.VALID) if scan.direction is Direction.ENTRY else admit(200, Reason.CHECKED_OUT)
        )
        return self._write(self._look_up(scan, self._found(scan.barcode)), verdict, Origin.OVERRIDE)

    def write_waiting(self) -> int:
        """Writes what waits in memory since the disk failed; returns how much still waits."""
        while self._unwritten:
            try:
                self._journal.write(self._unwritten[0])
            except sqlite3.Error:
                break
            self._unwritten.popleft()
        return len(self._unwritten)

    def _found(self, barcode: str) -> Found | None:
        found = self._mirror.find(barcode)
        return None if isinstance(found, Ambiguous) else found

    def _look_up(self, scan: Scan, found: Found | None) -> _Case:
        digest = found.digest if found else self._mirror.digest(scan.barcode)
        history = self._journal.history(digest, found.asked_ms if found else -1)
        movements = history.movements + tuple(
            _movement(entry) for entry in self._unwritten if entry.moves and entry.ticket == digest
        )
        lapsed = history.lapsed is not None and (
            self._running.at(scan.at.monotonic) - history.lapsed.running_ms
            <= self._rules.regrant.total_seconds() * 1000
        )
        return _Case(scan, digest, found, history, overlay_of(movements, lapsed=lapsed))

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
        """The question for the server, or the verdict that needs none."""
        scan, ticket = case.scan, case.ticket
        if ticket is not None:
            wrong_type = verdict.reason is Reason.NOT_ALLOWED and ticket.checkin_allowed
            if not terms.ask_known or wrong_type or _regrants(verdict):
                return verdict
            return Ask(scan, ticket.barcode_id, ticket, verdict, Origin.DIRECT)
        if terms.ask_known and not terms.lane_types:
            return Ask(scan, scan.barcode, None, verdict, Origin.DIRECT)
        if scan.direction is Direction.EXIT or terms.lane_types or not terms.ask_unknown:
            return verdict
        if terms.rationed and verdict.reason is not Reason.NOT_READY:
            return deny(None, Reason.BUSY)
        return Ask(scan, scan.barcode, None, verdict, Origin.ASK)

    def _write(self, case: _Case, verdict: Verdict, origin: Origin, *, acknowledged: bool = False) -> Decided:
        entry = self._entry(case, verdict, origin, acknowledged=acknowledged)
        self.write_waiting()
        try:
            seq = None if self._unwritten else self._journal.write(entry)
        except sqlite3.Error:
            seq = None
        if seq is None:
            if verdict.admitted and not self._rules.admit_undurable:
                verdict = deny(None, Reason.FAULT)
                entry = self._entry(case, verdict, origin, acknowledged=acknowledged)
            self._unwritten.append(entry)
        return Decided(case.scan, verdict, origin, case.ticket, seq)

    def _entry(self, case: _Case, verdict: Verdict, origin: Origin, *, acknowledged: bool) -> Entry:
        running_ms = self._running.at(case.scan.at.monotonic)
        regrants = case.history.lapsed if _regrants(verdict) else None
        return Entry(
            scan=case.scan,
            service=self.service,
            ticket=case.digest,
            verdict=verdict,
            origin=origin,
            moves=verdict.admitted and regrants is None,
            mirror_count=case.ticket.checked_in if case.ticket else 0,
            running_ms=running_ms,
            acknowledged_ms=running_ms if acknowledged else None,
            kind=kind_of(verdict, origin, self._rules.upload),
            barcode_id=case.ticket.barcode_id if case.ticket else case.scan.barcode,
            regrants=regrants.seq if regrants else None,
        )


def _regrants(verdict: Verdict) -> bool:
    return verdict.reason is Reason.REGRANT


def _movement(entry: Entry) -> Movement:
    scan = entry.scan
    return Movement(
        scan.direction, entry.acknowledged_ms is not None, entry.mirror_count, scan.at.wall, scan.lane
    )
