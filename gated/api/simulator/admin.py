"""The simulator's own endpoints under /simulator/, for tests and demos in another process.

They are no part of the API, ask for no login, and are answered on loopback only.

- GET    /simulator/state    what came in, counted and listed
- POST   /simulator/faults   plans a fault; DELETE forgets all that are planned
- POST   /simulator/tickets  what an organiser does to a ticket
- POST   /simulator/habits   changes habits; those not named go back to their defaults
"""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from gated.api.simulator.answers import Answer, Answers, Request
from gated.api.simulator.event import Movement, Received
from gated.api.simulator.faults import Faults, Planned
from gated.api.simulator.rules import Ticket
from gated.api.simulator.wire import Habits, info

PREFIX = "/simulator/"


class Action(StrEnum):
    """What an organiser does to a ticket."""

    ADD = "add"
    CANCEL = "cancel"
    RESET = "reset"
    CHANGE = "change"
    REMOVE = "remove"


class TicketCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /simulator/tickets. ``fields`` are the API's, for ``add`` and ``change``."""

    action: Action
    barcode_id: str
    fields: dict[str, object] = {}


class State(msgspec.Struct, frozen=True):
    """The body of GET /simulator/state."""

    now: float
    tickets: int
    requests: dict[str, int]
    uploaded: list[Received]
    movements: list[Movement]


@dataclass(frozen=True, slots=True)
class Admin:
    """Answers the simulator's own endpoints."""

    answers: Answers
    faults: Faults

    def answer(self, request: Request, requests: dict[str, int]) -> Answer:
        """Carries out a request; ``requests`` counts those that each endpoint has had."""
        try:
            match request.method, request.path.removeprefix(PREFIX):
                case "GET", "state":
                    return Answer(200, msgspec.json.encode(self._state(requests)))
                case "POST", "faults":
                    self.faults.plan(msgspec.json.decode(request.body, type=Planned))
                case "DELETE", "faults":
                    self.faults.clear()
                case "POST", "tickets":
                    self._command(msgspec.json.decode(request.body, type=TicketCommand))
                case "POST", "habits":
                    self.answers.habits = msgspec.json.decode(request.body, type=Habits)
                case _:
                    return Answer(404, msgspec.json.encode(info("There is no such endpoint.")))
        except (ValueError, KeyError) as error:  # a body that can't be read is a ValueError too
            return Answer(400, msgspec.json.encode(info(f"{type(error).__name__}: {error}")))
        return Answer(200, msgspec.json.encode(info("Done.")))

    def _state(self, requests: dict[str, int]) -> State:
        event = self.answers.event
        return State(
            now=self.answers.now(),
            tickets=len(event.tickets),
            requests=requests,
            uploaded=event.received,
            movements=event.movements,
        )

    def _command(self, command: TicketCommand) -> None:
        event = self.answers.event
        match command.action:
            case Action.ADD:
                event.add_ticket(msgspec.convert(command.fields | {"barcode_id": command.barcode_id}, Ticket))
            case Action.CANCEL:
                event.cancel(command.barcode_id)
            case Action.RESET:
                event.reset(command.barcode_id)
            case Action.CHANGE:
                event.change(command.barcode_id, **command.fields)
            case Action.REMOVE:
                event.remove(command.barcode_id)
