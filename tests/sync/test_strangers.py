"""A server that is not ours: where the API's document is silent, a gate has to work with every choice."""

from datetime import UTC

import pytest
from msgspec.structs import replace

from gated.api.simulator import AnsweredRows, Fault, Habits, Refusals, Times
from gated.api.simulator import Ticket as ServerTicket
from gated.core.explain import lines_of
from gated.core.scan import Direction, LaneName
from gated.core.verdict import Origin, Reason, deny
from gated.errors import DownloadUnstable
from gated.store import Place, Terms
from tests.sync.conftest import Open, Serve
from tests.sync.rig import ENTRY, EXIT, Gate, event, failing

DAY = 86_400.0


async def ready(serve: Serve, open_gate: Open, *tickets: ServerTicket, habits: Habits | None = None) -> Gate:
    """A gate with T1 to T3 and these tickets."""
    gate = await open_gate(serve(event(*tickets, plain=3), habits))
    await gate.downloads.full()
    return gate


@pytest.mark.parametrize(
    "habits",
    [
        *[Habits(times=times, zero_dates=True) for times in Times],
        Habits(booleans=True, numbers_as_strings=True, code_as_string=True),
        Habits(php_lists=True, gzip=True),
        Habits(delta_ignores_header=True, no_date_header=True),
        Habits(deduplicate_uploads=True, max_upload_rows=1),
        Habits(checkout_returns_entry=True, refusals=Refusals.ROW_400),
        Habits(expired_token_as_400=True, refusals=Refusals.MESSAGE_400),
        Habits(permissions=None, user_active=False, clock_offset_s=600),
        Habits(clock_offset_s=-600, second_login_revokes=True),
        Habits(token_life_s=30),
    ],
)
async def test_a_day_goes_well_whatever_the_servers_habits(
    serve: Serve, open_gate: Open, habits: Habits
) -> None:
    gate = await ready(serve, open_gate, habits=habits)
    gate.server.revoke_tokens()
    await gate.admit("T1", "T2")
    assert (await gate.scan("T1")).verdict.code == 50
    assert (await gate.scan("NOBODY")).verdict.code == 40
    gate.time.ahead += 60
    assert (await gate.scan("T2", direction=EXIT)).verdict.code == 200
    gate.server.event.add_ticket(ServerTicket("SOLD"))
    assert (await gate.scan("SOLD")).origin is Origin.ASK
    await gate.sync()
    assert await gate.outbox() == {}
    assert gate.checked_in() == {"T1": 1, "T2": 1, "SOLD": 1}
    assert gate.uploaded() == {
        ("T1", 100): 1,
        ("T2", 100): 1,
        ("T2", 200): 1,
        ("T1", 50): 1,
        ("NOBODY", 40): 1,
    }


async def test_the_number_of_an_order_not_known_yet_opens_nothing_though_its_tickets_are_checked_in(
    serve: Serve, open_gate: Open
) -> None:
    gate = await ready(serve, open_gate, habits=Habits(orders_check_in=True))
    for number in (1, 2):
        gate.server.event.add_ticket(ServerTicket(f"G{number}", batch_id="ORDER"))
    decided = await gate.scan("ORDER")
    assert (decided.verdict.admitted, decided.verdict.reason) == (False, Reason.REFUSED)
    assert gate.link.alarms["answer_odd"]["tickets"] == 2


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(("direction", "code"), [(ENTRY, 40), (EXIT, 230)])
async def test_the_server_is_never_asked_about_the_number_of_an_order(
    serve: Serve, open_gate: Open, direct: bool, direction: Direction, code: int
) -> None:
    tickets = [ServerTicket(f"G{number}", batch_id="ORDER") for number in (1, 2)]
    gate = await ready(serve, open_gate, *tickets, habits=Habits(orders_check_in=True))
    decided = await gate.scan("ORDER", direct=direct, direction=direction)
    assert decided.verdict == deny(code, Reason.ORDER)
    assert gate.server.requests["checkin"] + gate.server.requests["checkout"] == 0
    known = await gate.store.explain(
        "ORDER", [Place((LaneName("in"),), direction, Terms())], gate.clock.now()
    )
    assert "the number of an order" in lines_of(known, UTC)[0]
    await gate.admit("G1", "G2")


async def test_a_ticket_whose_barcode_is_the_number_of_its_order_is_a_ticket(
    serve: Serve, open_gate: Open
) -> None:
    gate = await ready(serve, open_gate, ServerTicket("SAME", batch_id="SAME"))
    await gate.admit("SAME")


async def test_capitals_make_another_barcode(serve: Serve, open_gate: Open) -> None:
    gate = await ready(serve, open_gate, ServerTicket("t1", is_canceled=1))
    assert (await gate.scan("t1")).verdict.reason is Reason.CANCELED
    await gate.admit("T1")


@pytest.mark.parametrize(
    ("habits", "admitted"),
    [
        (Habits(answer_text="DENY - by a text that the organiser wrote"), True),
        (Habits(answer_text="ADMIT - ticket is valid", answer_code=45), False),
        (Habits(answer_code=110), False),
        (Habits(answer_code=200), False),
        (Habits(answered_rows=AnsweredRows.TWO), False),
        (Habits(answered_rows=AnsweredRows.ANOTHER), False),
    ],
)
async def test_the_code_for_the_ticket_alone_decides_and_no_text_does(
    serve: Serve, open_gate: Open, habits: Habits, admitted: bool
) -> None:
    gate = await ready(serve, open_gate, habits=habits)
    assert (await gate.scan("T1", direct=True)).verdict.admitted is admitted


async def test_a_ticket_that_is_listed_twice_admits_once_and_is_no_reason_to_remove_another(
    serve: Serve, open_gate: Open
) -> None:
    gate = await ready(serve, open_gate)
    listed = gate.server.event._order
    listed[1] = listed[0]
    for _ in range(2):
        assert isinstance(await failing(gate.downloads.full), DownloadUnstable)
    await gate.downloads.full()
    await gate.admit("T1", "T2", "T3")
    assert (await gate.scan("T1")).verdict.code == 50


async def test_of_a_ticket_that_is_listed_with_two_faces_the_stricter_counts_and_it_is_alarmed(
    serve: Serve, open_gate: Open
) -> None:
    server = serve(event(plain=3))
    listed = server.event._order
    listed.insert(0, replace(listed[0], is_canceled=1))
    gate = await open_gate(server)
    for _ in range(2):
        assert isinstance(await failing(gate.downloads.full), DownloadUnstable)
        assert gate.link.alarms["bad_rows"]["odd"] == 1
    await gate.downloads.full()
    assert (await gate.scan("T1")).verdict.reason is Reason.CANCELED
    await gate.admit("T2", "T3")


async def test_tickets_come_down_while_scans_do_not_go_up(serve: Serve, open_gate: Open) -> None:
    gate = await ready(serve, open_gate)
    await gate.admit("T1")
    gate.server.faults.add("upload", Fault.STATUS_403, times=9)
    gate.server.event.cancel("T2")
    await failing(gate.uploads.run)
    assert await gate.downloads.delta() == 1
    assert (await gate.scan("T2")).verdict.reason is Reason.CANCELED


async def test_scans_of_three_days_ago_go_up_with_their_times(serve: Serve, open_gate: Open) -> None:
    gate = await ready(serve, open_gate)
    await gate.admit("T1")
    then = gate.time.wall()
    gate.time.ahead += 3 * DAY
    await gate.uploads.run()
    (row,) = [each.scan for each in gate.server.uploaded]
    assert row.checked_in_time == pytest.approx(then, abs=5)


async def test_two_devices_with_one_scan_user_get_through_and_are_told_apart_from_a_bad_password(
    serve: Serve, open_gate: Open
) -> None:
    server = serve(event(plain=3), Habits(second_login_revokes=True))
    north, south = [await open_gate(server, name=name) for name in ("north", "south")]
    for gate, barcode in ((north, "T1"), (south, "T2"), (north, "T3")):
        await gate.downloads.full()
        await gate.admit(barcode)
        await gate.uploads.run()
    assert north.checked_in() == {"T1": 1, "T2": 1, "T3": 1}
    assert server.requests["login"] <= 4
