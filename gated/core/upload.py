"""How a batch is sent when the server refuses it: which rows next, and which to park in the end.

- A refusal of a batch says nothing about its rows: halves are sent until a bad row stands alone.
- A row is parked only when it was refused alone and another of its batch was accepted alone; else it may be
  the service that refuses. Three rows refused alone, none accepted: it is the service, nothing is parked.
- What may have been carried out is never in a plan's hands: the caller stops there.

The API's document knows 201, 400 and 401 only; the other statuses are HTTP's (RFC 9110, section 15.5).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from gated.core.outbox import Row

Group = tuple[Row, ...]

# Not about these rows: forbidden, no such place or method, too slow; a login that was renewed in vain.
_THE_SERVICE = frozenset({401, 403, 404, 405, 408})
_TOO_LARGE = 413
_REFUSED_IN_A_ROW = 3


class After(Enum):
    """What a refusal means."""

    GO_ON = "go on"
    LATER = "later"
    """Nothing is wrong with the rows: keep them and try again later."""
    SERVICE_REFUSES = "service refuses"
    """Keep them, try again later, and tell somebody."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is left to send of one batch, group by group."""

    groups: tuple[Group, ...]
    refused: Group = ()
    """Rows that were refused alone."""
    proved: bool = False
    """Whether a row of this batch was accepted alone."""

    @property
    def next(self) -> Group:
        """What to send now; empty at the end.

        While a row stands refused and nothing proves that the service takes any, one row of the far end is
        tried alone.
        """
        if not self.groups:
            return ()
        return self.groups[-1][-1:] if self._seeks_proof else self.groups[0]

    @property
    def parked(self) -> Group:
        """At the end: the rows to park."""
        return self.refused if self.proved else ()

    @property
    def _seeks_proof(self) -> bool:
        return bool(self.refused) and not self.proved

    @property
    def _rest(self) -> tuple[Group, ...]:
        if not self._seeks_proof:
            return self.groups[1:]
        last = self.groups[-1][:-1]
        return (*self.groups[:-1], last) if last else self.groups[:-1]


def begin(rows: Sequence[Row], size: int) -> Plan:
    """A plan for these rows, in groups of at most ``size``."""
    return Plan(tuple(tuple(rows[start : start + size]) for start in range(0, len(rows), size)))


def accepted(plan: Plan) -> Plan:
    """The server has what was sent."""
    return replace(plan, groups=plan._rest, proved=plan.proved or len(plan.next) == 1)


def lost(plan: Plan) -> Plan:
    """What was sent may have arrived: it is no longer this plan's."""
    return replace(plan, groups=plan._rest)


def refused(plan: Plan, status: int) -> tuple[Plan, After]:
    """The server has refused, with that status, what was sent."""
    if status in _THE_SERVICE:
        return plan, After.SERVICE_REFUSES
    if status == 429 or status >= 500:
        return plan, After.LATER
    sent = plan.next
    if len(sent) == 1:
        plan = replace(plan, groups=plan._rest, refused=(*plan.refused, *sent))
        hopeless = not plan.proved and len(plan.refused) >= _REFUSED_IN_A_ROW
        return plan, After.SERVICE_REFUSES if hopeless else After.GO_ON
    half = len(sent) // 2
    return replace(plan, groups=(sent[:half], sent[half:], *plan._rest)), After.GO_ON


def size_after(status: int, sent: int, size: int) -> int:
    """How many rows a batch may have from now on."""
    return max(1, min(size, sent // 2)) if status == _TOO_LARGE else size
