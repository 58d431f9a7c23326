"""What concerns all tests: those that mostly wait begin first, so that none waits alone at the end."""

import pytest
from hypothesis import settings

# How long an example takes depends on what else the machine does: no test asserts a time.
settings.register_profile("gated", deadline=None)
settings.load_profile("gated")

WAITING = ("test_gate_alone.py", "test_gate.py", "test_explain_cli.py", "test_watchdog.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in WAITING)
