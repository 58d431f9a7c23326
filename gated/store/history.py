"""Both databases, read for people: what is known of a barcode or a scan, and what became of it here.

Nothing is written. The scans of a ticket are not indexed, since a scan at the gate would pay for that: they
are looked for span by span, so that a scan never waits for the whole journal. All methods run on the database
thread.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from gated.core.decide import Now
from gated.core.events import Came
from gated.core.explain import (
    Explanation,
    Mirrored,
    PastScan,
    Ruling,
    Tickets,
    Upload,
    ask_rules,
)
from gated.core.overlay import NOTHING
from gated.core.scan import Direction, LaneName, Moment, Scan, ScanId, TimeTrust
from gated.core.verdict import Origin, Reason, Verdict
from gated.store.database import Connection
from gated.store.desk import Considered, Desk, Terms
from gated.store.journal import Entry
from gated.store.mirror import Looked, Mirror
from gated.store.running import RunningTime

Span = tuple[int, int]
Digests = frozenset[bytes]

_SPAN = 5000  # scans looked through in one piece: a few milliseconds on a Pi

_COLUMNS = (
    "s.id, s.wall_ms, s.trust, s.lane, s.direction, s.admitted, s.code, s.reason, s.origin, s.count_before,"
    " s.left_before, s.acknowledged_ms, s.marked, s.passage, s.regranted, s.undurable,"
    " o.seq IS NOT NULL, o.lost_ms IS NOT NULL, o.parked"
)
# The outbox's key begins with the kind: naming all of them makes it a look-up.
_FROM = "FROM scan s LEFT JOIN outbox o ON o.kind IN (0, 1, 2) AND o.seq = s.seq WHERE s.seq BETWEEN ? AND ?"


@dataclass(frozen=True, slots=True)
class Place:
    """Lanes that decide alike. ``opens_always``: their barriers release for every read."""

    lanes: tuple[LaneName, ...]
    direction: Direction
    terms: Terms
    opens_always: bool = False


class Reader:
    """Reads what explanations are made of."""

    def __init__(self, journal: Connection, mirror: Mirror, desk: Desk, running: RunningTime) -> None:
        self.go_on(journal)
        self._mirror = mirror
        self._desk = desk
        self._running = running

    def go_on(self, journal: Connection) -> None:
        """Goes on with another connection: that of a journal that was salvaged."""
        self._db = journal

    def ticket(
        self, barcode: str, places: Sequence[Place], at: Moment, started_ms: int
    ) -> tuple[Explanation, Digests]:
        """A barcode without its scans, and the digests that these are filed under.

        ``started_ms`` is the running time at which this gated was started.
        """
        considered = [self._desk.consider(_scan(barcode, place, at), place.terms) for place in places]
        first = considered[0]
        looked = self._looked(barcode, first)
        digests = first.digests
        if looked is not None:
            digests |= {looked.digest, looked.external or looked.digest}
        explanation = Explanation(
            now=first.question.now,
            tickets=self._tickets(),
            overlay=first.question.overlay,
            mirrored=self._mirrored(looked, at, started_ms),
            left=first.left if first.found else None,
            rulings=tuple(map(_ruling, places, considered)),
        )
        return explanation, digests

    def digest(self, digest: bytes | None, at: Moment, started_ms: int) -> Explanation:
        """What is known of a scan's ticket, of which only the digest is kept, without its scans."""
        looked = self._mirror.look(digest) if digest else None
        mirrored = self._mirrored(looked, at, started_ms)
        return Explanation(
            now=Now(at.wall, at.trust), tickets=self._tickets(), overlay=NOTHING, mirrored=mirrored
        )

    def spans(self) -> list[Span]:
        """The journal's scans in pieces, oldest first."""
        last = self._db.execute("SELECT max(seq) FROM scan").fetchone()[0] or 0
        return [(start, start + _SPAN - 1) for start in range(1, last + 1, _SPAN)]

    def scans(self, digests: Digests, span: Span) -> tuple[PastScan, ...]:
        """The scans in a span that are filed under any of these digests."""
        marks = ", ".join("?" * len(digests))
        query = f"SELECT {_COLUMNS} {_FROM} AND s.ticket IN ({marks}) ORDER BY s.seq"
        return tuple(_past(row) for row in self._db.execute(query, (*span, *digests)))

    def scan(self, scan: ScanId, span: Span) -> tuple[PastScan, bytes | None] | None:
        """A scan, if it is in that span, and its ticket's digest."""
        query = f"SELECT {_COLUMNS}, s.ticket {_FROM} AND s.id = ?"
        row = self._db.execute(query, (*span, scan.bytes)).fetchone()
        return row and (_past(row), row[-1])

    def unwritten(self) -> Iterator[tuple[PastScan, bytes | None]]:
        """The scans that wait in memory since the disk failed, with their tickets' digests."""
        for entry in self._desk.unwritten():
            yield _unwritten(entry), entry.ticket

    def _looked(self, barcode: str, considered: Considered) -> Looked | None:
        """The row that a barcode stands for; also one that the server does not have any more."""
        if considered.found is not None:
            return self._mirror.look(considered.found.digest)
        digest = self._mirror.digest(barcode)
        rows = map(self._mirror.look, (digest, *self._mirror.known_as(digest)))
        return next((row for row in rows if row is not None and row.absent), None)

    def _mirrored(self, looked: Looked | None, at: Moment, started_ms: int) -> Mirrored | None:
        if looked is None:
            return None
        age = timedelta(milliseconds=max(0, self._running.at(at.monotonic) - looked.asked_ms))
        return Mirrored(looked.ticket, age, looked.absent, looked.asked_ms <= started_ms)

    def _tickets(self) -> Tickets:
        note = self._mirror.note
        mark = note("mark")
        as_of = None if mark is None else datetime.fromtimestamp(mark, UTC)
        return Tickets(bool(note("complete")), note("tickets") or 0, as_of)


def _scan(barcode: str, place: Place, at: Moment) -> Scan:
    """A scan that nobody made."""
    return Scan(ScanId(UUID(int=0)), barcode, place.lanes[0], place.direction, at)


def _ruling(place: Place, considered: Considered) -> Ruling:
    asked = considered.verdict.reason not in (Reason.AMBIGUOUS, Reason.ORDER, Reason.BUSY, Reason.NOT_READY)
    return Ruling(
        place.lanes,
        place.direction,
        considered.question.rules,
        considered.verdict,
        considered.asks,
        place.opens_always,
        ask_rules(place.direction, considered.question) if asked else (),
    )


def _past(row: Sequence[Any]) -> PastScan:
    scan, wall_ms, trust, lane, direction, admitted, code, reason, origin, count, left, *fate = row[:19]
    acknowledged, sent_again, passage, granted_again, undurable, waits, lost, parked = fate
    return PastScan(
        id=ScanId(UUID(bytes=scan)),
        at=datetime.fromtimestamp(wall_ms / 1000, UTC),
        trust=TimeTrust(trust),
        lane=LaneName(lane),
        direction=Direction(direction),
        verdict=Verdict(bool(admitted), code, Reason(reason)),
        origin=Origin(origin),
        count_before=count,
        left_before=left,
        upload=_upload(acknowledged=acknowledged is not None, waits=waits, lost=lost, parked=bool(parked)),
        parked=parked or "",
        sent_again=bool(sent_again),
        passage=passage and Came(passage),
        granted_again=bool(granted_again),
        undurable=bool(undurable),
    )


def _upload(*, acknowledged: bool, waits: bool, lost: bool, parked: bool) -> Upload:
    if acknowledged:
        return Upload.DONE
    if not waits:
        return Upload.NONE
    if parked:
        return Upload.PARKED
    return Upload.UNANSWERED if lost else Upload.WAITING


def _unwritten(entry: Entry) -> PastScan:
    scan = entry.scan
    return PastScan(
        id=scan.id,
        at=scan.at.wall,
        trust=scan.at.trust,
        lane=scan.lane,
        direction=scan.direction,
        verdict=replace(entry.verdict, time=None, lane=None),
        origin=entry.origin,
        count_before=entry.count_before,
        left_before=entry.left_before,
        upload=_upload(
            acknowledged=entry.acknowledged_ms is not None,
            waits=entry.kind is not None,
            lost=False,
            parked=False,
        ),
        undurable=True,
    )
