"""Uploads to a real server: what goes, in which order, and what stays when the server does not take it.

The invariant behind all of them: each scan is at the server or in the outbox, and twice there only if marked.
"""

import sqlite3

import pytest

from gated.api.simulator import Fault, Habits, Refusals
from gated.api.simulator import Ticket as ServerTicket
from gated.core.outbox import UploadRules
from gated.core.scan import TimeTrust
from gated.errors import ApiAnswerLost, ApiError, ApiRefused, ApiUnreachable, StoreError
from gated.store import DeskRules
from gated.store.outbox import Outbox
from gated.sync.uploads import BATCH
from tests.sync.conftest import Open, Serve
from tests.sync.rig import EXIT, Gate, Setup, event, failing

REPLAY = Setup(rules=DeskRules(upload=UploadRules(replay_checkouts=True)))


def three() -> ServerTicket:
    return ServerTicket("THREE", validation_max_checkins=3, remaining_scans=3)


async def ready(
    serve: Serve, open_gate: Open, *tickets: ServerTicket, plain: int = 5, setup: Setup | None = None
) -> Gate:
    """A gate that has all tickets: those, and T1 to ``plain``."""
    gate = await open_gate(serve(event(*tickets, plain=plain)), setup)
    await gate.downloads.full()
    return gate


def marked(gate: Gate) -> int:
    """How many scans went again though the server may have had them."""
    return len(gate.journal("SELECT seq FROM scan WHERE marked = 1"))


# What goes, and in which order


async def test_check_ins_go_first_and_the_rest_after_them_oldest_first(serve: Serve, open_gate: Open) -> None:
    gate = await ready(serve, open_gate)
    for barcode in ("T1", "T1", "NOBODY", "T2"):
        await gate.scan(barcode)
    assert await gate.uploads.run() == 4
    sent = [(each.scan.barcode_id, each.scan.status_code) for each in gate.server.uploaded]
    assert sent == [("T1", 100), ("T2", 100), ("T1", 50), ("NOBODY", 40)]
    assert await gate.outbox() == {}


async def test_a_row_has_the_second_of_its_scan_and_the_apis_own_text(serve: Serve, open_gate: Open) -> None:
    gate = await ready(serve, open_gate)
    decided = await gate.scan("T1")
    gate.time.ahead += 3600
    await gate.uploads.run()
    (row,) = [each.scan for each in gate.server.uploaded]
    assert row.checked_in_time == int(decided.scan.at.wall.timestamp())
    assert row.status_message == "ADMIT - Ticket is valid"


async def test_a_long_outbox_goes_in_batches(serve: Serve, open_gate: Open) -> None:
    gate = await ready(serve, open_gate, plain=BATCH + 2)
    await gate.admit(*(f"T{number}" for number in range(1, BATCH + 3)))
    assert await gate.uploads.run() == BATCH + 2
    assert gate.server.requests["upload"] == 2
    assert set(gate.checked_in().values()) == {1}


async def test_no_row_is_twice_in_a_batch_that_ends_with_another_kind(serve: Serve, open_gate: Open) -> None:
    gate = await ready(serve, open_gate, plain=BATCH)
    await gate.admit(*(f"T{number}" for number in range(1, BATCH - 1)))
    for _ in range(4):
        await gate.scan("T1")
    await gate.uploads.run()
    assert set(gate.checked_in().values()) == {1}
    assert gate.uploaded()["T1", 50] == 4


async def test_scans_of_an_unknown_time_wait_for_the_time_and_are_corrected(
    serve: Serve, open_gate: Open
) -> None:
    gate = await ready(serve, open_gate)
    gate.clock.trust, gate.clock.off = TimeTrust.UNKNOWN, -1_000_000.0
    await gate.admit("T1")
    assert await gate.uploads.run() == 0
    gate.clock.trust, gate.clock.off = TimeTrust.ESTIMATED, 0.0
    assert await gate.uploads.run() == 1
    (row,) = [each.scan for each in gate.server.uploaded]
    assert row.checked_in_time == pytest.approx(gate.time.wall(), abs=5)


async def test_scans_of_a_service_that_is_gone_do_not_hold_up_others(serve: Serve, open_gate: Open) -> None:
    server = serve(event(plain=2))
    gate = await open_gate(server, Setup(service=server.event.service.uuid))
    await gate.store.bind("another")
    await gate.store.remember(complete=1)
    await gate.scan("OF-ANOTHER")
    await gate.downloads.full()
    await gate.admit("T1")
    assert await gate.uploads.run() == 1
    assert await gate.outbox() == {"OF-ANOTHER": "sent"}


# What the server does not take


async def test_one_bad_scan_is_parked_and_the_rest_arrives_once(serve: Serve, open_gate: Open) -> None:
    gate = await ready(serve, open_gate)
    await gate.admit("T1", "T2", "T3", "T4", "T5")
    gate.server.habits = Habits(poisonous_barcodes=frozenset({"T2"}))
    await gate.uploads.run()
    assert await gate.outbox() == {"T2": "refused"}
    assert gate.checked_in() == {"T1": 1, "T3": 1, "T4": 1, "T5": 1}
    assert gate.link.alarms["parked"]["scans"] == 1


async def test_a_scan_refused_alone_is_parked_only_when_another_was_accepted(
    serve: Serve, open_gate: Open
) -> None:
    gate = await ready(serve, open_gate)
    gate.server.habits = Habits(poisonous_barcodes=frozenset({"T1"}))
    await gate.admit("T1")
    assert await gate.uploads.run() == 0
    assert await gate.outbox() == {"T1": "sent"}
    await gate.admit("T2")
    await gate.uploads.run()
    assert await gate.outbox() == {"T1": "refused"}


async def test_a_scan_that_is_refused_alone_is_told_and_holds_up_no_denial(
    serve: Serve, open_gate: Open
) -> None:
    gate = await ready(serve, open_gate)
    gate.server.habits = Habits(poisonous_barcodes=frozenset({"T1"}))
    await gate.admit("T1")
    await gate.scan("T1")
    await gate.scan("nobody's")
    await gate.uploads.run()
    assert gate.link.alarms["scans_refused"]["scans"] == 1
    await gate.uploads.run()
    assert await gate.outbox() == {"T1": "refused"}
    assert "scans_refused" not in gate.link.alarms


async def test_parked_scans_go_when_a_person_says_so(serve: Serve, open_gate: Open) -> None:
    gate = await ready(serve, open_gate)
    gate.server.habits = Habits(poisonous_barcodes=frozenset({"T1"}))
    await gate.admit("T1", "T2")
    await gate.uploads.run()
    gate.server.habits = Habits()
    assert await gate.store.retry_parked() == 1
    await gate.uploads.run()
    assert gate.checked_in() == {"T1": 1, "T2": 1}
    assert marked(gate) == 0


async def test_a_service_that_refuses_every_scan_is_noticed_after_three_and_parks_none(
    serve: Serve, open_gate: Open
) -> None:
    gate = await ready(serve, open_gate)
    await gate.admit("T1", "T2", "T3", "T4", "T5")
    gate.server.habits = Habits(poisonous_barcodes=frozenset({"T1", "T2", "T3", "T4", "T5"}))
    await failing(gate.uploads.run)
    assert set((await gate.outbox()).values()) == {"sent"}
    assert "service_refuses" in gate.link.alarms
    gate.server.habits = Habits()
    assert await gate.uploads.run() == 5


@pytest.mark.parametrize("status", [403, 404, 405, 408])
async def test_a_status_about_the_service_parks_nothing_and_is_alarmed(
    serve: Serve, open_gate: Open, status: int
) -> None:
    gate = await ready(serve, open_gate)
    await gate.admit("T1", "T2")
    gate.server.faults.add("upload", f"status_{status}")
    await failing(gate.uploads.run)
    assert gate.server.requests["upload"] == 1
    assert gate.link.alarms["service_refuses"]["status"] == status
    assert await gate.uploads.run() == 2
    assert marked(gate) == 0


async def test_batches_stay_smaller_after_413(serve: Serve, open_gate: Open) -> None:
    gate = await ready(serve, open_gate, plain=40)
    gate.server.habits = Habits(max_upload_rows=10)
    await gate.admit(*(f"T{number}" for number in range(1, 31)))
    await gate.uploads.run()
    assert len(gate.checked_in()) == 30
    before = gate.server.requests["upload"]
    await gate.admit(*(f"T{number}" for number in range(31, 41)))
    await gate.uploads.run()
    assert gate.server.requests["upload"] - before <= 2
    assert set(gate.checked_in().values()) == {1}


@pytest.mark.parametrize("fault", [Fault.STATUS_429, Fault.STATUS_503])
async def test_a_server_that_asks_for_time_gets_it_and_then_all_scans_unmarked(
    serve: Serve, open_gate: Open, fault: Fault
) -> None:
    gate = await ready(serve, open_gate)
    await gate.admit("T1")
    gate.server.faults.add("upload", fault, seconds=17)
    error = await failing(gate.uploads.run)
    assert isinstance(error, ApiRefused)
    assert error.retry_after_s == 17
    assert await gate.uploads.run() == 1
    assert marked(gate) == 0


async def test_a_token_that_was_taken_back_is_renewed_and_the_upload_goes_on(
    serve: Serve, open_gate: Open
) -> None:
    gate = await ready(serve, open_gate)
    await gate.admit("T1")
    gate.server.revoke_tokens()
    assert await gate.uploads.run() == 1
    assert gate.server.requests["login"] == 2


# What became of an upload that was not answered

LOST_AFTER = (Fault.STATUS_500_AFTER, Fault.CLOSED_AFTER, Fault.HEADERS_ONLY, Fault.HALF_BODY)
LOST_BEFORE = (Fault.STATUS_500, Fault.CLOSED_BEFORE, Fault.NOT_JSON, Fault.EMPTY_BODY, Fault.REDIRECT)


@pytest.mark.parametrize("fault", LOST_AFTER)
async def test_a_lost_upload_that_the_next_delta_shows_is_not_sent_again(
    serve: Serve, open_gate: Open, fault: Fault
) -> None:
    gate = await ready(serve, open_gate, three())
    await gate.admit("T1", "THREE")
    gate.server.faults.add("upload", fault)
    await failing(gate.uploads.run)
    assert await gate.outbox() == {"T1": "lost", "THREE": "lost"}
    assert await gate.uploads.run() == 0
    await gate.downloads.delta()
    assert await gate.outbox() == {}
    assert gate.checked_in() == {"T1": 1, "THREE": 1}
    assert marked(gate) == 0


@pytest.mark.parametrize("fault", LOST_BEFORE)
async def test_a_lost_upload_that_the_next_delta_does_not_show_goes_again_marked(
    serve: Serve, open_gate: Open, fault: Fault
) -> None:
    gate = await ready(serve, open_gate)
    await gate.admit("T1")
    gate.server.faults.add("upload", fault)
    await failing(gate.uploads.run)
    await gate.downloads.delta()
    assert gate.due == ["upload"]
    await gate.uploads.run()
    assert gate.checked_in() == {"T1": 1}
    assert marked(gate) == 1


async def test_a_lost_entry_of_a_ticket_with_several_waits_for_a_person_and_counts_no_entry_twice(
    serve: Serve, open_gate: Open
) -> None:
    gate = await ready(serve, open_gate, three())
    await gate.admit("THREE")
    gate.server.faults.add("upload", Fault.CLOSED_BEFORE)
    await failing(gate.uploads.run)
    await gate.downloads.delta()
    assert await gate.outbox() == {"THREE": "uncertain"}
    assert gate.link.alarms["uncertain"]["scans"] == 1
    await gate.admit("THREE", "THREE")
    assert (await gate.scan("THREE")).verdict.code == 50
    await gate.store.retry_parked()
    await gate.uploads.run()
    assert gate.checked_in() == {"THREE": 3}
    assert marked(gate) == 1


async def test_lost_denials_go_again_at_once_marked(serve: Serve, open_gate: Open) -> None:
    gate = await ready(serve, open_gate)
    await gate.admit("T1")
    await gate.uploads.run()
    await gate.scan("T1")
    gate.server.faults.add("upload", Fault.CLOSED_AFTER)
    await failing(gate.uploads.run)
    assert await gate.uploads.run() == 1
    assert gate.uploaded()["T1", 50] == 2
    assert marked(gate) == 1


async def test_what_never_left_goes_again_unmarked(serve: Serve, open_gate: Open) -> None:
    gate = await ready(serve, open_gate)
    await gate.admit("T1")
    gate.server.stop()
    while not isinstance(error := await failing(gate.uploads.run), ApiUnreachable):
        assert isinstance(error, ApiAnswerLost)  # a connection that was still open may have carried it
        await gate.store.not_recorded_by_server(1)
    gate.server.start()
    assert await gate.uploads.run() == 1
    assert gate.checked_in() == {"T1": 1}


@pytest.mark.parametrize("fault", [Fault.CLOSED_AFTER, Fault.NOT_JSON, Fault.STATUS_500, Fault.STATUS_502])
async def test_an_upload_whose_login_failed_was_never_sent_and_is_not_lost(
    serve: Serve, open_gate: Open, fault: Fault
) -> None:
    gate = await ready(serve, open_gate, three())
    await gate.admit("THREE")
    gate.server.revoke_tokens()
    gate.server.faults.add("login", fault)
    await failing(gate.uploads.run)
    assert await gate.outbox() == {"THREE": "sent"}
    assert await gate.uploads.run() == 1
    assert marked(gate) == 0


async def test_after_a_power_cut_in_mid_upload_a_download_tells_what_arrived(
    serve: Serve, open_gate: Open
) -> None:
    gate = await ready(serve, open_gate)
    await gate.admit("T1", "T2", "T3", "T4")
    rows = await gate.store.freeze(3, gate.clock.now())
    sent = {row.barcode_id for row in rows}
    assert len(sent) == 3
    await gate.close()
    again = await open_gate(gate.server)
    assert {barcode for barcode, how in (await again.outbox()).items() if how == "lost"} == sent
    await again.downloads.full()
    await again.sync()
    assert again.checked_in() == {"T1": 1, "T2": 1, "T3": 1, "T4": 1}
    assert marked(again) == 3


async def test_scans_whose_acknowledgement_could_not_be_written_are_looked_for_and_not_sent_again(
    serve: Serve, open_gate: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = await ready(serve, open_gate)
    await gate.admit("T1")

    def failing_disk(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(Outbox, "acknowledge", failing_disk)
        with pytest.raises(StoreError):
            await gate.uploads.run()
    await gate.sync()
    assert gate.checked_in() == {"T1": 1}
    assert await gate.outbox() == {}


# Check-outs


async def leave(gate: Gate, *barcodes: str) -> None:
    """Guests who were in and go out, all on the gate's own word."""
    await gate.admit(*barcodes)
    for barcode in barcodes:
        assert (await gate.scan(barcode, lane="out", direction=EXIT)).verdict.code == 200


async def test_a_check_out_is_uploaded_with_code_200(serve: Serve, open_gate: Open) -> None:
    gate = await ready(serve, open_gate)
    await leave(gate, "T1")
    await gate.uploads.run()
    assert gate.uploaded() == {("T1", 100): 1, ("T1", 200): 1}
    assert gate.server.requests["checkout"] == 0


async def test_a_replayed_check_out_is_the_call_that_it_missed(serve: Serve, open_gate: Open) -> None:
    gate = await ready(serve, open_gate, setup=REPLAY)
    await leave(gate, "T1", "T2")
    assert await gate.uploads.run() == 4
    assert gate.server.requests["checkout"] == 2
    assert gate.uploaded() == {("T1", 100): 1, ("T2", 100): 1}
    assert [each.barcode_id for each in gate.server.event.movements if not each.checked_in] == ["T1", "T2"]


async def test_a_replayed_check_out_that_the_server_answers_with_a_denial_has_been_told(
    serve: Serve, open_gate: Open
) -> None:
    gate = await ready(serve, open_gate, setup=REPLAY)
    await gate.admit("T1")
    await gate.uploads.run()
    assert (await gate.scan("T1", lane="out", direction=EXIT)).verdict.code == 200
    gate.server.event.check_out("T1")
    assert await gate.uploads.run() == 1
    assert gate.server.requests["checkout"] == 1
    assert await gate.outbox() == {}


@pytest.mark.parametrize("refusals", [Refusals.ROW_400, Refusals.MESSAGE_400])
async def test_replayed_check_outs_that_are_all_refused_with_400_are_kept_or_settled_and_never_parked(
    serve: Serve, open_gate: Open, refusals: Refusals
) -> None:
    gate = await ready(serve, open_gate, setup=REPLAY)
    await leave(gate, "T1", "T2", "T3", "T4")
    gate.server.faults.add("checkout", Fault.STATUS_400, times=4)
    with pytest.raises(ApiError):
        await gate.uploads.run()
    assert "service_refuses" in gate.link.alarms
    assert set((await gate.outbox()).values()) == {"sent"}
    gate.server.faults.clear()
    gate.server.habits = Habits(refusals=refusals)
    await gate.uploads.run()
    assert await gate.outbox() == {}


async def test_one_replayed_check_out_that_is_refused_is_parked_when_another_was_taken(
    serve: Serve, open_gate: Open
) -> None:
    gate = await ready(serve, open_gate, setup=REPLAY)
    await leave(gate, "T1", "T2")
    gate.server.faults.add("checkout", Fault.STATUS_400)
    await gate.uploads.run()
    assert await gate.outbox() == {"T1": "refused"}


@pytest.mark.parametrize("fault", [Fault.CLOSED_BEFORE, Fault.CLOSED_AFTER])
async def test_a_replayed_check_out_without_an_answer_goes_again_marked(
    serve: Serve, open_gate: Open, fault: Fault
) -> None:
    gate = await ready(serve, open_gate, setup=REPLAY)
    await leave(gate, "T1")
    gate.time.ahead += 60  # a replayed check-out has the time of the call, not that of the scan
    gate.server.faults.add("checkout", fault)
    await failing(gate.uploads.run)
    await gate.sync()
    assert await gate.outbox() == {}
    assert len([each for each in gate.server.event.movements if not each.checked_in]) == 1
    assert marked(gate) == 1


# What an acknowledgement does to the count


async def test_an_acknowledged_entry_gives_none_back_while_the_mirror_shows_older_ones_of_other_gates(
    serve: Serve, open_gate: Open
) -> None:
    server = serve(event(three()))
    north, south = [await open_gate(server, name=name) for name in ("north", "south")]
    for gate in (north, south):
        await gate.downloads.full()
        await gate.admit("THREE")
        await gate.uploads.run()
    await north.downloads.delta()
    await north.admit("THREE")
    await north.uploads.run()
    assert (await north.scan("THREE")).verdict.code == 50
    assert north.checked_in() == {"THREE": 3}


async def test_an_upload_found_in_a_download_is_counted_once(serve: Serve, open_gate: Open) -> None:
    gate = await ready(serve, open_gate, three())
    await gate.admit("THREE")
    gate.server.faults.add("upload", Fault.CLOSED_AFTER)
    await failing(gate.uploads.run)
    await gate.downloads.delta()
    await gate.admit("THREE", "THREE")
    assert (await gate.scan("THREE")).verdict.code == 50
