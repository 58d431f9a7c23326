"""What must come of a gate's parts: keyboards of every kind, scanners that are taken away, the fire alarm.

The steps are in guest/parts.py. Seconds are those of an emulated processor.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import found, live

pytestmark = pytest.mark.vm

Facts = Callable[[str], dict[str, Any]]

LIMIT_S = 2400  # on a busy host; about 500 on an idle one
PULSE_S = 3.0  # in guest/parts.py
EVENTS = 64  # that the kernel keeps for a reader

KEYBOARD_IN, PORT_IN = "detach", "detach_crosswise"  # what reads at the entry; the exit has the other
WAYS = [KEYBOARD_IN, PORT_IN]
AT_REST = ["ready", "free", "locked", "out_of_service", "emergency"]
OPENS = ["granted", "denied"]  # an exit that opens always does so for a denial too


@pytest.fixture(scope="module")
def fact(virtual_pi: Path, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """Looks a step's fact up."""
    return partial(found, live(virtual_pi, tmp_path_factory.mktemp("parts"), "parts.py", LIMIT_S))


# The fire alarm


def test_a_drill_measures_every_lane(fact: Facts) -> None:
    answers = {answer["lane"]: answer for answer in fact("drill")["answers"]}
    assert {lane: answer["profile"] for lane, answer in answers.items()} == {
        "entry": "pulse",
        "exit": "pulse",
        "side": "hold",
    }
    assert all(answer["took_ms"] is not None for answer in answers.values()), answers
    assert fact("drill")["emergency"]


def test_what_a_drill_tells_is_what_the_kernel_saw(fact: Facts) -> None:
    """gated's stamps, from the edge to the written line, and the kernel's trace of the line."""
    [side] = (answer for answer in fact("drill")["answers"] if answer["lane"] == "side")
    assert side["took_ms"] > 0
    assert fact("drill")["released_after_ms"] == pytest.approx(side["took_ms"], abs=500)


def test_an_emergency_releases_what_is_held_until_it_is_reset_and_nothing_else(fact: Facts) -> None:
    assert fact("drill")["still"].count("side") == 1
    assert fact("drill")["reset"] == 0
    assert [edge[1:] for edge in fact("drill")["edges"]] == [["side", True], ["side", False]]


# Keyboards


def test_two_keyboards_that_type_at_once_are_two_guests(fact: Facts) -> None:
    both = fact("two_keyboards")
    for lane in ("entry", "side"):
        assert [scan["code"] for scan in both[lane]] == [100]
        assert [on for _, name, on in both["edges"] if name == lane] == [True, False]


@pytest.mark.parametrize("step", ["fast", "slow"])
def test_however_fast_a_scanner_types_its_barcodes_are_whole(fact: Facts, step: str) -> None:
    assert fact(step)["malformed"] == []
    assert fact(step)["codes"] == [100] * len(fact(step)["took_s"])


def test_a_keyboard_that_gated_holds_can_not_reboot_the_gate(fact: Facts) -> None:
    assert fact("ctrl_alt_del")["held"] == 0


def test_one_that_it_does_not_hold_yet_is_refused_by_the_mask_that_the_guide_sets(fact: Facts) -> None:
    assert fact("ctrl_alt_del")["masked"] == 0
    assert fact("ctrl_alt_del")["let_go"] >= 1


def test_more_of_a_barcode_outlives_a_loop_that_stands_still_since_all_but_keys_is_masked(
    fact: Facts,
) -> None:
    """A letter is two keys and two reports; a capital has its Shift as well."""
    held_up = fact("held_up")
    assert held_up["status"] == 0, held_up["said"]
    for masked, unmasked, events in zip(held_up["masked"], held_up["unmasked"], (4, 6), strict=True):
        assert masked >= EVENTS // events - 2  # its Enter, and what the kernel keeps for "dropped"
        assert masked > 1.3 * unmasked


# Scanners that are taken away


@pytest.mark.parametrize("way", WAYS)
def test_the_gate_goes_on_whatever_scanner_is_taken_away(fact: Facts, way: str) -> None:
    assert fact(way)["same_process"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", AT_REST)
def test_an_entry_whose_scanner_is_taken_away_stays_as_it_is(fact: Facts, way: str, state: str) -> None:
    taken = fact(way)[f"entry, {state}"]
    assert taken["states"] == [state] * 3
    assert taken["edges"] == []


@pytest.mark.parametrize("way", WAYS)
def test_a_decision_that_is_under_way_is_finished(fact: Facts, way: str) -> None:
    taken = fact(way)["entry, deciding"]
    assert taken["states"] == ["deciding", "ready", "ready"]
    assert taken["reasons"] == ["unknown"]
    assert taken["edges"] == []


@pytest.mark.parametrize("way", WAYS)
def test_a_standing_grant_keeps_its_pulse(fact: Facts, way: str) -> None:
    taken = fact(way)["entry, granted"]
    assert taken["states"] == ["granted", "ready", "ready"]
    [(began, *_), (ended, *_)] = taken["edges"]
    assert [edge[1:] for edge in taken["edges"]] == [["entry", True], ["entry", False]]
    assert ended - began == pytest.approx(PULSE_S, abs=0.3)
    assert taken["lost_after_s"] < ended


@pytest.mark.parametrize("way", WAYS)
def test_a_denied_guest_stays_denied(fact: Facts, way: str) -> None:
    taken = fact(way)["entry, denied"]
    assert taken["reasons"] == ["unknown"]
    assert taken["states"][1:] == ["ready", "ready"]
    assert taken["edges"] == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", ["ready", "free", "out_of_service"])
def test_an_exit_without_its_scanner_is_free(fact: Facts, way: str, state: str) -> None:
    assert fact(way)[f"exit, {state}"]["states"] == [state, "free", state]


@pytest.mark.parametrize("way", WAYS)
def test_an_emergency_outranks_the_loss(fact: Facts, way: str) -> None:
    assert fact(way)["exit, emergency"]["states"] == ["emergency"] * 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", OPENS)
def test_an_exit_that_loses_its_scanner_in_a_guests_turn_releases_once(
    fact: Facts, way: str, state: str
) -> None:
    taken = fact(way)[f"exit, {state}"]
    assert taken["states"][1:] == ["free", "ready"]
    assert [edge[1:] for edge in taken["edges"]] == [["exit", True], ["exit", False]]


@pytest.mark.parametrize("way", WAYS)
def test_nothing_stays_energised_without_a_scanner(fact: Facts, way: str) -> None:
    lanes = [taken for name, taken in fact(way).items() if ", " in name]
    assert len(lanes) == 14
    assert all(taken["still"] == [] for taken in lanes)
