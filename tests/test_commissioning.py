"""The guided test of a gate: with fake pins and scanners in virtual time, and once as a command."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gated.commissioning import Outcome, Talk, check_place, report_path, site
from gated.commissioning.bench import Bench
from gated.commissioning.talk import BrokenOff
from gated.config import Config, ScannerConfig, parse
from gated.control import SOCKET, ControlServer, check_alone
from gated.core.commissioning import TEST_CODE, Found, InputStep, OutputStep, ScannerStep
from gated.errors import GatedError
from gated.pins.fake import FakePins
from gated.scanners.fake import FakeScanner
from tests import virtual_time
from tests.gate import Line

RELEASE, GREEN, RED, BUZZER, BEGINS, DONE, BUTTON, LOOP = 17, 22, 23, 24, 5, 6, 13, 27

HEAD = """\
[gate]
name = "North gate"
time_zone = "Europe/Amsterdam"
state_dir = "{folder}"
[api]
username = "scan"
device_info = "DEVICE_ID:1"
[pins]
factory = "mock"
"""
LANE = """\
[[lanes]]
name = "In"
direction = "entry"
scanners = [{{ kind = "serial", device = "{folder}/scanner" }}]
release = {{ pin = 17, when_off = "locked", pulse_ms = 300 }}
"""
PARTS = """\
[lanes.lamps]
green = 22
red = 23
[lanes.buzzer]
pin = 24
[lanes.passage]
begins_pin = 5
done_pin = 6
[lanes.button]
pin = 13
[emergency]
pin = 27
"""


def config(folder: str | Path = "/nowhere", parts: str = PARTS) -> Config:
    return parse((HEAD + LANE).format(folder=folder) + parts)


class Rig:
    """A bench with fakes. ``heard`` is what was told; ``type`` answers."""

    def __init__(self, parts: str = PARTS, *, alone: bool = False) -> None:
        self.loop = virtual_time.loop()
        self.pins = FakePins(self.loop.time)
        self.pins.driven[LOOP] = False  # the loop is wired, and closed
        self.heard: list[str] = []
        self.talk = Talk(self.heard.append, alone=alone)
        self.scanners: list[FakeScanner] = []
        self.framings: list[ScannerConfig] = []
        self.bench = Bench(config(parts=parts), self.pins, self.talk, self.open)

    def open(self, config: ScannerConfig) -> FakeScanner:
        self.framings.append(config)
        self.scanners.append(FakeScanner())
        return self.scanners[-1]

    def type(self, *lines: str | None) -> None:
        for line in lines:
            self.talk.typed.put_nowait(line)

    def step(self, part: str) -> OutputStep | InputStep | ScannerStep:
        return next(step for step in self.bench.steps if step.part == part)

    async def only(self, part: str) -> tuple[Found, str]:
        """Tries one part, as often as it is asked to."""
        result = await self.bench._until_content(self.step(part))
        return result.found, result.note

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        self.loop.call_later(seconds, call)

    def actuate(self, pin: int, begin: float, end: float) -> None:
        self.later(begin, lambda: self.pins.drive(pin, True))
        self.later(end, lambda: self.pins.drive(pin, False))


def virtually(act: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await act()

    virtual_time.run(main())


def test_a_gate_is_tested_part_by_part_outputs_first_and_scanners_last() -> None:
    async def act() -> None:
        assert [step.part for step in Rig().bench.steps] == [
            "In: release",
            "In: lamp green",
            "In: lamp red",
            "In: buzzer",
            "In: passage begins",
            "In: passage done",
            "In: button",
            "emergency loop",
            "In: scanner 1",
        ]

    virtually(act)


def test_each_colour_of_an_rgb_lamp_is_a_part() -> None:
    async def act() -> None:
        rig = Rig("[lanes.lamps]\nrgb_red = 9\nrgb_green = 10\nrgb_blue = 11\n")
        lamps = [step.part for step in rig.bench.steps if "lamp" in step.part]
        assert lamps == ["In: lamp RGB red", "In: lamp RGB green", "In: lamp RGB blue"]

    virtually(act)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["", "y"], (Found.WORKS, "on for 300 ms")),
        (["", ""], (Found.WORKS, "on for 300 ms")),
        (["", "what?", "yes"], (Found.WORKS, "on for 300 ms")),
        (["", "n", ""], (Found.FAILED, "on for 300 ms, but not seen")),
        (["", "n", "r", "", "y"], (Found.WORKS, "on for 300 ms")),
        (["s"], (Found.SKIPPED, "")),
    ],
)
def test_an_output_works_if_somebody_saw_it(typed: list[str], found: tuple[Found, str]) -> None:
    async def act() -> None:
        rig = Rig()
        rig.type(*typed)
        assert await rig.only("In: release") == found

    virtually(act)


def test_an_output_is_driven_for_as_long_as_the_config_says_and_again_if_asked() -> None:
    async def act() -> None:
        rig = Rig()
        rig.type("", "r", "y")
        await rig.only("In: release")
        times = rig.pins.times(RELEASE)
        assert [active for _, active in times] == [True, False, True, False]
        assert times[1][0] - times[0][0] == pytest.approx(0.3)

    virtually(act)


def test_a_barrier_that_is_held_is_released_for_two_seconds() -> None:
    async def act() -> None:
        rig = Rig()
        held = config(parts=PARTS)
        text = (HEAD + LANE).format(folder="/nowhere").replace("pulse_ms = 300", 'profile = "hold"')
        assert held.lanes[0].release.profile != parse(text).lanes[0].release.profile
        rig.bench = Bench(parse(text), FakePins(rig.loop.time), rig.talk, rig.open)
        rig.type("", "y")
        assert await rig.only("In: release") == (Found.WORKS, "on for 2000 ms")

    virtually(act)


def test_no_output_is_on_while_anything_is_asked() -> None:
    async def act() -> None:
        rig = Rig()

        def tell(line: str) -> None:
            assert not any(output.active for output in rig.pins.outputs.values()), line

        rig.talk.tell = tell
        rig.type(*["", "r", "y"] * 4, None)
        with pytest.raises(BrokenOff):
            await rig.bench.run()
        assert len(rig.pins.history) == 16

    virtually(act)


def test_an_output_whose_line_does_not_follow_has_failed() -> None:
    async def act() -> None:
        rig = Rig()
        rig.pins.stuck[GREEN] = False
        rig.type("", "")
        found, note = await rig.only("In: lamp green")
        assert (found, "GPIO22" in note) == (Found.FAILED, True)
        assert not rig.pins.outputs[GREEN].active

    virtually(act)


def test_whoever_cancels_in_mid_release_finds_the_barrier_relocked() -> None:
    async def act() -> None:
        rig = Rig()
        rig.type("")
        testing = asyncio.create_task(rig.bench.run())
        await asyncio.sleep(0.1)
        assert rig.pins.outputs[RELEASE].active
        testing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await testing
        assert not rig.pins.outputs[RELEASE].active
        results = rig.bench.all_results()
        assert len(results) == len(rig.bench.steps)
        assert {result.found for result in results} == {Found.SKIPPED}

    virtually(act)


@pytest.mark.parametrize(("part", "pin"), [("In: button", BUTTON), ("emergency loop", LOOP)])
def test_a_contact_works_when_it_was_seen_both_ways(part: str, pin: int) -> None:
    async def act() -> None:
        rig = Rig()
        rig.actuate(pin, 2.0, 2.25)
        assert await rig.only(part) == (Found.WORKS, "active for 250 ms")
        assert rig.heard[-3:-1] == ["  … active", "  … normal"]

    virtually(act)


def test_a_loop_that_is_normally_open_is_warned_of() -> None:
    async def act() -> None:
        rig = Rig(PARTS + 'normally = "open"\n')
        rig.actuate(LOOP, 2.0, 2.25)
        found, note = await rig.only("emergency loop")
        assert (found, note.partition("; ")[2]) == (
            Found.WORKS,
            "normally open: a broken wire goes unnoticed",
        )

    virtually(act)


def test_a_contact_that_is_too_short_is_never_taken_for_good() -> None:
    async def act() -> None:
        rig = Rig()
        rig.actuate(DONE, 1.0, 1.01)
        rig.later(3, lambda: rig.type(""))
        found, note = await rig.only("In: passage done")
        assert (found, note) == (Found.FAILED, "active for 10 ms only: gated needs 20 ms or more")

    virtually(act)


def test_a_contact_that_is_active_at_rest_has_failed_until_it_is_mended() -> None:
    async def act() -> None:
        rig = Rig()
        rig.pins.drive(DONE, True)

        def mend() -> None:
            rig.pins.drive(DONE, False)
            rig.type("r")

        rig.later(1, mend)
        rig.actuate(DONE, 5, 6)
        assert (await rig.only("In: passage done"))[0] is Found.WORKS
        assert any("active although nobody touches it" in line for line in rig.heard)

    virtually(act)


def test_a_contact_that_never_moves_has_failed_and_one_can_be_skipped() -> None:
    async def act() -> None:
        rig = Rig()
        rig.later(70, lambda: rig.type(""))
        assert await rig.only("In: button") == (Found.FAILED, "it never became active in 60 s")
        rig.later(1, lambda: rig.type(""))
        assert await rig.only("In: button") == (Found.SKIPPED, "")

    virtually(act)


def test_a_scanner_works_if_the_test_code_comes_through() -> None:
    async def act() -> None:
        rig = Rig()
        rig.later(1, lambda: rig.scanners[0].scan(TEST_CODE))
        assert await rig.only("In: scanner 1") == (Found.WORKS, "read to the letter")
        assert not rig.scanners[0].alive()

    virtually(act)


def test_a_scanner_for_another_keyboard_is_told_and_can_be_tried_again() -> None:
    async def act() -> None:
        rig = Rig()
        rig.later(1, lambda: rig.scanners[0].scan("GATED/Test?0123/ayqwzm"))
        rig.later(2, lambda: rig.type("r"))
        rig.later(3, lambda: rig.scanners[1].scan(TEST_CODE))
        assert (await rig.only("In: scanner 1"))[0] is Found.WORKS
        assert any("German" in line for line in rig.heard)

    virtually(act)


class Unfinished(FakeScanner):
    """Characters came from it, and never an end."""

    partials = 1


@pytest.mark.parametrize(
    ("patient", "why"), [(True, "character_timeout_ms = 100"), (False, "no end of them")]
)
def test_characters_without_an_end_are_tried_once_more_with_patience(patient: bool, why: str) -> None:
    async def act() -> None:
        rig = Rig()

        def open_scanner(config: ScannerConfig) -> FakeScanner:
            rig.framings.append(config)
            if len(rig.framings) == 2 and patient:
                rig.scanners.append(FakeScanner())
                rig.later(1, lambda: rig.scanners[0].scan(TEST_CODE))
                return rig.scanners[0]
            return Unfinished()

        rig.bench._open_scanner = open_scanner
        rig.later(100, lambda: rig.type(""))
        found, note = await rig.only("In: scanner 1")
        assert (found, why in note) == (Found.FAILED, True)
        assert [config.character_timeout.total_seconds() for config in rig.framings] == [0.1, 2.0]

    virtually(act)


def test_a_scanner_that_is_not_there_or_says_nothing_has_failed() -> None:
    async def act() -> None:
        rig = Rig()
        rig.bench._open_scanner = lambda _: FakeScanner(plugged=False)
        rig.later(10, lambda: rig.type(""))
        assert await rig.only("In: scanner 1") == (Found.FAILED, "it can't be read: unplugged")
        rig.bench._open_scanner = rig.open
        rig.later(100, lambda: rig.type(""))
        assert await rig.only("In: scanner 1") == (Found.FAILED, "nothing came in 60 s")

    virtually(act)


def test_alone_everything_is_driven_and_nothing_is_said_to_work() -> None:
    async def act() -> None:
        rig = Rig(alone=True)
        await rig.bench.run()
        found = [result.found for result in rig.bench.all_results()]
        assert found == [Found.UNWATCHED] * 4 + [Found.SKIPPED] * 5
        assert Outcome(rig.bench.results, whole=True).good

    virtually(act)


def test_a_test_that_failed_or_was_broken_off_is_not_good() -> None:
    async def act() -> None:
        rig = Rig()
        rig.type("", "y", "", "n", "", None)
        with pytest.raises(BrokenOff):
            await rig.bench.run()
        results = rig.bench.all_results()
        assert [result.found for result in results[:3]] == [Found.WORKS, Found.FAILED, Found.SKIPPED]
        assert not Outcome(results, whole=True).good
        assert not Outcome(results[:1], whole=False).good

    virtually(act)


# The site


def test_the_site_names_the_board(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nRevision\t: c04170\nSerial\t\t: 10000000\n")
    found = site(config(), root=tmp_path)
    assert found.board == "Raspberry Pi 5 Model B Rev 1.0, revision c04170"
    assert str(found.at.tzinfo) == "Europe/Amsterdam"
    assert report_path(found).name.startswith("gated-site-report-north-gate-20")


def test_a_report_that_can_not_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    check_place(tmp_path / "report.md")
    for path in (tmp_path, tmp_path / "absent" / "report.md"):
        with pytest.raises(GatedError, match="can't be written"):
            check_place(path)


# The command


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A configuration without anything that takes time to test."""
    path = tmp_path / "gated.toml"
    path.write_text((HEAD + LANE).format(folder=tmp_path).replace("pulse_ms = 300", "pulse_ms = 100"))
    Line(tmp_path / "scanner")
    return path


def command(config: Path, *arguments: str) -> "subprocess.Popen[str]":
    whole = [sys.executable, "-m", "gated", "hardware", "test", "--config", str(config), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(whole, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=config.parent)


def test_what_is_typed_answers_and_the_report_is_written(written: Path) -> None:
    with command(written, "--json", "--report", "report.md") as process:
        said, told = process.communicate("\ny\n\n", timeout=20)
    answer = json.loads(said)
    assert (process.returncode, answer["good"]) == (0, True), told
    assert [part["found"] for part in answer["parts"]] == ["works", "skipped"]
    assert "GPIO17" in (written.parent / "report.md").read_text()
    assert "[1/2] In: release (GPIO17)" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_no_gate_can_start_during_the_test_and_whatever_ends_it_a_report_is_left(
    written: Path, number: int
) -> None:
    with command(written, "--report", "report.md") as process:
        assert process.stdout is not None
        while "Expect" not in (line := process.stdout.readline()):
            assert line
        with pytest.raises(GatedError, match="another gated is running"):
            check_alone(written.parent / SOCKET)
        os.kill(process.pid, number)
        told, wrong = process.communicate(timeout=20)
    assert (process.returncode, wrong) == (1, "")
    assert "Broken off." in told
    assert "broken off before" in (written.parent / "report.md").read_text()
    assert not (written.parent / SOCKET).exists()


async def test_while_a_gate_runs_its_pins_are_not_touched(written: Path) -> None:
    server = ControlServer(written.parent / SOCKET, {})
    await server.start()
    try:
        process = command(written, "--yes")
        _, told = await asyncio.to_thread(process.communicate, timeout=20)
    finally:
        await server.close()
    assert process.returncode == 1
    assert "another gated is running" in told
    assert "systemctl stop gated" in told
    assert not list(written.parent.glob("gated-site-report*"))
