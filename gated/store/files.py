"""The gate's two database files, opened: each for the thread that writes, and beside it to read alone.

The second connections are closed before the first ones: the last to be closed empties the WAL and removes it.

A gate starts on any disk. Where one of the files can't be opened and written, both are read instead:

- On a disk that is full or read-only, in place. Every write to them fails, as on a disk that fails later:
  scans wait in memory, downloads fail. The outbox is copied into memory, so that it goes up; a gate that is
  killed before the disk can be written again has no record of that, and sends it once more: marked.
- A journal that is damaged there, or not there, is salvaged into memory.
- A mirror that is damaged there, another's, or not there is begun anew in memory, up to a size that any Pi
  can bear: downloads fill it. What does not fit has to be asked about.

Once the disk can be written, the files are opened again and go on with what the memory holds. A file from a
newer gated is refused in any case.
"""

import os
import sqlite3
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from pathlib import Path

from gated.errors import StoreError
from gated.store.database import (
    Connection,
    Damaged,
    Newer,
    beside_in_memory,
    open_beside,
    open_database,
    open_in_memory,
    open_to_read,
    try_to_write,
)
from gated.store.journal import Journal
from gated.store.outbox import bring_back, copy_outbox
from gated.store.salvage import Salvaged, forget_kept, open_journal, read_journal

JOURNAL, MIRROR = "journal.db", "mirror.db"

# Of a mirror in memory: 359 500 tickets fitted in, 204 000 where each had an external id (SQLite 3.40).
_MIRROR_MEGABYTES = 48
# What has to fit on a disk for it to be tried again: a few rows, and the WALs that take them.
_ROOM_BYTES = 1 << 16


@dataclass(slots=True)
class Files:
    """Connections to both databases of one state directory."""

    folder: Path
    journal: Connection
    mirror: Connection
    journal_beside: Connection
    mirror_beside: Connection
    mirror_filing: Connection
    """A second one that writes, for checkpoints alone: see gated/store/database.py."""
    outbox: Connection
    """Where the outbox is written: the journal, or a copy in memory."""
    salvaged: Salvaged | None
    """What was read of a journal that was found damaged."""
    mirror_renewed: bool
    """Whether the mirror was found damaged, and is empty now."""
    unwritable: str = ""
    """Why the files can't be written; blank if they can."""
    mirror_in_memory: bool = False

    @classmethod
    def open(cls, folder: Path) -> "Files":
        """Opens or creates the files in ``folder``, salvaging what is damaged. Raises Newer."""
        try:
            return cls._to_write(folder)
        except Newer:
            raise
        except (OSError, StoreError) as error:
            return cls.open_to_read(folder, str(error))

    @classmethod
    def _to_write(cls, folder: Path) -> "Files":
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            journal, salvaged = open_journal(folder / JOURNAL)
            opened.callback(journal.close)
            mirror, renewed = _open_mirror(folder / MIRROR)
            opened.callback(mirror.close)
            try:
                try_to_write(journal, "journal")
                try_to_write(mirror, "mirror")
            except sqlite3.Error as error:
                raise StoreError(f"{folder}: {error}") from error
            journal_beside = open_beside(folder / JOURNAL)
            opened.callback(journal_beside.close)
            mirror_beside = open_beside(folder / MIRROR)
            opened.callback(mirror_beside.close)
            filing = open_beside(folder / MIRROR, for_checkpoints=True)
            opened.pop_all()
        return cls(folder, journal, mirror, journal_beside, mirror_beside, filing, journal, salvaged, renewed)

    @classmethod
    def open_to_read(cls, folder: Path, why: str) -> "Files":
        """Opens what can be read in ``folder``; ``why`` it can't be written. Raises Newer."""
        with ExitStack() as opened:
            journal, journal_beside, salvaged = read_journal(folder / JOURNAL)
            opened.callback(journal.close)
            opened.callback(journal_beside.close)
            outbox, _ = open_in_memory("journal")
            opened.callback(outbox.close)
            copy_outbox(journal, outbox)
            found = _read_mirror(folder / MIRROR, journal)
            mirror, mirror_beside = found or _mirror_in_memory()
            opened.pop_all()
        return cls(
            folder,
            journal,
            mirror,
            journal_beside,
            mirror_beside,
            mirror_beside,  # there is no WAL that could be moved
            outbox,
            salvaged,
            mirror_renewed=False,
            unwritable=why,
            mirror_in_memory=found is None,
        )

    def writable_again(self) -> bool:
        """Whether files that could not be written can be by now."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as file:
                file.write(bytes(_ROOM_BYTES))
                file.flush()
                os.fsync(file.fileno())
            tried = self._to_write(self.folder)
        except (OSError, StoreError):
            return False
        self.salvaged = tried.salvaged or self.salvaged
        tried.close()
        return True

    def reopen(self, secret: bytes) -> None:
        """Opens the files again after they could not be written. Nobody may be reading them. Raises Newer.

        What came of the outbox meanwhile, and a mirror that was filled in memory, come to the disk; so does
        the ``secret`` where there is none yet.
        """
        # Those in place are closed first: closing one lets go of the locks of the others.
        for connection in (self.journal_beside, self.journal):
            connection.close()
        if not self.mirror_in_memory:
            self._close_mirror()
        now = Files.open(self.folder)
        if not now.unwritable:
            try:
                if Journal(now.journal).secret(secret) == secret:  # else it is another gate's card
                    bring_back(self.outbox, now.journal)
            except sqlite3.Error as error:
                now.close()
                now = Files.open_to_read(self.folder, str(error))
        if now.unwritable:
            now.outbox, self.outbox = self.outbox, now.outbox
        if self.mirror_in_memory:
            if not _is_complete(now.mirror) and _is_complete(self.mirror):
                with suppress(sqlite3.Error):  # it is downloaded again
                    self.mirror.backup(now.mirror)
            self._close_mirror()
        self.outbox.close()
        now.salvaged = now.salvaged or self.salvaged
        for each in fields(self):
            setattr(self, each.name, getattr(now, each.name))

    def renew_mirror(self) -> None:
        """Begins an empty mirror in place of one that can't be used. Nobody may be reading that."""
        self._close_mirror()
        path = self.folder / MIRROR
        self.mirror_renewed, self.mirror_in_memory = True, False
        try:
            _remove(path)
            with ExitStack() as opened:
                self.mirror = open_database(path, "mirror", synchronous="NORMAL")
                opened.callback(self.mirror.close)
                self.mirror_beside = open_beside(path)
                opened.callback(self.mirror_beside.close)
                self.mirror_filing = open_beside(path, for_checkpoints=True)
                opened.pop_all()
        except (OSError, StoreError) as error:
            self.unwritable = self.unwritable or str(error)
            self.mirror, self.mirror_beside = _mirror_in_memory()
            self.mirror_filing = self.mirror_beside
            self.mirror_in_memory = True

    def renew_journal(self, secret: bytes) -> tuple[Connection, ...]:
        """Salvages a journal that was found damaged, which takes seconds where it is long. Raises Newer.

        It may be read all the while, not written. Returns what read it: to be closed, in this order, once
        nobody uses that any more.
        """
        done_with = (self.journal_beside, self.journal)
        if self.unwritable:
            self._read_journal(secret)
            return done_with
        try:
            self._open_journal(secret)
        except StoreError as error:
            found = read_journal(self.folder / JOURNAL, suspect=True, secret=secret)
            outbox, _ = open_in_memory("journal")
            copy_outbox(found[0], outbox)
            self.journal, self.journal_beside, self.salvaged = found
            self.outbox, self.unwritable = outbox, str(error)
        return done_with

    def _open_journal(self, secret: bytes) -> None:
        path = self.folder / JOURNAL
        with ExitStack() as opened:
            journal, salvaged = open_journal(path, suspect=True, secret=secret)
            opened.callback(journal.close)
            self.journal_beside = open_beside(path)
            opened.pop_all()
        self.journal, self.outbox, self.salvaged = journal, journal, salvaged

    def _read_journal(self, secret: bytes) -> None:
        path = self.folder / JOURNAL
        self.journal, self.journal_beside, self.salvaged = read_journal(path, suspect=True, secret=secret)

    def forget_kept(self) -> None:
        """Wipes the damaged files that were kept. Raises StoreError."""
        try:
            forget_kept(self.folder)
        except OSError as error:
            raise StoreError(f"{self.folder}: {error}") from error

    def close(self) -> None:
        """Closes all of them."""
        for connection in (self.journal_beside, self.outbox, self.journal):
            connection.close()
        self._close_mirror()

    def _close_mirror(self) -> None:
        for connection in (self.mirror_beside, self.mirror_filing, self.mirror):
            connection.close()


def _open_mirror(path: Path) -> tuple[Connection, bool]:
    """The mirror's file; one that is damaged is thrown away, since downloads bring it back."""
    try:
        return open_database(path, "mirror", synchronous="NORMAL"), False
    except Damaged:
        _remove(path)
        return open_database(path, "mirror", synchronous="NORMAL"), True


def _read_mirror(path: Path, journal: Connection) -> tuple[Connection, Connection] | None:
    """The mirror's file, read in place, if it can be and is this gate's: it could not empty itself."""
    try:
        mirror = open_to_read(path, "mirror")
    except Newer:
        raise
    except StoreError:
        return None
    try:
        if _note(mirror, "secret") == _note(journal, "secret"):
            return mirror, open_to_read(path, "mirror")
    except (sqlite3.Error, StoreError):  # as good as damaged
        pass
    mirror.close()
    return None


def _mirror_in_memory() -> tuple[Connection, Connection]:
    mirror, name = open_in_memory("mirror", megabytes=_MIRROR_MEGABYTES)
    return mirror, beside_in_memory(name)


def _is_complete(mirror: Connection) -> bool:
    return bool(_note(mirror, "complete"))


def _note(connection: Connection, key: str) -> object:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return row and row[0]


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
