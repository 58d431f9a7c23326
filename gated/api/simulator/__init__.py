"""A small server of the Ticket Scan API, for the demo and for tests: the other side, with rules of its own.

It may import nothing of gated outside this package, so that gate and server check each other; a test
enforces it. The API's document is the source for what it does; what the document leaves open is a habit that
can be changed.
"""

from gated.api.simulator.event import Event, Movement, Origin, Received, Service, UploadedScan
from gated.api.simulator.faults import Endpoint, Fault
from gated.api.simulator.made_up import LATER, made_up_event
from gated.api.simulator.rules import Ticket
from gated.api.simulator.server import Simulator
from gated.api.simulator.wire import AnsweredRows, Habits, Refusals, Times

__all__ = [
    "LATER",
    "AnsweredRows",
    "Endpoint",
    "Event",
    "Fault",
    "Habits",
    "Movement",
    "Origin",
    "Received",
    "Refusals",
    "Service",
    "Simulator",
    "Ticket",
    "Times",
    "UploadedScan",
    "made_up_event",
]
