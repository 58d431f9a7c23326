"""Any bytes and any keys: nothing raises, little is kept, and the next barcode is read whole."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.core.barcode import (
    KEY_CAPSLOCK,
    KEY_LEFTALT,
    KEY_LEFTCTRL,
    KEY_LEFTSHIFT,
    KEY_RIGHTSHIFT,
    KEY_TAB,
    LONGEST,
    Aim,
    Barcode,
    ByteFramer,
    Framing,
    KeyFramer,
    Malformed,
    MalformedWhy,
    Read,
    Terminator,
)
from tests.hostile.words import HOSTILE, tried
from tests.scanners.codes import ecodes
from tests.scanners.keys import TYPEABLE, Key, tap, typed

FRAMINGS = st.builds(Framing, st.sampled_from(Terminator), st.text(max_size=3), st.sampled_from(Aim))
WIRE = {"cr": b"\r", "lf": b"\n", "crlf": b"\r\n", "tab": b"\t", "etx": b"\x03"}
CLEAN = "TICKET-0001"
# Bytes that mean something to a framer, and runs of them, beside any others.
NOISE = st.lists(
    st.binary(max_size=40)
    | st.sampled_from(
        [b"\r", b"\n", b"\t", b"\x02", b"\x03", b"\x00", b"]Q1", b"\\000026", b"NR", b"\xf0\x9f"]
    )
    | st.builds(lambda byte, times: byte * times, st.binary(min_size=1, max_size=1), st.integers(1, 1000))
)


def is_barcode(read: Read) -> bool:
    return not isinstance(read, Barcode) or (1 <= len(read.text) <= LONGEST and read.text.isprintable())


@tried(8)
@given(NOISE, FRAMINGS, st.lists(st.integers(1, 300), min_size=1))
def test_noise_gives_the_same_whichever_way_it_is_cut_and_little_is_kept(
    noise: list[bytes], framing: Framing, sizes: list[int]
) -> None:
    whole = b"".join(noise)
    framer, reads, at = ByteFramer(framing), [], 0
    while at < len(whole):
        size = sizes[at % len(sizes)]
        reads += framer.feed(whole[at : at + size], 0.0)
        assert len(framer._kept) <= framer._room
        at += size
    assert all(map(is_barcode, reads))
    assert reads == ByteFramer(framing).feed(whole, 0.0)


@tried(8)
@given(NOISE, st.sampled_from(Terminator))
def test_after_noise_that_has_an_end_the_next_barcode_is_read_whole(
    noise: list[bytes], terminator: Terminator
) -> None:
    framer = ByteFramer(Framing(terminator))
    framer.feed(b"".join(noise) + WIRE[terminator], 0.0)
    assert framer.feed(CLEAN.encode() + WIRE[terminator], 0.0) == [Barcode(CLEAN)]


@tried(8)
@given(NOISE, st.sampled_from(Terminator))
def test_after_noise_and_a_silence_the_next_barcode_is_read_whole(
    noise: list[bytes], terminator: Terminator
) -> None:
    framer = ByteFramer(Framing(terminator))
    framer.feed(b"".join(noise), 0.0)
    framer.silence(1.0)
    assert framer.feed(CLEAN.encode() + WIRE[terminator], 1.0) == [Barcode(CLEAN)]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("terminator", Terminator)
def test_a_hostile_barcode_is_read_as_it_is_or_not_at_all(terminator: Terminator, text: str) -> None:
    sent = text.encode() + WIRE[terminator]
    reads = ByteFramer(Framing(terminator)).feed(sent, 0.0)
    if text.isprintable():
        assert reads == [Barcode(text)]
    else:
        assert all(map(is_barcode, reads))


MODIFIERS = [
    KEY_LEFTSHIFT,
    KEY_RIGHTSHIFT,
    KEY_LEFTCTRL,
    ecodes.KEY_RIGHTCTRL,
    KEY_LEFTALT,
    ecodes.KEY_RIGHTALT,
    ecodes.KEY_LEFTMETA,
    ecodes.KEY_RIGHTMETA,
]
ANY_KEY = st.tuples(
    st.integers(0, 767) | st.sampled_from([*MODIFIERS, KEY_CAPSLOCK, KEY_TAB, ecodes.KEY_ENTER]),
    st.sampled_from([0, 1, 2]) | st.integers(-(2**31), 2**31 - 1),
)
LOST = "events lost"
KEYS = st.lists(ANY_KEY | st.just(LOST) | st.text(TYPEABLE, max_size=300).map(typed))


def play(framer: KeyFramer, played: list[Any]) -> list[Read]:
    reads: list[Read | None] = []
    for each in played:
        if each == LOST:
            framer.discard()
        else:
            keys: list[Key] = each if isinstance(each, list) else [each]
            reads += [framer.press(code, value, 0.0) for code, value in keys]
        assert len(framer._frame.kept) <= framer._room
    return [read for read in reads if read is not None]


@tried(8)
@given(KEYS, FRAMINGS)
def test_any_keys_give_barcodes_that_keep_the_rules_and_little_is_kept(
    played: list[Any], framing: Framing
) -> None:
    assert all(map(is_barcode, play(KeyFramer(framing), played)))


@tried(8)
@given(KEYS)
def test_after_any_keys_a_barcode_is_read_whole_once_all_keys_are_up_and_a_frame_has_ended(
    played: list[Any],
) -> None:
    framer = KeyFramer(Framing())
    play(framer, played)
    play(framer, [[(code, 0) for code in MODIFIERS], tap(ecodes.KEY_ENTER)])
    assert play(framer, [typed(CLEAN)]) == [Barcode(CLEAN)]


def test_ctrl_alt_del_and_what_opens_a_shell_is_a_chord_and_no_barcode() -> None:
    delete = 111
    for keys in (
        [(KEY_LEFTCTRL, 1), (KEY_LEFTALT, 1), (delete, 1), (delete, 0), (KEY_LEFTALT, 0), (KEY_LEFTCTRL, 0)],
        [(ecodes.KEY_LEFTMETA, 1), *tap(ecodes.KEY_R), (ecodes.KEY_LEFTMETA, 0)],
        [(KEY_LEFTALT, 1), *tap(ecodes.KEY_F4), (KEY_LEFTALT, 0)],
    ):
        assert play(KeyFramer(Framing()), [*keys, typed("A")]) == [Malformed(MalformedWhy.CHORD, 2)]


def test_a_scanner_that_types_a_key_a_second_never_makes_a_barcode_of_its_pieces() -> None:
    framer, reads = KeyFramer(Framing()), []
    for second, (code, value) in enumerate(typed("ABC")):
        framer.silence(float(second))
        reads.append(framer.press(code, value, float(second)))
    assert [read for read in reads if read is not None] == []


def test_a_scanner_that_types_at_10_khz_is_read_key_by_key() -> None:
    framer, reads = KeyFramer(Framing()), []
    for number, (code, value) in enumerate(typed(CLEAN) * 1000):
        reads.append(framer.press(code, value, number / 10_000))
    assert [read for read in reads if read is not None] == [Barcode(CLEAN)] * 1000


def test_a_shift_whose_release_is_lost_turns_letters_and_nothing_else() -> None:
    framer = KeyFramer(Framing())
    assert play(framer, [(KEY_LEFTSHIFT, 1), typed("abc")]) == [Barcode("ABC")]
    assert play(framer, [typed("aBc")]) == [Barcode("ABc")]  # the next Shift's release is this one's too


def test_a_key_that_the_kernel_repeats_counts_once() -> None:
    key = ecodes.KEY_A
    held = [(key, 1), *[(key, 2)] * 500, (key, 0), *tap(ecodes.KEY_ENTER)]
    assert play(KeyFramer(Framing()), held) == [Barcode("a")]
