"""The simulator's event: what its rules say, what an upload does, and what a delta shows."""

import threading
import time

import pytest

from gated.api.simulator import Event, Origin, Service, Ticket, UploadedScan, made_up_event
from gated.api.simulator.rules import MESSAGES

NOW = 1_790_000_000
HOUR = 3600


def event_of(*tickets: Ticket, now: float = NOW) -> Event:
    return Event(
        Service(), NOW - 24 * HOUR, {ticket.barcode_id: ticket for ticket in tickets}, clock=lambda: now
    )


def uploaded(barcode_id: str, at: int = NOW, code: int = 100) -> UploadedScan:
    return UploadedScan(barcode_id, at, code, MESSAGES[code])


@pytest.mark.parametrize(
    ("ticket", "code"),
    [
        (Ticket("A"), 100),
        (Ticket("A", is_canceled=1), 45),
        (Ticket("A", is_checkin_allowed=0), 45),
        (Ticket("A", checkin_valid_from=NOW + 1), 45),
        (Ticket("A", checkin_valid_from=NOW), 100),
        (Ticket("A", checkin_valid_till=NOW), 100),
        (Ticket("A", checkin_valid_till=NOW - 1), 60),
        (Ticket("A", expire_from=NOW), 60),
        (Ticket("A", expire_from=NOW + 1), 100),
        (Ticket("A", remaining_scans=0), 50),
        (Ticket("A", remaining_scans=None, count_checked_in=1), 50),
        (Ticket("A", remaining_scans=None, validation_max_checkins=3, count_checked_in=2), 100),
        (Ticket("A", remaining_scans=None, validation_max_checkins=None), 100),
        (Ticket("A", is_canceled=1, remaining_scans=0), 45),
        (Ticket("A", expire_from=NOW, remaining_scans=0), 60),
        (Ticket("B"), 40),
        (Ticket("B", external_barcode_id="A"), 100),
        (Ticket("B", batch_id="A"), 40),
    ],
)
def test_check_in_has_the_documents_code(ticket: Ticket, code: int) -> None:
    assert event_of(ticket).check_in("A").code == code


def test_texts_carry_their_times_in_utc() -> None:
    used = Ticket("A", remaining_scans=0, last_checked_in_time=1_594_912_228)
    expired = Ticket("B", expire_from=1_594_912_300, checkin_valid_till=1_594_912_228)

    assert event_of(used).check_in("A").message == "DENY - Ticket already scanned: 2020-07-16 15:10:28 UTC"
    assert event_of(expired).check_in("B").message == (
        "DENY - Ticket barcode is expired: on 2020-07-16 15:10:28 UTC"
    )


def test_multi_entry_ticket_checks_in_as_often_as_it_says() -> None:
    event = event_of(Ticket("A", validation_max_checkins=3, remaining_scans=3))

    assert [event.check_in("A").code for _ in range(4)] == [100, 100, 100, 50]
    assert (event.tickets["A"].count_checked_in, event.tickets["A"].remaining_scans) == (3, 0)


def test_check_out_wants_a_guest_inside() -> None:
    event = event_of(Ticket("A"))

    codes = [event.check_out("A").code, event.check_in("A").code]
    codes += [event.check_out("A").code, event.check_out("A").code, event.check_out("B").code]

    assert codes == [220, 100, 200, 210, 230]


def test_check_out_gives_the_entry_back_only_if_asked_to() -> None:
    event = event_of(Ticket("A"), Ticket("B"))
    for barcode in ("A", "B"):
        event.check_in(barcode)
        event.check_out(barcode, returns_entry=barcode == "A")

    assert (event.check_in("A").code, event.check_in("B").code) == (100, 50)


def test_upload_of_the_same_scan_counts_again_unless_deduplicated() -> None:
    twice, once = event_of(Ticket("A")), event_of(Ticket("A"))
    for _ in range(2):
        twice.upload([uploaded("A")])
        once.upload([uploaded("A")], deduplicate=True)

    assert (len(twice.received), twice.tickets["A"].count_checked_in) == (2, 2)
    assert (len(once.received), once.tickets["A"].count_checked_in) == (1, 1)


def test_upload_keeps_denials_and_unknown_barcodes_without_counting_them() -> None:
    event = event_of(Ticket("A"))

    event.upload([uploaded("A", code=45), uploaded("Z", code=40), uploaded("Z")])

    assert [received.scan.barcode_id for received in event.received] == ["A", "Z", "Z"]
    assert event.movements == []


def test_upload_out_of_order_leaves_the_latest_movement_standing() -> None:
    event = event_of(Ticket("A", validation_max_checkins=2, remaining_scans=2))

    event.upload([uploaded("A", NOW + 9, 200), uploaded("A", NOW + 5), uploaded("A", NOW + 1)])

    ticket = event.tickets["A"]
    assert (ticket.last_checked_in_time, ticket.last_checked_out_time) == (NOW + 5, NOW + 9)
    assert event.check_out("A").code == 210
    assert {movement.origin for movement in event.movements} == {Origin.UPLOAD}


def test_reset_gives_the_entries_back() -> None:
    event = event_of(Ticket("A", validation_max_checkins=2, remaining_scans=2))
    event.check_in("A")
    event.check_in("A")

    event.reset("A")

    assert [event.check_in("A").code for _ in range(3)] == [100, 100, 50]


def test_outcome_is_a_copy_that_later_check_ins_leave_alone() -> None:
    event = event_of(Ticket("A", validation_max_checkins=2, remaining_scans=2))
    first = event.check_in("A")
    event.check_in("A")

    assert first.ticket is not None
    assert first.ticket.remaining_scans == 1


@pytest.mark.parametrize("fields", [{"barcode_id": "B"}, {"price": "free"}, {"colour": "red"}])
def test_change_refuses_what_a_ticket_cant_have(fields: dict[str, object]) -> None:
    event = event_of(Ticket("A"))

    with pytest.raises(ValueError, match=r"."):
        event.change("A", **fields)
    assert event.tickets["A"] == Ticket("A", serial_number=1)


def test_barcode_is_sold_once() -> None:
    with pytest.raises(ValueError, match="already"):
        event_of(Ticket("A")).add_ticket(Ticket("A"))


def test_delta_shows_what_was_modified_since_in_the_order_of_sale() -> None:
    event = event_of(*(Ticket(barcode) for barcode in "ABCDE"))
    event.clock = lambda: NOW + 10
    event.cancel("D")
    event.add_ticket(Ticket("F"))
    event.clock = lambda: NOW + 20
    event.check_in("B")
    event.upload([uploaded("C")])

    def listed(since: float) -> str:
        return "".join(ticket.barcode_id for ticket in event.page(1, 500, since=since).tickets)

    assert listed(NOW - 24 * HOUR) == "ABCDEF"
    assert [listed(NOW + seconds) for seconds in (0, 10, 11, 20, 21)] == ["BCDF", "BCDF", "BC", "BC", ""]


def test_removed_ticket_leaves_list_delta_and_totals() -> None:
    event = event_of(Ticket("A"), Ticket("B", external_barcode_id="8710"), Ticket("C"))
    event.cancel("B")

    event.remove("B")
    event.add_ticket(Ticket("D"))

    assert [ticket.barcode_id for ticket in event.page(1, 500).tickets] == ["A", "C", "D"]
    assert [ticket.barcode_id for ticket in event.page(1, 500, since=NOW).tickets] == ["D"]
    assert event.check_in("8710").code == 40
    assert sum(total for _, _, total in event.types()) == 3


def test_one_entry_is_given_once_to_many_threads() -> None:
    event = event_of(Ticket("A"))
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(event.check_in("A").code)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(codes) == [50] * 19 + [100]


def test_made_up_event_answers_as_its_menu_says() -> None:
    event = made_up_event(3, NOW)
    event.clock = lambda: NOW
    codes = {barcode: event.check_in(barcode).code for barcode, _ in event.menu}

    for barcode, description in event.menu:
        expected = 100 if description.startswith("valid") else codes[barcode]
        assert codes[barcode] == expected, barcode
    refused = {barcode: code for barcode, code in codes.items() if code != 100}
    assert refused == {
        "GATED-CANCELED": 45,
        "GATED-NOTALLOWED": 45,
        "GATED-EARLY": 45,
        "GATED-EXPIRED": 60,
        "GATED-OVER": 60,
        "GATED-USED": 50,
        "GATED-OUT": 50,
        "GATED-ORDER": 40,
        "GATED-LATER": 40,
    }
    assert (event.check_out("GATED-USED").code, event.check_out("GATED-OUT").code) == (200, 210)
    assert "8710000123458" in codes
    assert "GATED000003" in event.tickets
    assert len({ticket.serial_number for ticket in event.tickets.values()}) == len(event.tickets)


def test_made_up_event_starts_with_an_empty_delta() -> None:
    event = made_up_event(10)

    assert event.page(1, 500, since=time.time() - 600).total == 0
    assert event.page(1, 500).total == len(event.tickets)
