"""Downloads from a real server: what a gate knows in the middle of one, after a cut, and when rows slip."""

import asyncio
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gated.api.simulator import Event, Fault, Habits, Simulator
from gated.api.simulator import Ticket as ServerTicket
from gated.core.outbox import Lost
from gated.core.verdict import Reason
from gated.errors import ApiAnswerLost, ApiBadAnswer, DownloadUnstable, StoreError
from gated.sync.downloads import Progress, give_memory_back
from tests.sync.conftest import Open, Serve
from tests.sync.rig import Gate, Setup, event, failing

BY_TWO, BY_TEN = Setup(page_size=2), Setup(page_size=10)
TEN_MINUTES = 600.0


async def mark(gate: Gate) -> int | None:
    return (await gate.store.state()).mark


async def reason(gate: Gate, barcode: str) -> Reason:
    """Why the gate decides as it does, without asking."""
    gate.asker.service = None
    return (await gate.scan(barcode)).verdict.reason


def between_pages(server: Simulator, action: Callable[[], object]) -> None:
    """Lets something happen after the first page of the next download."""
    server.faults.meanwhile("barcodes", lambda: action() and None, after=1)


# The full download


async def test_a_full_download_brings_every_ticket_and_tells_how_far_it_is(
    serve: Serve, open_gate: Open
) -> None:
    gate = await open_gate(serve(event(plain=5)), BY_TWO)
    seen: list[Progress] = []
    assert await gate.downloads.full(seen.append) == 5
    assert seen == [Progress(1, 3, 2), Progress(2, 3, 4), Progress(3, 3, 5)]
    state = await gate.store.state()
    assert (state.complete, state.tickets) == (True, 5)


async def test_it_is_usable_from_its_first_page(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=5))
    gate = await open_gate(server, BY_TWO)
    server.faults.add("barcodes", Fault.CLOSED_BEFORE, after=1)
    assert isinstance(await failing(gate.downloads.full), ApiAnswerLost)
    await gate.admit("T1", "T2")
    assert await reason(gate, "T3") is Reason.NOT_READY


async def test_after_a_power_cut_it_goes_on_where_it_was(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=7))
    gate = await open_gate(server, BY_TWO)
    server.faults.add("barcodes", Fault.CLOSED_BEFORE, after=2)
    await failing(gate.downloads.full)
    begun = gate.time.wall()
    await gate.close()
    gate.time.ahead += 300
    again = await open_gate(server, BY_TWO)
    assert await again.downloads.full() == 3
    assert server.requests["barcodes"] == 3 + 2
    state = await again.store.state()
    assert (state.complete, state.tickets) == (True, 7)
    assert state.mark == pytest.approx(
        begun - 120, abs=5
    )  # what changed since its first page comes with a delta


async def test_a_cut_before_its_first_page_is_a_new_beginning(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=3))
    gate = await open_gate(server, BY_TWO)
    server.faults.add("barcodes", Fault.HALF_BODY)
    await failing(gate.downloads.full)
    again = await open_gate(server, BY_TWO, "gate")
    assert await again.downloads.full() == 3


async def test_one_that_goes_on_with_pages_of_another_size_is_found_out_and_begun_anew(
    serve: Serve, open_gate: Open
) -> None:
    server = serve(event(plain=9))
    gate = await open_gate(server, BY_TWO)
    server.faults.add("barcodes", Fault.CLOSED_BEFORE, after=2)
    await failing(gate.downloads.full)
    await gate.close()
    again = await open_gate(server, Setup(page_size=4))
    assert isinstance(await failing(again.downloads.full), DownloadUnstable)
    assert await again.downloads.full() == 9


async def test_two_downloads_never_run_at_once(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=6))
    gate = await open_gate(server, BY_TWO)
    await asyncio.gather(gate.downloads.full(), gate.downloads.delta(), gate.downloads.full())
    assert server.requests["barcodes"] == 3 + 1 + 3


async def test_while_downloads_are_paused_nothing_comes_down(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=1))
    gate = await open_gate(server)
    async with gate.downloads.paused():
        waiting = asyncio.create_task(gate.downloads.full())
        await asyncio.sleep(0.01)
        assert server.requests["services"] == 0
    assert await waiting == 1


async def test_the_next_page_is_fetched_while_one_is_written(serve: Serve, open_gate: Open) -> None:
    gate = await open_gate(serve(event(plain=5)), BY_TWO)
    put, asked = gate.store.put, []

    async def slowly(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(5):
            while gate.server.requests["barcodes"] < min(len(asked) + 2, 3):
                await asyncio.sleep(0)
        asked.append(gate.server.requests["barcodes"])
        await put(*args, **kwargs)

    gate.store.put = slowly
    assert await gate.downloads.full() == 5
    assert asked == [2, 3, 3]


async def test_a_page_that_can_not_be_written_ends_the_download_and_the_next_try_is_good(
    serve: Serve, open_gate: Open
) -> None:
    gate = await open_gate(serve(event(plain=5)), BY_TWO)
    put = gate.store.put

    async def failing_once(*args: Any, **kwargs: Any) -> None:
        gate.store.put = put
        raise StoreError("database: the disk is full")

    gate.store.put = failing_once
    with pytest.raises(StoreError):
        await gate.downloads.full()
    assert await gate.downloads.full() == 5
    await gate.admit("T1", "T5")


# Rows that slip between pages


def sell(made: Event, barcode: str = "NEW") -> Callable[[], object]:
    return lambda: made.add_ticket(ServerTicket(barcode))


async def test_a_sale_in_mid_download_has_it_fetched_again(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=5))
    gate = await open_gate(server, BY_TWO)
    between_pages(server, sell(server.event))
    assert isinstance(await failing(gate.downloads.full), DownloadUnstable)
    assert not (await gate.store.state()).complete
    await gate.admit("T1", "T5", "NEW")
    assert await gate.downloads.full() == 6
    assert (await gate.store.state()).unstable == 0


async def test_a_row_that_slips_behind_an_unchanged_total_takes_no_ticket_away(
    serve: Serve, open_gate: Open
) -> None:
    server = serve(event(plain=5))
    gate = await open_gate(server, BY_TWO)
    await gate.downloads.full()

    def exchange() -> None:
        server.event.remove("T1")
        server.event.add_ticket(ServerTicket("NEW"))

    between_pages(server, exchange)
    await gate.downloads.full()
    await gate.admit("T3", "NEW")  # T3 moved to the first page when that had been read
    assert gate.due == ["full"]
    await gate.downloads.full()
    assert await reason(gate, "T1") is not Reason.UNKNOWN
    await gate.downloads.full()
    assert await reason(gate, "T1") is Reason.UNKNOWN
    await gate.admit("T2", "T4", "T5")


async def test_the_third_unstable_download_is_taken_as_it_is_and_removes_nothing(
    serve: Serve, open_gate: Open
) -> None:
    server = serve(event(plain=5))
    gate = await open_gate(server, BY_TWO)
    await gate.downloads.full()
    server.event.remove("T1")
    for number in range(2):
        between_pages(server, sell(server.event, f"NEW{number}"))
        await failing(gate.downloads.full)
    between_pages(server, sell(server.event, "NEW2"))
    await gate.downloads.full()
    assert "merged" in gate.link.alarms
    await gate.admit("T1", "T2", "NEW1")
    await gate.downloads.full()
    assert "merged" not in gate.link.alarms


async def test_a_server_that_miscounts_its_tickets_is_merged_and_the_gate_works(
    serve: Serve, open_gate: Open
) -> None:
    server = serve(event(plain=3), Habits(total_items_off_by=1))
    gate = await open_gate(server)
    for _ in range(2):
        assert isinstance(await failing(gate.downloads.full), DownloadUnstable)
    assert await gate.downloads.full() == 3
    assert (await gate.store.state()).complete
    await gate.admit("T1", "T2", "T3")


async def test_a_next_page_that_is_not_the_next_ends_the_download_and_the_next_try_is_good(
    serve: Serve, open_gate: Open
) -> None:
    server = serve(event(plain=5), Habits(next_page_loops=True))
    gate = await open_gate(server, BY_TWO)
    assert isinstance(await failing(gate.downloads.full), ApiBadAnswer)
    server.habits = Habits()
    assert await gate.downloads.full() == 5


# Tickets that are gone


async def full_of(serve: Serve, open_gate: Open, plain: int) -> Gate:
    gate = await open_gate(serve(event(plain=plain)))
    await gate.downloads.full()
    return gate


def remove(gate: Gate, count: int) -> None:
    for number in range(1, count + 1):
        gate.server.event.remove(f"T{number}")


@pytest.mark.parametrize(("tickets", "few"), [(12, 10), (1200, 12)])
async def test_a_few_that_two_downloads_in_a_row_do_not_show_are_gone(
    serve: Serve, open_gate: Open, tickets: int, few: int
) -> None:
    gate = await full_of(serve, open_gate, tickets)
    remove(gate, few)
    await gate.downloads.full()
    assert gate.due == ["full"]
    await gate.downloads.full()
    assert await gate.store.count() == tickets - few
    assert await reason(gate, "T1") is Reason.UNKNOWN
    assert gate.link.alarms == {}


@pytest.mark.parametrize(("tickets", "many"), [(12, 11), (1200, 13)])
async def test_many_at_once_stay_until_a_person_accepts_it(
    serve: Serve, open_gate: Open, tickets: int, many: int
) -> None:
    gate = await full_of(serve, open_gate, tickets)
    remove(gate, many)
    await gate.downloads.full()
    assert await gate.store.count() == tickets
    assert gate.link.alarms["tickets_missing"]["tickets"] == many
    await gate.admit("T1")
    await gate.downloads.full(accept_removals=True)
    assert await gate.store.count() == tickets - many
    assert "tickets_missing" not in gate.link.alarms


async def test_an_empty_list_removes_nothing_however_few_there_were(serve: Serve, open_gate: Open) -> None:
    gate = await full_of(serve, open_gate, 3)
    gate.server.faults.add("barcodes", Fault.EMPTY_LIST)
    await gate.downloads.full()
    assert gate.link.alarms["tickets_missing"]["tickets"] == 3
    await gate.admit("T1")
    await gate.downloads.full()
    assert gate.link.alarms == {}


async def test_an_emptied_event_is_empty_when_a_person_accepts_it(serve: Serve, open_gate: Open) -> None:
    gate = await full_of(serve, open_gate, 3)
    remove(gate, 3)
    await gate.downloads.full(accept_removals=True)
    assert await reason(gate, "T1") is Reason.UNKNOWN


async def test_a_ticket_that_was_gone_and_comes_back_is_good_and_what_it_spent_is_spent(
    serve: Serve, open_gate: Open
) -> None:
    gate = await full_of(serve, open_gate, 3)
    await gate.admit("T1")
    remove(gate, 2)
    for _ in range(2):
        await gate.downloads.full()
    assert await gate.store.count() == 1
    for barcode in ("T1", "T2"):
        gate.server.event.add_ticket(ServerTicket(barcode))
    await gate.downloads.delta()
    await gate.admit("T2")
    assert await reason(gate, "T1") is Reason.ALREADY_SCANNED


# The delta


async def test_a_delta_brings_what_the_organiser_changed(serve: Serve, open_gate: Open) -> None:
    gate = await full_of(serve, open_gate, 3)
    gate.server.event.cancel("T1")
    gate.server.event.add_ticket(ServerTicket("NEW"))
    assert await gate.downloads.delta() == 2
    assert await reason(gate, "T1") is Reason.CANCELED
    await gate.admit("NEW")


async def test_a_delta_removes_nothing(serve: Serve, open_gate: Open) -> None:
    gate = await full_of(serve, open_gate, 3)
    remove(gate, 1)
    await gate.downloads.delta()
    await gate.admit("T1")


@pytest.mark.parametrize("offset", [-600.0, 0.0, 600.0])
async def test_its_mark_is_the_servers_time_and_not_ours(
    serve: Serve, open_gate: Open, offset: float
) -> None:
    made = event(plain=2)
    made.on_sale -= 3600
    server = serve(made, Habits(clock_offset_s=offset))
    gate = await open_gate(server)
    gate.clock.off = 12_345.0
    await gate.downloads.full()
    assert await mark(gate) == pytest.approx(server.now() - 120, abs=5)
    server.event.cancel("T1")
    assert await gate.downloads.delta() == 1


async def test_its_mark_moves_only_when_all_its_pages_came(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=6))
    gate = await open_gate(server, BY_TWO)
    await gate.downloads.full()
    before = await mark(gate)
    gate.time.ahead += 1000
    for number in (1, 2, 3):
        server.event.cancel(f"T{number}")
    gate.time.ahead += 1000
    server.faults.add("barcodes", Fault.CLOSED_BEFORE, after=1)
    await failing(gate.downloads.delta)
    assert await mark(gate) == before
    assert await gate.downloads.delta() == 3
    assert await mark(gate) == pytest.approx(server.now() - 120, abs=5)
    assert await reason(gate, "T3") is Reason.CANCELED


async def test_without_the_servers_time_there_is_no_delta_and_the_full_download_still_works(
    serve: Serve, open_gate: Open
) -> None:
    server = serve(event(plain=2), Habits(no_date_header=True))
    gate = await open_gate(server)
    await gate.downloads.full()
    pages = server.requests["barcodes"]
    server.event.cancel("T1")
    assert await gate.downloads.delta() == 0
    assert server.requests["barcodes"] == pages
    assert "no_delta" in gate.link.alarms
    await gate.downloads.full()
    assert await reason(gate, "T1") is Reason.CANCELED
    server.habits = Habits()
    await gate.downloads.full()
    await gate.downloads.delta()
    assert gate.link.alarms == {}


async def test_a_date_that_is_missing_once_leaves_the_mark_where_it_was(
    serve: Serve, open_gate: Open
) -> None:
    gate = await full_of(serve, open_gate, 2)
    before = await mark(gate)
    gate.time.ahead += 1000
    gate.server.habits = Habits(no_date_header=True)
    await gate.downloads.delta()
    assert await mark(gate) == before


async def test_a_server_whose_clock_was_set_back_behind_the_mark_is_fetched_in_full(
    serve: Serve, open_gate: Open
) -> None:
    gate = await full_of(serve, open_gate, 2)
    gate.server.habits = Habits(clock_offset_s=-3600)
    gate.server.event.cancel("T1")
    await gate.downloads.delta()
    assert gate.due == ["full"]
    assert await mark(gate) == pytest.approx(gate.server.now() - 120, abs=5)


async def test_a_delta_that_is_the_whole_list_changes_nothing_but_what_changed(
    serve: Serve, open_gate: Open
) -> None:
    server = serve(event(plain=5), Habits(delta_ignores_header=True))
    gate = await open_gate(server, BY_TWO)
    await gate.downloads.full()
    await gate.admit("T1")
    server.event.cancel("T2")
    remove(gate, 0)
    assert await gate.downloads.delta() == 5
    assert await reason(gate, "T1") is Reason.ALREADY_SCANNED
    assert await reason(gate, "T2") is Reason.CANCELED


async def test_services_are_read_with_every_delta(serve: Serve, open_gate: Open) -> None:
    gate = await full_of(serve, open_gate, 1)
    before = gate.server.requests["services"]
    gate.server.event.service.sync_interval = 77
    await gate.downloads.delta()
    assert gate.server.requests["services"] == before + 1
    assert gate.link.service is not None
    assert gate.link.service.sync_interval.total_seconds() == 77


async def test_totals_that_agreed_and_no_longer_do_make_a_full_download_due(
    serve: Serve, open_gate: Open
) -> None:
    gate = await full_of(serve, open_gate, 3)
    await gate.downloads.delta()
    assert gate.due == []
    remove(gate, 1)
    await gate.downloads.delta()
    assert gate.due == ["full"]
    for _ in range(2):
        await gate.downloads.full()
    gate.due.clear()
    await gate.downloads.delta()
    assert gate.due == []


# What a download settles


async def test_a_download_asked_for_before_an_upload_was_lost_says_nothing_about_it(
    serve: Serve, open_gate: Open
) -> None:
    gate = await full_of(serve, open_gate, 1)
    await gate.admit("T1")
    asked = gate.time.monotonic()
    gate.server.faults.add("upload", Fault.CLOSED_AFTER)
    await failing(gate.uploads.run)
    assert await gate.store.settle_lost(asked) == dict.fromkeys(Lost, 0)
    await gate.downloads.full()
    assert await gate.outbox() == {}


async def test_one_that_goes_on_after_a_restart_settles_no_lost_upload(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=4))
    gate = await open_gate(server, BY_TWO)
    await gate.downloads.full()
    await gate.admit("T1")
    server.faults.add("barcodes", Fault.CLOSED_BEFORE, after=1)
    await failing(gate.downloads.full)
    server.faults.add("upload", Fault.CLOSED_AFTER)
    await failing(gate.uploads.run)
    await gate.close()
    again = await open_gate(server, BY_TWO)
    await again.downloads.full()
    assert await again.outbox() == {"T1": "lost"}
    again.time.ahead += 15
    await again.downloads.delta()
    assert await again.outbox() == {}
    assert again.checked_in() == {"T1": 1}


async def test_an_organisers_reset_counts_once_a_download_is_old_enough_to_know_the_upload(
    serve: Serve, open_gate: Open
) -> None:
    gate = await full_of(serve, open_gate, 1)
    await gate.admit("T1")
    await gate.uploads.run()
    gate.server.event.reset("T1")
    await gate.downloads.delta()
    assert await reason(gate, "T1") is Reason.ALREADY_SCANNED
    gate.time.ahead += TEN_MINUTES + 1
    await gate.downloads.full()
    await gate.admit("T1")


async def test_a_ticket_admitted_at_two_gates_is_alarmed_at_both_once(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=1))
    gates = [await open_gate(server, name=name) for name in ("north", "south")]
    for gate in gates:
        await gate.downloads.full()
        await gate.admit("T1")
    for gate in gates:
        await gate.uploads.run()
    for gate in gates:
        await gate.downloads.delta()
        (here,) = gate.link.alarms.pop("double_entry")["here"]
        assert here.startswith("20")
        await gate.downloads.full()
        assert gate.link.alarms == {}


async def test_a_ticket_that_was_reset_and_is_admitted_twice_again_is_alarmed_again(
    serve: Serve, open_gate: Open
) -> None:
    server = serve(event(plain=1))
    gates = [await open_gate(server, name=name) for name in ("north", "south")]
    for _ in range(2):
        for gate in gates:
            await gate.downloads.full()
            await gate.admit("T1")
        for gate in gates:
            await gate.uploads.run()
        for gate in gates:
            await gate.downloads.delta()
            assert gate.link.alarms.pop("double_entry")
        server.event.reset("T1")
        gates[0].time.ahead += TEN_MINUTES + 1


# Rows that can't be read


async def test_rows_that_cant_be_read_are_alarmed_at_the_download_until_they_are_mended(
    serve: Serve, open_gate: Open
) -> None:
    server = serve(event(ServerTicket(""), ServerTicket("ODD", checkin_valid_from=10), plain=2))
    gate = await open_gate(server)
    for _ in range(2):
        await failing(gate.downloads.full)  # with a row set aside the total does not fit
    await gate.downloads.full()
    assert gate.link.alarms["bad_rows"] == {"set_aside": 1, "unreadable": 1, "odd": 0}
    assert await reason(gate, "ODD") is Reason.BAD_DATA
    await gate.admit("T1", "T2")
    server.event.remove("")
    server.event.change("ODD", checkin_valid_from=None)
    await gate.downloads.full()
    assert "bad_rows" not in gate.link.alarms


async def test_a_row_that_cant_be_read_any_more_leaves_the_one_before_as_it_was(
    serve: Serve, open_gate: Open
) -> None:
    gate = await full_of(serve, open_gate, 2)
    gate.server.event.change("T1", checkin_valid_from=10)
    await gate.downloads.full()
    await gate.admit("T1")
    assert gate.link.alarms["bad_rows"]["unreadable"] == 1


async def test_barcodes_that_come_as_numbers_are_found_and_counted(serve: Serve, open_gate: Open) -> None:
    server = serve(event(ServerTicket("12345678"), plain=1), Habits(barcodes_as_numbers=True))
    gate = await open_gate(server)
    await gate.downloads.full()
    assert gate.link.alarms["bad_rows"]["odd"] == 1
    await gate.admit("12345678", "T1")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone is asked for it")
def test_memory_that_is_free_goes_back_to_the_system() -> None:
    pieces = [b"x" * 10_000 for _ in range(2000)]  # each is more than Python would keep for itself
    last = pieces.pop()
    pieces.clear()
    before = _resident_kb()
    give_memory_back()
    assert before - _resident_kb() > 10_000
    assert last  # which lies above them, or the heap would have shrunk by itself


def _resident_kb() -> int:
    [line] = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmRSS")]
    return int(line.split()[1])
