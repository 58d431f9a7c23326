"""Bytes or key events in, barcodes out."""

import sys
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gated.core import barcode
from gated.core.barcode import (
    KEY_CAPSLOCK,
    KEY_ENTER,
    KEY_KPENTER,
    KEY_LEFTALT,
    KEY_LEFTCTRL,
    KEY_LEFTMETA,
    KEY_LEFTSHIFT,
    KEY_NUMLOCK,
    KEY_RIGHTALT,
    KEY_RIGHTSHIFT,
    KEY_TAB,
    LONGEST,
    US_KEYS,
    Aim,
    Barcode,
    ByteFramer,
    Framing,
    KeyFramer,
    Malformed,
    MalformedWhy,
    Read,
    Terminator,
    read_text,
)
from tests.scanners.codes import ecodes
from tests.scanners.keys import TYPEABLE, Key, held, tap, typed

KP = {str(digit): getattr(ecodes, f"KEY_KP{digit}") for digit in range(10)}
WIRE = {
    Terminator.CR: b"\r",
    Terminator.LF: b"\n",
    Terminator.CRLF: b"\r\n",
    Terminator.TAB: b"\t",
    Terminator.ETX: b"\x03",
}
PLAIN = Framing()
TIMEOUT = PLAIN.character_timeout.total_seconds()


def read_bytes(data: bytes, framing: Framing = PLAIN) -> list[Read]:
    return ByteFramer(framing).feed(data, 0.0)


def read_keys(keys: list[Key], framer: KeyFramer | None = None) -> list[Read]:
    framer = framer or KeyFramer(PLAIN)
    reads = (framer.press(code, value, 0.0) for code, value in keys)
    return [read for read in reads if read is not None]


def malformed(why: MalformedWhy, length: int) -> list[Read]:
    return [Malformed(why, length)]


def is_barcode(text: str) -> bool:
    return 1 <= len(text) <= LONGEST and text.isprintable() and text == text.strip(" ")


# What a barcode is


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("CMBARCODE123", Barcode("CMBARCODE123")),
        ("  CMbarcode 123\t", Barcode("CMbarcode 123")),
        ("Ünïcødé-票", Barcode("Ünïcødé-票")),
        ("x" * LONGEST, Barcode("x" * LONGEST)),
        (" " + "x" * LONGEST + " ", Barcode("x" * LONGEST)),
        ("x" * (LONGEST + 1), Malformed(MalformedWhy.TOO_LONG, LONGEST + 1)),
        ("", Malformed(MalformedWhy.EMPTY, 0)),
        (" \t ", Malformed(MalformedWhy.EMPTY, 0)),
        ("A\x1dB", Malformed(MalformedWhy.NOT_PRINTABLE, 3)),  # GS of GS1
        ("AB\x1d", Malformed(MalformedWhy.NOT_PRINTABLE, 3)),
        ("A\x1b[2JB", Malformed(MalformedWhy.NOT_PRINTABLE, 6)),  # clears a terminal
        ("A\nB", Malformed(MalformedWhy.NOT_PRINTABLE, 3)),
        ("A\x00B", Malformed(MalformedWhy.NOT_PRINTABLE, 3)),
        ("A\u202eB", Malformed(MalformedWhy.NOT_PRINTABLE, 3)),  # turns the line round
        ("A\u200bB", Malformed(MalformedWhy.NOT_PRINTABLE, 3)),
        ("A\u00a0B", Malformed(MalformedWhy.NOT_PRINTABLE, 3)),
        ("A\u2028B", Malformed(MalformedWhy.NOT_PRINTABLE, 3)),
        ("A\ue000B", Malformed(MalformedWhy.NOT_PRINTABLE, 3)),
        ("A\ud800B", Malformed(MalformedWhy.NOT_PRINTABLE, 3)),
    ],
)
def test_a_barcode_is_1_to_128_printable_characters(text: str, read: Read) -> None:
    assert read_text(text) == read


@given(st.text())
def test_any_text_is_a_barcode_that_keeps_the_rules_or_malformed(text: str) -> None:
    read = read_text(text)
    assert isinstance(read, Malformed) or is_barcode(read.text)


# Bytes


@pytest.mark.parametrize(
    ("terminator", "data", "barcodes"),
    [
        ("cr", b"A\rB\r", "A B"),
        ("cr", b"A\r\nB\r\n", "A B"),
        ("cr", b"\r\r\nA\r", "A"),
        ("lf", b"A\nB\n", "A B"),
        ("lf", b"A\r\nB\r\n", "A B"),
        ("crlf", b"A\r\nB\r\n\r\n", "A B"),
        ("tab", b"A\tB\t\r\n", "A B"),
        ("etx", b"\x02A\x03\x02B\x03\r\n", "A B"),
        ("cr", b"\x02A\x00\r\x00\x00\x02B\r\x00", "A B"),
        ("cr", b"A", ""),
    ],
)
def test_a_terminator_ends_a_frame_and_frames_of_nothing_are_no_scans(
    terminator: str, data: bytes, barcodes: str
) -> None:
    assert read_bytes(data, Framing(Terminator(terminator))) == [Barcode(text) for text in barcodes.split()]


@pytest.mark.parametrize(
    ("data", "reads"),
    [
        (b"  \r", malformed(MalformedWhy.EMPTY, 0)),
        (b"A\nB\r", malformed(MalformedWhy.NOT_PRINTABLE, 3)),
        (b"A\x02B\r", malformed(MalformedWhy.NOT_PRINTABLE, 3)),
        (b"\xc3\x9c\r", [Barcode("Ü")]),
        (b"\xdc\r", malformed(MalformedWhy.NOT_UTF8, 1)),  # the same in Latin-1
        (b"\xc0\xaf\r", malformed(MalformedWhy.NOT_UTF8, 2)),  # an overlong "/"
        (b"\xed\xa0\x80\r", malformed(MalformedWhy.NOT_UTF8, 3)),  # a surrogate
        (b"x" * 129 + b"\rA\r", [*malformed(MalformedWhy.TOO_LONG, 129), Barcode("A")]),
        (b"x" * 7089 + b"\rA\r", [*malformed(MalformedWhy.TOO_LONG, 7089), Barcode("A")]),
        ("票".encode() * 128 + b"\r", [Barcode("票" * 128)]),
    ],
)
def test_bytes_that_are_no_barcode_are_malformed_once(data: bytes, reads: list[Read]) -> None:
    assert read_bytes(data) == reads


@pytest.mark.parametrize("data", [b"NR\r", b"%%NoRead\r\n", b" NOREAD \r"])
@pytest.mark.parametrize("aim", Aim)
def test_a_scanner_that_saw_nothing_is_not_heard(data: bytes, aim: Aim) -> None:
    assert read_bytes(data, Framing(aim=aim)) == []


@pytest.mark.parametrize(
    ("aim", "prefix", "data", "read"),
    [
        ("off", "", "]Q1A", Barcode("]Q1A")),
        ("strip", "", "]Q1A", Barcode("A")),
        ("strip", "", "]d2A", Barcode("A")),
        ("strip", "", "A", Barcode("A")),
        ("strip", "", "]]1A", Barcode("]]1A")),
        ("strip", "", "]Q1]Q1A", Barcode("]Q1A")),
        ("strip", "", "]Q1", Malformed(MalformedWhy.EMPTY, 0)),
        ("require", "", "]C0 A", Barcode("A")),
        ("require", "", "A", Malformed(MalformedWhy.NO_AIM, 1)),
        ("off", "~", "~A", Barcode("A")),
        ("off", "~", "A", Barcode("A")),
        ("off", "~", "~~A", Barcode("~A")),
        ("require", "~", "~]Q1~A", Barcode("~A")),
        ("require", "~", "]Q1~A", Barcode("A")),
        ("require", "~", "~NR", None),
        ("off", "", "\\000026A", Barcode("A")),
        ("require", "", "]Q2\\000026\\000003A", Barcode("A")),
        ("off", "", "\\00002A", Barcode("\\00002A")),
        ("off", "", "A\\000026", Barcode("A\\000026")),
    ],
)
def test_what_the_scanner_puts_before_a_barcode_is_taken_off(
    aim: str, prefix: str, data: str, read: Read | None
) -> None:
    framing = Framing(aim=Aim(aim), prefix=prefix)
    expected = [] if read is None else [read]
    assert read_bytes(data.encode() + b"\r", framing) == expected
    assert read_keys(typed(data), KeyFramer(framing)) == expected


def test_a_partial_frame_is_dropped_after_a_silence_and_counted() -> None:
    framer = ByteFramer(PLAIN)
    framer.feed(b"ABC", 1.0)
    framer.silence(1.0 + TIMEOUT)
    assert framer.feed(b"DEF\r", 2.0) == [Barcode("DEF")]
    assert framer.partials == 1


def test_an_over_long_frame_without_an_end_is_dropped_after_a_silence() -> None:
    framer = ByteFramer(PLAIN)
    framer.feed(b"x" * 10_000, 1.0)
    framer.silence(2.0)
    assert framer.feed(b"DEF\r", 2.0) == [Barcode("DEF")]


def test_a_shorter_silence_and_one_after_a_whole_frame_drop_nothing() -> None:
    framer = ByteFramer(PLAIN)
    framer.feed(b"ABC", 1.0)
    framer.silence(1.0 + TIMEOUT / 2)
    assert framer.feed(b"DEF\r\n", 1.1) == [Barcode("ABCDEF")]
    framer.silence(9.0)
    assert framer.partials == 0


def test_a_reader_that_was_held_up_does_not_cut_a_barcode_in_two() -> None:
    framer = ByteFramer(PLAIN)
    framer.feed(b"ABC", 1.0)
    assert framer.feed(b"DEF\r", 9.0) == [Barcode("ABCDEF")]


BARCODES = st.text(min_size=1, max_size=LONGEST).filter(
    lambda text: is_barcode(text) and read_bytes(text.encode() + b"\r") == [Barcode(text)]
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


@given(st.lists(BARCODES), st.sampled_from(Terminator), st.lists(st.integers(min_value=0)))
def test_barcodes_in_any_pieces_come_back_as_they_were(
    texts: list[str], terminator: Terminator, places: list[int]
) -> None:
    framer = ByteFramer(Framing(terminator))
    wire = b"".join(text.encode() + WIRE[terminator] for text in texts)
    reads = [read for piece in cut(wire, places) for read in framer.feed(piece, 0.0)]
    assert reads == [Barcode(text) for text in texts]


@given(
    st.lists(st.binary()),
    st.builds(Framing, st.sampled_from(Terminator), st.text(max_size=3), st.sampled_from(Aim)),
)
def test_any_bytes_give_barcodes_that_keep_the_rules_however_they_are_cut(
    pieces: list[bytes], framing: Framing
) -> None:
    framer = ByteFramer(framing)
    reads = [read for piece in pieces for read in framer.feed(piece, 0.0)]
    assert all(is_barcode(read.text) for read in reads if isinstance(read, Barcode))
    assert reads == read_bytes(b"".join(pieces), framing)


def test_endless_bytes_take_no_more_than_a_frame_of_memory() -> None:
    framer = ByteFramer(PLAIN)
    for filler in (b"\x00" * 65_536, b"x" * 65_536):
        for _ in range(100):
            assert framer.feed(filler, 0.0) == []
    assert sys.getsizeof(framer._kept) < 2_000
    assert framer.feed(b"\r", 0.0) == malformed(MalformedWhy.TOO_LONG, 6_553_600)


# Keys


def test_key_codes_are_those_of_the_kernel() -> None:
    ours = {name: code for name, code in vars(barcode).items() if name.startswith("KEY_")}
    assert ours == {name: getattr(ecodes, name) for name in ours}
    letters = {
        getattr(ecodes, f"KEY_{letter}"): (letter.lower(), letter) for letter in map(chr, range(65, 91))
    }
    digits = {
        getattr(ecodes, f"KEY_{digit}"): (digit, shifted)
        for digit, shifted in zip("1234567890", "!@#$%^&*()", strict=True)
    }
    keypad = {code: (digit, digit) for digit, code in KP.items()}
    others = {
        ecodes.KEY_MINUS: "-_",
        ecodes.KEY_EQUAL: "=+",
        ecodes.KEY_LEFTBRACE: "[{",
        ecodes.KEY_RIGHTBRACE: "]}",
        ecodes.KEY_SEMICOLON: ";:",
        ecodes.KEY_APOSTROPHE: "'\"",
        ecodes.KEY_GRAVE: "`~",
        ecodes.KEY_BACKSLASH: "\\|",
        ecodes.KEY_COMMA: ",<",
        ecodes.KEY_DOT: ".>",
        ecodes.KEY_SLASH: "/?",
        ecodes.KEY_SPACE: "  ",
        ecodes.KEY_TAB: "\t\t",
        ecodes.KEY_ENTER: "\r\r",
        ecodes.KEY_KPENTER: "\r\r",
        ecodes.KEY_KPASTERISK: "**",
        ecodes.KEY_KPMINUS: "--",
        ecodes.KEY_KPPLUS: "++",
        ecodes.KEY_KPDOT: "..",
        ecodes.KEY_KPSLASH: "//",
    }
    typed_by = letters | digits | keypad | {code: tuple(both) for code, both in others.items()}
    assert typed_by == US_KEYS


@given(st.lists(st.text(TYPEABLE, min_size=1, max_size=LONGEST)))
def test_what_is_typed_comes_back_as_it_was(texts: list[str]) -> None:
    for text in texts:
        assume(is_barcode(text) and read_bytes(text.encode() + b"\r") == [Barcode(text)])
    keys = [key for text in texts for key in typed(text)]
    assert read_keys(keys) == [Barcode(text) for text in texts]


A, B, ONE = ecodes.KEY_A, ecodes.KEY_B, ecodes.KEY_1


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ([*held(KEY_RIGHTSHIFT, A, ONE), *tap(A)], "A!a"),
        ([(KEY_LEFTSHIFT, 1), *held(KEY_RIGHTSHIFT, A), *tap(A), (KEY_LEFTSHIFT, 0), *tap(A)], "AAa"),
        ([*tap(KEY_CAPSLOCK), *tap(A), *tap(ONE), *tap(KEY_CAPSLOCK), *tap(A)], "A1a"),
        ([*tap(KEY_CAPSLOCK), *held(KEY_LEFTSHIFT, A, ONE)], "a!"),
        ([(A, 1), (A, 2), (A, 2), (A, 0)], "a"),
        ([(A, 0), (B, 1)], "b"),
        ([*tap(KEY_NUMLOCK), *tap(KP["4"]), *tap(KP["2"])], "42"),
        (held(KEY_LEFTALT, KP["0"], KP["5"], KP["2"]), "4"),
        (held(KEY_RIGHTALT, KP["0"], KP["0"], KP["6"], KP["5"]), "A"),
        (held(KEY_LEFTALT, KP["6"], KP["5"]), "A"),
        (held(KEY_LEFTALT, KP["0"], KP["2"], KP["2"], KP["0"]), "Ü"),
        ([*held(KEY_LEFTALT), *held(KEY_LEFTCTRL), *held(KEY_LEFTMETA), *tap(A)], "a"),
    ],
)
def test_keys_type_what_they_type_on_a_us_keyboard(keys: list[Key], text: str) -> None:
    assert read_keys([*keys, *tap(KEY_ENTER)]) == [Barcode(text)]


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (held(KEY_LEFTCTRL, A), MalformedWhy.CHORD),
        (held(KEY_LEFTMETA, A), MalformedWhy.CHORD),
        (held(KEY_RIGHTALT, A), MalformedWhy.CHORD),
        (held(KEY_LEFTALT, ecodes.KEY_F4), MalformedWhy.CHORD),
        ([(KEY_LEFTCTRL, 1), *held(KEY_LEFTALT, KP["6"], KP["5"]), (KEY_LEFTCTRL, 0)], MalformedWhy.CHORD),
        (tap(ecodes.KEY_F1), MalformedWhy.NOT_PRINTABLE),
        (tap(ecodes.KEY_ESC), MalformedWhy.NOT_PRINTABLE),
        (tap(KEY_TAB), MalformedWhy.NOT_PRINTABLE),
        (held(KEY_LEFTALT, KP["0"], KP["2"], KP["9"]), MalformedWhy.NOT_PRINTABLE),
        (held(KEY_LEFTALT, KP["1"], KP["3"], KP["0"]), MalformedWhy.NOT_PRINTABLE),
        (held(KEY_LEFTALT, KP["2"], KP["5"], KP["6"]), MalformedWhy.NOT_PRINTABLE),
        (held(KEY_LEFTALT, *[KP["0"]] * 3, KP["6"], KP["5"]), MalformedWhy.NOT_PRINTABLE),
    ],
)
def test_a_chord_or_a_key_without_a_character_spoils_its_frame_and_no_other(
    keys: list[Key], why: MalformedWhy
) -> None:
    first, second = read_keys([*tap(A), *keys, *typed("b"), *typed("c")])
    assert isinstance(first, Malformed)
    assert first.why is why
    assert second == Barcode("c")


@pytest.mark.parametrize(
    ("terminator", "ends"),
    [
        ("cr", [KEY_ENTER, KEY_KPENTER]),
        ("lf", [KEY_ENTER, KEY_KPENTER]),
        ("crlf", [KEY_ENTER, KEY_KPENTER]),
        ("tab", [KEY_TAB]),
    ],
)
def test_the_terminator_key_follows_the_configuration(terminator: str, ends: list[int]) -> None:
    for end in ends:
        framer = KeyFramer(Framing(Terminator(terminator)))
        assert read_keys([*tap(end), *typed("A", end), *tap(end)], framer) == [Barcode("A")]


def test_a_terminator_typed_as_a_decimal_code_ends_the_frame() -> None:
    assert read_keys([*tap(A), *held(KEY_LEFTALT, KP["0"], KP["1"], KP["3"])]) == [Barcode("a")]


def test_capslock_ends_with_the_frame() -> None:
    keys = [*tap(KEY_CAPSLOCK), *typed("a"), *typed("a")]
    assert read_keys(keys) == [Barcode("A"), Barcode("a")]


def test_an_over_long_frame_of_keys_is_malformed_once() -> None:
    reads = read_keys([*typed("x" * 500), *typed("a")])
    assert reads == [*malformed(MalformedWhy.TOO_LONG, 500), Barcode("a")]


def test_partly_typed_barcodes_are_dropped_after_a_silence_and_counted() -> None:
    framer = KeyFramer(PLAIN)
    for code, value in [*tap(A), *tap(KEY_CAPSLOCK)]:
        framer.press(code, value, 1.0)
    framer.silence(1.0 + TIMEOUT / 2)
    assert framer.partials == 0
    framer.silence(1.0 + TIMEOUT)
    assert read_keys(typed("b"), framer) == [Barcode("b")]
    framer.silence(9.0)
    assert framer.partials == 1


def test_the_rest_of_a_barcode_whose_keys_were_lost_is_no_barcode() -> None:
    framer = KeyFramer(PLAIN)
    read_keys([*tap(A), (KEY_LEFTSHIFT, 1)], framer)
    framer.discard()
    assert read_keys(typed("bc"), framer) == malformed(MalformedWhy.KEYS_LOST, 2)
    assert read_keys(typed("d"), framer) == [Barcode("d")]


def test_a_silence_ends_the_frame_whose_keys_were_lost() -> None:
    framer = KeyFramer(PLAIN)
    framer.discard()
    framer.silence(1.0)
    assert read_keys(typed("d"), framer) == [Barcode("d")]


@given(
    st.lists(
        st.tuples(st.integers(0, 0x2FF) | st.sampled_from([*US_KEYS, 29, 42, 56, 58]), st.integers(-1, 3))
    ),
    st.builds(Framing, st.sampled_from(Terminator), st.text(max_size=3), st.sampled_from(Aim)),
)
def test_any_keys_give_barcodes_that_keep_the_rules(keys: list[Key], framing: Framing) -> None:
    reads = read_keys(keys, KeyFramer(framing))
    assert all(is_barcode(read.text) for read in reads if isinstance(read, Barcode))


def test_endless_keys_take_no_more_than_a_frame_of_memory() -> None:
    framer = KeyFramer(PLAIN)
    read_keys([*tap(A) * 10_000, (KEY_LEFTALT, 1), *tap(KP["1"]) * 10_000], framer)
    assert len(framer._frame.kept) < 300
    assert len(framer._frame.digits) < 10
