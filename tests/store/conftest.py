"""Stores for the tests of the store: what is in their files counts, not when the disk has it."""

from pathlib import Path

import pytest

from gated.store.database import Connection, open_database


@pytest.fixture(autouse=True)
def _quick_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is not waited for: others read the same in the files at once, whatever is on the disk."""

    def unsynced(path: Path, kind: str, *, synchronous: str) -> Connection:
        return open_database(path, kind, synchronous="OFF")

    for module in ("files", "salvage"):
        monkeypatch.setattr(f"gated.store.{module}.open_database", unsynced)
