"""Draws the pictures of the wiring guide: ``python3 hardware/diagrams.py`` writes hardware/*.svg anew.

- Pins come from config/two-lanes.toml, so a picture can't show another pin than the config.
- Every place is given in numbers: units of half an inch, x to the right, y up.
- The same input gives the same bytes; a test compares them with the files beside this one.

Needs schemdraw (extra ``test``). Which place of the header a GPIO number has is from Raspberry Pi's
documentation, "GPIO and the 40-pin header".
"""

import re
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import schemdraw
from schemdraw import elements as elm

HERE = Path(__file__).parent
CONFIG = HERE.parent / "config" / "two-lanes.toml"

# The place on the 40-pin header of GPIO 0, 1, 2 and so on.
PLACES = (
    27, 28, 3, 5, 7, 29, 31, 26, 24, 21, 19, 23, 32, 33,
    8, 10, 36, 11, 12, 35, 38, 40, 15, 16, 18, 22, 37, 13,
)  # fmt: skip

LINE = 0.42  # from one line of text to the next
# A number with a fraction or an exponent, or a zero with a sign.
NUMBER = re.compile(r"-?\d+(?:\.\d+(?:e[-+]\d+)?|e[-+]\d+)|-0\b")
NUDGE = (-0.1, -0.1)  # schemdraw puts a label that much beside its place
FIRE = "#c00000"  # the wire that must not pass through the Pi
FAINT = "#666666"
BOARD = "#eef4fb"
OUTSIDE = "#fdf3e4"

Point = tuple[float, float]


class Sheet:
    """One picture."""

    def __init__(self) -> None:
        # Programs differ about "dominant-baseline"; without it all put a text at the same place.
        schemdraw.svgconfig.useBatik = True
        self.drawing = schemdraw.Drawing(canvas="svg", show=False)
        self.drawing.config(
            fontsize=12, font="DejaVu Sans, Arial, sans-serif", bgcolor="white", lw=1.5, margin=0.4
        )

    def add(self, element: Any, start: Point, end: Point | None = None) -> None:
        """Places an element, of two ends between two points."""
        placed = element.at(start)
        self.drawing.add(placed.theta(0) if end is None else placed.to(end))

    def wire(self, *points: Point, color: str = "black", lw: float = 1.5, ls: str = "-") -> None:
        """Joins points by straight lines."""
        for start, end in pairwise(points):
            self.add(elm.Line().color(color).linewidth(lw).linestyle(ls), start, end)

    def dots(self, *points: Point) -> None:
        """Marks where wires are joined."""
        for point in points:
            self.add(elm.Dot(), point)

    def text(
        self, at: Point, text: str, *, align: str = "left", size: float = 12, color: str = "black"
    ) -> None:
        """Writes lines of text, the middle of their height at ``at``."""
        lines = text.split("\n")
        step = LINE * size / 12
        for row, line in enumerate(lines):
            y = at[1] + step * ((len(lines) - 1) / 2 - row)
            label = elm.Label().label(line, "center", NUDGE, align, "center", fontsize=size, color=color)
            self.add(label, (at[0], y))

    def box(self, low: Point, high: Point, text: str = "", *, fill: str = BOARD, top: bool = False) -> None:
        """A box with text in its middle, or at its ``top`` to leave room for terminals."""
        self.add(elm.Rect(corner1=low, corner2=high, fill=fill, zorder=0), (0, 0))
        middle = (low[1] + high[1]) / 2
        if top:
            middle = high[1] - 0.25 - LINE / 2 * (text.count("\n") + 1)
        self.text(((low[0] + high[0]) / 2, middle), text, align="center")

    def terminal(self, at: Point, text: str, align: str) -> None:
        """A screw terminal, its name beside it: ``left`` aligned on its right, or the other way round."""
        self.add(elm.Dot(open=True), at)
        self.text((at[0] + (0.3 if align == "left" else -0.3), at[1]), text, align=align)

    def svg(self) -> bytes:
        """The picture's file: numbers rounded, for their last digits differ between machines."""
        image: str = self.drawing.get_imagedata("svg").decode()
        return (NUMBER.sub(lambda found: f"{round(float(found[0]), 2) + 0:g}", image) + "\n").encode()


def named(pin: int) -> str:
    """A pin as the pictures and the guide name it."""
    return f"GPIO {pin}, place {PLACES[pin]}"


def both(config: dict[str, Any], table: str, key: str) -> tuple[str, str]:
    """A pin of the lane in, and the words for the same one of the lane out, blank if it has none."""
    lane_in, lane_out = (lane[table].get(key) for lane in config["lanes"])
    return named(lane_in), "" if lane_out is None else f"lane 2: {named(lane_out)}"


def overview(config: dict[str, Any]) -> Sheet:
    """Which box is joined to which."""
    sheet = Sheet()
    sheet.box(
        (0, 10),
        (6, 12.4),
        "The venue's fire panel\n\ntwo contacts that have\nnothing in common",
        fill=OUTSIDE,
    )
    sheet.box(
        (18, 9.6),
        (25, 12.4),
        "Turnstile or door\n\na supply of its own\nand an emergency input of its own",
        fill=OUTSIDE,
    )
    sheet.box((0, 7), (6, 8.8), "Passage contacts\nbutton: staff, request to exit", fill=OUTSIDE)
    sheet.box((0, 2), (6, 3.8), "Barcode scanner\nserial or keyboard, by USB", fill=OUTSIDE)
    sheet.box((8.5, 7), (13.5, 9.6), "Input board\nopto-isolated\n\n24 V field supply")
    sheet.box(
        (8.5, 0), (13.5, 5), "Raspberry Pi\nruns gated\n\n5 V for itself alone,\na clock with a battery"
    )
    sheet.box((18, 4), (25, 7), "Relay board\nopto-isolated, active high\n\n5 V for the coils alone")
    sheet.box((18, 0), (25, 2.4), "Driver board\nopto-isolated MOSFETs\n\n24 V field supply")
    sheet.box((26.5, 0), (29.5, 2.4), "Lamps\nbuzzer", fill=OUTSIDE)
    sheet.wire((6, 11.8), (18, 11.8), color=FIRE, lw=3)
    sheet.text((12, 12.2), "contact 1: straight to the turnstile, past the Pi", align="center", color=FIRE)
    sheet.wire((6, 10.6), (11, 10.6), (11, 9.6))
    sheet.text((6.3, 10.9), "contact 2: gated only watches it", color=FAINT)
    sheet.wire((6, 7.9), (8.5, 7.9))
    sheet.wire((11, 7), (11, 5))
    sheet.text((11.3, 6), "inputs", color=FAINT)
    sheet.wire((6, 2.9), (8.5, 2.9))
    sheet.wire((13.5, 4.5), (18, 4.5))
    sheet.text(
        (15.75, 4.8), f"release: GPIO {config['lanes'][0]['release']['pin']}", align="center", color=FAINT
    )
    sheet.wire((13.5, 1.2), (18, 1.2))
    sheet.text((15.75, 1.5), "lamps, buzzer", align="center", color=FAINT)
    sheet.wire((21.5, 7), (21.5, 9.6))
    sheet.text((21.8, 8.3), "a contact: “open for one”", color=FAINT)
    sheet.wire((25, 1.2), (26.5, 1.2))
    return sheet


def outputs(config: dict[str, Any]) -> Sheet:
    """The outputs of a lane: relay, lamps, buzzer."""
    sheet = Sheet()
    lamps = ("green", "red", "amber", "white")
    rows = {
        "release": both(config, "release", "pin"),
        **{lamp: both(config, "lamps", lamp) for lamp in lamps},
        "buzzer": both(config, "buzzer", "pin"),
    }
    heights = dict(zip(rows, (14.0, 10.4, 8.2, 6.0, 3.8, 1.6), strict=True))
    sheet.box((0, -1.6), (6.6, 16), "Raspberry Pi", top=True)
    for name, y in heights.items():
        pin, other = rows[name]
        sheet.terminal((6.6, y), f"{name}: {pin}", "right")
        sheet.text((6.3, y - 0.5), other, align="right", size=10, color=FAINT)
        sheet.wire((6.6, y), (11.5, y))
        sheet.dots((8, y))
        sheet.add(elm.ResistorIEC(), (8, y), (8, y - 1.3))
        sheet.text((8.4, y - 0.65), "10 kΩ", size=10)
        sheet.add(elm.GroundSignal(), (8, y - 1.3))
    ground = -0.6
    sheet.terminal((6.6, ground), "ground, place 39", "right")
    sheet.wire((6.6, ground), (11.5, ground))
    sheet.wire((10.4, ground), (10.4, 12.8), (11.5, 12.8))
    sheet.dots((10.4, ground))
    _relay_board(sheet, heights.pop("release"))
    _driver_board(sheet, heights, ground)
    sheet.text((0, -2.1), "10 kΩ at each output holds it off while nobody drives the pin. A dot is a joint.")
    return sheet


def _relay_board(sheet: Sheet, y: float) -> None:
    sheet.box((11.5, 11.6), (18.5, 16), "Relay board\nopto-isolated, active high", top=True)
    sheet.terminal((11.5, y), "IN 1", "left")
    sheet.terminal((11.5, 12.8), "GND", "left")
    sheet.terminal((18.5, y), "COM 1", "right")
    sheet.terminal((18.5, 13.1), "NO 1", "right")
    sheet.terminal((18.5, 12.2), "NC 1", "right")
    sheet.wire((15, 16), (15, 16.6))
    sheet.terminal((15, 16.6), "5 V of their own for the coils, not the Pi's", "left")
    sheet.box((22, 11.6), (28, 16), "Turnstile\n(or see barriers.svg)", fill=OUTSIDE, top=True)
    sheet.terminal((22, y), "common", "left")
    sheet.terminal((22, 13.1), "“open” input", "left")
    sheet.wire((18.5, y), (22, y))
    sheet.wire((18.5, 13.1), (22, 13.1))


def _driver_board(sheet: Sheet, heights: dict[str, float], ground: float) -> None:
    sheet.box((11.5, -1.6), (18.5, 11.1))
    sheet.text((15, 7.1), "Driver board\nopto-isolated MOSFETs", align="center")
    sheet.text((15, 4.9), "not relays: the lamps blink all day", align="center", size=10, color=FAINT)
    sheet.terminal((11.5, ground), "GND", "left")
    rail = 24.0
    for row, (name, y) in enumerate(heights.items(), 1):
        sheet.terminal((11.5, y), f"IN {row}", "left")
        sheet.terminal((18.5, y), f"OUT {row}", "right")
        sheet.wire((18.5, y), (20, y))
        part = elm.RBox() if name == "buzzer" else elm.Lamp2().theta(0)
        sheet.add(part, (20, y), (22, y))
        sheet.text((21.9, y + 0.4), name)
        sheet.wire((22, y), (rail, y))
        sheet.dots((rail, y))
    sheet.wire((rail, max(heights.values())), (rail, 0.5))
    sheet.terminal((rail, 0.5), "24 V +", "left")
    sheet.terminal((18.5, ground), "0 V", "right")
    sheet.wire((18.5, ground), (rail, ground))
    sheet.terminal((rail, ground), "0 V", "left")


def inputs(config: dict[str, Any]) -> Sheet:
    """The contacts: each through an opto-coupler."""
    sheet = Sheet()
    alarm = named(config["emergency"]["pin"]), "one for the gate"
    rows: list[tuple[str, Any, tuple[str, str]]] = [
        ("emergency: closed while all is well", elm.Switch(nc=True), alarm),
        ("passage begins", elm.Switch(), both(config, "passage", "begins_pin")),
        ("passage done", elm.Switch(), both(config, "passage", "done_pin")),
        ("button", elm.Button(), both(config, "button", "pin")),
    ]
    for row, (name, contact, (pin, other)) in enumerate(rows):
        y = -3.6 * row
        sheet.text((0, y + 1.2), name)
        sheet.terminal((0, y), "24 V +", "right")
        sheet.wire((0, y), (1, y))
        sheet.add(contact, (1, y), (3, y))
        sheet.wire((3, y), (4, y))
        sheet.terminal((0, y - 1.5), "0 V", "right")
        sheet.wire((0, y - 1.5), (4, y - 1.5))
        _opto(sheet, (4, y), pin)
        sheet.text((13.8, y - 0.5), other, size=10, color=FAINT)
    bottom = -3.6 * len(rows) + 1.4
    sheet.wire((10.25, 1.2), (10.25, bottom), color=FIRE, ls="--")
    sheet.text((9.9, bottom - 0.2), "field side, 24 V", align="right", color=FAINT)
    sheet.text((10.6, bottom - 0.2), "Pi side, 3.3 V", color=FAINT)
    return sheet


def _opto(sheet: Sheet, at: Point, pin: str) -> None:
    """From a loop's two ends, 1.5 apart, to the pin: a closed loop pulls it to ground."""
    x, y = at
    sheet.add(elm.ResistorIEC(), (x, y), (x + 2, y))
    sheet.text((x + 1, y + 0.5), "4.7 kΩ", align="center")
    sheet.wire((x + 2, y), (x + 5.1, y))
    sheet.add(elm.Diode(), (x + 3.6, y - 1.5), (x + 3.6, y))
    sheet.text((x + 3.2, y - 0.75), "1N4148", align="right", size=10)
    sheet.dots((x + 3.6, y), (x + 3.6, y - 1.5))
    sheet.wire((x, y - 1.5), (x + 5.1, y - 1.5))
    sheet.add(elm.Optocoupler().anchor("anode"), (x + 5.1, y))
    sheet.wire((x + 7.5, y - 0.05), (x + 9.5, y - 0.05))
    sheet.terminal((x + 9.5, y - 0.05), pin, "left")
    sheet.wire((x + 7.5, y - 1.45), (x + 9.5, y - 1.45))
    sheet.terminal((x + 9.5, y - 1.45), "ground, place 39", "left")


def emergency(config: dict[str, Any]) -> Sheet:
    """The alarm's two contacts and their two ways."""
    sheet = Sheet()
    panel = "The venue's fire panel\n\ntwo volt-free contacts,\nclosed while all is well"
    sheet.box((0, -1), (6.5, 9), panel, fill=OUTSIDE, top=True)
    turnstile = "Turnstile\nlets everybody through\nwhile the loop is open"
    sheet.box((20, 4.8), (26.5, 9), turnstile, fill=OUTSIDE, top=True)
    for name, low, color in (("contact 1", 5.4, FIRE), ("contact 2", 0.2, "black")):
        sheet.text((4, low + 0.75), name, align="right", color=color)
        sheet.wire((6.5, low + 1.5), (5, low + 1.5), color=color)
        sheet.add(elm.Switch(nc=True).color(color), (5, low), (5, low + 1.5))
        sheet.wire((5, low), (6.5, low), color=color)
    sheet.wire((6.5, 6.9), (20, 6.9), color=FIRE, lw=3)
    sheet.wire((6.5, 5.4), (20, 5.4), color=FIRE, lw=3)
    sheet.terminal((20, 6.9), "emergency input", "left")
    sheet.terminal((20, 5.4), "common", "left")
    sheet.text((13.2, 7.3), "a cable of its own, nothing of gated in it", align="center", color=FIRE)
    sheet.text((13.2, 4.9), "broken wire: the turnstile opens", align="center", color=FAINT)
    _watched_loop(sheet, named(config["emergency"]["pin"]))
    return sheet


def _watched_loop(sheet: Sheet, pin: str) -> None:
    """Contact 2: out from the field supply, back through the opto-coupler."""
    sheet.wire((6.5, 1.7), (8.4, 1.7))
    sheet.terminal((8.4, 1.7), "24 V +", "left")
    sheet.wire((6.5, 0.2), (10.5, 0.2))
    sheet.terminal((9.8, -1.3), "0 V", "right")
    sheet.wire((9.8, -1.3), (10.5, -1.3))
    sheet.box((20, -2.2), (26.5, 2.2), "Raspberry Pi\ngated watches, and shows it", top=True)
    _opto(sheet, (10.5, 0.2), pin)
    sheet.text((13.2, -2), "broken wire, or no 24 V: an emergency for gated too", align="center", color=FAINT)


def barriers(_: dict[str, Any]) -> Sheet:
    """What the relay's contact switches, for each kind of barrier."""
    sheet = Sheet()
    _own_electronics(sheet)
    _fail_secure(sheet, 9.5)
    _fail_safe(sheet, 19)
    _alternating(sheet, 28.5)
    return sheet


def _own_electronics(sheet: Sheet) -> None:
    sheet.text((0, 13), 'A: turnstile with electronics\nprofile = "pulse"')
    sheet.box(
        (3.2, 1.6),
        (8, 10.6),
        "Turnstile\n\nowns the coil,\nthe waiting time\nand the relocking",
        fill=OUTSIDE,
        top=True,
    )
    sheet.terminal((3.2, 5.6), "“open” input", "left")
    sheet.terminal((3.2, 3.6), "common", "left")
    sheet.wire((3.2, 5.6), (1.9, 5.6))
    sheet.add(elm.Switch(), (1.9, 3.6), (1.9, 5.6))
    sheet.text((1.3, 4.6), "relay\nCOM, NO", align="right")
    sheet.wire((1.9, 3.6), (3.2, 3.6))
    sheet.text((0, 0.2), "Power cut: as its maker built it.\nSwitch it off and look.", color=FAINT)


def _supply(sheet: Sheet, x: float) -> None:
    sheet.terminal((x, 11.4), "lock supply +", "left")
    sheet.wire((x, 11.4), (x, 11))
    sheet.add(elm.FuseIEC(), (x, 11), (x, 9.4))
    sheet.text((x + 0.5, 10.2), "fuse")


def _coil(sheet: Sheet, x: float, name: str) -> None:
    """A lock's coil with its diode, from y = 5.4 down to the supply's minus at 1.6."""
    sheet.wire((x, 5.4), (x, 4.4))
    sheet.add(elm.Inductor2(loops=4), (x, 4.4), (x, 2.2))
    sheet.text((x + 0.5, 3.3), name)
    sheet.wire((x, 4.4), (x - 1.4, 4.4))
    sheet.add(elm.Diode(), (x - 1.4, 2.2), (x - 1.4, 4.4))
    sheet.text((x - 1.9, 3.3), "1N4007\nat the lock", align="right", size=10)
    sheet.wire((x - 1.4, 2.2), (x, 2.2), (x, 1.6), (x - 4.4, 1.6))
    sheet.dots((x, 4.4), (x, 2.2))
    sheet.terminal((x - 4.4, 1.6), "", "left")
    sheet.text((x - 4.5, 1.2), "lock supply 0 V")


def _fail_secure(sheet: Sheet, x: float) -> None:
    sheet.text((x, 13), 'B: fail-secure strike\nprofile = "hold", when_off = "locked"')
    _supply(sheet, x + 0.5)
    sheet.wire((x + 0.5, 9.4), (x + 0.5, 5.4), (x + 1.2, 5.4))
    sheet.add(elm.Switch(), (x + 1.2, 5.4), (x + 3.2, 5.4))
    sheet.text((x + 2.2, 6.2), "relay COM, NO", align="center")
    sheet.wire((x + 3.2, 5.4), (x + 4.9, 5.4))
    _coil(sheet, x + 4.9, "strike")
    sheet.text(
        (x, 0.2), "Power cut: LOCKED. Only where people\ncan leave by hand, or another way.", color=FAINT
    )


def _fail_safe(sheet: Sheet, x: float) -> None:
    sheet.text((x, 13), 'C: fail-safe magnet\nprofile = "hold", when_off = "free"')
    _supply(sheet, x + 0.5)
    sheet.add(elm.Switch(nc=True).color(FIRE), (x + 0.5, 7.9), (x + 0.5, 9.4))
    sheet.text((x + 1.1, 8.65), "fire panel, contact 1", color=FIRE)
    sheet.add(elm.Button(nc=True), (x + 0.5, 7.9), (x + 0.5, 6.4))
    sheet.text((x + 1.1, 7.15), "exit button, first pole")
    sheet.wire((x + 0.5, 6.4), (x + 0.5, 5.4), (x + 1.2, 5.4))
    sheet.add(elm.Switch(nc=True), (x + 1.2, 5.4), (x + 3.2, 5.4))
    sheet.text((x + 2.2, 6), "relay COM, NC", align="center")
    sheet.wire((x + 3.2, 5.4), (x + 4.9, 5.4))
    _coil(sheet, x + 4.9, "magnet")
    sheet.text(
        (x, 0.2), "Lock supply cut: FREE. Pi off: it holds;\nfire panel and button free it.", color=FAINT
    )


def _alternating(sheet: Sheet, x: float) -> None:
    sheet.text((x, 13), "D: a coil for AC\nin place of the diode")
    sheet.wire((x + 3, 5.6), (x + 3, 4.8))
    sheet.add(elm.Inductor2(loops=4), (x + 3, 4.8), (x + 3, 2.2))
    sheet.text((x + 3.5, 3.5), "AC coil")
    sheet.wire((x + 3, 2.2), (x + 3, 1.6))
    sheet.wire((x + 3, 4.8), (x + 1.6, 4.8))
    sheet.add(elm.ResistorIEC(), (x + 1.6, 4.8), (x + 1.6, 3.4))
    sheet.add(elm.Capacitor(), (x + 1.6, 3.4), (x + 1.6, 2.2))
    sheet.text((x + 1.1, 4.1), "100 Ω", align="right", size=10)
    sheet.text((x + 1.1, 2.8), "100 nF, X2", align="right", size=10)
    sheet.wire((x + 1.6, 2.2), (x + 3, 2.2))
    sheet.dots((x + 3, 4.8), (x + 3, 2.2))
    sheet.text((x, 0.2), "A diode would short AC.", color=FAINT)


PICTURES: dict[str, Callable[[dict[str, Any]], Sheet]] = {
    "overview.svg": overview,
    "outputs.svg": outputs,
    "inputs.svg": inputs,
    "emergency.svg": emergency,
    "barriers.svg": barriers,
}


def draw(name: str) -> bytes:
    """One picture, as its file holds it."""
    config = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    return PICTURES[name](config).svg()


if __name__ == "__main__":
    for picture in PICTURES:
        (HERE / picture).write_bytes(draw(picture))
