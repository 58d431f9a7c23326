"""What concerns all tests: those that mostly wait begin first, so that none waits alone at the end.

Nothing is worked out again and again: each worker and each gate that is started finds our modules compiled,
and no collection of garbage looks at the thousands of tests that wait for their turn.
"""

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from gated.store.database import Connection, open_database

# How long an example takes depends on what else the machine does: no test asserts a time.
settings.register_profile("gated", deadline=None)
settings.load_profile("gated")

# Images of containers set it. Then all workers would rewrite and compile every module at every run.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

WAITING = ("test_gate_alone.py", "test_gate.py", "test_explain_cli.py", "test_watchdog.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in WAITING)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores that are opened do not wait for the disk."""

    def opened(path: Path, kind: str, *, synchronous: str) -> Connection:
        return open_database(path, kind, synchronous="OFF")

    for module in ("files", "salvage"):
        monkeypatch.setattr(f"gated.store.{module}.open_database", opened)
