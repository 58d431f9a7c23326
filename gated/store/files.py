"""The gate's two database files, opened: each for the thread that writes, and beside it to read alone.

The second connections are closed before the first ones: the last to be closed empties the WAL and removes it.
"""

from dataclasses import dataclass
from pathlib import Path

from gated.errors import StoreError
from gated.store.database import Connection, Damaged, open_beside, open_database
from gated.store.salvage import Salvaged, forget_kept, open_journal

JOURNAL, MIRROR = "journal.db", "mirror.db"


@dataclass(slots=True)
class Files:
    """Connections to both databases of one state directory."""

    folder: Path
    journal: Connection
    mirror: Connection
    journal_beside: Connection
    mirror_beside: Connection
    salvaged: Salvaged | None
    """What was read of a journal that was found damaged."""
    mirror_renewed: bool
    """Whether the mirror was found damaged, and is empty now."""

    @classmethod
    def open(cls, folder: Path) -> "Files":
        """Opens or creates the files in ``folder``, salvaging what is damaged. Raises StoreError."""
        journal, salvaged = open_journal(folder / JOURNAL)
        mirror, renewed = _open_mirror(folder / MIRROR)
        beside = open_beside(folder / JOURNAL), open_beside(folder / MIRROR)
        return cls(folder, journal, mirror, *beside, salvaged, renewed)

    def renew_mirror(self) -> None:
        """Begins an empty mirror in place of a damaged one. Nobody may be reading that. Raises StoreError."""
        self.mirror_beside.close()
        self.mirror.close()
        path = self.folder / MIRROR
        _remove(path)
        self.mirror = open_database(path, "mirror", synchronous="NORMAL")
        self.mirror_beside = open_beside(path)

    def renew_journal(self, secret: bytes) -> None:
        """Salvages a journal that was found damaged. Nobody may be reading it. Raises StoreError."""
        self.journal_beside.close()
        self.journal.close()
        path = self.folder / JOURNAL
        self.journal, self.salvaged = open_journal(path, suspect=True, secret=secret)
        self.journal_beside = open_beside(path)

    def forget_kept(self) -> None:
        """Wipes the damaged files that were kept. Raises StoreError."""
        try:
            forget_kept(self.folder)
        except OSError as error:
            raise StoreError(f"{self.folder}: {error}") from error

    def close(self) -> None:
        """Closes all of them."""
        for connection in (self.journal_beside, self.mirror_beside, self.journal, self.mirror):
            connection.close()


def _open_mirror(path: Path) -> tuple[Connection, bool]:
    """The mirror's file; one that is damaged is thrown away, since downloads bring it back."""
    try:
        return open_database(path, "mirror", synchronous="NORMAL"), False
    except Damaged:
        _remove(path)
        return open_database(path, "mirror", synchronous="NORMAL"), True


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
