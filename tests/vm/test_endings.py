"""What holds however often gated ends and whatever ends it: every edge of every output has a cause.

    GATED_VM_CYCLES=200 GATED_VM_SEED=1 pytest -m vm -s tests/vm/test_endings.py      # ten without that

Seconds are those of an emulated processor on a busy host: what is judged is what caused an edge, not when it
came. The cycles are made by guest/endings.py; their facts stay in the directory that the summary names.
"""

import os
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.vm.conftest import found, live

pytestmark = pytest.mark.vm

CYCLES = int(os.environ.get("GATED_VM_CYCLES", "10"))  # in which the gate is ended and comes back
SEED = os.environ.get("GATED_VM_SEED", "20261124")
LIMIT_S = 600 + 90 * CYCLES

RELEASES = {"entry": 17, "exit": 22, "side": 23}  # active-high, active-low, and one that is held

Cycle = dict[str, Any]


@pytest.fixture(scope="module")
def cycles(virtual_pi: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Cycle]:
    """Each cycle of one boot; times are seconds from the moment the gate was ended."""
    place = tmp_path_factory.mktemp("endings")
    facts = live(virtual_pi, place, "endings.py", LIMIT_S, cycles=str(CYCLES), seed=SEED)
    found(facts, "begin")
    cycles = [found(facts, f"ending {number}") for number in range(CYCLES)]
    print("\n" + summary(cycles), f"facts: {place}/boot/run.out", sep="\n")
    return cycles


def summary(cycles: list[Cycle]) -> str:
    """For the record: how many ends and edges, and how soon the lines were safe, by kind of end."""
    edges = sum(len(cycle["edges"]) for cycle in cycles)
    releases = sum(on and pin in RELEASES.values() for cycle in cycles for _, pin, on in cycle["edges"])
    lines = [
        f"{len(cycles)} ends, {edges} edges, {releases} of them releases; "
        f"without a cause: {sum(len(without_cause(cycle)) for cycle in cycles)}"
    ]
    for end in sorted({cycle["end"] for cycle in cycles}):
        safe = [each["safe_at"] for each in cycles if each["end"] == end and released(each)]
        if safe:
            figures = f"{min(safe):.2f} / {median(safe):.2f} / {max(safe):.2f} s"
            lines.append(
                f"{end} in a release, to safe lines: min / median / max {figures} ({len(safe)} times)"
            )
    return "\n".join(lines)


def without_cause(cycle: Cycle) -> list[tuple[float, int]]:
    """What was energised though nothing asked for it: edges by time and pin.

    A release is caused by its lane's guest, once, before the end. A lamp is lit by a gated that lives: by the
    one that was ended until it was gone, by the next from its claim on.
    """
    stray = []
    awaited = RELEASES.get(cycle["moment"])
    for at, pin, on in cycle["edges"]:
        if not on:
            continue
        if pin in RELEASES.values():
            if pin == awaited and cycle["caused_at"] <= at <= 0:
                awaited = None
            else:
                stray.append((at, pin))
        elif not lived(cycle, at):
            stray.append((at, pin))
    return stray


def released(cycle: Cycle) -> bool:
    """Whether a barrier was released when the gate was ended; on a busy host a pulse may be over by then."""
    pin = RELEASES.get(cycle["moment"])
    return [on for at, number, on in cycle["edges"] if number == pin and at <= 0] == [True]


def lived(cycle: Cycle, at: float) -> bool:
    """Whether a gated held its outputs then."""
    claims = cycle["claims_at"]
    gone = 0.0 if cycle["gone_at"] is None else cycle["gone_at"]
    return at <= gone or any(claim <= at for claim in claims if claim >= gone)


def test_most_ends_that_were_meant_to_came_while_a_barrier_was_released(cycles: list[Cycle]) -> None:
    """Or the rest would show nothing."""
    meant = [cycle for cycle in cycles if cycle["moment"] in RELEASES]
    assert sum(map(released, meant)) > len(meant) / 2


def test_nothing_was_ever_energised_without_a_cause(cycles: list[Cycle]) -> None:
    assert [(each, cycle) for cycle in cycles if (each := without_cause(cycle))] == []


def test_however_the_gate_ended_its_outputs_were_safe_before_it_came_back(cycles: list[Cycle]) -> None:
    """Lamps and buzzers too, and by the unit's helper, not only by the next start."""
    for cycle in cycles:
        assert cycle["safe_at"] is not None, cycle
        if cycle["claims_at"] and released(cycle):
            assert cycle["safe_at"] < cycle["claims_at"][-1], cycle


def test_no_output_was_ever_made_an_input(cycles: list[Cycle]) -> None:
    assert [cycle for cycle in cycles if cycle["made_inputs"]] == []


def test_the_first_barcode_after_a_start_is_whole(cycles: list[Cycle]) -> None:
    assert [cycle for cycle in cycles if cycle["malformed"]] == []
