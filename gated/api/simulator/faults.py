"""Faults on request: what the server does wrong, at which endpoint, how often, and how soon.

Faults are taken in the order they were added; one that is not due yet lets later ones pass. Some strike
before the work is done and some after it: only that tells a gate that asks twice from one that counts twice.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Endpoint(StrEnum):
    """The API's endpoints, and two words for a fault's aim and for a path that is none of them."""

    LOGIN = "login"
    SERVICES = "services"
    BARCODES = "barcodes"
    CHECKIN = "checkin"
    CHECKOUT = "checkout"
    UPLOAD = "upload"
    OTHER = "other"
    ANY = "any"


class Fault(StrEnum):
    """What goes wrong. Nothing is done unless the comment says so."""

    STATUS_400 = "status_400"
    STATUS_401 = "status_401"
    STATUS_403 = "status_403"
    STATUS_404 = "status_404"
    STATUS_405 = "status_405"
    STATUS_408 = "status_408"
    STATUS_413 = "status_413"
    STATUS_422 = "status_422"
    STATUS_429 = "status_429"  # with Retry-After
    STATUS_500 = "status_500"
    STATUS_502 = "status_502"
    STATUS_503 = "status_503"  # with Retry-After
    STATUS_500_AFTER = "status_500_after"  # done, and answered 500
    TIMEOUT = "timeout"  # no answer until the time is over, then closed
    TIMEOUT_AFTER = "timeout_after"  # the same, done
    CLOSED_BEFORE = "closed_before"  # closed without an answer
    CLOSED_AFTER = "closed_after"  # the same, done
    HEADERS_ONLY = "headers_only"  # done, the status and headers sent, then closed
    HALF_BODY = "half_body"  # done, half the body sent, then closed
    SLOW_DRIP = "slow_drip"  # done, the body sent in small pieces
    NOT_JSON = "not_json"  # 200 and a page of HTML, as a captive portal has it
    EMPTY_BODY = "empty_body"  # 200 and nothing
    OTHER_SHAPE = "other_shape"  # 200 and JSON of another shape
    EMPTY_LIST = "empty_list"  # 200 and the documented lists with nothing in them
    REDIRECT = "redirect"  # 302 to a path that counts as "other"

    @property
    def work_done(self) -> bool:
        """Whether the request is carried out in spite of the fault."""
        return self in _WORK_DONE


_WORK_DONE = {
    Fault.STATUS_500_AFTER,
    Fault.TIMEOUT_AFTER,
    Fault.CLOSED_AFTER,
    Fault.HEADERS_ONLY,
    Fault.HALF_BODY,
    Fault.SLOW_DRIP,
}


@dataclass(kw_only=True)
class Planned:
    """A fault to come: ``after`` requests pass first, then it strikes ``times`` times.

    ``seconds`` is how long a time-out or a slow body takes, or what Retry-After says.
    """

    endpoint: Endpoint
    fault: Fault
    times: int = 1
    after: int = 0
    seconds: float = 30.0


@dataclass
class _Meanwhile:
    endpoint: Endpoint
    action: Callable[[], None]
    after: int


class Faults:
    """The faults to come. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[Planned] = []
        self._meanwhile: list[_Meanwhile] = []

    def add(
        self, endpoint: str, fault: str, times: int = 1, *, after: int = 0, seconds: float = 30.0
    ) -> None:
        """Plans a fault; see :class:`Planned`. Raises ValueError for an endpoint or a fault that is none."""
        self.plan(
            Planned(
                endpoint=Endpoint(endpoint), fault=Fault(fault), times=times, after=after, seconds=seconds
            )
        )

    def plan(self, planned: Planned) -> None:
        """Plans a fault."""
        with self._lock:
            self._planned.append(planned)

    def meanwhile(self, endpoint: str, action: Callable[[], None], *, after: int = 0) -> None:
        """Does ``action`` once, when ``after`` more requests have passed and before the next is answered."""
        with self._lock:
            self._meanwhile.append(_Meanwhile(Endpoint(endpoint), action, after))

    def clear(self) -> None:
        """Forgets all that was planned."""
        with self._lock:
            self._planned.clear()
            self._meanwhile.clear()

    def take(self, endpoint: Endpoint) -> Planned | None:
        """The fault that strikes this request, if any; does first what was to be done meanwhile."""
        for action in self._due_actions(endpoint):
            action()
        with self._lock:
            struck = None
            for planned in [entry for entry in self._planned if entry.endpoint in {endpoint, Endpoint.ANY}]:
                if planned.after > 0:
                    planned.after -= 1
                elif struck is None:
                    struck = planned
                    planned.times -= 1
            self._planned = [planned for planned in self._planned if planned.times > 0]
            return struck

    def _due_actions(self, endpoint: Endpoint) -> list[Callable[[], None]]:
        with self._lock:
            aimed = [entry for entry in self._meanwhile if entry.endpoint in {endpoint, Endpoint.ANY}]
            due = [entry for entry in aimed if entry.after == 0]
            for entry in aimed:
                entry.after -= 1
            self._meanwhile = [entry for entry in self._meanwhile if entry not in due]
            return [entry.action for entry in due]
