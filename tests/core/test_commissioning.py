"""What a contact's changes and a scanner's reads say of their wiring, and the report's text."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.core.barcode import Barcode, Malformed, MalformedWhy, Read, read_text
from gated.core.commissioning import (
    TEST_CODE,
    Found,
    LaneFacts,
    Result,
    Site,
    judge_contact,
    judge_scan,
    report,
    summary,
)

SETTLE = timedelta(milliseconds=20)

# Contacts


@pytest.mark.parametrize(
    ("changes", "found", "note"),
    [
        ([(True, 1.0), (False, 1.3)], Found.WORKS, "active for 300 ms"),
        ([(True, 1.0), (True, 1.1), (False, 1.3), (False, 1.31)], Found.WORKS, "active for 300 ms"),
        (
            [(True, 1.0), (False, 1.002), (True, 1.004), (False, 1.304)],
            Found.WORKS,
            "active for 300 ms, bounces: 1",
        ),
        (
            [(True, 1.0), (False, 1.012)],
            Found.FAILED,
            "active for 12 ms only: gated needs 20 ms or more",
        ),
        ([(False, 1.0)], Found.FAILED, "active for 0 ms only: gated needs 20 ms or more"),
    ],
)
def test_a_contact_is_judged_by_how_long_it_was_active(
    changes: list[tuple[bool, float]], found: Found, note: str
) -> None:
    assert judge_contact(changes, SETTLE) == (found, note)


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 100))).map(lambda some: sorted(some, key=lambda c: c[1]))
)
def test_any_changes_of_a_contact_can_be_judged(changes: list[tuple[bool, float]]) -> None:
    found, note = judge_contact(changes, SETTLE)
    assert found in (Found.WORKS, Found.FAILED)
    assert note.startswith("active for ")


# Scanners


def test_the_test_code_is_a_barcode_of_a_length_of_its_own() -> None:
    assert read_text(TEST_CODE) == Barcode(TEST_CODE)


def test_the_code_to_the_letter_is_good() -> None:
    assert judge_scan(Barcode(TEST_CODE)) == ""


@pytest.mark.parametrize(
    ("read", "why"),
    [
        (Barcode("GATED/Test?0123/ayqwzm"), "German (QWERTZ)"),
        (Barcode("GQTED6Test8)!@#6qwazy;"), "French (AZERTY)"),
        (Barcode("gated-tEST_0123-AZQWYM"), "case conversion"),
        (Barcode("GATED-TEST_0123-AZQWYM"), "case conversion"),
        (Barcode("]Q1" + TEST_CODE), 'aim = "strip"'),
        (Barcode("~" + TEST_CODE), 'prefix = "~"'),
        (Barcode(TEST_CODE + "#"), "# came after the code"),
        (Barcode(TEST_CODE + TEST_CODE), f"{TEST_CODE} came after the code"),
        (Barcode("Test_0123-azqwym"), "only a piece"),
        (Barcode("GATED-Test_0123-azqwyn"), "as many other characters"),
        (Barcode("12345678"), "another code came, of 8 characters"),
        (Malformed(MalformedWhy.TOO_LONG, 300), "no terminator"),
        (Malformed(MalformedWhy.NO_AIM, 22), 'aim = "require"'),
        (Malformed(MalformedWhy.NOT_UTF8, 22), "baudrate"),
        (Malformed(MalformedWhy.CHORD, 22), "Ctrl, Alt or Meta"),
    ],
)
def test_a_wrong_read_is_told_by_its_likely_cause(read: Read, why: str) -> None:
    assert why in judge_scan(read)


@pytest.mark.parametrize("why", list(MalformedWhy))
def test_every_malformed_read_has_a_cause(why: MalformedWhy) -> None:
    assert judge_scan(Malformed(why, 1))


@given(st.text(min_size=1, max_size=40).filter(lambda text: TEST_CODE not in text))
def test_another_code_is_never_repeated_since_it_may_be_a_ticket(text: str) -> None:
    why = judge_scan(Barcode(text))
    assert why
    assert len(text) < 4 or text in TEST_CODE or text not in why


# The report

SITE = Site(
    gate="North | gate",
    at=datetime(2026, 6, 12, 14, 3, tzinfo=UTC),
    version="0.1.0",
    board="Raspberry Pi 5 Model B Rev 1.0, revision c04170",
    kernel="6.12.25",
    let_go="goes off at once",
    pins="lgpio",
    lanes=(LaneFacts("North 1", "entry", "pulse, 300 ms", "locked", emergency_wired=True),),
)
RESULTS = [
    Result("North 1: release", "GPIO17", Found.WORKS, "on for 301 ms"),
    Result("North 1: lamp green", "GPIO22", Found.FAILED, "on for 2000 ms, but not seen"),
    Result("North 1: button", "GPIO13", Found.SKIPPED),
    Result("North 1: buzzer", "GPIO24", Found.UNWATCHED, "on for 500 ms"),
]


def test_the_summary_counts_what_works_and_names_the_rest() -> None:
    assert summary(RESULTS) == "1 of 4 parts work, 1 failed, 1 driven, not watched, 1 skipped"
    assert summary(RESULTS[:1]) == "1 of 1 parts work"


def test_the_report_has_the_site_every_part_and_room_to_sign() -> None:
    text = report(SITE, RESULTS)
    for line in (
        "# Site report: North \\| gate",
        "| tested | 2026-06-12 14:03 (UTC) |",
        "| computer | Raspberry Pi 5 Model B Rev 1.0, revision c04170 |",
        "| an output whose program is killed | goes off at once |",
        "| North 1: release | GPIO17 | works | on for 301 ms |",
        "| North 1: lamp green | GPIO22 | **FAILED** | on for 2000 ms, but not seen |",
        "| North 1: buzzer | GPIO24 | driven, not watched | on for 500 ms |",
        "| North 1 | entry | pulse, 300 ms | locked | yes |",
        "Photo of the cabinet: ____________________",
    ):
        assert line in text.splitlines()
    assert text.rstrip().endswith("Signature: ____________________")
