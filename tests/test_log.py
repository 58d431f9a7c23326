"""What the log's lines look like, and that nobody has to wait for them."""

import json
import logging
import os
import pty
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from gated import log

# What splits a line for one reader or another, moves the cursor, or makes journalctl show "blob data".
BREAKERS = "\n\r\x00\x07\x0b\x0c\x1b\x1c\x7f\x85\x9b\u2028\u2029\u202e\u2066"


class Reader:
    """The log's reading end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def raw(self) -> list[bytes]:
        structlog.get_config()["logger_factory"]().flush()
        return self.path.read_bytes().splitlines(keepends=True)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw()]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with (tmp_path / "log").open("wb", buffering=0) as out:
        log.set_up(out, {})
        yield Reader(tmp_path / "log")
        reset()


def reset() -> None:
    structlog.reset_defaults()
    logging.captureWarnings(False)
    logging.getLogger().handlers.clear()


def test_each_line_is_one_json_object_with_event_part_level_and_time(reader: Reader) -> None:
    log.get("lane").bind(lane="North 1").info("scan", verdict="ADMIT", code=100, took_ms=3.1)
    log.get("app").warning("alarm")
    first, second = reader.lines()
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "scan",
        "part": "lane",
        "lane": "North 1",
        "level": "info",
        "verdict": "ADMIT",
        "code": 100,
        "took_ms": 3.1,
    }
    assert next(iter(reader.lines()[0])) == "event"
    assert (second["event"], second["level"]) == ("alarm", "warning")


def test_what_is_told_in_detail_only_is_left_out(reader: Reader) -> None:
    log.get("app").debug("detail")
    assert reader.raw() == []


@pytest.mark.parametrize(
    "value",
    [
        f"a{BREAKERS}b",
        BREAKERS.encode(),
        {"deep": [BREAKERS]},
        {BREAKERS: 1},
        Path("/tmp") / "half a character \udcff",
        ValueError(BREAKERS),
        {(1, 2): {3}},
        object(),
        float("nan"),
        10**30,
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_value_breaks_a_line(value: object, reader: Reader) -> None:
    log.get("app").info("odd", value=value)
    (line,) = reader.raw()
    text = line.decode()
    assert text.splitlines() == [text.removesuffix("\n")]
    assert not set(BREAKERS) - {"\n"} & set(text)
    assert json.loads(text)["event"] == "odd"


def test_a_list_that_is_in_itself_is_told_all_the_same(reader: Reader) -> None:
    endless: list[object] = []
    endless.append(endless)
    log.get("app").info("odd", value=endless, lane="in")
    assert [line["value"] for line in reader.lines()] == ["[[...]]"]


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=())))
def test_what_was_said_comes_back_as_it_was(value: str) -> None:
    line = log._json({"event": "said", "value": value})
    assert len(line.decode().splitlines()) == 1
    halves = any("\ud800" <= character <= "\udfff" for character in value)
    assert halves or json.loads(line)["value"] == value


def journal_stream(path: Path) -> str:
    return f"{path.stat().st_dev}:{path.stat().st_ino}"


@pytest.mark.parametrize(
    ("level", "prefix"),
    [("info", b"<6>"), ("warning", b"<4>"), ("error", b"<3>"), ("exception", b"<3>"), ("critical", b"<3>")],
)
def test_under_the_journal_each_line_begins_with_its_priority(
    level: str, prefix: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with path.open("wb", buffering=0) as out:
        log.set_up(out, {"JOURNAL_STREAM": journal_stream(path)})
        getattr(log.get("app"), level)("event")
        (line,) = Reader(path).raw()
        reset()
    assert line.startswith(prefix)
    assert json.loads(line.removeprefix(prefix))["event"] == "event"


def test_an_output_that_was_turned_away_from_the_journal_gets_no_priorities(tmp_path: Path) -> None:
    path, other = tmp_path / "log", tmp_path / "journal"
    other.touch()
    with path.open("wb", buffering=0) as out:
        log.set_up(out, {"JOURNAL_STREAM": journal_stream(other)})
        log.get("app").info("event")
        assert Reader(path).lines()[0]["event"] == "event"
        reset()


def test_a_traceback_stays_on_its_line(reader: Reader) -> None:
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        log.get("jobs").error("job_failed", exc_info=True)
    (line,) = reader.lines()
    assert "RuntimeError: two\nlines" in line["exception"]


@pytest.mark.parametrize(
    ("barcode", "expected"),
    [
        ("", "…"),
        ("1234", "…"),
        ("12345678", "1…8"),
        ("123456789012", "1…12"),
        ("12345678901234567890", "12…7890"),
        ("1234567890123456789012345678901234567890", "12…7890"),
    ],
)
def test_a_masked_barcode_shows_its_ends(barcode: str, expected: str) -> None:
    assert log.masked(barcode) == expected


@given(st.text(max_size=200))
def test_a_masked_barcode_never_shows_more_than_a_third(barcode: str) -> None:
    assert 3 * (len(log.masked(barcode)) - 1) <= len(barcode)


def test_warnings_of_libraries_come_out_as_json(reader: Reader) -> None:
    logging.getLogger("apscheduler.scheduler").warning("late by %s\n%s", "1 s", "and more")
    logging.getLogger("httpx").info("GET …")
    try:
        raise OSError("gone")
    except OSError:
        logging.getLogger("asyncio").exception("Task failed")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    late, failed, old = reader.lines()
    assert (late["event"], late["part"], late["level"], late["said"]) == (
        "library_warning",
        "apscheduler.scheduler",
        "warning",
        "late by 1 s\nand more",
    )
    assert (failed["level"], failed["said"]) == ("error", "Task failed")
    assert "OSError: gone" in failed["exception"]
    assert "DeprecationWarning: old" in old["said"]


def test_on_a_terminal_people_read_it_line_by_line() -> None:
    ours, theirs = pty.openpty()
    with open(theirs, "wb", buffering=0) as out:
        log.set_up(out, {})
        log.get("app").info("ready", gate="North\x1b[2J\nSouth")
        structlog.get_config()["logger_factory"]().flush()
        said = os.read(ours, 10_000).decode()
        reset()
    os.close(ours)
    assert said.count("\n") == 1
    assert "ready" in said
    assert "\x1b[2J" not in said


def test_a_blocked_output_never_blocks_the_caller_and_what_was_dropped_is_counted() -> None:
    read, write = os.pipe()
    with open(read, "rb") as reading, open(write, "wb", buffering=0) as out:
        log.set_up(out, {})
        logger = log.get("lane")
        for number in range(log._WAITING + 2000):
            logger.info("scan", number=number)  # would it wait, it would for ever: nobody reads yet
        lines = (json.loads(line) for line in reading)
        last = next(line for line in lines if line["event"] == "lines_dropped")
        reset()
    assert 0 < last["lines"] <= 2000


SCRIPT = """
from gated import log
log.set_up()
for number in range(2000):
    log.get("app").info("line", number=number)
"""


def test_at_exit_all_that_was_said_is_written() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True, timeout=10)
    assert [json.loads(line)["number"] for line in done.stdout.splitlines()] == list(range(2000))
    assert done.stderr == b""


def test_at_exit_an_output_that_nobody_reads_is_not_waited_for_for_ever() -> None:
    script = SCRIPT + "log._FLUSH_WITHIN = 0.05"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.wait(timeout=5) == 0
        _, said = process.communicate()
    assert said == b""


def test_an_output_that_is_gone_is_no_failure() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=5) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
