"""The answers that faults give in place of the API's own."""

from http.client import responses

import msgspec

from gated.api.simulator.answers import BASE_PATH, Answer
from gated.api.simulator.event import Page
from gated.api.simulator.faults import Fault, Planned
from gated.api.simulator.wire import Habits, barcodes_body, info

JSON = (("Content-Type", "application/json"),)

# The documented lists of services and of barcodes at once, with nothing in them.
NOTHING_LISTED = barcodes_body(Page([], 0), 1, 500, Habits()) | {"services": []}

CANNED = {
    Fault.NOT_JSON: Answer(
        200,
        b"<!doctype html><title>Free Wi-Fi</title><p>Please accept our terms.",
        (("Content-Type", "text/html; charset=utf-8"),),
    ),
    Fault.EMPTY_BODY: Answer(200, b""),
    Fault.OTHER_SHAPE: Answer(200, b'{"data":[{"id":1}]}'),
    Fault.EMPTY_LIST: Answer(200, msgspec.json.encode(NOTHING_LISTED)),
    Fault.REDIRECT: Answer(302, b"", (("Location", f"{BASE_PATH}/elsewhere"),)),
}


def canned(planned: Planned) -> Answer | None:
    """The answer that a fault gives in place of the API's, or None if the API's own is to be sent."""
    kind, _, status = planned.fault.removesuffix("_after").partition("_")
    if kind != "status":
        return CANNED.get(planned.fault)
    retry = (("Retry-After", f"{planned.seconds:.0f}"),) if status in {"429", "503"} else ()
    return Answer(int(status), msgspec.json.encode(info(responses[int(status)])), JSON + retry)
