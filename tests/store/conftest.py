"""Stores for the tests of the store: what is in their files counts, not when the disk has it."""

import pytest


@pytest.fixture(autouse=True)
def _quick_store(unsynced: None) -> None:
    """Others read the same in the files at once, whatever is on the disk."""
