"""The bench itself must not rot: all rows, with small numbers."""

from pathlib import Path

import pytest

from tests.bench.__main__ import measure
from tests.bench.figures import table
from tests.bench.rows import ROWS


@pytest.mark.bench
def test_every_row_can_be_measured_and_says_whether_its_target_is_met(tmp_path: Path) -> None:
    rows = measure(tmp_path, list(ROWS), quick=True)
    print("\n" + table(rows))
    assert all(value > 0 for row in rows for value in row.ours.values)
