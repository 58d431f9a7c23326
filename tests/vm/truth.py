"""The truth about a gate whose power is cut, kept outside of it, and the gate's files held against it.

The barrier's relays, as the kernel's trace tells them line by line, and the server are the truth. What the
gate says of itself is never taken for it.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from gated.store.privacy import Secrets
from tests.vm.power import Line, Server

RELEASES = {17: ("entry", 1), 22: ("exit", 0)}  # guest/cut.toml: the level that energises the relay


@dataclass(frozen=True, slots=True)
class Entry:
    """A scan, as the gate's journal has it."""

    id: bytes
    lane: str
    barcode: str
    """Blank where its text was malformed: an emulated processor may lose a key."""
    admitted: bool
    code: int | None
    origin: str
    second: int
    marked: bool


@dataclass
class Truth:
    """What was seen from outside, what the journal was found to hold, and where the two disagree."""

    barcodes: Callable[[], Iterable[str]]
    released_steps: int
    """Steps of the journal's schema that gated has; those after them are tests."""
    told: dict[str, str] = field(default_factory=dict)
    """The barcode that each lane's scanner was last told to read."""
    releases: list[tuple[str, str]] = field(default_factory=list)
    """Lane and barcode of each movement of a relay, oldest first."""
    journal: dict[bytes, Entry] = field(default_factory=dict)
    """Every scan that was ever found in the journal, as it was found last."""
    violations: list[str] = field(default_factory=list)
    purges: int = 0
    steps: int = 0
    """Steps beyond those, that the guest has been given."""
    _levels: dict[int, int] = field(default_factory=dict)
    _secret: bytes = b""
    _purging: bool = False
    _since: int = 0
    """Movements before this one were purged."""
    _forgotten: set[bytes] = field(default_factory=set)

    def hear(self, line: Line) -> None:
        """Takes in a level of a relay."""
        if line["what"] != "level" or line["pin"] not in RELEASES:
            return
        pin, level = line["pin"], line["level"]
        lane, energised = RELEASES[pin]
        if level == energised and self._levels.get(pin, 1 - energised) != level:
            self.releases.append((lane, self.told.get(lane, "")))
        self._levels[pin] = level

    def power_goes(self) -> None:
        """All relays fall."""
        self._levels.clear()
        self.told.clear()

    def admitted(self) -> list[str]:
        """The barcodes that were let in, oldest first."""
        return [barcode for lane, barcode in self.releases if lane == "entry"]

    def purge_begins(self) -> None:
        """From now on the journal may be empty."""
        self._purging = True

    def compare(self, folder: Path, when: str) -> None:
        """Holds the databases in ``folder`` against what was seen."""
        path = folder / "journal.db"
        if not path.exists():
            if self.releases:
                self.violations.append(f"{when}: the journal is gone")
            return
        files = b"".join(each.read_bytes() for each in folder.glob("journal.db*"))
        if not all(self._is_whole(each, when) for each in folder.glob("*.db")):
            return
        with closing(sqlite3.connect(path)) as journal:
            self._check_schema(journal, when)
            secret = journal.execute("SELECT value FROM meta WHERE key = 'secret'").fetchone()
            wiping = journal.execute("SELECT 1 FROM meta WHERE key = 'purge_scans'").fetchone()
            found = self._entries(journal, secret[0]) if secret else {}
        if secret is None:
            if self.releases:
                self.violations.append(f"{when}: the secret is gone")
            return
        if self._secret == secret[0] and not wiping and any(each in files for each in self._forgotten):
            self.violations.append(f"{when}: what was purged is still in the file")
        self._check_purged(secret[0], when)
        self.journal |= found
        self._check_journalled(found, when)
        self._purging = False

    def _is_whole(self, path: Path, when: str) -> bool:
        with closing(sqlite3.connect(path)) as database:
            try:
                [(said,), *more] = database.execute("PRAGMA integrity_check").fetchall()
            except sqlite3.DatabaseError as error:
                said, more = str(error), []
        if (said, more) != ("ok", []):
            self.violations.append(f"{when}: {path.name} is damaged: {said}")
        return said == "ok"

    def _check_schema(self, journal: sqlite3.Connection, when: str) -> None:
        """A step of the schema was taken whole or not at all."""
        [version] = journal.execute("PRAGMA user_version").fetchone()
        tables = journal.execute("SELECT name FROM sqlite_master WHERE name LIKE 'step_%'")
        there, number = [name for (name,) in tables], version - self.released_steps
        if there != ([f"step_{number}"] if number else []) or number not in (self.steps, self.steps - 1):
            self.violations.append(f"{when}: schema {version} with {there}, after {self.steps} steps")

    def _check_purged(self, secret: bytes, when: str) -> None:
        if self._secret and secret != self._secret:
            if not self._purging:
                self.violations.append(f"{when}: another secret without a purge")
            self.purges += 1
            self._since = len(self.releases)
            self._forgotten = {each for each in self.journal if each}
        self._secret = secret

    def _check_journalled(self, found: dict[bytes, Entry], when: str) -> None:
        """Every movement of a relay has its scan, if only a malformed one, which opens an exit too."""
        journalled = Counter((entry.lane, entry.barcode) for entry in found.values())
        missing = Counter(self.releases[self._since :]) - journalled
        for lane in ("entry", "exit"):
            barcodes = sorted((Counter({key: n for key, n in missing.items() if key[0] == lane})).elements())
            if len(barcodes) > (journalled[lane, ""] if lane == "exit" else 0):
                self.violations.append(f"{when}: {barcodes} moved a relay and are not in the journal")

    def _entries(self, journal: sqlite3.Connection, secret: bytes) -> dict[bytes, Entry]:
        secrets = Secrets(secret)
        names = {secrets.digest(barcode): barcode for barcode in self.barcodes()}
        rows = journal.execute(
            "SELECT id, lane, ticket, admitted, code, origin, wall_ms / 1000, marked"
            " FROM scan WHERE lane <> ''"
        )
        entries = {}
        for id_, lane, ticket, admitted, code, origin, second, marked in rows:
            # A scan that is being purged has its digest under a secret that is gone.
            known = self.journal.get(id_)
            barcode = names.get(ticket) or (known.barcode if known else "")
            entries[id_] = Entry(id_, lane, barcode, bool(admitted), code, origin, second, bool(marked))
        return entries

    def twice(self) -> list[str]:
        """The tickets, all for one entry, that were let in more than once."""
        return [barcode for barcode, times in Counter(self.admitted()).items() if times > 1]

    def compare_server(self, server: Server) -> tuple[Counter[str], list[str]]:
        """Holds the server against the journal, once nothing waits any more.

        Returns how many scans went up, again, and marked, how many guests were admitted whose barrier was
        not seen to move, since the power went in between, and where the two disagree.
        """
        wrong = []
        came = Counter(
            (row.scan.barcode_id, row.scan.status_code, row.scan.checked_in_time) for row in server.uploaded
        )
        asked = {movement.barcode_id for movement in server.checkins if movement.origin == "direct"}
        counts: Counter[str] = Counter(uploaded=came.total(), released=len(self.releases))
        groups: dict[tuple[str, int, int], list[Entry]] = {}
        for entry in self.journal.values():
            if entry.origin in ("ask", "direct"):
                counts["asked"] += 1
                if entry.admitted and entry.barcode not in asked:
                    wrong.append(f"{entry.barcode}: admitted by the server, which never did")
            elif entry.code is not None:
                groups.setdefault((entry.barcode, entry.code, entry.second), []).append(entry)
        for key, entries in groups.items():
            marked, times = sum(entry.marked for entry in entries), came.pop(key, 0)
            if key[1] == 100 and key[0] in asked:
                times += 1  # a call whose answer was lost, and which let the guest in later
            counts += Counter(scans=len(entries), marked=marked, again=max(0, times - len(entries)))
            if times < len(entries):
                wrong.append(f"{key}: scanned {len(entries)} times, the server has {times}")
            if times > len(entries) and not marked:
                wrong.append(f"{key}: the server has it {times} times, and no mark tells why")
        let_in = (entry for entry in self.journal.values() if entry.lane == "entry" and entry.admitted)
        counts["unseen"] = len({entry.barcode for entry in let_in} - set(self.admitted()))
        return counts, wrong + [f"{key}: the server has it, the journal never had" for key in came]
