import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from gated.clock import new_scan_id
from gated.core.events import Came
from gated.core.explain import Explanation, Upload
from gated.core.scan import Direction, LaneName, TimeTrust
from gated.core.ticket import Ticket
from gated.core.verdict import Origin, Reason, admit, deny
from gated.errors import StoreError
from gated.store import Ask, Decided, DeskRules, Passage, Place, Reply, Store, Terms
from gated.store import history as module
from tests.store.desks import ASK_ALL, LOCAL, moment, scan, ticket

ENTRY = Place((LaneName("A"),), Direction.ENTRY, LOCAL)
EXIT = Place((LaneName("out"),), Direction.EXIT, LOCAL)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await opened(tmp_path)
    yield store
    await store.close()


async def opened(folder: Path) -> Store:
    store = Store(folder, DeskRules())
    store.start()
    await store.bind("S1")
    return store


async def load(store: Store, *tickets: Ticket, run: int = 1) -> None:
    await store.put(tickets, asked=time.monotonic(), run=run)
    await store.remember(complete=1, tickets=len(tickets), mark=1_800_000_000)


async def decide(store: Store, barcode: str = "T1", terms: Terms = LOCAL, **fields: object) -> Decided:
    answer = await store.decide(scan(barcode, moment(time.monotonic()), **fields), terms)
    assert isinstance(answer, Decided)
    return answer


async def explain(store: Store, barcode: str = "T1", places: Sequence[Place] = (ENTRY, EXIT)) -> Explanation:
    return await store.explain(barcode, places, moment(time.monotonic()))


def reasons(explanation: Explanation) -> list[Reason]:
    return [past.verdict.reason for past in explanation.scans]


# ---- what would be decided now


async def test_an_explanation_says_what_the_next_scan_would_be_told_and_spends_nothing(store):
    await load(store, ticket(type_name="Regular"))
    for _ in range(2):
        known = await explain(store)
        assert [each.verdict.reason for each in known.rulings] == [Reason.VALID, Reason.NOT_CHECKED_IN]
    await decide(store)
    known = await explain(store)
    assert [each.verdict.reason for each in known.rulings] == [Reason.ALREADY_SCANNED, Reason.CHECKED_OUT]
    assert (known.left, known.overlay.pending, known.overlay.acknowledged) == (0, 1, 0)
    assert known.mirrored.ticket.type_name == "Regular"
    assert (known.mirrored.ticket.barcode_id, known.mirrored.absent) == ("", False)


async def test_a_lane_with_types_of_its_own_is_ruled_by_them(store):
    await load(store, ticket(type_name="Regular"))
    vip = Place((LaneName("VIP"),), Direction.ENTRY, Terms(lane_types=frozenset({"VIP"})))
    known = await explain(store, places=(ENTRY, vip))
    assert [each.verdict.reason for each in known.rulings] == [Reason.VALID, Reason.NOT_ALLOWED]
    assert [answer.rule for answer in known.rulings[1].answers if answer.verdict] == ["allowed here"]


async def test_where_the_server_would_be_asked_that_is_told_and_nothing_is_held(store):
    await load(store, ticket())
    asking = Place((LaneName("A"),), Direction.ENTRY, ASK_ALL)
    for barcode, reason in (("T1", Reason.VALID), ("new", Reason.UNKNOWN)):
        known = await explain(store, barcode, (asking,))
        assert (known.rulings[0].asks, known.rulings[0].verdict.reason) == (True, reason)
    await decide(store)


async def test_a_ticket_in_question_is_busy(store):
    await load(store, ticket())
    ask = await store.decide(scan("T1", moment(time.monotonic())), ASK_ALL)
    assert isinstance(ask, Ask)
    known = await explain(store)
    assert (known.rulings[0].verdict.reason, known.rulings[0].answers) == (Reason.BUSY, ())


async def test_two_tickets_for_one_text_are_ambiguous(store):
    await load(store, ticket("T1"), ticket("T2", external_barcode_id="T1"))
    known = await explain(store)
    assert known.rulings[0].verdict.reason is Reason.AMBIGUOUS
    assert (known.mirrored, known.rulings[0].answers) == (None, ())


async def test_before_the_first_full_download_is_done_nothing_is_ready(store):
    known = await explain(store)
    assert known.rulings[0].verdict.reason is Reason.NOT_READY
    assert (known.tickets.complete, known.tickets.as_of) == (False, None)


async def test_an_unknown_ticket_is_told_with_how_many_are_known_and_since_when(store):
    await load(store, ticket())
    known = await explain(store, "nobody's")
    assert (known.mirrored, known.left) == (None, None)
    assert (known.tickets.complete, known.tickets.count) == (True, 1)
    assert known.tickets.as_of.timestamp() == 1_800_000_000
    assert known.scans == ()


@pytest.mark.parametrize("barcode", ["T1", "X1"])
async def test_a_ticket_that_the_server_took_away_is_still_shown(store, barcode):
    await load(store, ticket(external_barcode_id="X1", section="B"), ticket("T2"))
    await load(store, ticket("T2"), run=2)
    await store.sweep(2)
    known = await explain(store, barcode)
    assert known.rulings[0].verdict.reason is Reason.UNKNOWN
    assert (known.mirrored.absent, known.mirrored.ticket.section) == (True, "B")


async def test_how_old_a_row_is_counts_from_its_download_and_a_restart_leaves_it_open(tmp_path):
    store = await opened(tmp_path)
    await store.put([ticket()], asked=time.monotonic() + 5, run=1)
    known = await store.explain("T1", (ENTRY,), moment(time.monotonic() + 65))
    assert timedelta(seconds=59) < known.mirrored.age < timedelta(seconds=61)
    assert not known.mirrored.before_start
    await store.close()
    store = await opened(tmp_path)
    known = await explain(store)
    assert known.mirrored.before_start
    await store.close()


# ---- what became of it here


async def test_every_scan_of_a_ticket_is_told_oldest_first_with_what_became_of_it(store):
    await load(store, ticket(), ticket("T2"))
    first = await decide(store)
    await store.set_passage(first.seq, Passage.TAKEN)
    rows = await store.freeze(50, moment(time.monotonic()))
    await store.acknowledge(rows, time.monotonic())
    await decide(store, lane="B")
    await decide(store, "T2")
    known = await explain(store)
    assert reasons(known) == [Reason.VALID, Reason.ALREADY_SCANNED]
    assert [past.upload for past in known.scans] == [Upload.DONE, Upload.WAITING]
    assert [past.passage for past in known.scans] == [Came.TAKEN, None]
    assert [past.lane for past in known.scans] == ["A", "B"]
    assert [(past.count_before, past.left_before) for past in known.scans] == [(0, 1), (1, 0)]
    assert known.scans[0].id == first.scan.id


async def test_scans_are_found_under_the_barcode_the_external_id_and_what_was_scanned_before_the_download(
    store,
):
    await load(store)
    await decide(store, "X1")
    await load(store, ticket(external_barcode_id="X1"))
    await decide(store, "X1")
    await decide(store, "T1")
    expected = [Reason.UNKNOWN, Reason.VALID, Reason.ALREADY_SCANNED]
    assert reasons(await explain(store, "T1")) == expected
    assert reasons(await explain(store, "X1")) == expected


async def test_scans_are_found_all_over_a_long_journal(store, monkeypatch):
    monkeypatch.setattr(module, "_SPAN", 2)
    await load(store, ticket(), ticket("T2"))
    for barcode in ("T1", "T2", "T2", "T2", "T1", "T2", "T1"):
        await decide(store, barcode)
    assert len((await explain(store)).scans) == 3


async def test_a_lost_and_a_parked_scan_are_told(store):
    await load(store, ticket("T1"), ticket("T2"))
    await decide(store, "T1")
    await decide(store, "T2")
    first, second = await store.freeze(50, moment(time.monotonic()))
    await store.lose([first], time.monotonic())
    await store.park([second], "refused")
    assert [past.upload for past in (await explain(store, "T1")).scans] == [Upload.UNANSWERED]
    [parked] = (await explain(store, "T2")).scans
    assert (parked.upload, parked.parked) == (Upload.PARKED, "refused")


async def test_what_the_server_answered_is_told_as_its_own(store):
    await load(store, ticket())
    ask = await store.decide(scan("T1", moment(time.monotonic())), ASK_ALL)
    reply = Reply(deny(60, Reason.EXPIRED), Origin.DIRECT, answered=time.monotonic())
    await store.settle(ask, reply)
    [past] = (await explain(store)).scans
    assert (past.origin, past.verdict.code, past.upload) == (Origin.DIRECT, 60, Upload.NONE)


async def test_a_lapsed_grant_and_its_second_one_are_told(store):
    await load(store, ticket())
    first = await decide(store)
    await store.set_passage(first.seq, Passage.NOT_TAKEN)
    known = await explain(store)
    assert known.overlay.lapsed
    assert known.rulings[0].verdict.reason is Reason.REGRANT
    await decide(store)
    known = await explain(store)
    assert [past.granted_again for past in known.scans] == [True, False]
    assert [past.origin for past in known.scans] == [Origin.LOCAL, Origin.REGRANT]


async def test_scans_that_wait_in_memory_are_told_as_undurable(store):
    await load(store, ticket())
    store._journal._db.execute("PRAGMA query_only = ON")
    decided = await decide(store)
    assert decided.seq is None
    [past] = (await explain(store)).scans
    assert (past.undurable, past.upload, past.verdict) == (True, Upload.WAITING, admit(100, Reason.VALID))
    assert (await store.explain_scan(decided.scan.id, moment())).scan == past
    store._journal._db.execute("PRAGMA query_only = OFF")


# ---- by a scan's id


async def test_a_scan_is_found_by_its_id_with_its_ticket_and_the_ticket_s_other_scans(store, monkeypatch):
    monkeypatch.setattr(module, "_SPAN", 2)
    await load(store, ticket(type_name="Regular"), ticket("T2"))
    decided = [await decide(store, barcode) for barcode in ("T1", "T2", "T2", "T1")]
    known = await store.explain_scan(decided[3].scan.id, moment())
    assert known.scan.verdict.reason is Reason.ALREADY_SCANNED
    assert (known.mirrored.ticket.type_name, known.rulings) == ("Regular", ())
    assert [past.id for past in known.scans] == [decided[0].scan.id, decided[3].scan.id]


async def test_a_malformed_read_has_no_ticket(store):
    await load(store, ticket())
    decided = await store.write_undecided(
        scan("", moment(1.0, TimeTrust.UNKNOWN)), deny(None, Reason.MALFORMED)
    )
    known = await store.explain_scan(decided.scan.id, moment())
    assert (known.mirrored, known.scans, known.scan.trust) == (None, (), TimeTrust.UNKNOWN)


async def test_an_id_that_no_scan_has_is_not_found(store):
    await load(store, ticket())
    await decide(store)
    assert await store.explain_scan(new_scan_id(moment()), moment()) is None


# ---- trouble


@pytest.mark.parametrize("part", ["_mirror", "_journal"])
async def test_a_database_that_can_not_be_read_is_an_error_with_a_hint(store, part, monkeypatch):
    class Broken:
        def execute(self, *_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

    await load(store, ticket())
    broken = getattr(store, part)
    whole = broken._db
    monkeypatch.setattr(broken, "_db", Broken())
    with pytest.raises(StoreError, match="disk I/O error") as caught:
        await explain(store)
    assert caught.value.hint
    monkeypatch.setattr(broken, "_db", whole)
