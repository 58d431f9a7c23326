"""The records of the configuration. They are its schema as well.

A field is a key of the same name, or with its unit behind it if it is a duration (``pulse`` is ``pulse_ms``).
Its annotation says how it is read, its default is the documented default, and without a default it must be
given. ``Part | None`` is a table that may be absent, ``tuple[Part, ...]`` a list of at least one table,
``Mapping[Name, Part]`` tables that are named by the file.
So a new key is one line here and one in config/gated.toml.

Ranges: a pulse by the turnstiles' manuals (at least 100 ms; over 3 s some take it as "stay open").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from gated.config import values
from gated.config.values import Many, OneOf, Pin, Play, Range, Span, Text, Whole
from gated.core.barcode import Aim, Terminator
from gated.core.events import Profile
from gated.core.own_signals import Change
from gated.core.scan import Direction, LaneName
from gated.core.signals import Lamp, Outcome, Pattern
from gated.pins import Normally, PinFactory
from gated.scanners import Parity


class Strategy(StrEnum):
    """Who decides: the mirror and overlay on this disk, or the API with a local decision to fall back on."""

    LOCAL = "local"
    DIRECT = "direct"


class UnknownTickets(StrEnum):
    """What to do about a ticket that the mirror does not have."""

    ASK = "ask"
    DENY = "deny"


class Fallback(StrEnum):
    """What stands in for an answer of the API that did not come."""

    LOCAL = "local"
    DENY = "deny"


class ExitOpens(StrEnum):
    """When an exit lets go: at every read, or only at an ADMIT."""

    ALWAYS = "always"
    ON_ADMIT = "on_admit"


class OfflineCheckouts(StrEnum):
    """How check-outs made while offline reach the server: uploaded, or POSTed one by one."""

    UPLOAD = "upload"
    REPLAY = "replay"


class DiskFailure(StrEnum):
    """What a valid ticket gets while the disk can't be written."""

    ADMIT = "admit"
    DENY = "deny"


class ScannerKind(StrEnum):
    """How a scanner speaks: bytes on a serial line or socket, or keys as a keyboard."""

    SERIAL = "serial"
    HID = "hid"


class WhenOff(StrEnum):
    """What a barrier does without power."""

    LOCKED = "locked"
    FREE = "free"


class Reset(StrEnum):
    """Who ends an emergency whose input is normal again."""

    MANUAL = "manual"
    AUTOMATIC = "automatic"


InputPin = Annotated[int, Pin(output=False)]
OutputPin = Annotated[int, Pin(output=True)]
LampPattern = Annotated[Pattern, Play(lamp=True)]
BuzzerPattern = Annotated[Pattern, Play(lamp=False)]

PULSE = Span("milliseconds", 100, 3000, 'shorter is missed, too long means "stay open" to many turnstiles')
LANE_NAME = Text(r"(?! )[A-Za-z0-9 _-]{1,40}(?<! )", "1 to 40 of the letters A-Z a-z, digits, blank, _ and -")
TicketType = Annotated[str, values.words(256)]
DEVICE_INFO = Text(r"(?! )[ -~]{1,512}(?<! )", "1 to 512 printable ASCII characters, just as CM gave them")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """``[gate]``. ``time_zone`` is what people are shown; inside all is UTC."""

    name: Annotated[str, values.words(80)]
    time_zone: Annotated[str, values.time_zone] = "UTC"
    strategy: Strategy = Strategy.LOCAL
    state_dir: Annotated[Path, values.absolute_path] = Path("/var/lib/gated")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    """``[api]``. ``base_url`` has no slash at its end; ``service`` is a uuid or a name."""

    base_url: Annotated[str, values.base_url] = "https://api.cm.com/scanapi/v2.0"
    username: Annotated[str, values.words(256)]
    password_file: Annotated[Path, values.absolute_path] | None = None
    device_info: Annotated[str, DEVICE_INFO]
    service: Annotated[str, values.words(256)] | None = None
    ca_file: Annotated[Path, values.absolute_path] | None = None
    trusted_hosts: Annotated[tuple[str, ...], Many(values.host)] = ("api.cm.com", "api.cmtelecom.com")
    direct_timeout: Annotated[timedelta, Span("milliseconds", 100, 10_000)] = timedelta(milliseconds=1000)
    page_size: Annotated[int, Whole(1, 500, "tickets")] = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionConfig:
    """``[decision]``."""

    unknown: UnknownTickets = UnknownTickets.ASK
    fallback: Fallback = Fallback.LOCAL
    reentry_after_checkout: bool = False
    regrant: Annotated[timedelta, Span("minutes", 0, 120)] = timedelta(minutes=15)
    exit_opens: ExitOpens = ExitOpens.ALWAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadConfig:
    """``[upload]``. ``denials`` and ``unknown``: whether such scans are sent at all."""

    denials: bool = True
    unknown: bool = True
    offline_checkouts: OfflineCheckouts = OfflineCheckouts.UPLOAD


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskConfig:
    """``[disk]``."""

    on_failure: DiskFailure = DiskFailure.ADMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannerConfig:
    """``[[lanes.scanners]]``. ``device`` is an absolute path, or ``socket://host:port`` if serial."""

    kind: ScannerKind
    device: Annotated[str, values.device]
    baudrate: Annotated[int, Whole(300, 921_600, "baud")] = 9600
    bytesize: Annotated[int, Whole(5, 8, "bits")] = 8
    parity: Parity = Parity.NONE
    stopbits: Annotated[float, OneOf((1, 1.5, 2))] = 1.0
    terminator: Terminator = Terminator.CR
    prefix: Annotated[str, Text(r"(?s:.){0,32}", "at most 32 characters")] = ""
    aim: Aim = Aim.OFF
    repeat_gap: Annotated[timedelta, Span("milliseconds", 0, 60_000)] = timedelta(milliseconds=1000)
    character_timeout: Annotated[timedelta, Span("milliseconds", 10, 5000)] = timedelta(milliseconds=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseConfig:
    """``[lanes.release]``: the output that lets one person pass. ``when_off`` has no default on purpose.

    ``pulse_range`` is what the turnstile's maker says that a pulse may last.
    """

    pin: OutputPin
    active_high: bool = True
    when_off: WhenOff
    emergency_wired: bool = False
    profile: Profile = Profile.PULSE
    pulse: Annotated[timedelta, PULSE] = timedelta(milliseconds=500)
    pulse_range: Annotated[tuple[timedelta, timedelta], Range(PULSE)] | None = None
    grant: Annotated[timedelta, Span("milliseconds", 1000, 60_000)] = timedelta(milliseconds=5000)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageConfig:
    """``[lanes.passage]``: the contacts that show a guest going through."""

    begins_pin: InputPin | None = None
    done_pin: InputPin
    normally: Normally = Normally.OPEN


@dataclass(frozen=True, slots=True, kw_only=True)
class ButtonConfig:
    """``[lanes.button]``: releases the lane; at an exit it is the request to exit."""

    pin: InputPin


@dataclass(frozen=True, slots=True, kw_only=True)
class BuzzerConfig:
    """``[lanes.buzzer]``."""

    pin: OutputPin
    active_high: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LampsConfig:
    """``[lanes.lamps]``: the pin of each lamp there is, and of each colour of the RGB lamp."""

    green: OutputPin | None = None
    red: OutputPin | None = None
    amber: OutputPin | None = None
    white: OutputPin | None = None
    rgb_red: OutputPin | None = None
    rgb_green: OutputPin | None = None
    rgb_blue: OutputPin | None = None
    active_high: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneConfig:
    """``[[lanes]]``. ``barrier`` is the lane's own name unless given. No ``ticket_types``: all types."""

    name: Annotated[LaneName, LANE_NAME]
    direction: Direction
    barrier: Annotated[str, LANE_NAME] = ""
    interlock: bool = False
    ticket_types: Annotated[tuple[str, ...], Many(values.words(256))] = ()
    scanners: tuple[ScannerConfig, ...]
    release: ReleaseConfig
    passage: PassageConfig | None = None
    button: ButtonConfig | None = None
    buzzer: BuzzerConfig | None = None
    lamps: LampsConfig = LampsConfig()

    def __post_init__(self) -> None:
        object.__setattr__(self, "barrier", self.barrier or self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalConfig:
    """``[signals.OUTCOME]``: what is changed of that outcome's built-in signal."""

    green: LampPattern | None = None
    red: LampPattern | None = None
    amber: LampPattern | None = None
    white: LampPattern | None = None
    buzzer: BuzzerPattern | None = None
    text: Annotated[str, values.words(80)] | None = None

    @property
    def change(self) -> Change:
        """The change as the core has it."""
        return _change(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketTypeConfig:
    """``[ticket_types.TYPE]``: how an admitted ticket of that type, by name or id, is shown."""

    look: bool = False
    green: LampPattern | None = None
    white: LampPattern | None = None
    buzzer: BuzzerPattern | None = None
    text: Annotated[str, values.words(80)] | None = None

    @property
    def change(self) -> Change:
        """What is changed where such a ticket is admitted, which no red or amber can be."""
        return _change(self)


def _change(table: SignalConfig | TicketTypeConfig) -> Change:
    lamps = [(lamp, getattr(table, lamp, None)) for lamp in Lamp]
    given = tuple((lamp, pattern) for lamp, pattern in lamps if pattern is not None)
    return Change(given, table.buzzer, table.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmergencyConfig:
    """``[emergency]``: the input that shows the venue's alarm."""

    pin: InputPin
    normally: Normally = Normally.CLOSED
    reset: Reset = Reset.MANUAL


@dataclass(frozen=True, slots=True, kw_only=True)
class PinsConfig:
    """``[pins]``."""

    factory: PinFactory = PinFactory.LGPIO


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelConfig:
    """``[panel]``: read, and unused until there is a panel."""

    listen: Annotated[str, values.listen] = "127.0.0.1:8080"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole file."""

    gate: GateConfig
    api: ApiConfig
    decision: DecisionConfig = DecisionConfig()
    upload: UploadConfig = UploadConfig()
    disk: DiskConfig = DiskConfig()
    lanes: tuple[LaneConfig, ...]
    signals: Mapping[Outcome, SignalConfig] = field(default_factory=dict)
    ticket_types: Mapping[TicketType, TicketTypeConfig] = field(default_factory=dict)
    emergency: EmergencyConfig | None = None
    pins: PinsConfig = PinsConfig()
    panel: PanelConfig = PanelConfig()
