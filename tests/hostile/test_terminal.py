"""What strangers wrote never reaches a terminal, a log or rich as anything but text."""

import io
import json
import logging
import os
import pty
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gated import demo, log
from gated.__main__ import main
from gated.config import parse
from gated.core.plain import plain
from gated.core.signals import Outcome
from gated.errors import ConfigError
from gated.show import finding_lines, follow_sync, outbox_lines, purged, status_lines
from tests.hostile.words import HOSTILE, PRINTABLE, UNPRINTABLE, harmless, in_toml, tried
from tests.test_log import Reader, reader, reset  # noqa: F401 - a fixture
from tests.test_show import lane, status, waiting

every_hostile_text = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)


@pytest.mark.parametrize("text", PRINTABLE.values(), ids=PRINTABLE)
def test_what_is_printable_is_shown_as_it_is(text: str) -> None:
    assert plain(text) == text


@tried(20)
@given(st.text(st.characters(exclude_categories=())))
def test_any_text_becomes_printable_and_can_be_written(text: str) -> None:
    assert plain(text).isprintable()
    plain(text).encode()


# gated's commands


@every_hostile_text
def test_a_status_only_shows(text: str) -> None:
    lost = {text: {"state": "lost", "why": text}}
    shown = status_lines(
        status(
            gate=text,
            service=text,
            api=text,
            alarms={text: {text: text, "list": [text, text]}},
            lanes=[lane(text, scanners=lost)],
        )
    )
    assert all(line.isprintable() for line in shown)
    assert len(shown) == 10
    if text.isprintable():
        assert f"  service  {text}: 12345 tickets" in shown


@every_hostile_text
def test_outbox_findings_and_purge_only_show(text: str) -> None:
    shown = [
        *outbox_lines([waiting(barcode=text, lane=text, parked=text)]),
        *finding_lines([{"level": "look", "what": text, "told": text, "advice": text}]),
        *purged({"upload_failed": text, "hint": text}).split("\n"),
    ]
    assert all(line.isprintable() for line in shown)
    assert len(shown) == 5


@every_hostile_text
def test_a_sync_that_fails_only_shows(text: str) -> None:
    said = io.StringIO()
    console = Console(file=said, width=2000, force_terminal=True, color_system="truecolor", highlight=False)
    follow_sync([{"upload_failed": text, "hint": "Look."}], console)
    assert f"the upload failed: {plain(text)}\nLook.\n" in said.getvalue()


@every_hostile_text
def test_the_demo_only_shows(text: str) -> None:
    said = io.StringIO()
    shown = demo.Demo.__new__(demo.Demo)  # without the gate and the server that it starts
    shown._console = Console(file=said, width=2000, highlight=False)
    event: dict[str, Any] = {"verdict": "DENY", "ticket_type": text, "origin": "ask", "took_ms": 1}
    shown._show({"what": "scan", "message": text, **event})
    shown._show({"what": "shown", "outcome": Outcome.DENY})
    assert harmless(said.getvalue())
    assert plain(text) in said.getvalue()


@every_hostile_text
def test_a_mistake_in_a_hostile_key_is_one_line_that_only_shows(text: str, tmp_path: Path) -> None:
    config = tmp_path / "gated.toml"
    config.write_text(f"{in_toml(text)} = 1\n[gate]\nname = 5\n")
    called = CliRunner().invoke(main, ["check-config", "--config", str(config)])
    assert called.exit_code == 2
    assert harmless(called.stderr)
    assert all(line.startswith(("gated: ", "  ", "Mend")) for line in called.stderr.splitlines())
    as_json = CliRunner().invoke(main, ["check-config", "--json", "--config", str(config)])
    assert as_json.stdout.isascii()
    assert any("is not a key" in each for each in json.loads(as_json.stdout)["mistakes"])


def test_a_key_that_is_no_word_is_told_in_quotes() -> None:
    with pytest.raises(ConfigError) as caught:
        parse('"\\u001b[2J\\n<0>x" = 1\n"a b" = 2\n')
    assert '"\\u001b[2J\\n<0>x" is not a key' in str(caught.value)
    assert 'line 2: "a b" is not a key' in str(caught.value)


def test_commands_to_a_gate_whose_configuration_nests_without_end_are_told_so(tmp_path: Path) -> None:
    config = tmp_path / "gated.toml"
    config.write_text("a = " + "[" * 100_000)
    called = CliRunner().invoke(main, ["status", "--config", str(config)])
    assert (called.exit_code, called.stdout) == (2, "")
    assert "nested too deeply" in called.stderr


@every_hostile_text
def test_what_is_typed_at_explain_is_never_typed_back(text: str, tmp_path: Path) -> None:
    config = tmp_path / "gated.toml"
    config.write_text(f'[gate]\nstate_dir = "{tmp_path}"\n')
    called = CliRunner().invoke(main, ["explain", "--config", str(config), "--", text])
    assert called.exit_code == 1
    assert harmless(called.output)


# The log


@pytest.mark.parametrize("text", UNPRINTABLE.values(), ids=UNPRINTABLE)
def test_a_log_line_shows_nothing_that_is_not_printable_and_loses_nothing(text: str, reader: Reader) -> None:  # noqa: F811 - pytest finds the fixture by that name
    log.get("link").error("alarm", what=text, **{text: [text]})
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger("apscheduler").exception(text)
    raw = reader.raw()
    assert all(line.decode().removesuffix("\n").isprintable() for line in raw)
    alarm, warning = reader.lines()
    assert (alarm["what"], alarm[text]) == (text, [text])
    assert (warning["event"], warning["said"]) == ("library_warning", text)


def test_on_a_terminal_an_exception_shows_its_text_and_no_variables() -> None:
    ours, theirs = pty.openpty()
    with open(theirs, "wb", buffering=0) as out:
        log.set_up(out, {})
        password = "open " + "sesame"
        try:
            raise ValueError("\x1b[2J\x9b31m\nlane 1 ready")
        except ValueError:
            log.get("app").error("failed", exc_info=True)
        cast(Any, structlog.get_config()["logger_factory"]()).flush()
        said = os.read(ours, 100_000).decode()
        reset()
    os.close(ours)
    assert password not in said
    assert "\x1b[2J" not in said
    assert "\x9b" not in said
    assert "ValueError: \\x1b[2J\\x9b31m" in said
