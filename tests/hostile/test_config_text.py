"""Any configuration: read, or told what is wrong with it; never a traceback, and never for long."""

import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.config import load, parse
from gated.errors import ConfigError
from tests.hostile.words import HOSTILE, in_toml, tried

REFERENCE = (Path(__file__).parents[2] / "config" / "gated.toml").read_text()
LINES = REFERENCE.splitlines(keepends=True)
SIGNS = [
    "[",
    "]",
    "[[",
    "{",
    "}",
    "=",
    ".",
    ",",
    '"',
    "'",
    '"""',
    "#",
    "\n",
    "\\",
    "-1",
    "1e999",
    "nan",
    "0x7f",
    "true",
]
PIECES = st.sampled_from([*SIGNS, *HOSTILE.values(), "1979-05-27", "9" * 5000, "\ufeff", "\r"]) | st.text(
    max_size=8
)


def told(text: str) -> tuple[str, ...]:
    try:
        parse(text)
    except ConfigError as error:
        return error.mistakes
    return ()


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """The reference with some lines taken out, doubled, moved, or with something written into them."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 6))):
        at, other = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["drop", "double", "move", "write", "uncomment"])):
            case "drop" if len(lines) > 1:
                del lines[at]
            case "double":
                lines.insert(other, lines[at])
            case "move":
                lines[at], lines[other] = lines[other], lines[at]
            case "uncomment":
                lines[at] = lines[at].removeprefix("#").lstrip(" ")
            case _:
                place = draw(st.integers(0, len(lines[at])))
                lines[at] = lines[at][:place] + draw(PIECES) + lines[at][place:]
    return "".join(lines)


@tried(8)
@given(mutated())
def test_a_reference_that_was_tampered_with_is_read_or_told_about(text: str) -> None:
    for mistake in told(text):
        if line := re.match(r"line ([0-9]+)", mistake):
            assert 1 <= int(line[1]) <= text.count("\n") + 1


@tried(8)
@given(st.lists(PIECES, max_size=30).map("".join))
def test_any_signs_of_toml_are_told_about(text: str) -> None:
    assert told(text)


@tried(8)
@given(st.sampled_from(LINES), st.sampled_from([*HOSTILE.values()]))
def test_a_hostile_word_in_place_of_a_value_is_one_value_or_told(line: str, text: str) -> None:
    key, _, _ = line.partition(" = ")
    told(REFERENCE.replace(line, f"{key} = {in_toml(text)}\n"))


def test_a_file_full_of_wrong_keys_is_told_of_soon() -> None:
    began = time.process_time()
    assert len(told("".join(f"pin{number} = 1\n" for number in range(500)))) > 500
    assert time.process_time() - began < 1.5


@pytest.mark.parametrize("name", ["gated.toml", "password"])
def test_a_file_that_never_ends_is_not_read_to_its_end(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(ConfigError, match="longer than 262144 bytes"):
        load(path)
