"""The emergency: when it begins, and what ends it.

It begins at the first edge of its input. Only an input that stays active for ``LATCHES`` latches; a shorter
one is a disturbance, noted and over. A latched emergency ends when the input has been normal for ``NORMAL``,
and somebody has said so, unless it resets by itself. While the input is active nothing ends it.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

LATCHES = 0.1  # seconds; a fire panel's contact stays, lightning on a long cable does not
NORMAL = 2.0  # seconds


class Came(StrEnum):
    """What an event meant."""

    NOTHING = "nothing"
    BEGAN = "began"
    LATCHED = "latched"
    DISTURBED = "disturbed"  # it was too short: over
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Emergency:
    """Whether there is one. ``since`` is when the input changed last, in monotonic seconds."""

    active: bool = False
    latched: bool = False
    since: float = float("-inf")

    @property
    def on(self) -> bool:
        """Lanes are released."""
        return self.active or self.latched


def input_changed(emergency: Emergency, *, active: bool, at: float) -> tuple[Emergency, Came]:
    """The input is active, or normal, since ``at``."""
    if active == emergency.active:
        return emergency, Came.NOTHING
    changed = replace(emergency, active=active, since=at)
    if active:
        return changed, Came.NOTHING if emergency.latched else Came.BEGAN
    if emergency.latched:
        return changed, Came.NOTHING
    if at - emergency.since >= LATCHES:  # nobody looked at the time meanwhile
        return replace(changed, latched=True), Came.LATCHED
    return changed, Came.DISTURBED


def time_passed(emergency: Emergency, *, at: float, automatic: bool) -> tuple[Emergency, Came]:
    """Looks at the time: latches, or ends an emergency that ends by itself."""
    lasted = at - emergency.since
    if emergency.active and not emergency.latched and lasted >= LATCHES:
        return replace(emergency, latched=True), Came.LATCHED
    if automatic and emergency.latched and not emergency.active and lasted >= NORMAL:
        return replace(emergency, latched=False), Came.ENDED
    return emergency, Came.NOTHING


def reset(emergency: Emergency, *, at: float) -> tuple[Emergency, str]:
    """Somebody says that it is over; returns why that can't be, or a blank text."""
    if not emergency.on:
        return emergency, "there is no emergency"
    if emergency.active:
        return emergency, "the emergency input is still active"
    if at - emergency.since < NORMAL:
        return emergency, f"the emergency input has been normal for less than {NORMAL:g} s"
    return replace(emergency, latched=False), ""
