"""A desk on real files, and what is laid on it. The disk is not waited for: here decisions count."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gated.clock import new_scan_id
from gated.core.scan import Direction, LaneName, Moment, Scan, TimeTrust
from gated.core.ticket import Ticket
from gated.store.database import open_database
from gated.store.desk import Ask, Decided, Desk, Terms
from gated.store.journal import Journal
from gated.store.memory import DeskRules, Memory
from gated.store.mirror import Mirror
from gated.store.outbox import Outbox
from gated.store.privacy import Secrets
from gated.store.running import RunningTime

NOON = datetime(2027, 7, 16, 12, 0, 0, tzinfo=UTC)
LOCAL = Terms()
ASK_ALL = Terms(ask_known=True, ask_unknown=True)
ASK_UNKNOWN = Terms(ask_unknown=True)


def ticket(barcode_id: str = "T1", **fields: Any) -> Ticket:
    """A ticket that is good for one entry, but for ``fields``."""
    return Ticket(**{"barcode_id": barcode_id, "checkin_allowed": True, "remaining": 1, **fields})


def moment(
    seconds: float = 0.0, trust: TimeTrust = TimeTrust.SYNCHRONISED, boot: str = "boot", wall: datetime = NOON
) -> Moment:
    """The moment so many seconds after noon, and after boot."""
    return Moment(wall + timedelta(seconds=seconds), trust, seconds, boot)


def scan(
    barcode: str = "T1", at: Moment | None = None, *, lane: str = "A", direction: Direction = Direction.ENTRY
) -> Scan:
    """A barcode read at a lane, at noon unless told otherwise."""
    at = at or moment()
    return Scan(new_scan_id(at), barcode, LaneName(lane), direction, at)


class Counter:
    """A desk with its two files in ``folder``; opened again, it is the desk after a restart."""

    def __init__(self, folder: Path, rules: DeskRules | None = None, *, monotonic: float = 0.0) -> None:
        self.journal_db = open_database(folder / "journal.db", "journal", synchronous="OFF")
        self.mirror_db = open_database(folder / "mirror.db", "mirror", synchronous="OFF")
        self.journal = Journal(self.journal_db)
        self.journal.end_questions()
        self.outbox = Outbox(self.journal_db)
        self.mirror = Mirror(self.mirror_db, self.mirror_db, Secrets(self.journal.secret()))
        so_far = max(self.journal.ran_until_ms(), self.mirror.ran_until_ms())
        self.running = RunningTime(so_far, monotonic)
        self.memory = Memory.of(self.journal, self.running, rules or DeskRules())
        self.memory.service = "S1"
        self.desk = Desk(self.mirror, self.journal, self.memory)
        self.outbox.recover(so_far)
        self.mirror.bind("S1")

    def load(self, *tickets: Ticket, asked: float = 0.0, run: int = 1) -> None:
        """Downloads tickets; the full download is complete."""
        self.mirror.put(tickets, asked_ms=self.running.at(asked), run=run)
        self.mirror.set_note("complete", 1)

    def decide(self, what: Scan, terms: Terms = LOCAL) -> Decided:
        """Decides a scan that needs no question."""
        answer = self.desk.decide(what, terms)
        assert isinstance(answer, Decided)
        return answer

    def ask(self, what: Scan, terms: Terms = ASK_ALL) -> Ask:
        """Decides a scan that needs a question."""
        answer = self.desk.decide(what, terms)
        assert isinstance(answer, Ask)
        return answer

    @contextmanager
    def disk_failing(self) -> Iterator[None]:
        """The journal can be read and not written, as on a disk that was remounted read-only."""
        self.journal_db.execute("PRAGMA query_only = ON")
        yield
        self.journal_db.execute("PRAGMA query_only = OFF")

    def upload(self, seconds: float) -> None:
        """Everything in the outbox is sent and acknowledged at once."""
        while rows := self.outbox.freeze("S1", 50, moment(seconds)):
            self.outbox.acknowledge(rows, self.running.at(seconds))

    def close(self) -> None:
        """Closes both files."""
        self.mirror_db.close()
        self.journal_db.close()
