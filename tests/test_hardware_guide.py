"""That the wiring guide, its pictures and the example configs speak of the same pins."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from gpiozero.pins.pi import PiBoardInfo

from gated.config import parse
from gated.core.events import Profile

ROOT = Path(__file__).parent.parent
HARDWARE = ROOT / "hardware"
GUIDE = (HARDWARE / "README.md").read_text(encoding="utf-8")
TWO_LANES = (ROOT / "config" / "two-lanes.toml").read_text(encoding="utf-8")
# Every key in force.
REFERENCE = re.sub(
    r"^#(?=\w+ = |\[)", "", (ROOT / "config" / "gated.toml").read_text(encoding="utf-8"), flags=re.MULTILINE
)
PICTURES = sorted(path.name for path in HARDWARE.glob("*.svg"))
PROFILES = sorted((ROOT / "config" / "profiles").glob("*.toml"))

NEVER = {0, 1, 2, 3, 14, 15}
HEAD = """\
[gate]
name = "North"
[api]
username = "scan"
device_info = "DEVICE_ID:1"
[[lanes]]
name = "In"
direction = "entry"
[[lanes.scanners]]
kind = "serial"
device = "/dev/serial/by-id/a"
"""

Row = dict[str, str]


def table() -> list[Row]:
    """The guide's table of pins."""
    text = GUIDE[GUIDE.index("| lane | what | key |") :].split("\n\n", 1)[0]
    head, _, *rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [dict(zip(head, row, strict=True)) for row in rows]


ROWS = table()


def pins(lane: str) -> dict[str, int]:
    return {row["key"]: int(row["GPIO"]) for row in ROWS if row["lane"] == lane}


def pins_of(tables: dict[str, Any]) -> dict[str, int]:
    """Every pin in a lane's tables, or in a whole config's outside its lanes."""
    return {
        f"{name}.{key}": value
        for name, keys in tables.items()
        if isinstance(keys, dict)
        for key, value in keys.items()
        if type(value) is int and (key.endswith("pin") or (name == "lamps" and not key.startswith("rgb_")))
    }


def diagrams() -> ModuleType:
    """The module that draws; the test is skipped where schemdraw is not installed."""
    pytest.importorskip("schemdraw")
    spec = importlib.util.spec_from_file_location("diagrams", HARDWARE / "diagrams.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("text", [REFERENCE, TWO_LANES], ids=["gated.toml", "two-lanes.toml"])
def test_the_guide_has_the_pins_of_each_example_config(text: str) -> None:
    config = tomllib.loads(text)
    assert pins_of(config) == pins("gate")
    for number, lane in enumerate(config["lanes"], 1):
        assert pins_of(lane) == pins(str(number))


def test_the_two_lane_config_can_be_used() -> None:
    config = parse(TWO_LANES)
    assert [lane.direction for lane in config.lanes] == ["entry", "exit"]
    assert config.emergency is not None
    assert all(lane.passage and lane.button and lane.buzzer for lane in config.lanes)


def test_the_guide_uses_each_pin_once_and_never_a_taken_one() -> None:
    used = [int(row["GPIO"]) for row in ROWS]
    assert len(set(used)) == len(used)
    assert not NEVER & set(used)


def test_outputs_rest_low_on_pins_that_are_low_from_power_on() -> None:
    outputs = [row for row in ROWS if row["direction"] == "out"]
    assert {row["key"].split(".")[0] for row in outputs} == {"release", "lamps", "buzzer"}
    assert all(row["at rest"] == "low" and int(row["GPIO"]) >= 9 for row in outputs)


def test_the_pull_at_power_on_is_up_to_gpio_8_and_down_from_9() -> None:
    assert all((row["pull at power-on"] == "up") == (int(row["GPIO"]) <= 8) for row in ROWS)


def test_a_contact_is_low_while_it_is_closed() -> None:
    rests = {row["key"]: row["at rest"] for row in ROWS if row["direction"] == "in"}
    assert rests.pop("emergency.pin") == "low: contact closed"
    assert set(rests.values()) == {"high: contact open"}


def test_places_are_those_of_the_header() -> None:
    header = PiBoardInfo.from_revision(0xA02082).headers["J8"].pins
    places = {name: place for place, pin in header.items() for name in pin.names}
    assert all(places[f"GPIO{row['GPIO']}"] == int(row["place"]) for row in ROWS)
    assert all(
        header[int(place)].name == "GND" for place in re.findall(r"ground, place (\d+)", all_pictures())
    )


def all_pictures() -> str:
    return "".join((HARDWARE / name).read_text(encoding="utf-8") for name in PICTURES)


def test_the_pictures_show_the_pins_of_the_table() -> None:
    shown = set(re.findall(r"GPIO (\d+), place (\d+)", all_pictures()))
    assert shown == {(row["GPIO"], row["place"]) for row in ROWS}


def test_the_pictures_are_as_the_code_draws_them() -> None:
    module = diagrams()
    assert sorted(module.PICTURES) == PICTURES
    for name in PICTURES:
        assert module.draw(name) == (HARDWARE / name).read_bytes(), "run: python3 hardware/diagrams.py"


def test_the_line_for_config_txt_drives_the_release_pins() -> None:
    (line,) = re.findall(r"`gpio=([\d,]+)=op,dl`", GUIDE)
    assert sorted(map(int, line.split(","))) == sorted(
        int(row["GPIO"]) for row in ROWS if row["key"] == "release.pin"
    )


def test_what_the_guide_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", GUIDE) if not link.startswith("#")]
    assert {*PICTURES} <= {*links}
    assert {f"../config/profiles/{path.name}" for path in PROFILES} <= {*links}
    assert all((HARDWARE / link).exists() for link in links)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_profile_pasted_under_a_lane_can_be_used(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    (lane,) = parse(HEAD + text).lanes
    assert set(tomllib.loads(text)["lanes"]) == {"release", "passage"}
    assert lane.release.profile is (Profile.HOLD if path.stem.endswith("hold") else Profile.PULSE)
    assert not lane.release.emergency_wired  # that is for the technician to declare
