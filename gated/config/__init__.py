"""The configuration: a TOML file into a frozen :class:`Config`, or every mistake in it at once.

Each mistake names its line where it can be found, its key path, and what is right instead. :func:`parse` is
pure; :func:`load` and :func:`password` read one file each.
"""

import tomllib
from pathlib import Path

from gated.config import checks, files
from gated.config.files import CREDENTIAL, password
from gated.config.lines import Lines, Place, show
from gated.config.reading import Mistake, Reading
from gated.config.schema import (
    ApiConfig,
    ButtonConfig,
    BuzzerConfig,
    Config,
    DecisionConfig,
    DiskConfig,
    DiskFailure,
    EmergencyConfig,
    ExitOpens,
    Fallback,
    GateConfig,
    LampsConfig,
    LaneConfig,
    OfflineCheckouts,
    PanelConfig,
    PassageConfig,
    PinsConfig,
    ReleaseConfig,
    Reset,
    ScannerConfig,
    ScannerKind,
    SignalConfig,
    Strategy,
    TicketTypeConfig,
    UnknownTickets,
    UploadConfig,
    WhenOff,
)
from gated.errors import ConfigError

__all__ = [
    "CREDENTIAL",
    "ApiConfig",
    "ButtonConfig",
    "BuzzerConfig",
    "Config",
    "DecisionConfig",
    "DiskConfig",
    "DiskFailure",
    "EmergencyConfig",
    "ExitOpens",
    "Fallback",
    "GateConfig",
    "LampsConfig",
    "LaneConfig",
    "OfflineCheckouts",
    "PanelConfig",
    "PassageConfig",
    "PinsConfig",
    "ReleaseConfig",
    "Reset",
    "ScannerConfig",
    "ScannerKind",
    "SignalConfig",
    "Strategy",
    "TicketTypeConfig",
    "UnknownTickets",
    "UploadConfig",
    "WhenOff",
    "load",
    "parse",
    "password",
]

_START = "Start from the reference file, config/gated.toml: it is a working example."


def load(path: Path) -> Config:
    """The configuration in the file at ``path``; :class:`ConfigError` if it can't be read or used."""
    content = files.content(path, absent=_START)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            (f"line {line}: {path} is not UTF-8 text",), hint="Save it as UTF-8 in your editor."
        ) from None
    return parse(text)


def parse(text: str) -> Config:
    """The configuration in ``text``; :class:`ConfigError` with every mistake, in the order of the lines."""
    text = text.removeprefix("\ufeff")  # Windows' editors mark UTF-8 with it
    document = _document(text)
    if not document:
        raise ConfigError(("the configuration is empty",), hint=_START)
    reading = Reading(Config)
    config = reading.record(Config, document)
    mistakes = [*reading.mistakes, *checks.across(reading.good), *checks.secrets(document)]
    if config is None or mistakes:
        raise ConfigError(_by_line(mistakes, Lines(text)))
    return config


def _document(text: str) -> dict[str, object]:
    hint = 'Text needs "quotes"; a key stands before =, a table\'s name in [ ]; each name only once.'
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(("lists or tables are nested too deeply",), hint=hint) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError((_syntax(str(error), text),), hint=hint) from None
    except ValueError:  # int() takes no more than 4300 digits
        raise ConfigError(("a number has too many digits",), hint=hint) from None


def _syntax(message: str, text: str) -> str:
    """What :mod:`tomllib` says, with the place in front as in all our mistakes."""
    said, _, at = message.removesuffix(")").rpartition(" (at ")
    if at == "end of document":
        at = f"line {text.count(chr(10)) + 1}, column {len(text) - text.rfind(chr(10))}"
    return f"{at}: {said}"


def _by_line(mistakes: list[Mistake], lines: Lines) -> tuple[str, ...]:
    """The mistakes as they are told; those without a line, such as a table that is missing, come last."""
    placed = sorted(mistakes, key=lambda mistake: lines.of(mistake[0]) or 1 << 62)
    return tuple(_told(place, words, lines.of(place)) for place, words in placed)


def _told(place: Place, words: str, line: int | None) -> str:
    at = "" if line is None else f"line {line}: "
    return f"{at}{show(place)} {words}"
