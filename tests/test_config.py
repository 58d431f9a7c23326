"""What is read, that every mistake is told with its line, and that the reference file is true."""

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gated.config import (
    Config,
    ExitOpens,
    ScannerKind,
    Strategy,
    WhenOff,
    load,
    parse,
    password,
)
from gated.config.lines import Lines
from gated.config.reading import Key, Part, keys, tables
from gated.config.values import Span, Whole
from gated.core.barcode import Terminator
from gated.core.events import Profile
from gated.core.scan import Direction
from gated.core.signals import OFF, PATTERNS, SIGNALS, STEADY, Lamp, Outcome, Pattern
from gated.errors import ConfigError
from gated.pins import Normally, PinFactory

REFERENCE = Path(__file__).parent.parent / "config" / "gated.toml"
TEXT = REFERENCE.read_text()
# Every key in force; the scanner is a serial one so that its line's keys are allowed.
WHOLE = re.sub(r"^#(?=\w+ = |\[)", "", TEXT, flags=re.MULTILINE).replace('"hid"\n', '"serial"\n')

SMALL = """\
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
[lanes.release]
pin = 17
when_off = "free"
"""
OUT = """\
[[lanes]]
name = "Out"
direction = "exit"
[[lanes.scanners]]
kind = "hid"
device = "/dev/input/by-id/b"
[lanes.release]
pin = 18
when_off = "free"
"""


def told_of(text: str) -> tuple[str, ...]:
    try:
        parse(text)
    except ConfigError as error:
        return error.mistakes
    return ()


def mistakes(text: str) -> tuple[str, ...]:
    told = told_of(text)
    assert told
    return told


def only_mistake(text: str) -> str:
    (mistake,) = mistakes(text)
    return mistake


def under(heading: str, line: str, text: str = SMALL) -> str:
    """``text`` with ``line`` as the first of the table that is headed so."""
    assert heading in text
    return text.replace(heading, f"{heading}\n{line}", 1)


# ---- what is read


def test_a_small_file_is_filled_up_with_the_defaults():
    config = parse(SMALL)
    assert config.gate.time_zone == "UTC"
    assert config.gate.strategy is Strategy.LOCAL
    assert config.gate.state_dir == Path("/var/lib/gated")
    assert config.api.base_url == "https://api.cm.com/scanapi/v2.0"
    assert config.api.direct_timeout == timedelta(seconds=1)
    assert config.decision.exit_opens is ExitOpens.ALWAYS
    assert config.emergency is None
    assert config.pins.factory is PinFactory.LGPIO
    (lane,) = config.lanes
    assert (lane.name, lane.direction, lane.barrier) == ("In", Direction.ENTRY, "In")
    assert (lane.passage, lane.button, lane.buzzer, lane.lamps.green) == (None, None, None, None)
    (scanner,) = lane.scanners
    assert (scanner.kind, scanner.terminator) == (ScannerKind.SERIAL, Terminator.CR)
    assert (lane.release.when_off, lane.release.profile) == (WhenOff.FREE, Profile.PULSE)
    assert lane.release.pulse == timedelta(milliseconds=500)


def test_every_key_can_be_given():
    config = parse(WHOLE)
    (lane,) = config.lanes
    assert lane.passage is not None
    assert lane.button is not None
    assert (lane.passage.begins_pin, lane.passage.done_pin, lane.button.pin) == (5, 6, 13)
    assert config.emergency is not None
    assert config.emergency.normally is Normally.CLOSED
    assert config.api.service == "Summer festival"
    assert config.signals[Outcome.ALREADY_SCANNED].text == "Already scanned"
    assert set(config.ticket_types) == {"Child"}
    assert lane.release.pulse_range == (timedelta(milliseconds=200), timedelta(milliseconds=1000))
    assert (lane.lamps.rgb_red, lane.lamps.rgb_green, lane.lamps.rgb_blue) == (9, 10, 11)


@pytest.mark.parametrize(
    ("heading", "line", "value"),
    [
        ("[api]", 'base_url = "https://gate.example/api/"', "https://gate.example/api"),
        ("[api]", 'base_url = "http://127.0.0.1:8000"', "http://127.0.0.1:8000"),
        ("[api]", 'base_url = "http://[::1]:8000/x"', "http://[::1]:8000/x"),
        ("[api]", 'base_url = "http://localhost"', "http://localhost"),
        ("[api]", 'trusted_hosts = ["API.example"]', ("api.example",)),
        ("[api]", "direct_timeout_ms = 100", timedelta(milliseconds=100)),
        ("[gate]", 'time_zone = "America/Argentina/Buenos_Aires"', "America/Argentina/Buenos_Aires"),
        ("[[lanes.scanners]]", "stopbits = 1.5", 1.5),
        ("[[lanes.scanners]]", "stopbits = 2", 2.0),
        ("[[lanes.scanners]]", r'prefix = "\u0002"', "\x02"),
        ("[[lanes]]", 'ticket_types = ["VIP"]', ("VIP",)),
    ],
)
def test_a_value_is_read(heading: str, line: str, value: object):
    config = parse(under(heading, line))
    lane = config.lanes[0]
    record = {"[api]": config.api, "[gate]": config.gate, "[[lanes]]": lane}.get(heading, lane.scanners[0])
    name = line.partition(" = ")[0].removesuffix("_ms")
    assert getattr(record, name) == value


def test_a_scanner_in_the_network_is_a_socket():
    config = parse(SMALL.replace("/dev/serial/by-id/a", "socket://10.0.0.7:4001"))
    assert config.lanes[0].scanners[0].device == "socket://10.0.0.7:4001"


def test_two_lanes_share_a_barrier_with_an_interlock():
    text = under("[[lanes]]", 'barrier = "T"\ninterlock = true', SMALL) + under(
        "[[lanes]]", 'barrier = "T"\ninterlock = true', OUT
    )
    assert {lane.barrier for lane in parse(text).lanes} == {"T"}


def test_signals_and_ticket_types_are_read_by_their_names():
    text = """
[signals.deny]
red = "steady"
buzzer = "80/40x4"
[ticket_types."Child 4-12"]
look = true
text = "Child"
[ticket_types.1234]
"""
    config = parse(SMALL + text)
    deny, child = config.signals[Outcome.DENY], config.ticket_types["Child 4-12"]
    ms = timedelta(milliseconds=1)
    assert (deny.red, deny.buzzer, deny.text) == (STEADY, Pattern(80 * ms, 40 * ms, 4), None)
    assert deny.change.lamps == ((Lamp.RED, STEADY),)
    assert (child.look, child.text, config.ticket_types["1234"].look) == (True, "Child", False)


LAMPS = "[lanes.lamps]\ngreen = 22\nred = 23\n"
RGB_LAMP = "[lanes.lamps]\nrgb_red = 22\nrgb_green = 23\nrgb_blue = 24\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[signals.deny]\nred = "off"\ngreen = "fast"', "line 15: signals.deny must light red or amber, and"),
        ('[signals.admit]\nred = "blink"', "line 15: signals.admit must not light red or amber: it tells"),
        ('[signals.ready]\nbuzzer = "siren"', "line 15: signals.ready has a buzzer that never ends"),
        ('[signals.deny]\nred = "100/100"', "line 16: signals.deny.red must not flash more than three times"),
        ('[signals.deny]\nred = "0/0"', "line 16: signals.deny.red must be a pattern, as"),
        ('[signals.deny]\nred = "stedy"', "did you mean steady?"),
        ('[signals.deny]\nread = "steady"', "line 16: signals.deny.read is not a key; did you mean red?"),
        ("[signals]\ndeny = 1", "line 16: signals.deny must be a table: write [signals.deny]"),
        ("[[signals]]", "line 15: signals must be tables: write [signals.NAME]"),
        ("[signals.admitt]", "line 15: signals.admitt has a wrong name: it must be"),
        ('[ticket_types.""]', "has a wrong name: it must be 1 to 256 characters"),
        ('[ticket_types.VIP]\ngreen = "off"', "line 15: ticket_types.VIP must light green or white"),
        ('[ticket_types.VIP]\nred = "fast"', "line 16: ticket_types.VIP.red is not a key of this table; it"),
        (
            LAMPS + '[signals.ready]\nwhite = "steady"',
            "line 18: signals.ready would light just like admit at a lane of this gate",
        ),
        (
            RGB_LAMP + '[signals.ready]\ngreen = "steady"',
            "line 19: signals.ready would light just like admit at a lane of this gate",
        ),
        (
            LAMPS + '[signals.admit]\ngreen = "wink"',
            "line 18: signals.admit would light just like ready at a lane of this gate",
        ),
        (
            LAMPS + '[ticket_types.VIP]\ngreen = "wink"',
            "line 18: ticket_types.VIP would light just like ready, which tells nobody to go",
        ),
        (
            "[lanes.lamps]\nrgb_red = 22\nrgb_blue = 24",
            "line 15: lanes[0].lamps.rgb_green is missing: an RGB lamp needs",
        ),
    ],
)  # fmt: skip
def test_a_mistake_after_the_lanes_is_told(text: str, told: str):
    assert any(told in each for each in mistakes(SMALL + text))


def test_a_wrong_pattern_is_one_mistake():
    assert "signals.deny.red" in only_mistake(SMALL + '[signals.deny]\nred = "x"\ngreen = "off"')


@pytest.mark.parametrize(
    ("release", "told"),
    [
        (
            "pulse_range_ms = [200, 1000]\npulse_ms = 150",
            "release.pulse_ms must be 200 to 1000 (milliseconds)",
        ),
        (
            "pulse_range_ms = [600, 1000]",
            "release.pulse_ms must be 600 to 1000 (milliseconds): this turnstile",
        ),
        ("pulse_range_ms = [1000, 200]", "pulse_range_ms must be the shortest and the longest"),
        ("pulse_range_ms = [200]", "pulse_range_ms must be a list in [ ]: the shortest and the longest"),
        ("pulse_range_ms = 200", "pulse_range_ms must be a list in [ ]"),
        ("pulse_range_ms = [50, 200]", "pulse_range_ms has a number that must be 100 to 3000"),
    ],
)
def test_a_pulse_outside_the_turnstiles_own_range_is_a_mistake(release: str, told: str):
    assert told in only_mistake(under("[lanes.release]", release))


def test_a_range_of_pulses_is_of_no_matter_to_a_barrier_that_is_held():
    parse(under("[lanes.release]", 'profile = "hold"\npulse_range_ms = [600, 1000]'))


# ---- what is told


@pytest.mark.parametrize(
    ("heading", "line", "told"),
    [
        ("[gate]", 'strategie = "local"', "line 2: gate.strategie is not a key; did you mean strategy?"),
        ("[gate]", 'strategy = "locla"', 'must be "local" or "direct"; did you mean local?'),
        ("[gate]", "strategy = 1", 'must be "local" or "direct"'),
        ("[gate]", 'time_zone = "Europe/Amsterdm"', "did you mean Europe/Amsterdam?"),
        ("[gate]", 'time_zone = "/etc/passwd"', "must be a time zone"),
        ("[gate]", 'time_zone = "Europe"', "must be a time zone"),
        ("[gate]", 'state_dir = "gated"', "must be an absolute path"),
        ("[gate]", "username = 1", "gate.username is not a key of this table; it belongs under [api]"),
        ("[api]", 'base_url = "http://api.cm.com"', "must begin with https://"),
        ("[api]", 'base_url = "ftp://api.cm.com"', "must be an address"),
        ("[api]", 'base_url = "https://"', "must be an address"),
        ("[api]", 'base_url = "https:///x"', "must name a host"),
        ("[api]", 'base_url = "https://h:70000"', "port of 1 to 65535"),
        ("[api]", 'base_url = "https://u:p@h"', "no user name and no password"),
        ("[api]", 'base_url = "https://h/x?y=1"', "without ? and #"),
        ("[api]", 'base_url = "http://[::::]/x"', "IPv6"),
        ("[api]", 'trusted_hosts = ["api.cm.com:443"]', "element [0], which must be without a port"),
        ("[api]", 'trusted_hosts = "api.cm.com"', "must be a list in [ ]"),
        ("[api]", 'trusted_hosts = ["a", "A"]', "names something twice"),
        ("[api]", "direct_timeout_ms = 99", "api.direct_timeout_ms must be 100 to 10000 (milliseconds)"),
        ("[api]", "page_size = 501", "must be 1 to 500 (tickets)"),
        ("[api]", "page_size = true", "must be a whole number, without quotes: 1 to 500 (tickets)"),
        ("[api]", 'service = ""', "must be 1 to 256 characters"),
        ("[api]", 'password = "x"', "api.password may not be here"),
        ("[api]", 'extra.Token = "x"', "api.extra.Token may not be here"),
        ("[[lanes]]", "ticket_types = [1]", 'element [0], which must be text in "quotes"'),
        ("[[lanes]]", "interlock = 1", "must be true or false, without quotes"),
        ("[[lanes]]", "interlock = true", 'needs a second lane with barrier = "In"'),
        ("[[lanes]]", 'pulse_ms = "x"', "lanes[0].pulse_ms is not a key of this table; it belongs und"),
        ("[[lanes]]", "lamps = 1", "lanes[0].lamps must be a table: write [lanes.lamps]"),
        ("[[lanes]]", "buzzer = {}", "line 7: lanes[0].buzzer.pin is missing"),
        ("[[lanes]]", "buzzer = {pin = 14}", "can't be 14: 14 and 15 carry the boot console"),
        ("[[lanes]]", "lamps = {red = 2}", "can't be 2: 2 and 3 have fixed pull-ups"),
        ("[[lanes]]", "lamps.red = 1", "line 7: lanes[0].lamps.red can't be 1: 0 and 1 belong to the HAT"),
        ("[[lanes]]", "button = {pin = 28}", "must be 0 to 27 (GPIO number"),
        ("[[lanes]]", "button = {pin = 17}", "lanes[0].button.pin is 17, and so is lanes[0].release.pin"),
        ("[[lanes.scanners]]", "stopbits = 3", "must be 1 or 1.5 or 2"),
        ("[[lanes.scanners]]", "stopbits = true", "must be 1 or 1.5 or 2"),
        ("[[lanes.scanners]]", 'terminator = "CRLF"', '"crlf"'),
        ("[lanes.release]", "pulse_ms = 5000", '100 to 3000 (milliseconds): shorter is missed, too'),
        ("[lanes.release]", "grant_ms = 1000\npulse_ms = 2000", "grant_ms must not be less than pulse_ms"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_place(heading: str, line: str, told: str):
    mistake = next(each for each in mistakes(under(heading, line)) if told in each)
    assert re.match(r"line \d+: [a-z]+(\[\d\])?\.", mistake)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('name = "In"', 'name = " In"', "line 7: lanes[0].name must be 1 to 40 of the letters"),
        ('name = "In"', 'name = "Süd"', "line 7: lanes[0].name must be 1 to 40 of the letters"),
        ('name = "In"', "", "line 6: lanes[0].name is missing: it must be text"),
        ('"DEVICE_ID:1"', '"a\\nb"', "line 5: api.device_info must be 1 to 512 printable ASCII characters"),
        ('username = "scan"', "", "line 3: api.username is missing"),
        ('when_off = "free"', "", 'line 12: lanes[0].release.when_off is missing: it must be "locked" or'),
        ("/dev/serial/by-id/a", "ttyACM0", "line 11: lanes[0].scanners[0].device must be an"),
        ("/dev/serial/by-id/a", "socket://host", "line 11: lanes[0].scanners[0].device must be an"),
        ("[[lanes.scanners]]", "[lanes.scanners]", "line 9: lanes[0].scanners must be a list of tables"),
        ("[gate]", "[[gate]]", "line 1: gate must be a table: write [gate]"),
        ("[gate]", "[gates]", "line 1: gates is not a key; did you mean gate?"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named(old: str, new: str, told: str):
    assert any(each.startswith(told) for each in mistakes(SMALL.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("Out", "In", "line 16: lanes[1].name is In, and so is lanes[0].name: each lane needs a name of its"),
        ("= 18", "= 17", "line 22: lanes[1].release.pin is 17, and so is lanes[0].release.pin: a pin can be"),
        ("input/by-id/b", "serial/by-id/a", "line 20: lanes[1].scanners[0].device is /dev/serial/by-id/a"),
        ('"hid"', '"hid"\nbaudrate = 9600', 'line 20: lanes[1].scanners[0].baudrate is for kind = "serial"'),
        ("/dev/input/by-id/b", "socket://h:1", "line 20: lanes[1].scanners[0].device must be a path"),
        ('"exit"', '"exit"\nticket_types = ["VIP"]', "line 18: lanes[1].ticket_types is for entry lanes"),
        ('"exit"', '"exit"\nbarrier = "In"\ninterlock = true', "line 6: lanes[0].interlock must be true for"),
    ],
)  # fmt: skip
def test_lanes_are_checked_against_each_other(old: str, new: str, told: str):
    assert only_mistake(SMALL + OUT.replace(old, new)).startswith(told)


def test_mistakes_of_all_kinds_are_told_at_once_in_the_order_of_the_lines():
    text = (
        (SMALL + OUT)
        .replace('device_info = "DEVICE_ID:1"', 'secret = "x"\npage_size = 0')
        .replace('direction = "entry"', 'direction = "enter"\ninterlok = false')
        .replace("pin = 18", "pin = 17")
    )
    told = mistakes(text)
    assert [re.sub(r"line (\d+): (\S+) .*", r"\1 \2", each) for each in told] == [
        "3 api.device_info",
        "5 api.secret",
        "6 api.page_size",
        "9 lanes[0].direction",
        "10 lanes[0].interlok",
        "24 lanes[1].release.pin",
    ]


def test_what_is_missing_altogether_is_told_without_a_line():
    told = mistakes('[gate]\nname = "x"')
    assert "lanes is missing: at least one [[lanes]] is needed" in told
    assert any(each.startswith("api.username is missing") for each in told)


def test_no_lanes_are_a_mistake():
    assert "line 1: lanes is missing" in "\n".join(mistakes("lanes = []\n" + SMALL.partition("[[lanes]]")[0]))


def test_a_secret_is_not_repeated():
    assert "hunter2" not in only_mistake(under("[api]", 'password = "hunter2"'))


def test_one_wrong_barrier_is_one_mistake():
    lane = under("[[lanes]]", 'barrier = "?"\ninterlock = true', OUT)
    assert ".barrier must be" in only_mistake(under("[[lanes]]", "interlock = true") + lane)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a = 1\nname = North", "line 2, column 8: "),
        ("a = [", "line 1, column 6: "),
        ("[gate]\n[gate]", "line 2, column "),
        ("a = " + "[" * 20_000, "nested too deeply"),
        ("a = " + "9" * 5000, "too many digits"),
        ("", "the configuration is empty"),
        ("# nothing\n", "the configuration is empty"),
    ],
)
def test_a_text_that_is_no_toml_is_told(text: str, told: str):
    assert told in only_mistake(text)


def test_a_byte_order_mark_does_no_harm():
    assert parse("\ufeff" + SMALL) == parse(SMALL)


def test_line_ends_of_windows_do_no_harm():
    assert parse(SMALL.replace("\n", "\r\n")) == parse(SMALL)
    assert "line 5: api.x" in only_mistake(under("[api]", "\nx = 1").replace("\n", "\r\n"))


@given(st.text())
def test_arbitrary_text_raises_nothing_but_a_config_error(text: str):
    assert mistakes(text)


def test_dotted_keys_may_nest_deeply():
    told = mistakes(SMALL + ".".join("a" * 2000) + ".password = 1")
    assert any(".a.password may not be here" in each for each in told)


VALUES = st.recursive(
    st.sampled_from(["1", "-7", "true", '"x"', "1.5", "nan", "1979-05-27", "''", '"""\n]\n"""', "[]", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda some: "[\n" + ", ".join(some) + "]")
        | st.lists(inner, max_size=3).map(
            lambda some: "{" + ", ".join(f"k{n} = {each}" for n, each in enumerate(some)) + "}"
        )
    ),
    max_leaves=5,
)
GIVEN = re.compile(r"^(\w+) = (.*)$", re.MULTILINE)


@settings(max_examples=150)
@given(st.data())
def test_any_value_of_any_key_is_read_or_told_at_its_line(data: st.DataObject):
    text = WHOLE + OUT
    match = data.draw(st.sampled_from(list(GIVEN.finditer(text))))
    spoilt = text[: match.start(2)] + data.draw(VALUES) + text[match.end(2) :]
    line = text.count("\n", 0, match.start()) + 1
    if told := told_of(spoilt):
        assert any(f"{match[1]} " in mistake for mistake in told)
        assert any(mistake.startswith(f"line {line}: ") for mistake in told)


@given(st.data())
def test_a_damaged_file_raises_nothing_but_a_config_error(data: st.DataObject):
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(WHOLE))] * 2)))
    told_of(WHOLE[:begin] + data.draw(st.text("[]{}=.,'\"\\\n# a1", max_size=5)) + WHOLE[end:])
    told_of(WHOLE[begin:end])


# ---- the line of each key


def test_lines_are_found_in_every_way_of_writing():
    text = (
        '''\
top = """
[not.a.table]
x = 1"""
a.b = 1 # c = 2
"quoted" = 'it'''
        + """ = [x'

[t . u]
list = [
  1, # a ] comment
  {p = 1, q = [{r = "}"}]},
  { p = 2 },

]
[[m]]
x = 1
[[m.n]]
[[m.n]]
y.z = 1
[m.o]
[[m]]
  x = 2
[[m.n]]
y = 1979-05-27 07:32:00
"""
    )
    tomllib.loads(text)
    lines = Lines(text)
    assert {place: lines.of(place) for place in [
        ("top",), ("a",), ("a", "b"), ("quoted",), ("t", "u"), ("t", "u", "list"), ("t", "u", "list", 0),
        ("t", "u", "list", 1, "p"), ("t", "u", "list", 1, "q", 0, "r"), ("t", "u", "list", 2, "p"),
        ("m", 0), ("m", 0, "x"), ("m", 0, "n", 0), ("m", 0, "n", 1, "y", "z"), ("m", 0, "o"), ("m", 1, "x"),
        ("m", 1, "n", 0, "y"),
    ]} == {
        ("top",): 1, ("a",): 4, ("a", "b"): 4, ("quoted",): 5, ("t", "u"): 7, ("t", "u", "list"): 8,
        ("t", "u", "list", 0): 8, ("t", "u", "list", 1, "p"): 10, ("t", "u", "list", 1, "q", 0, "r"): 10,
        ("t", "u", "list", 2, "p"): 11, ("m", 0): 14, ("m", 0, "x"): 15, ("m", 0, "n", 0): 16,
        ("m", 0, "n", 1, "y", "z"): 18, ("m", 0, "o"): 19, ("m", 1, "x"): 21, ("m", 1, "n", 0, "y"): 23,
    }  # fmt: skip


def test_what_is_not_there_has_the_line_of_the_table_round_it():
    lines = Lines("[a]\nb = 1")
    assert (lines.of(("a", "c", "d")), lines.of(("x", "b"))) == (1, None)


# ---- the files


def test_a_file_is_loaded():
    assert load(REFERENCE) == parse(TEXT)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "is empty"), (b"a = 1\nb = '\xff'", "line 2: "), (SMALL.encode("utf-16"), "not UTF-8 text")],
)
def test_a_file_that_can_not_be_used_is_told(tmp_path: Path, content: bytes, told: str):
    path = tmp_path / "gated.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=told) as raised:
        load(path)
    assert raised.value.hint


@pytest.mark.parametrize(("name", "told"), [("absent", "there is no such file"), ("", "is a directory")])
def test_a_file_that_is_none_is_told(tmp_path: Path, name: str, told: str):
    with pytest.raises(ConfigError, match=told) as raised:
        load(tmp_path / name)
    assert "config/gated.toml" in raised.value.hint


def test_a_file_that_may_not_be_read_is_told(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # the tests may be root's, whom no mode stops
    with pytest.raises(ConfigError, match="gated may not read this file"):
        load(REFERENCE)


def with_password_file(path: Path) -> Config:
    return parse(under("[api]", f'password_file = "{path}"'))


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (b"secret", "secret"),
        (b"secret\n", "secret"),
        (b"s \r\n", "s "),
        (b"a\n\n", "a\n"),
        ("é".encode(), "é"),
    ],
)
def test_a_password_is_read_without_one_line_end(tmp_path: Path, content: bytes, read: str):
    path = tmp_path / "password"
    path.write_bytes(content)
    path.chmod(0o600)
    assert password(with_password_file(path), None) == read


def test_without_a_password_file_the_credential_is_read(tmp_path: Path):
    (tmp_path / "api-password").write_text("secret\n")
    assert password(parse(SMALL), tmp_path) == "secret"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_a_password_that_is_absent_empty_or_no_text_is_told(tmp_path: Path, content: bytes | None):
    path = tmp_path / "api-password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)) as raised:
        password(parse(SMALL), tmp_path)
    assert "chmod 640" in raised.value.hint


def test_no_password_at_all_is_told():
    with pytest.raises(ConfigError, match="no password") as raised:
        password(parse(SMALL), None)
    assert "api-password" in raised.value.hint


@pytest.mark.parametrize(
    ("mode", "owner", "allowed"),
    [
        (0o600, 0, True), (0o640, 0, True), (0o400, 0, True), (0o600, 1000, True),
        (0o644, 0, False), (0o660, 0, False), (0o604, 0, False), (0o640, 1000, False), (0o620, 1000, False),
    ],
)  # fmt: skip
def test_a_password_file_that_others_can_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, owner: int, allowed: bool
):
    path = tmp_path / "password"
    path.write_text("secret")
    status = os.stat_result((0o100000 | mode, 0, 0, 1, owner, 0, 6, 0, 0, 0))
    monkeypatch.setattr("gated.config.files.os.fstat", lambda _: status)
    config = with_password_file(path)
    if allowed:
        assert password(config, None) == "secret"
        return
    with pytest.raises(ConfigError, match="by others") as raised:
        password(config, None)
    assert "chmod 640" in raised.value.hint


# ---- the reference file


NAMED = re.compile(r"\[(signals|ticket_types)\..*\]")  # tables that each file names as it needs them


def documented() -> Iterator[tuple[str, str, str, str]]:
    """Heading, key, value and comment of each key in the reference file."""
    heading, comment = "", []
    for line in TEXT.splitlines():
        if match := re.fullmatch(r"#?(\[.*\])", line):
            heading, comment = NAMED.sub("[\\1.NAME]", match[1]), []
        elif match := re.fullmatch(r"#?(\w+) = (.*)", line):
            yield heading, match[1], match[2], " ".join(comment)
            comment = []
        else:
            comment = [*comment, line.removeprefix("#").strip()] if line else []


DOCUMENTED = {(heading, name): (value, comment) for heading, name, value, comment in documented()}
SCHEMA = [
    (heading, key)
    for heading, record in tables(Config)
    for key in keys(record).values()
    if not isinstance(key.read, Part)
]


def test_the_reference_holds_every_key_and_no_other():
    assert {(heading, key.name) for heading, key in SCHEMA} == set(DOCUMENTED)


@pytest.mark.parametrize(("heading", "key"), SCHEMA, ids=lambda each: getattr(each, "name", each))
def test_what_the_reference_says_of_a_key_is_true(heading: str, key: Key):
    _, comment = DOCUMENTED[heading, key.name]
    default = re.search(r"Default: (.+?)\.(?: |$)", comment)
    if key.default is MISSING:
        assert "Required" in comment
    elif key.name == "barrier":
        assert "Default: the lane's own name" in comment
    elif key.default is not None:
        assert default is not None
        assert key.read(tomllib.loads(f"x = {default[1]}")["x"]) == key.default
    else:
        assert default is None
    if isinstance(key.read, Whole | Span):
        assert f"{key.read.low} to {key.read.high}" in comment
        assert isinstance(key.read, Whole) or key.read.unit in comment


def test_a_key_that_is_switched_off_shows_its_default():
    for heading, key in SCHEMA:
        value, _ = DOCUMENTED[heading, key.name]
        if f"\n#{key.name} = {value}" in TEXT and key.default not in (MISSING, None, ""):
            assert key.read(tomllib.loads(f"x = {value}")["x"]) == key.default, key.name


def test_the_reference_tells_the_built_in_signals_as_they_are():
    rows = re.findall(r"^#   (\w+) +(\S+) +(\S+) +(\S+) +(\S+) +(\S+) +(\S.*)$", TEXT, re.MULTILINE)
    told = {outcome: row for outcome, *row in rows if outcome in list(Outcome)}
    assert set(told) == set(Outcome)
    for outcome, signal in SIGNALS.items():
        *patterns, text = told[outcome]
        shown = [signal.lamp(lamp) for lamp in Lamp] + [signal.buzzer or OFF]
        assert [OFF if name == "-" else PATTERNS[name] for name in patterns] == shown
        assert text == signal.text


def test_the_reference_tells_each_pattern_as_it_is():
    ms = timedelta(milliseconds=1)
    played = {
        name: f"{pattern.on // ms}/{pattern.off // ms}" + (f"x{pattern.times}" if pattern.times else "")
        for name, pattern in PATTERNS.items()
    }
    told = dict(re.findall(r"(\w+) (\d+/\d+(?:x\d+)?)", TEXT.partition("# The names:")[2]))
    assert {"off": played.pop("off"), "steady": played.pop("steady"), **played} == {
        "off": "0/1000",
        "steady": "1000/0",
        **told,
    }
