"""Scans for a day, as fast as the lanes take them: ``python3 -m tests -n 0 -m soak tests/soak``.

GATED_SOAK=86400 in the environment says how many, GATED_SOAK_SEED plays a run again.
"""

import os
import random
from pathlib import Path

import pytest

from tests.soak.soak import Soak, p

pytestmark = pytest.mark.soak

# What comes and goes: connections to the server (two clients, each with a few), commands; threads that open a
# scanner or look a name up.
CONNECTIONS, LOOK_UPS = 12, 2
# In fewer scans a single hiccup of the machine is all of a tenth's p99.
MANY = 20_000

SCANS = int(os.environ.get("GATED_SOAK", "2000"))
SEED = int(os.environ.get("GATED_SOAK_SEED", str(random.randrange(10**6))))


def test_nothing_is_lost_wrong_or_growing_whatever_goes_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Soak(tmp_path, SCANS, SEED).run()
    assert not report.wrong, "\n".join([f"seed {SEED}", *report.wrong[:10]])
    with capsys.disabled():
        print("", f"seed {SEED}", *report.figures(), sep="\n")
    (early, took_early), (late, took_late) = report.tenth(2), report.tenth(10)
    assert max(each.files for each in late) <= max(each.files for each in early) + CONNECTIONS
    assert max(each.threads for each in late) <= max(each.threads for each in early) + LOOK_UPS
    assert max(each.rss_kb for each in late) <= max(each.rss_kb for each in early) * 1.05
    if SCANS >= MANY:
        assert p(took_late, 99) <= 3 * p(took_early, 99)
