"""What holds however often the power goes: SIGKILL to the emulator, at a random moment of what is under way.

GATED_VM_CUTS=200 pytest -m vm tests/vm/test_power_cuts.py      # five without that
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.conftest import CHECKOUT
from tests.vm.cuts import Cuts

pytestmark = pytest.mark.vm

CUTS = int(os.environ.get("GATED_VM_CUTS", "5"))
SEED = int(os.environ.get("GATED_VM_SEED", "20261124"))


@pytest.fixture(scope="module")
def cuts(virtual_pi: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cuts]:
    """All cuts of a run; what came of each stands in its cuts.jsonl as it goes."""
    cuts = Cuts(virtual_pi, CHECKOUT, tmp_path_factory.mktemp("cuts"), SEED)
    try:
        cuts.run(CUTS)
        yield cuts
    finally:
        cuts.server.stop()


def test_every_cut_came_in_its_moment(cuts: Cuts) -> None:
    assert cuts.missed == []
    assert cuts.made.total() == CUTS


def test_the_gate_is_ready_by_itself_after_every_cut(cuts: Cuts) -> None:
    assert cuts.unready == []


def test_every_scan_whose_relay_moved_is_in_the_journal_and_every_file_is_whole(cuts: Cuts) -> None:
    assert len(cuts.truth.releases) > CUTS
    assert cuts.truth.violations == []


def test_no_ticket_is_admitted_again_because_of_a_cut(cuts: Cuts) -> None:
    assert cuts.truth.twice() == []


def test_no_valid_ticket_is_refused_because_of_a_cut(cuts: Cuts) -> None:
    assert cuts.refused == []
    assert cuts.unanswered == []


def test_every_scan_reached_the_server_and_twice_only_if_it_is_marked(cuts: Cuts) -> None:
    assert cuts.counts["scans"] > CUTS
    assert cuts.disagreements == []
