"""What the desks of a gate know together, beside what is on disk; and the scans that wait there for the disk.

A disk that fails may never come back, so what waits goes up to the server from here: a row of it is frozen,
and what comes of it is noted, as in the outbox, where it goes with all that once it can be written. Such rows
have numbers below zero. ``lock`` guards all of it, and is never held while the disk is waited for.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from gated.core.outbox import UPLOAD_ALL, Kind, Row, UploadRules, stamped
from gated.core.scan import Moment, ScanId, TimeTrust
from gated.core.ticket import Ticket
from gated.store.journal import Dispatch, Entry, Journal
from gated.store.running import RunningTime


@dataclass(frozen=True, slots=True)
class DeskRules:
    """What holds for every scan at this gate."""

    reentry_after_checkout: bool = False
    regrant: timedelta = timedelta(minutes=15)
    upload: UploadRules = UPLOAD_ALL
    admit_undurable: bool = True


@dataclass(frozen=True, slots=True)
class Pending:
    """A scan that is decided and not known to be on disk. ``number`` is that of its row, once it was sent."""

    entry: Entry
    ticket: Ticket | None
    number: int = 0


@dataclass(slots=True)
class Memory:
    """What the desks share."""

    rules: DeskRules
    running: RunningTime
    latest: datetime
    """The latest wall time that was known: a lower bound while it is not."""
    latest_ms: int
    """The running time at that moment."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    held: set[bytes] = field(default_factory=set)
    """Digests of tickets in question at the server."""
    asked: set[ScanId] = field(default_factory=set)
    """Scans that they are in question for."""
    waiting: list[Pending] = field(default_factory=list)
    """In the order of their decisions; the first of them may be on their way to the disk."""
    refused: list[tuple[int, int | None]] = field(default_factory=list)
    """Admissions that came to the disk after their guests had been turned away: their journal numbers, and
    those of the scans which they were to redeem."""
    sent: dict[int, ScanId] = field(default_factory=dict)
    """Rows on their way to the server, by their numbers."""
    rows_sent: int = 0
    service: str = ""
    service_types: frozenset[str] = frozenset()
    service_read_ms: int = 0
    """Running time; types count only for rows asked for before."""

    @classmethod
    def of(cls, journal: Journal, running: RunningTime, rules: DeskRules) -> "Memory":
        """What is known at a start."""
        wall_ms, running_ms = journal.latest_time()
        return cls(rules, running, datetime.fromtimestamp(wall_ms / 1000, UTC), running_ms)

    def freeze(self, limit: int, at: Moment) -> tuple[Row, ...]:
        """The next rows of what waits, of one kind and service, frozen. None may be being written."""
        with self.lock:
            sendable = [place for place, pending in enumerate(self.waiting) if _sendable(pending.entry, at)]
            if not sendable:
                return ()
            first = min((self.waiting[place].entry for place in sendable), key=lambda entry: entry.kind or 0)
            rows: list[Row] = []
            for place in sendable:
                entry = self.waiting[place].entry
                if len(rows) < limit and (entry.kind, entry.service) == (first.kind, first.service):
                    rows.append(self._frozen(place, at))
            return tuple(rows)

    def note(self, rows: Sequence[Row], change: Callable[[Entry], Entry]) -> list[tuple[Row, ScanId]]:
        """Notes what came of rows sent from here; returns those that have come to the disk since."""
        gone = []
        with self.lock:
            places = {pending.number: place for place, pending in enumerate(self.waiting)}
            for row in rows:
                scan = self.sent.pop(row.seq, None)
                place = places.get(row.seq)
                if place is not None:
                    pending = self.waiting[place]
                    self.waiting[place] = replace(pending, entry=change(pending.entry))
                elif scan is not None:
                    gone.append((row, scan))
        return gone

    def moved(self, digest: Callable[[str], bytes], later_ms: int) -> None:
        """What waits goes to another journal than that of the start: by its secret and its running time."""
        self.latest_ms += later_ms
        self.waiting = [
            replace(pending, entry=_moved(pending.entry, digest, later_ms)) for pending in self.waiting
        ]

    def _frozen(self, place: int, at: Moment) -> Row:
        self.rows_sent += 1
        entry, number = self.waiting[place].entry, -self.rows_sent
        time = entry.dispatch.time if entry.dispatch else int(stamped(entry.scan.at, at).timestamp())
        sending = entry._replace(dispatch=Dispatch(time, sending=True))
        self.waiting[place] = replace(self.waiting[place], entry=sending, number=number)
        self.sent[number] = entry.scan.id
        assert entry.kind is not None
        assert entry.verdict.code is not None
        message, service = entry.verdict.message, entry.service or self.service
        return Row(number, entry.kind, entry.barcode_id, time, entry.verdict.code, message, service)


def _moved(entry: Entry, digest: Callable[[str], bytes], later_ms: int) -> Entry:
    def later(running_ms: int | None) -> int | None:
        return None if running_ms is None else running_ms + later_ms

    sent = entry.dispatch
    return entry._replace(
        ticket=None if entry.ticket is None else digest(entry.barcode_id),
        running_ms=entry.running_ms + later_ms,
        acknowledged_ms=later(entry.acknowledged_ms),
        dispatch=None if sent is None else replace(sent, lost_ms=later(sent.lost_ms)),
    )


def _sendable(entry: Entry, at: Moment) -> bool:
    """Whether a scan may be sent from here: not if a lost call may have told the server, nor out of turn."""
    if entry.kind not in (Kind.CHECK_IN, Kind.OTHER) or (entry.call is not None and entry.verdict.admitted):
        return False
    if entry.dispatch is not None:
        return not entry.dispatch.settled
    return entry.scan.at.trust is not TimeTrust.UNKNOWN or at.trust is not TimeTrust.UNKNOWN
