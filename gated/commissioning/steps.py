"""The steps of a test, from the configuration: outputs, then contacts, the emergency's loop, scanners."""

from datetime import timedelta

from gated.build import lamp_pins
from gated.config import Config, EmergencyConfig, LaneConfig
from gated.core.commissioning import (
    BUZZER_SOUNDS,
    HOLD_SHOWN,
    LAMP_SHOWN,
    InputStep,
    OutputStep,
    ScannerStep,
    Step,
)
from gated.core.events import Profile
from gated.pins import Normally


def steps(config: Config) -> tuple[Step, ...]:
    """All there is to test at a gate, in the order in which it is tested."""
    outputs = [step for lane in config.lanes for step in _outputs(lane)]
    inputs = [step for lane in config.lanes for step in _inputs(lane)]
    loop = [] if config.emergency is None else [_loop(config.emergency)]
    scanners = [
        ScannerStep(f"{lane.name}: scanner {number + 1}", each.device, at, number)
        for at, lane in enumerate(config.lanes)
        for number, each in enumerate(lane.scanners)
    ]
    return (*outputs, *inputs, *loop, *scanners)


def _outputs(lane: LaneConfig) -> list[OutputStep]:
    release, lamps = lane.release, lane.lamps
    if release.profile is Profile.PULSE:
        on, expect = release.pulse, "the relay clicks twice; a turnstile lets one person pass, then relocks"
    else:
        on, expect = min(release.grant, HOLD_SHOWN), "the barrier is released for two seconds, then relocks"
    found = [OutputStep(f"{lane.name}: release", release.pin, release.active_high, on, expect)]
    for key, pin in lamp_pins(lamps).items():
        lamp = key.replace("rgb_", "RGB ")
        expect = f"the {lamp} lamp lights, and no other"
        found.append(OutputStep(f"{lane.name}: lamp {lamp}", pin, lamps.active_high, LAMP_SHOWN, expect))
    if (buzzer := lane.buzzer) is not None:
        name, expect = f"{lane.name}: buzzer", "the buzzer sounds"
        found.append(OutputStep(name, buzzer.pin, buzzer.active_high, BUZZER_SOUNDS, expect))
    return found


def _inputs(lane: LaneConfig) -> list[InputStep]:
    found = []
    if (seen := lane.passage) is not None:
        closed = seen.normally is Normally.CLOSED
        if seen.begins_pin is not None:
            act = "Move the barrier as a guest does who begins to pass, and back"
            found.append(InputStep(f"{lane.name}: passage begins", seen.begins_pin, closed, act))
        act = "Move the barrier as a guest does who passes, to the end"
        found.append(InputStep(f"{lane.name}: passage done", seen.done_pin, closed, act))
    if lane.button is not None:
        act = "Press the button and let it go"
        found.append(InputStep(f"{lane.name}: button", lane.button.pin, normally_closed=False, act=act))
    return found


def _loop(config: EmergencyConfig) -> InputStep:
    closed = config.normally is Normally.CLOSED
    act = "Set off the panel's test, or loosen a wire of contact 2; then put it back"
    warning = "" if closed else "normally open: a broken wire goes unnoticed"
    within = timedelta(seconds=180)  # it is a walk to the panel
    return InputStep("emergency loop", config.pin, closed, act, within, warning)
