import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.api import wire
from gated.api.wire import Claims, Page, Service, UploadRow
from gated.core.ticket import Ticket
from gated.errors import ApiBadAnswer, ServiceNotChosen

NOON = datetime(2026, 7, 16, 12, tzinfo=UTC)
NOON_S = int(NOON.timestamp())

# The document's example, personal data and all.
ROW: dict[str, Any] = {
    "barcode_id": "CMBARCODE123",
    "external_barcode_id": None,
    "batch_id": "CMORDER123",
    "ticket_type": "Regular Ticket",
    "ticket_type_hash_id": "00000000-0000-0000-0000-00000000000",
    "subtitle": None,
    "first_name": "John",
    "sur_name": "Doe",
    "city": None,
    "email": "john@example.org",
    "mobile": "+31612345678",
    "serial_number": 1,
    "price": 10,
    "is_checkin_allowed": 1,
    "is_canceled": 0,
    "expire_from": None,
    "checkin_valid_from": None,
    "checkin_valid_till": None,
    "validation_max_checkins": 1,
    "remaining_scans": 1,
    "count_checked_in": 0,
    "last_checked_in_time": None,
    "last_checked_out_time": None,
    "section_id": None,
    "section": None,
    "row": None,
    "seat": None,
    "scan_status_code": None,
    "scan_status_message": None,
}


def body(**keys: Any) -> bytes:
    return json.dumps(keys).encode()


def page(*rows: Any, asked: int = 1, limit: int = 500, **pagination: Any) -> Page:
    return wire.read_page(body(barcodes=rows, pagination=pagination), asked=asked, limit=limit)


def ticket(**fields: Any) -> Ticket:
    (read,) = page(ROW | fields).tickets
    return read


def test_the_documents_example_is_read() -> None:
    assert ticket() == Ticket(
        barcode_id="CMBARCODE123",
        batch_id="CMORDER123",
        type_id="00000000-0000-0000-0000-00000000000",
        type_name="Regular Ticket",
        checkin_allowed=True,
        max_checkins=1,
        remaining=1,
    )


def test_a_row_with_nothing_but_its_barcode_admits_nobody() -> None:
    (read,) = page({"barcode_id": "A"}).tickets
    assert read == Ticket(barcode_id="A")
    assert not read.checkin_allowed


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(form, NOON) for form in (NOON_S, float(NOON_S), str(NOON_S), f"{NOON_S}.0", f" {NOON_S} ")],
        *[(form, NOON) for form in (NOON_S * 1000, str(NOON_S * 1000))],
        *[(f"2026-07-16{rest}", NOON) for rest in ("T12:00:00Z", "T12:00:00+00:00", "T14:00:00+02:00")],
        *[
            (f"2026-07-16{rest}", NOON)
            for rest in ("T14:00:00+0200", "T12:00", " 12:00:00", " 12:00:00.000000")
        ],
        ("2026-07-16 12:00:00 UTC", NOON),
        ({"date": "2026-07-16 12:00:00.000000", "timezone_type": 3, "timezone": "UTC"}, NOON),
        ({"date": "2026-07-16 14:00:00.000000", "timezone_type": 3, "timezone": "Europe/Amsterdam"}, NOON),
        ({"date": "2026-07-16 14:00:00.000000", "timezone_type": 1, "timezone": "+02:00"}, NOON),
        ({"date": "2026-07-16 12:00:00.000000", "timezone_type": 2, "timezone": "Z"}, NOON),
        ({"date": "2026-07-16 12:00:00"}, NOON),
        *[
            (nothing, None)
            for nothing in (None, "", " ", 0, 0.0, "0", [], {}, "0000-00-00", "0000-00-00 00:00:00")
        ],
        *[
            (none, None)
            for none in ("-0001-11-30 00:00:00", "1970-01-01 00:00:00", "1970-01-01T01:00:00+01:00")
        ],
        ({"date": "-0001-11-30 00:00:00.000000", "timezone_type": 3, "timezone": "Europe/Amsterdam"}, None),
        ("9999-12-31 23:59:59", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_in_every_form(value: Any, expected: datetime | None) -> None:
    names = (
        "expire_from",
        "checkin_valid_from",
        "checkin_valid_till",
        "last_checked_in_time",
        "last_checked_out_time",
    )
    read = ticket(**dict.fromkeys(names, value))
    assert read.unreadable == ""
    assert {read.expire_from, read.valid_from, read.valid_till} == {expected}
    assert {read.last_checked_in, read.last_checked_out} == {expected}


def test_a_date_alone_begins_with_its_first_second_and_a_till_ends_with_its_last() -> None:
    read = ticket(expire_from="2026-07-16", checkin_valid_from="2026-07-16", checkin_valid_till="2026-07-16")
    midnight = datetime(2026, 7, 16, tzinfo=UTC)
    assert (read.expire_from, read.valid_from) == (midnight, midnight)
    assert read.valid_till == midnight + timedelta(hours=23, minutes=59, seconds=59)


@pytest.mark.parametrize("alias", ["expire_at", "expire_time"])
def test_expire_from_has_other_names_only_where_it_is_absent(alias: str) -> None:
    absent = {name: value for name, value in ROW.items() if name != "expire_from"}
    (read,) = page(absent | {alias: NOON_S}).tickets
    assert read.expire_from == NOON
    assert ticket(**{alias: NOON_S}).expire_from is None


@pytest.mark.parametrize(
    "value",
    [True, False, "soon", "16-07-2026", "16.07.2026 12:00", 1, -5, 20260716, "20260716", 4_200_000_000]
    + [1e15, 10**30, "1999-12-31", "2101-01-01", [NOON_S], {"time": NOON_S}, {"date": NOON_S}]
    + ["9999-12-31T23:59:59-01:00", {"date": "2026-07-16", "timezone": "Mars/Olympus"}]
    + [
        {"date": "2026-07-16", "timezone": zone}
        for zone in (None, 1, "+", "+99:00", "Europe", "../../etc/passwd")
    ],
)
def test_a_time_that_cant_be_read_names_its_field_and_allows_nothing(value: Any) -> None:
    read = ticket(checkin_valid_till=value)
    assert read.unreadable == "checkin_valid_till"
    assert (read.checkin_allowed, read.valid_till) == (False, None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(yes, True) for yes in (True, 1, 1.0, "1", "true", "True", " 1 ")],
        *[(no, False) for no in (False, 0, 0.0, "0", "false", "FALSE", "", None)],
    ],
)
def test_a_flag_is_read_in_every_form(value: Any, expected: bool) -> None:
    read = ticket(is_checkin_allowed=value)
    assert (read.checkin_allowed, read.unreadable) == (expected, "")
    read = ticket(is_canceled=value)
    assert (read.canceled, read.unreadable) == (expected, "")


@pytest.mark.parametrize("value", [2, -1, "yes", "no", [], {}, [1], 0.5])
@pytest.mark.parametrize("name", ["is_checkin_allowed", "is_canceled"])
def test_a_flag_that_cant_be_read_allows_nothing(name: str, value: Any) -> None:
    read = ticket(**{name: value})
    assert (read.checkin_allowed, read.unreadable) == (False, name)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(three, 3) for three in (3, "3", 3.0, "3.00")],
        *[(none, 0) for none in (0, "0", -1, "-1")],
        *[(missing, None) for missing in (None, "")],
        *[(many, 1_000_000_000) for many in (2**63 - 1, "999999999999")],
    ],
)
def test_a_count_is_read_in_every_form(value: Any, expected: int | None) -> None:
    read = ticket(validation_max_checkins=value, remaining_scans=value, count_checked_in=value)
    assert (read.max_checkins, read.remaining, read.checked_in) == (expected, expected, expected or 0)
    assert read.unreadable == ""


@pytest.mark.parametrize("value", ["many", 1.5, "1.5", True, [], {}, "1e3", "0x1", "1_0", "٣"])
def test_a_count_that_cant_be_read_allows_nothing(value: Any) -> None:
    read = ticket(remaining_scans=value)
    assert (read.checkin_allowed, read.unreadable, read.remaining) == (False, "remaining_scans", None)


def test_all_fields_that_cant_be_read_are_named() -> None:
    read = ticket(remaining_scans="?", is_canceled="?", expire_from="?", external_barcode_id=[])
    assert read.unreadable.split() == ["is_canceled", "external_barcode_id", "expire_from", "remaining_scans"]
    assert read.barcode_id == "CMBARCODE123"


def test_what_is_only_shown_is_never_a_reason_to_refuse() -> None:
    read = ticket(subtitle={"nl": "Kind"}, section=5, row=1.5, seat=True, ticket_type=[])
    assert (read.subtitle, read.section, read.row, read.seat, read.type_name) == ("", "5", "1.5", "", "")
    assert read.checkin_allowed


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), ("", None), (" EXT ", "EXT"), (8710000123458, "8710000123458")],
)
def test_an_external_barcode_is_text_or_none(value: Any, expected: str | None) -> None:
    assert ticket(external_barcode_id=value).external_barcode_id == expected


def test_a_barcode_that_came_as_a_number_is_read_and_counted_as_odd() -> None:
    read = page(ROW | {"barcode_id": 12345678901234567890123}, ROW | {"barcode_id": 7}, ROW)
    assert [each.barcode_id for each in read.tickets] == ["12345678901234567890123", "7", "CMBARCODE123"]
    assert (read.odd, read.set_aside) == (2, 0)


NARROW, WIDE = "2026-07-16 12:00:00", "2026-07-16 18:00:00"
# Two rows of one ticket, and what counts of both.
DOUBLED: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"is_canceled": 1}, {}, {"canceled": True}),
    ({"is_checkin_allowed": 0}, {}, {"checkin_allowed": False}),
    ({"remaining_scans": 3}, {"remaining_scans": 2}, {"remaining": 2}),
    ({"remaining_scans": 0, "count_checked_in": 1}, {}, {"remaining": 0, "checked_in": 1}),
    ({"remaining_scans": 5}, {"remaining_scans": None}, {"remaining": None, "max_checkins": 1}),
    ({"remaining_scans": None, "count_checked_in": 1}, {}, {"remaining": None, "checked_in": 1}),
    ({"expire_from": WIDE}, {"expire_from": NARROW}, {"expire_from": NOON}),
    ({"checkin_valid_from": NARROW}, {}, {"valid_from": NOON}),
    ({"checkin_valid_from": NARROW}, {"checkin_valid_from": "2026-07-16 09:00:00"}, {"valid_from": NOON}),
    ({"checkin_valid_till": NARROW}, {"checkin_valid_till": WIDE}, {"valid_till": NOON}),
    ({"last_checked_in_time": NOON_S}, {"remaining_scans": 0}, {"last_checked_in": NOON, "remaining": 0}),
    ({"external_barcode_id": "EXT"}, {"remaining_scans": 0}, {"external_barcode_id": "EXT"}),
    ({"expire_from": "soon"}, {}, {"unreadable": "", "checkin_allowed": True}),
    ({"expire_from": "soon", "is_canceled": 1}, {}, {"unreadable": "", "canceled": True}),
    ({"expire_from": "soon"}, {"remaining_scans": "?"}, {"checkin_allowed": False}),
]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("one", "other", "merged"), DOUBLED)
def test_of_two_rows_of_one_ticket_on_a_page_the_strictest_counts_and_the_second_is_odd(
    one: dict[str, Any], other: dict[str, Any], merged: dict[str, Any], turned: bool
) -> None:
    rows = [ROW | one, ROW | {"barcode_id": "B"}, ROW | other]
    read = page(*(reversed(rows) if turned else rows))
    assert {each.barcode_id for each in read.tickets} == {"CMBARCODE123", "B"}
    (ticket,) = (each for each in read.tickets if each.barcode_id == "CMBARCODE123")
    assert {name: getattr(ticket, name) for name in merged} == merged
    assert (read.odd, read.set_aside) == (1, 0)


@pytest.mark.parametrize("value", [None, "", "  ", 1.0, 1e30, True, [], {}, ["A"], 10**200])
def test_a_row_whose_barcode_cant_be_read_is_set_aside(value: Any) -> None:
    read = page(ROW | {"barcode_id": value}, ROW)
    assert ([each.barcode_id for each in read.tickets], read.set_aside) == (["CMBARCODE123"], 1)


@pytest.mark.parametrize("row", [None, 1, "CMBARCODE123", True, [], [ROW], 1.5])
def test_what_is_no_row_is_set_aside_and_spoils_nothing(row: Any) -> None:
    read = page(row, ROW)
    assert (len(read.tickets), read.set_aside) == (1, 1)


@pytest.mark.parametrize("rows", [[ROW], {"0": ROW}, {"3": ROW}])
def test_a_list_may_be_an_object_with_numbers_for_keys(rows: Any) -> None:
    assert len(wire.read_page(body(barcodes=rows), asked=1, limit=500).tickets) == 1


def test_a_page_is_read_in_pieces_that_others_need_not_wait_for() -> None:
    reading = wire.reading_page(body(barcodes=[ROW] * 500), asked=1, limit=500)
    assert sum(1 for _ in reading) == 7  # as JSON, then seventy-five rows each


@pytest.mark.parametrize("nothing", [[], {}, None])
def test_an_empty_list_has_many_forms(nothing: Any) -> None:
    paginations: tuple[Any, ...] = ([], {}, None)
    for pagination in paginations:
        read = wire.read_page(body(barcodes=nothing, pagination=pagination), asked=1, limit=500)
        assert read == Page((), 0, 0, None, None, None)
        assert read.last


@pytest.mark.parametrize(
    "bad",
    [
        *[b"", b"[]", b"null", b"{}", b"<html>", b"[" * 5000, b'{"barcodes":[' + b'{"a":' * 5000],
        *[b'{"data":[]}', b'{"barcodes":"none"}', b'{"barcodes":[}', b'{"barcodes":[]} x'],
        *[b'{"barcodes":[{"price":NaN}]}', b'{"barcodes":[{"remaining_scans":Infinity}]}'],
        b'{"barcodes":[{"barcode_id":"\xff"}]}',
    ],
)
def test_another_shape_is_a_bad_answer(bad: bytes) -> None:
    with pytest.raises(ApiBadAnswer):
        wire.read_page(bad, asked=1, limit=500)


def test_a_page_of_html_gets_the_hint_of_a_captive_portal() -> None:
    with pytest.raises(ApiBadAnswer) as caught:
        wire.read_services(b"\n<!doctype html><title>Free Wi-Fi</title>")
    assert caught.value.hint == wire.CAPTIVE_HINT


def test_a_byte_order_mark_is_no_obstacle() -> None:
    assert wire.read_page(b'\xef\xbb\xbf{"barcodes":[]}', asked=1, limit=500).last


@pytest.mark.parametrize(
    ("asked", "pagination", "following"),
    [
        (1, {"total_pages": 1, "pages": {"next_page": None}}, None),
        (1, {"total_pages": 2, "pages": {"next_page": 2}}, 2),
        (1, {"total_pages": "2", "pages": {"next_page": "2"}}, 2),
        (3, {"total_pages": 3, "pages": {"next_page": 0}}, None),
        (3, {"total_pages": 3, "pages": {"next_page": False}}, None),
        (3, {"pages": {"next_page": ""}}, None),
        (1, {"total_pages": 2}, 2),
        (2, {"total_pages": 2, "pages": []}, None),
        (1, {}, None),
        (1, {"total_pages": 1, "pages": {"next_page": 2}}, 2),
    ],
)
def test_the_next_page_is_the_one_named_or_follows_from_the_total(
    asked: int, pagination: dict[str, Any], following: int | None
) -> None:
    assert page(ROW, asked=asked, **pagination).next_page == following


def test_without_any_pagination_full_pages_are_followed_by_another() -> None:
    assert page(ROW, ROW, asked=4, limit=2).next_page == 5
    assert page(ROW, asked=5, limit=2).last


def test_an_empty_page_ends_the_list_but_not_before_its_total() -> None:
    assert page(asked=2, pages={"next_page": 3}).last
    assert page(asked=2, total_pages=3, pages={"next_page": 3}).next_page == 3
    assert page(asked=3, total_pages=3, pages={"next_page": 4}).last


@pytest.mark.parametrize(("asked", "named"), [(1, 1), (2, 1), (1, 3), (1, "two"), (1, -1), (20_000, 20_001)])
def test_a_next_page_that_is_not_the_next_is_a_bad_answer(asked: int, named: Any) -> None:
    with pytest.raises(ApiBadAnswer):
        page(ROW, asked=asked, pages={"next_page": named})


def test_totals_are_read_as_numbers_or_text() -> None:
    read = page(ROW, total_items="250", total_pages=1, pages={"next_page": None})
    assert (read.total_items, read.total_pages) == (250, 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=3,
)


@given(st.dictionaries(st.sampled_from(sorted(ROW)), JSON))
def test_no_row_of_json_stops_a_page_and_each_is_counted(fields: dict[str, Any]) -> None:
    read = wire.read_page(
        json.dumps({"barcodes": [ROW | fields]}).encode("utf-8", "replace"), asked=1, limit=9
    )
    assert len(read.tickets) + read.set_aside == 1
    for each in read.tickets:
        assert not (each.checkin_allowed and each.unreadable)


# Services


SERVICE: dict[str, Any] = {
    "uuid": "00000000-0000-0000-0000-000000000000",
    "name": "CM.com Scan Service",
    "description": "scan service for: CM.com",
    "setup": 2,
    "information_level": 1,
    "sync_interval": 120,
    "url": "https://api.cmtelecom.com/scanapi/v2.0/",
    "count_total_available": 250,
    "permissions": [{"uuid": "0", "name": "checkin"}, {"uuid": "0", "name": "CheckOut"}],
    "ticket_types": [{"ticket_type_hash_id": "0-1", "total_available": 150}, {"ticket_type_hash_id": "0-2"}],
}


def service(**fields: Any) -> Service:
    (read,) = wire.read_services(body(services=[SERVICE | fields]))
    return read


def test_the_documents_service_is_read() -> None:
    assert service() == Service(
        id="00000000-0000-0000-0000-000000000000",
        name="CM.com Scan Service",
        url="https://api.cmtelecom.com/scanapi/v2.0/",
        sync_interval=timedelta(seconds=120),
        type_ids=frozenset({"0-1", "0-2"}),
        total_available=250,
        permissions=frozenset({"checkin", "checkout"}),
        setup="2",
        information_level="1",
    )


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (120, 120),
        ("60", 60),
        (1, 15),
        (100_000, 900),
        (0, 120),
        (-5, 120),
        (None, 120),
        ("soon", 120),
        ([], 120),
    ],
)
def test_the_sync_interval_is_kept_within_15_and_900_seconds(value: Any, seconds: int) -> None:
    assert service(sync_interval=value).sync_interval == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "types", [None, [], {}, "none", [{"ticket_type_hash_id": "0-1"}, {"ticket_type": "VIP"}], [{}], [None]]
)
def test_types_that_cant_all_be_read_limit_nothing(types: Any) -> None:
    assert service(ticket_types=types).type_ids == frozenset()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], None),
        (None, None),
        (5, None),
        ({"1": {"name": "lookup"}}, {"lookup"}),
        (["CHECKIN"], {"checkin"}),
    ],
)
def test_permissions_are_names_in_lower_case_or_unknown(value: Any, expected: set[str] | None) -> None:
    assert service(permissions=value).permissions == expected


def test_services_may_be_an_object_and_those_without_an_id_are_left_out() -> None:
    listed = {"1": SERVICE, "2": SERVICE | {"uuid": None}, "3": SERVICE | {"uuid": "../x"}, "4": None}
    assert len(wire.read_services(body(services=listed))) == 1


@pytest.mark.parametrize("bad", [b"{}", b"[]", b'{"services":"none"}', b""])
def test_no_list_of_services_is_a_bad_answer(bad: bytes) -> None:
    with pytest.raises(ApiBadAnswer):
        wire.read_services(bad)


MAIN, BACK = service(uuid="1", name="Main"), service(uuid="2", name="Back")
BACK_TOO = service(uuid="3", name="Back")


@pytest.mark.parametrize(
    ("services", "wanted", "chosen"),
    [
        ([MAIN], None, MAIN),
        ([MAIN, BACK], "2", BACK),
        ([MAIN, BACK], "Main", MAIN),
        ([MAIN, service(uuid="Main")], "Main", service(uuid="Main")),
    ],
)
def test_the_only_service_or_the_one_wanted_is_chosen(
    services: list[Service], wanted: str | None, chosen: Service
) -> None:
    assert wire.choose_service(services, wanted) == chosen


@pytest.mark.parametrize(
    ("services", "wanted"),
    [
        ([], None),
        ([], "1"),
        ([MAIN, BACK], None),
        ([MAIN], "2"),
        ([MAIN], "main"),
        ([BACK, BACK_TOO], "Back"),
    ],
)
def test_never_is_another_service_chosen(services: list[Service], wanted: str | None) -> None:
    with pytest.raises(ServiceNotChosen) as caught:
        wire.choose_service(services, wanted)
    assert all(f"{each.id} ({each.name})" in str(caught.value) for each in services)


# Direct answers


def answered(*rows: Any, sent: str = "CMBARCODE123") -> wire.DirectAnswer:
    return wire.read_scan_answer(body(barcodes=rows), sent)


@pytest.mark.parametrize("code", [100, "100"])
def test_an_admission_has_its_code_and_its_ticket(code: Any) -> None:
    answer = answered(ROW | {"scan_status_code": code, "scan_status_message": "ADMIT - Ticket is valid"})
    assert (answer.code, answer.matches, answer.message) == (100, True, "ADMIT - Ticket is valid")
    assert answer.ticket == ticket()


@pytest.mark.parametrize("code", [None, "", "ADMIT", 100.5, True, [], {}, "1e2"])
def test_what_is_no_number_is_no_code(code: Any) -> None:
    assert answered(ROW | {"scan_status_code": code}).code is None


def test_another_ticket_or_several_or_none_do_not_match() -> None:
    admitted = ROW | {"scan_status_code": 100}
    assert not answered(admitted | {"barcode_id": "OTHER"}).matches
    assert not answered(admitted, sent="cmbarcode123").matches
    both = answered(admitted | {"barcode_id": "OTHER", "scan_status_code": 50}, admitted)
    assert (both.matches, both.code, both.elements) == (False, 100, 2)
    assert answered() == wire.DirectAnswer(None, None, "", None, False, 0)
    assert not answered(admitted, None).matches


def test_a_ticket_matches_by_its_external_barcode_and_by_a_number() -> None:
    assert answered(ROW | {"barcode_id": "X", "external_barcode_id": "871"}, sent="871").matches
    assert answered(ROW | {"barcode_id": 871}, sent="871").matches
    assert not answered(ROW | {"barcode_id": 871}, sent="0871").matches


def test_an_unknown_barcode_without_its_row_has_a_code_but_no_ticket() -> None:
    answer = answered({"barcode_id": None, "scan_status_code": 40})
    assert (answer.code, answer.ticket, answer.matches) == (40, None, False)


def test_a_refusal_says_when_the_ticket_was_checked_in() -> None:
    answer = answered(ROW | {"scan_status_code": 50, "last_checked_in_time": "2026-07-16 12:00:00"})
    assert (answer.code, answer.last_checked_in) == (50, NOON)


def test_a_message_is_cut_and_made_printable() -> None:
    message = answered(ROW | {"scan_status_message": "\x1b[31mNo\n\u202e" + "x" * 500}).message
    assert message.startswith("[31mNo")
    assert message.isprintable()
    assert len(message) <= 80


def test_a_400_with_a_code_is_a_refusal_and_never_admits() -> None:
    def refusal(code: Any) -> wire.DirectAnswer | None:
        return wire.read_scan_refusal(body(barcodes=[ROW | {"scan_status_code": code}]), "CMBARCODE123")

    refused = refusal(50)
    assert refused is not None
    assert refused.code == 50
    assert [refusal(code) for code in (100, "200", None)] == [None, None, None]
    assert wire.read_scan_refusal(b'{"info":{"message":"no"}}', "CMBARCODE123") is None


# Upload, login, messages


def test_an_upload_is_written_as_the_document_has_it() -> None:
    rows = [UploadRow("CMBARCODE123", 1594912228, 100, "ADMIT - Ticket is valid")]
    assert json.loads(wire.encode_upload("user", "service", rows)) == {
        "user_uuid": "user",
        "service_uuid": "service",
        "barcodes": [
            {
                "barcode_id": "CMBARCODE123",
                "checked_in_time": 1594912228,
                "status_code": 100,
                "status_message": "ADMIT - Ticket is valid",
            }
        ],
    }


def test_an_upload_is_acknowledged_by_its_message_alone() -> None:
    wire.read_upload_answer(b'{"info":{"message":"Barcodes Inserted successfully."}}')
    for other in (b"", b"{}", b"[]", b"<html>", b'{"data":1}', b'{"barcodes":[]}', b'{"error":"no"}'):
        with pytest.raises(ApiBadAnswer):
            wire.read_upload_answer(other)


def token(**claims: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJ0eXAiOiJKV1QifQ.{payload}.XLsS"


def test_the_documents_token_is_read() -> None:
    text = (
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzUxMiJ9.eyJpc3MiOiJodHRwczpcL1wvY210aWNrZXRzLmNvbSIsInN1YiI6IjAwMDAwMDAwLTAw"
        "MDAtMDAwMC0wMDAwLTAwMDAwMDAwMDAwIiwiaWF0IjoxNTk0OTA2Njc2LCJleHAiOjE2MDAwOTA5NzYsInVzZXIiOnsidXVpZCI6IjAwMD"
        "AwMDAwLTAwMDAtMDAwMC0wMDAwLTAwMDAwMDAwMDAwIiwiYWN0aXZlIjp0cnVlfX0.XLsSEujtNxzQfr7CtT7VYzNYIbXEgSLykm0i5wg"
    )
    assert wire.token_claims(text) == Claims(
        "00000000-0000-0000-0000-00000000000", timedelta(days=60, minutes=5), active=True
    )


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"sub": "a"}, Claims("a", None, active=True)),
        ({"user": {"uuid": "b", "active": False}}, Claims("b", None, active=False)),
        ({"sub": None, "user": {"uuid": "b", "active": "0"}}, Claims("b", None, active=False)),
        ({"sub": "a", "user": {"uuid": "b", "active": None}}, Claims("a", None, active=True, two_users=True)),
        ({"sub": "a", "user": {"uuid": "a"}}, Claims("a", None, active=True)),
        (
            {"sub": 12, "user": [], "iat": "100", "exp": "160"},
            Claims("12", timedelta(seconds=60), active=True),
        ),
        ({"sub": "a", "iat": 100, "exp": 100}, Claims("a", None, active=True)),
        ({"sub": "a", "iat": 100, "exp": 1e15}, Claims("a", None, active=True)),
        ({"sub": "a", "exp": 100}, Claims("a", None, active=True)),
    ],
)
def test_a_token_says_who_it_is_for_and_how_long_it_lives(claims: dict[str, Any], expected: Claims) -> None:
    assert wire.token_claims(token(**claims)) == expected


@pytest.mark.parametrize("bad", ["", "opaque", "a.b.c", "a.!!!.c", token(), token(sub="../x"), token(sub="")])
def test_a_token_that_names_no_user_is_a_bad_answer(bad: str) -> None:
    with pytest.raises(ApiBadAnswer):
        wire.token_claims(bad)


@pytest.mark.parametrize(
    "login", [None, [], {}, {"token": None}, {"token": ""}, {"token": "a\r\nX: y"}, {"token": "é"}]
)
def test_a_login_without_a_token_that_a_header_can_carry_is_a_bad_answer(login: Any) -> None:
    with pytest.raises(ApiBadAnswer):
        wire.read_login(body(login=login))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"info": {"message": "Barcodes Inserted successfully."}}, "Barcodes Inserted successfully."),
        ({"info": "no"}, "no"),
        ({"message": "no"}, "no"),
        ({"error": "no"}, "no"),
        ({"error": {"message": "no"}}, "no"),
        ({"errors": ["no", "nor that"]}, "no"),
        ({"errors": [{"message": "no"}]}, "no"),
        ({"login": {"message": "no"}}, "no"),
        ({"info": [], "message": "a\nb\x1b[0m" + "c" * 500}, "a b [0m" + "c" * 193),
        ({"info": 5}, ""),
        ([], ""),
    ],
)
def test_an_errors_message_is_found_wherever_it_is(said: Any, message: str) -> None:
    assert wire.info_message(json.dumps(said).encode()) == message


def test_an_errors_body_that_is_no_json_says_nothing() -> None:
    assert [wire.info_message(bad) for bad in (b"", b"<html>", b"\xff", b"[" * 5000)] == ["", "", "", ""]


@pytest.mark.parametrize(
    ("message", "about_token"),
    [
        ("The token has expired.", True),
        ("Expired", True),
        ("JWT invalid", True),
        ("Unauthorized", True),
        ("Authentication required", True),
        ("Please log in", True),
        ("DENY - Ticket barcode is expired: on 2026-07-16 12:00:00 UTC", False),
        ("DENY - Ticket barcode unknown: not accepted at this check-in point", False),
        ("A barcode can't be inserted.", False),
        ("", False),
    ],
)
def test_a_message_about_the_token_is_told_from_one_about_a_ticket(message: str, about_token: bool) -> None:
    assert wire.speaks_of_token(message) is about_token


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Thu, 16 Jul 2026 12:00:00 GMT", NOON),
        ("Thu, 16 Jul 2026 14:00:00 +0200", NOON),
        ("Thu, 16 Jul 2026 12:00:00 -0000", NOON),
        *[(odd, None) for odd in ("2026-07-16", "", "Fri, 31 Dec 9999 23:59:59 -0100", "1 Jan " + "9" * 30)],
        (None, None),
    ],
)
def test_a_date_header_is_read_as_utc(header: str | None, expected: datetime | None) -> None:
    assert wire.read_http_date(header) == expected


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("5", 5.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("86400", 300.0),
        ("Thu, 16 Jul 2026 12:00:30 GMT", 30.0),
        ("Thu, 16 Jul 2026 11:00:00 GMT", 0.0),
        ("Fri, 17 Jul 2026 12:00:00 GMT", 300.0),
        ("soon", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_never_over_five_minutes(
    header: str | None, seconds: float | None
) -> None:
    assert wire.read_retry_after(header, NOON) == seconds


def test_a_date_in_retry_after_means_nothing_without_the_servers_own() -> None:
    assert wire.read_retry_after("Thu, 16 Jul 2026 12:00:30 GMT", None) is None
