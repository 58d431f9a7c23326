"""From the configuration to parts: one small function for each kind of part."""

from collections.abc import Mapping

from gated.config import (
    Config,
    DiskFailure,
    ExitOpens,
    LampsConfig,
    LaneConfig,
    OfflineCheckouts,
    ScannerConfig,
    ScannerKind,
    Strategy,
    UnknownTickets,
)
from gated.contacts import Contact
from gated.core.barcode import Framing
from gated.core.events import (
    LaneRules,
    OperatorReleased,
    PassageBegan,
    PassageDone,
    Sensors,
)
from gated.core.outbox import UploadRules
from gated.core.own_signals import Signals, TypeSignal
from gated.core.scan import Direction
from gated.core.signals import SIGNALS, Lamp
from gated.interlock import Interlock
from gated.lane import Equipment, Gate, RunningLane, Setting
from gated.pins import Normally, Output, Pins
from gated.pins.player import Light
from gated.pins.rgb import RgbLamp
from gated.scanners import Scanner
from gated.scanners.hid import HidScanner
from gated.scanners.serial import SerialScanner, SerialSettings
from gated.store import DeskRules


def desk_rules(config: Config) -> DeskRules:
    """What holds for every scan at this gate."""
    return DeskRules(
        reentry_after_checkout=config.decision.reentry_after_checkout,
        regrant=config.decision.regrant,
        upload=UploadRules(
            denials=config.upload.denials,
            unknown=config.upload.unknown,
            replay_checkouts=config.upload.offline_checkouts is OfflineCheckouts.REPLAY,
        ),
        admit_undurable=config.disk.on_failure is DiskFailure.ADMIT,
    )


def build_lane(config: LaneConfig, setting: Setting, pins: Pins, gate: Gate) -> RunningLane:
    """Claims a lane's pins and puts the lane together. Raises PinError."""
    buzzer = config.buzzer
    equipment = Equipment(
        release=pins.output(config.release.pin, active_high=config.release.active_high),
        lamps=_lamps(config.lamps, pins),
        buzzer=pins.output(buzzer.pin, active_high=buzzer.active_high) if buzzer else None,
        scanners=tuple(scanner(each) for each in config.scanners),
        rgb=_rgb(config.lamps, pins),
    )
    lane = RunningLane(setting, equipment, gate)
    lane.own(_contacts(config, pins, lane))
    return lane


def safe_levels(config: Config) -> dict[int, int]:
    """The level, 0 or 1, at which each output of the gate is de-energised."""
    wired: list[tuple[int | None, bool]] = []
    for lane in config.lanes:
        wired.append((lane.release.pin, lane.release.active_high))
        wired += [(pin, lane.lamps.active_high) for pin in lamp_pins(lane.lamps).values()]
        if lane.buzzer is not None:
            wired.append((lane.buzzer.pin, lane.buzzer.active_high))
    return {pin: int(not active_high) for pin, active_high in wired if pin is not None}


def setting(config: LaneConfig, whole: Config, interlock: Interlock | None) -> Setting:
    """What a lane is; ``interlock`` is that of its barrier, if it is to take turns."""
    return Setting(
        name=config.name,
        rules=_lane_rules(config, whole),
        pulse=config.release.pulse,
        ticket_types=frozenset(config.ticket_types),
        ask_known=whole.gate.strategy is Strategy.DIRECT,
        ask_unknown=whole.decision.unknown is UnknownTickets.ASK,
        interlock=interlock,
        signals=signals(whole),
    )


def signals(config: Config) -> Signals:
    """What the gate shows: the built-in signals with its own changes."""
    changed = {outcome: table.change.of(SIGNALS[outcome]) for outcome, table in config.signals.items()}
    types = {name: TypeSignal(table.look, table.change) for name, table in config.ticket_types.items()}
    return Signals({**SIGNALS, **changed}, types)


def _lane_rules(config: LaneConfig, whole: Config) -> LaneRules:
    sensors = Sensors.NONE
    if config.passage is not None:
        sensors = Sensors.ONE if config.passage.begins_pin is None else Sensors.TWO
    is_exit = config.direction is Direction.EXIT
    return LaneRules(
        direction=config.direction,
        profile=config.release.profile,
        sensors=sensors,
        grant=config.release.grant,
        repeat_gap=max(scanner.repeat_gap for scanner in config.scanners),
        opens_always=is_exit and whole.decision.exit_opens is ExitOpens.ALWAYS,
    )


def _lamps(config: LampsConfig, pins: Pins) -> dict[Lamp, Output]:
    numbers = {lamp: getattr(config, lamp) for lamp in Lamp}
    return {
        lamp: pins.output(pin, active_high=config.active_high)
        for lamp, pin in numbers.items()
        if pin is not None
    }


def _rgb(config: LampsConfig, pins: Pins) -> Mapping[Lamp, Light]:
    if config.rgb_red is None or config.rgb_green is None or config.rgb_blue is None:
        return {}
    numbers = (config.rgb_red, config.rgb_green, config.rgb_blue)
    return RgbLamp(*(pins.output(pin, active_high=config.active_high) for pin in numbers)).colours


def lamp_pins(config: LampsConfig) -> dict[str, int]:
    """The pin of each lamp, and of each colour of an RGB lamp, that there is."""
    pins = {key: getattr(config, key) for key in (*Lamp, "rgb_red", "rgb_green", "rgb_blue")}
    return {key: pin for key, pin in pins.items() if pin is not None}


def scanner(config: ScannerConfig) -> Scanner:
    """A scanner, not started yet."""
    name = config.device.rsplit("/", 1)[-1]
    framing = Framing(config.terminator, config.prefix, config.aim, config.character_timeout)
    if config.kind is ScannerKind.HID:
        return HidScanner(name, config.device, framing)
    settings = SerialSettings(config.device, config.baudrate, config.bytesize, config.parity, config.stopbits)
    return SerialScanner(name, settings, framing)


def _contacts(config: LaneConfig, pins: Pins, lane: RunningLane) -> tuple[Contact, ...]:
    contacts = []
    if config.button is not None:
        contacts.append(
            Contact(pins, config.button.pin, Normally.OPEN, lambda _: lane.feed(OperatorReleased()))
        )
    if (seen := config.passage) is not None:
        contacts.append(Contact(pins, seen.done_pin, seen.normally, lambda at: lane.feed(PassageDone(at))))
        if seen.begins_pin is not None:
            contacts.append(
                Contact(pins, seen.begins_pin, seen.normally, lambda at: lane.feed(PassageBegan(at)))
            )
    return tuple(contacts)
