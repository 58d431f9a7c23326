"""A made-up event with every kind of ticket the rules know, for the demo's menu and for tests.

Its times are relative to the moment it is made, so that it is always the day of the event. The people are
invented; their names and addresses are filled in so that a gate which stores them can be caught at it.
"""

import time
from collections.abc import Iterator

from gated.api.simulator.event import Event, Service
from gated.api.simulator.rules import Ticket

HOUR = 3600
DAY = 24 * HOUR

LATER = "GATED-LATER"
"""The barcode of a ticket that is not sold yet: add it with :meth:`Event.add_ticket`."""


def made_up_event(extra: int = 0, now: float | None = None) -> Event:
    """An event on the day of ``now`` (epoch seconds): every kind of ticket, and ``extra`` plain ones.

    All went on sale the day before, so that a delta asked for today begins empty.
    """
    moment = int(time.time() if now is None else now)
    described = list(_kinds(moment))
    tickets = [ticket for ticket, _ in described] + [_plain(number) for number in range(1, extra + 1)]
    menu = [(ticket.external_barcode_id or ticket.barcode_id, text) for ticket, text in described]
    menu.append(("GATED-ORDER", "the number of that order: admits nobody"))
    menu.append((LATER, "unknown until the organiser sells it"))
    return Event(
        service=Service(),
        on_sale=moment - DAY,
        tickets={ticket.barcode_id: ticket for ticket in tickets},
        menu=tuple(menu),
    )


def _plain(number: int) -> Ticket:
    return Ticket(f"GATED{number:06}", batch_id=f"GATED-ORDER-{(number + 3) // 4}")


def _vip(barcode_id: str) -> Ticket:
    return Ticket(
        barcode_id,
        ticket_type="VIP",
        ticket_type_hash_id="7f3a1c52-0b6e-4c1d-9d57-000000000002",
        price=120,
        section_id="N",
        section="North stand",
        row="4",
        seat="17",
    )


def _child(barcode_id: str) -> Ticket:
    return Ticket(
        barcode_id,
        ticket_type="Child",
        ticket_type_hash_id="7f3a1c52-0b6e-4c1d-9d57-000000000003",
        price=8,
        subtitle="up to 12 years",
    )


def _used(barcode_id: str, came_in: int, went_out: int | None = None) -> Ticket:
    return Ticket(
        barcode_id,
        count_checked_in=1,
        remaining_scans=0,
        last_checked_in_time=came_in,
        last_checked_out_time=went_out,
    )


def _named(barcode_id: str) -> Ticket:
    return Ticket(
        barcode_id,
        first_name="Wilhelmina",
        sur_name="Zandvoorter",
        city="Nergenshuizen",
        email="wilhelmina@example.org",
        mobile="+31600000000",
    )


def _kinds(now: int) -> Iterator[tuple[Ticket, str]]:
    yield _named("GATED-REGULAR"), "valid, one entry"
    yield _vip("GATED-VIP"), "valid, VIP, with section, row and seat"
    yield _child("GATED-CHILD"), "valid, child: look at the guest"
    yield (
        Ticket("GATED-THREE", validation_max_checkins=3, remaining_scans=3),
        "valid, three entries",
    )
    yield (
        Ticket("GATED-TODAY", checkin_valid_from=now - HOUR, checkin_valid_till=now + DAY),
        "valid, in its hours",
    )
    yield Ticket("GATED-NOMAX", validation_max_checkins=None), "valid, no maximum given, one entry remains"
    yield (
        Ticket("GATED-NOCOUNT", validation_max_checkins=None, remaining_scans=None),
        "valid, neither maximum nor remaining entries given: one entry",
    )
    yield (
        Ticket("GATED-PRINTED", external_barcode_id="8710000123458"),
        "valid, by the barcode printed elsewhere",
    )
    yield Ticket("GATED-UNICODE", subtitle="Zürich · 東京 · ☂"), "valid, a subtitle in many scripts"
    for number in (1, 2, 3):
        yield (
            Ticket(f"GATED-GROUP-{number}", batch_id="GATED-ORDER"),
            f"valid, ticket {number} of 3 of one order",
        )
    yield Ticket("GATED-CANCELED", is_canceled=1), "cancelled"
    yield Ticket("GATED-NOTALLOWED", is_checkin_allowed=0), "not allowed here"
    yield Ticket("GATED-EARLY", checkin_valid_from=now + 2 * HOUR), "too early: valid in two hours"
    yield Ticket("GATED-EXPIRED", expire_from=now - HOUR), "expired an hour ago"
    yield Ticket("GATED-OVER", checkin_valid_till=now - HOUR), "its hours ended an hour ago"
    yield _used("GATED-USED", now - 2 * HOUR), "already scanned two hours ago; inside, so good for an exit"
    yield _used("GATED-OUT", now - 2 * HOUR, now - HOUR), "already scanned, and already out again"
