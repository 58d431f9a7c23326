"""The drill: how fast a running gate answers its emergency input, measured on the gate itself.

It is the daemon that is measured, with all else that it has to do, by its own stamps: from the edge that the
kernel saw to the moment after the output was written. A barrier that gated holds is to be released by it; one
that is told by pulses is opened by the turnstile's own input, past this Pi, and only a person can see that.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from datetime import timedelta
from typing import Any

from gated.core.emergency import Came
from gated.core.events import Profile
from gated.core.scan import LaneName
from gated.core.signals import Outcome
from gated.errors import ControlError

# What an operator should hear of. Some milliseconds are usual; nobody notices a tenth of a second.
LATE = timedelta(milliseconds=100)
# A gate that has not answered by then does not.
_ANSWER_WITHIN = timedelta(seconds=2)

Event = Mapping[str, Any]


async def drill(
    events: "asyncio.Queue[Event]", lanes: Mapping[LaneName, Profile], within: timedelta
) -> AsyncGenerator[dict[str, Any], None]:
    """Waits for the emergency to begin, then tells of each lane what it did.

    ``events`` are what happens at the gate, with monotonic stamps. ``took_ms`` is from the edge to the
    release of a barrier that is held, to "leave now" on the lamps of any other; None if it never came.
    Raises ControlError if the emergency does not begin ``within`` that time.
    """
    yield {"waiting_s": within.total_seconds()}
    try:
        async with asyncio.timeout(within.total_seconds()):
            edge = await _edge(events)
    except TimeoutError:
        raise ControlError(
            f"the emergency input did not move in {within.total_seconds():.0f} s",
            hint="Look at the loop: contact 2 of the panel, its 24 V, the wire of [emergency] pin.",
        ) from None
    took = await _answers(events, lanes)
    for name, profile in lanes.items():
        ms = None if name not in took else round((took[name] - edge) * 1000, 1)
        late = ms is None or ms > LATE / timedelta(milliseconds=1)
        yield {"lane": name, "profile": profile, "took_ms": ms, "late": late}


async def _edge(events: "asyncio.Queue[Event]") -> float:
    while True:
        event = await events.get()
        if event["what"] == "emergency" and event["came"] == Came.BEGAN:
            return float(event["edge"])


async def _answers(
    events: "asyncio.Queue[Event]", lanes: Mapping[LaneName, Profile]
) -> dict[LaneName, float]:
    """When each lane did what it has to do, for those that did."""
    took: dict[LaneName, float] = {}
    try:
        async with asyncio.timeout(_ANSWER_WITHIN.total_seconds()):
            while took.keys() != lanes.keys():
                event = await events.get()
                lane = event["lane"]
                if lane in lanes and _answered(event, lanes[lane]):
                    took.setdefault(lane, event["at"])
    except TimeoutError:
        pass
    return took


def _answered(event: Event, profile: Profile) -> bool:
    if profile is Profile.HOLD:
        return event["what"] == "barrier" and bool(event["released"])
    return event["what"] == "shown" and event["outcome"] is Outcome.EMERGENCY
