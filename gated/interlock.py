"""Lanes that share one barrier take turns: one at a time, a waiting exit before a waiting entry.

A read at a lane whose turn it is not waits, undecided and unspent, one a lane. The emergency and the modes
know no turns.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from gated.core.events import State
from gated.core.scan import Direction, LaneName

# A lane in one of these states has the barrier.
_HAS_BARRIER = frozenset({State.DECIDING, State.GRANTED, State.PASSING})


@dataclass(slots=True)
class Interlock:
    """Whose turn it is at one barrier."""

    states: dict[LaneName, State] = field(default_factory=dict)
    waiting: dict[LaneName, tuple[Direction, Callable[[], None]]] = field(default_factory=dict)

    def may(self, lane: LaneName) -> bool:
        """Whether no other lane has the barrier."""
        return not any(state in _HAS_BARRIER for name, state in self.states.items() if name != lane)

    def wait(self, lane: LaneName, direction: Direction, go: Callable[[], None]) -> None:
        """Calls ``go`` when it is the lane's turn: once, however often that is asked for."""
        self.waiting[lane] = (direction, go)

    def moved(self, lane: LaneName, state: State) -> None:
        """A lane is in a state now; if that leaves the barrier alone, the next one goes."""
        self.states[lane] = state
        if not self.waiting or any(each in _HAS_BARRIER for each in self.states.values()):
            return
        exits = [name for name, (direction, _) in self.waiting.items() if direction is Direction.EXIT]
        _, go = self.waiting.pop((exits or list(self.waiting))[0])
        go()
