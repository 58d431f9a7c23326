"""The rules that one value alone can't break: two of them, or two tables, against each other.

They look only at values that are right by themselves, so one mistake is told once.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from gated.config import values
from gated.config.lines import Place, show
from gated.config.reading import SECRETS, Good, Mistake, keys
from gated.config.schema import LANE_NAME, ScannerKind, SignalConfig, TicketTypeConfig
from gated.core.events import Profile
from gated.core.own_signals import confusions, objection
from gated.core.scan import Direction
from gated.core.signals import SIGNALS, Lamp, Outcome, Signal, for_lamps, for_rgb

T = TypeVar("T")
Goods = dict[Place, Good]

# A keyboard has no line to set up. Its terminator is a key: Enter is CR.
_LINE_KEYS = ("baudrate", "bytesize", "parity", "stopbits")
_RGB_KEYS = ("rgb_red", "rgb_green", "rgb_blue")
_MS = timedelta(milliseconds=1)

_ELSEWHERE = (
    "may not be here: no secret stands in this file. Put it alone into a file that only root and gated can "
    "read and name that in api.password_file, or make it the systemd credential api-password"
)


def across(good: Goods) -> Iterator[Mistake]:
    """Every mistake between values."""
    checks = (
        _lane_names,
        _pins,
        _devices,
        _scanners,
        _releases,
        _lamps,
        _ticket_types,
        _interlocks,
        _signals,
    )
    for check in checks:
        yield from check(good)


def secrets(document: dict[str, object]) -> Iterator[Mistake]:
    """Every secret in a document, wherever it stands: also in a table that is not ours."""
    left: list[tuple[Place, object]] = [((), document)]  # no recursion: dotted keys nest without a limit
    while left:
        place, value = left.pop()
        if isinstance(value, list):
            left += [((*place, index), element) for index, element in enumerate(value)]
        elif isinstance(value, dict):
            left += [((*place, name), element) for name, element in value.items()]
        if place and str(place[-1]).lower() in SECRETS:
            yield place, _ELSEWHERE


def _lane_names(good: Goods) -> Iterator[Mistake]:
    names = {place: each for place, each in good.items() if place[-1] == "name" and each.read is LANE_NAME}
    return _twice(names, "each lane needs a name of its own")


def _pins(good: Goods) -> Iterator[Mistake]:
    pins = {place: each for place, each in good.items() if isinstance(each.read, values.Pin)}
    return _twice(pins, "a pin can be used once")


def _devices(good: Goods) -> Iterator[Mistake]:
    devices = {place: each for place, each in good.items() if each.read is values.device}
    return _twice(devices, "each scanner needs a device of its own")


def _twice(good: Goods, why: str) -> Iterator[Mistake]:
    first: dict[object, Place] = {}
    for place, each in good.items():
        if each.value in first:
            yield place, f"is {each.value}, and so is {show(first[each.value])}: {why}"
        elif each.value is not None:
            first[each.value] = place


def _scanners(good: Goods) -> Iterator[Mistake]:
    given = {place for place, each in good.items() if each.given}
    hid = [place[:-1] for place, each in good.items() if each.value is ScannerKind.HID]
    for scanner in hid:
        for key in [(*scanner, name) for name in _LINE_KEYS]:
            if key in given:
                yield key, 'is for kind = "serial": a keyboard (kind = "hid") has no such setting'
        if str(_value(good, *scanner, "device")).startswith("socket:"):
            yield (*scanner, "device"), 'must be a path for kind = "hid": only serial scanners have a socket'


def _releases(good: Goods) -> Iterator[Mistake]:
    for place in [place[:-1] for place, each in good.items() if each.value is Profile.PULSE]:
        pulse, grant = (_value(good, *place, name) for name in ("pulse_ms", "grant_ms"))
        if pulse and grant and grant < pulse:
            yield (*place, "grant_ms"), "must not be less than pulse_ms: the release would outlast the grant"
        low, high = _value(good, *place, "pulse_range_ms") or (pulse, pulse)
        if pulse and not low <= pulse <= high:
            span = f"{low / _MS:g} to {high / _MS:g} (milliseconds)"
            yield (
                (*place, "pulse_ms"),
                f"must be {span}: this turnstile takes no other pulse (pulse_range_ms)",
            )


def _lamps(good: Goods) -> Iterator[Mistake]:
    for lane in _lanes(good):
        lamps = (*lane, "lamps")
        colours = [key for key in _RGB_KEYS if _value(good, *lamps, key) is not None]
        for key in [key for key in _RGB_KEYS if colours and (*lamps, key) in good and key not in colours]:
            yield (*lamps, key), "is missing: an RGB lamp needs rgb_red, rgb_green and rgb_blue"


def _ticket_types(good: Goods) -> Iterator[Mistake]:
    for lane in _lanes(good):
        types = (*lane, "ticket_types")
        if _value(good, *lane, "direction") is Direction.EXIT and _value(good, *types):
            yield types, 'is for entry lanes: an exit (direction = "exit") asks for no type'


def _interlocks(good: Goods) -> Iterator[Mistake]:
    barriers = defaultdict(list)
    for lane in _lanes(good):
        barriers[_barrier(good, lane)].append(lane)
    for barrier, lanes in barriers.items():
        locks = {(*lane, "interlock"): _value(good, *lane, "interlock") for lane in lanes}
        if len(lanes) == 1 and True in locks.values() and None not in barriers:
            yield next(iter(locks)), f'needs a second lane with barrier = "{barrier}"'
        for place in (place for place, lock in locks.items() if lock is False and True in locks.values()):
            yield place, f'must be true for every lane of barrier "{barrier}", or for none'


def _signals(good: Goods) -> Iterator[Mistake]:
    signals = dict(SIGNALS)
    changed = _records(good, "signals", SignalConfig)
    for name, table in changed.items():
        outcome = Outcome(name)
        signals[outcome] = table.change.of(SIGNALS[outcome])
        if wrong := objection(outcome, signals[outcome]):
            yield ("signals", name), wrong
    for outcome, go in _confused(good, signals):
        place = ("signals", outcome if outcome in changed else go)
        other = go if outcome in changed else outcome
        yield place, f"would light just like {other} at a lane of this gate: one tells a guest to go"
    for name, special in _records(good, "ticket_types", TicketTypeConfig).items():
        outcome = Outcome.ADMIT_LOOK if special.look else Outcome.ADMIT
        shown = special.change.of(signals[outcome])
        if wrong := objection(outcome, shown):
            yield ("ticket_types", name), wrong
        for other, go in _confused(good, {**signals, outcome: shown}):
            if go is outcome and special.change.lamps:
                yield ("ticket_types", name), f"would light just like {other}, which tells nobody to go"


def _confused(good: Goods, signals: Mapping[Outcome, Signal]) -> Iterable[tuple[Outcome, Outcome]]:
    """What could be taken for each other at some lane; each pair once."""
    found: dict[tuple[Outcome, Outcome], None] = {}
    for lane in _lanes(good):
        lamps = {lamp for lamp in Lamp if _value(good, *lane, "lamps", lamp) is not None}
        found |= dict.fromkeys(confusions({each: for_lamps(signals[each], lamps) for each in signals}))
        if _value(good, *lane, "lamps", "rgb_red") is not None:
            found |= dict.fromkeys(confusions({each: for_rgb(signals[each]) for each in signals}))
    return found


def _records(good: Goods, table: str, kind: type[T]) -> dict[str, T]:
    """The tables of that heading that are named by the file, by name, but for those with a wrong value."""
    names = dict.fromkeys(str(place[1]) for place in good if place[0] == table)
    found = {name: {key: (table, name, key) for key in keys(kind)} for name in names}
    return {
        name: kind(**{key: good[place].value for key, place in places.items()})
        for name, places in found.items()
        if all(place in good for place in places.values())
    }


def _lanes(good: Goods) -> Iterable[Place]:
    return dict.fromkeys(place[:2] for place in good if place[0] == "lanes")


def _barrier(good: Goods, lane: Place) -> str | None:
    barrier: str | None = _value(good, *lane, "barrier")
    return _value(good, *lane, "name") if barrier == "" else barrier


def _value(good: Goods, *place: str | int) -> Any:
    """The value at ``place``, None if it is wrong or its table is absent."""
    return good[place].value if place in good else None
