import sqlite3
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from gated.core.ticket import Ticket
from gated.store.database import open_database
from gated.store.mirror import Ambiguous, Found, Mirror
from gated.store.privacy import Secrets
from tests.store.desks import NOON, ticket

SECRETS = Secrets(b"1" * 32)


def open_mirror(folder: Path, secrets: Secrets = SECRETS) -> Mirror:
    connection = open_database(folder / "mirror.db", "mirror", synchronous="OFF")
    return Mirror(connection, connection, secrets)


@pytest.fixture
def mirror(tmp_path: Path):
    mirror = open_mirror(tmp_path)
    yield mirror
    mirror._db.close()


def put(mirror: Mirror, *tickets: Ticket, asked_ms: int = 0, run: int = 0) -> None:
    mirror.put(tickets, asked_ms=asked_ms, run=run)


def test_rows_that_are_halted_are_written_up_to_there(mirror):
    tickets = [ticket(f"T{number}") for number in range(80)]
    assert mirror.put(tickets, asked_ms=0, run=0, halt=lambda: True) == 25
    assert (find(mirror, "T24"), find(mirror, "T25")) == (tickets[24], None)
    assert mirror.put(tickets[25:], asked_ms=0, run=0) == 55
    assert count(mirror) == 80


def test_a_ticket_that_comes_twice_in_a_page_has_one_row_as_it_came_last(mirror):
    tickets = [*(ticket(f"T{number}") for number in range(60)), ticket("T3", seat="9")]
    assert mirror.put(tickets, asked_ms=0, run=0) == 50
    assert mirror.put(tickets[50:], asked_ms=0, run=0) == 11
    assert find(mirror, "T3") == tickets[-1]
    assert count(mirror) == 60


def find(mirror: Mirror, barcode: str) -> Ticket | None:
    found = mirror.find(barcode, mirror.digest(barcode))
    assert not isinstance(found, Ambiguous)
    return found and found.ticket


def count(mirror: Mirror) -> int:
    return sum(mirror.count(span) for span in mirror.spans())


def unseen(mirror: Mirror, run: int) -> int:
    return sum(mirror.unseen(run, span) for span in mirror.spans())


def sweep(mirror: Mirror, run: int) -> None:
    for span in mirror.spans():
        mirror.sweep(run, span)


WHOLE = Ticket(
    barcode_id="T1",
    type_id="vip-id",
    type_name="VIP",
    subtitle="Day 1",
    section="A",
    row="12",
    seat="7",
    checkin_allowed=True,
    canceled=True,
    expire_from=NOON,
    valid_from=NOON - timedelta(days=1),
    valid_till=NOON + timedelta(days=1),
    max_checkins=3,
    remaining=2,
    checked_in=1,
    last_checked_in=NOON - timedelta(hours=2),
    last_checked_out=NOON - timedelta(hours=1),
    unreadable="price",
)


@pytest.mark.parametrize("written", [WHOLE, ticket(), Ticket(barcode_id="T1")])
def test_a_ticket_is_read_as_it_was_written(mirror, written):
    put(mirror, written, asked_ms=77)
    found = mirror.find("T1", mirror.digest("T1"))
    assert isinstance(found, Found)
    assert (found.ticket, found.asked_ms, found.digest) == (written, 77, SECRETS.digest("T1"))


def test_a_later_row_takes_the_place_of_an_older_one(mirror):
    put(mirror, ticket(remaining=2), asked_ms=1)
    put(mirror, ticket(remaining=1, canceled=True), asked_ms=2)
    found = mirror.find("T1", mirror.digest("T1"))
    assert (found.ticket.remaining, found.ticket.canceled, found.asked_ms) == (1, True, 2)
    assert count(mirror) == 1


# ---- external ids


def test_an_external_id_leads_to_the_barcode_id(mirror):
    put(mirror, ticket("T1", external_barcode_id="X1"))
    assert find(mirror, "X1").barcode_id == "T1"
    assert find(mirror, "T1").barcode_id == "T1"


def test_an_external_id_that_is_the_barcode_id_is_one_text_for_one_ticket(mirror):
    put(mirror, ticket("T1", external_barcode_id="T1"))
    assert find(mirror, "T1").barcode_id == "T1"


@pytest.mark.parametrize(
    "tickets",
    [
        (ticket("T1", external_barcode_id="T2"), ticket("T2")),
        (ticket("T1", external_barcode_id="T2"), ticket("T3", external_barcode_id="T2")),
    ],
)
def test_a_text_that_stands_for_two_tickets_is_ambiguous(mirror, tickets):
    put(mirror, *tickets)
    assert isinstance(mirror.find("T2", mirror.digest("T2")), Ambiguous)


def test_a_text_that_stands_for_an_absent_ticket_and_a_present_one_is_not_ambiguous(mirror):
    put(mirror, ticket("T1", external_barcode_id="T2"), ticket("T2"))
    put(mirror, ticket("T1", external_barcode_id="T2"), run=1)
    sweep(mirror, 1)
    assert find(mirror, "T2").barcode_id == "T1"


@pytest.mark.parametrize("now", ["X2", None])
def test_an_external_id_that_the_ticket_has_no_more_finds_nothing(mirror, now):
    put(mirror, ticket("T1", external_barcode_id="X1"))
    put(mirror, ticket("T1", external_barcode_id=now))
    assert find(mirror, "X1") is None
    put(mirror, ticket("T1", external_barcode_id="X1"))
    assert find(mirror, "X1").barcode_id == "T1"


# ---- what can't be read


def test_a_row_that_can_not_be_read_leaves_the_older_one(mirror):
    put(mirror, ticket(remaining=1), asked_ms=1, run=1)
    put(mirror, ticket(remaining=None, unreadable="remaining"), asked_ms=2, run=2)
    found = mirror.find("T1", mirror.digest("T1"))
    assert (found.ticket.remaining, found.ticket.unreadable, found.asked_ms) == (1, "", 1)
    assert unseen(mirror, 2) == 0


def test_a_row_that_can_not_be_read_is_kept_where_there_was_none_until_it_can_be(mirror):
    put(mirror, ticket(unreadable="remaining"))
    assert find(mirror, "T1").unreadable == "remaining"
    put(mirror, ticket(unreadable="expire_from"))
    assert find(mirror, "T1").unreadable == "expire_from"
    put(mirror, ticket())
    assert find(mirror, "T1").unreadable == ""


# ---- full downloads


def test_what_a_full_download_did_not_see_is_absent_until_it_comes_again(mirror):
    put(mirror, ticket("T1"), ticket("T2", external_barcode_id="X2"), run=1)
    put(mirror, ticket("T1"), run=2)
    assert unseen(mirror, 2) == 1
    sweep(mirror, 2)
    assert [find(mirror, text) for text in ("T2", "X2")] == [None, None]
    assert (find(mirror, "T1") is not None, count(mirror), unseen(mirror, 2)) == (True, 1, 0)
    put(mirror, ticket("T2"))
    assert find(mirror, "T2") is not None


def test_a_delta_does_not_make_a_ticket_unseen(mirror):
    put(mirror, ticket(), run=3)
    put(mirror, ticket(), run=0)
    assert unseen(mirror, 3) == 0


def test_the_spans_hold_every_row_once(mirror, monkeypatch):
    monkeypatch.setattr("gated.store.mirror._SPAN", 64)
    put(mirror, *(ticket(f"T{number}") for number in range(1000)))
    assert count(mirror) == 1000
    spans = mirror.spans()
    assert all(after[0] == before[1] + 1 for before, after in pairwise(spans))
    assert (spans[0][0], len(spans)) == (1, 16)


def test_a_piece_is_written_whole_or_not_at_all(mirror):
    with pytest.raises(sqlite3.IntegrityError):
        put(mirror, ticket("T1"), ticket("T2", remaining="many"))
    assert find(mirror, "T1") is None
    put(mirror, ticket("T1"))
    assert find(mirror, "T1") is not None
    assert not mirror.place_piece()
    assert find(mirror, "T1") is not None


# ---- new rows, and those in place


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr("gated.store.mirror._CROWD", 5)
    monkeypatch.setattr("gated.store.mirror._PLACED", 2)


def in_place(mirror: Mirror) -> int:
    return mirror._db.execute("SELECT count(*) FROM place").fetchone()[0]


@pytest.mark.usefixtures("_small")
def test_new_rows_are_put_in_place_once_they_are_many_and_are_found_all_the_while(mirror):
    barcodes = [f"T{number}" for number in range(5)]
    put(mirror, *map(ticket, barcodes[:4]))
    assert not mirror.crowded
    put(mirror, *map(ticket, barcodes[3:]))
    assert mirror.crowded
    for expected in (2, 4, 5):
        assert mirror.place_piece() == (expected < 5)
        assert in_place(mirror) == expected
        assert all(find(mirror, barcode) for barcode in barcodes)
    assert not mirror.crowded


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("pieces", range(4))
def test_a_restart_finds_all_rows_however_many_were_in_place(mirror, tmp_path, pieces):
    put(mirror, *(ticket(f"T{number}", external_barcode_id=f"X{number}") for number in range(5)))
    for _ in range(pieces):
        mirror.place_piece()
    mirror._db.close()
    again = open_mirror(tmp_path)
    put(again, ticket("T1", remaining=7), ticket("T5"))
    while again.place_piece():
        pass
    assert (count(again), in_place(again)) == (6, 6)
    assert [find(again, f"T{number}").remaining for number in range(6)] == [1, 7, 1, 1, 1, 1]
    assert all(find(again, f"X{number}") for number in (0, 2, 3, 4))
    again._db.close()


@pytest.mark.usefixtures("_small")
def test_what_is_in_place_is_not_read_again_at_a_start(mirror, tmp_path):
    put(mirror, *(ticket(f"T{number}") for number in range(5)))
    while mirror.place_piece():
        pass
    mirror._db.close()
    again = open_mirror(tmp_path)
    put(again, *(ticket(f"T{number}") for number in range(9)))
    assert not again.crowded
    again._db.close()


def test_what_was_written_moves_into_the_file_once_it_is_much(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr("gated.store.mirror._UNFILED", 3)
    mirror.checkpoint()
    path = tmp_path / "mirror.db"
    before = path.read_bytes()
    for number in range(3):
        assert not mirror.checkpoint_due
        put(mirror, ticket(f"T{number}"))
    assert path.read_bytes() == before
    assert mirror.checkpoint_due
    mirror.checkpoint()
    assert path.read_bytes() != before
    assert not mirror.checkpoint_due


def test_an_emptied_mirror_knows_no_new_rows_either(mirror):
    put(mirror, ticket("T1"))
    mirror.empty()
    put(mirror, ticket("T2"))
    assert (find(mirror, "T1"), count(mirror)) == (None, 1)
    assert not mirror.place_piece()
    assert in_place(mirror) == 1


def test_rows_of_one_ticket_in_one_piece_are_one_row_the_last_that_can_be_read(mirror):
    put(mirror, ticket(remaining=3), ticket(remaining=2), ticket(unreadable="remaining"))
    assert find(mirror, "T1").remaining == 2
    assert count(mirror) == 1


# ---- whose tickets


def test_a_mirror_of_another_service_empties_itself(mirror):
    mirror.bind("S1")
    put(mirror, ticket("T1", external_barcode_id="X1"))
    mirror.set_notes({"complete": 1, "mark": 5})
    mirror.bind("S1")
    assert (find(mirror, "X1") is not None, mirror.note("complete")) == (True, 1)
    mirror.bind("S2")
    assert [find(mirror, text) for text in ("T1", "X1")] == [None, None]
    assert (mirror.note("complete"), mirror.note("mark"), mirror.note("service")) == (None, None, "S2")


def test_a_mirror_under_another_secret_empties_itself(tmp_path):
    first = open_mirror(tmp_path)
    first.set_note("complete", 1)
    put(first, ticket())
    first._db.close()
    same = open_mirror(tmp_path)
    assert count(same) == 1
    same._db.close()
    other = open_mirror(tmp_path, Secrets(b"2" * 32))
    assert (count(other), other.note("complete")) == (0, None)
    other._db.close()


def test_the_latest_time_a_row_was_asked_for_is_remembered(mirror):
    put(mirror, ticket(), asked_ms=500)
    put(mirror, ticket(), asked_ms=300)
    assert mirror.ran_until_ms() == 500
    mirror.set_notes({"types_ms": 700})
    assert mirror.ran_until_ms() == 700


def test_names_of_external_ids_are_sealed_once(mirror, tmp_path):
    for asked_ms in (1, 2):
        put(mirror, ticket("T1")._replace(external_barcode_id="X1"), asked_ms=asked_ms)
    connection = open_database(tmp_path / "mirror.db", "mirror", synchronous="OFF")
    assert connection.execute("SELECT count(*) FROM external").fetchone() == (1,)
    connection.close()
