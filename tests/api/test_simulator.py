"""The simulator on real sockets: the document's endpoints, the faults, and the habits."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from gated.api.simulator import (
    AnsweredRows,
    Event,
    Fault,
    Habits,
    Refusals,
    Service,
    Simulator,
    Ticket,
    Times,
    made_up_event,
)

NOW = 1_594_912_228  # 2020-07-16 15:10:28 UTC
DEVICE = "DEVICE_ID:1,MANUFACTURER:X,MODEL:X,OS:X,OS_VERSION:X"
PAGING = {"X-PAGINATION-LIMIT": "500", "X-PAGINATION-PAGE": "1"}
SCAN: dict[str, object] = {
    "barcode_id": "A",
    "checked_in_time": NOW,
    "status_code": 100,
    "status_message": "ADMIT - Ticket is valid",
}


class Gate:
    """A client that knows the document and nothing of gated's own client."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.http = httpx.Client(
            base_url=simulator.url, verify=False, trust_env=False, timeout=5, headers=self.headers()
        )
        self.user = ""
        self.service = simulator.event.service.uuid

    @staticmethod
    def headers() -> dict[str, str]:
        return {"X-DEVICE-INFO": DEVICE, "Content-Type": "application/json"}

    def ask_login(self, password: str = "secret") -> httpx.Response:
        credentials = {"username": "gate", "password": password}
        return self.http.post("/userlogin", json={"credentials": credentials})

    def log_in(self) -> dict[str, Any]:
        token = self.ask_login().json()["login"]["token"]
        self.http.headers["Authorization"] = f"bearer {token}"
        payload = token.split(".")[1]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        self.user = claims["sub"]
        return claims

    def services(self) -> httpx.Response:
        return self.http.get(f"/users/{self.user}/services")

    def page(self, number: int = 1, limit: int = 500, since: int | None = None) -> httpx.Response:
        headers = {"X-PAGINATION-LIMIT": str(limit), "X-PAGINATION-PAGE": str(number)}
        if since is not None:
            headers["X-COMPARE-TIMESTAMP"] = str(since)
        return self.http.get(f"/services/{self.service}/barcodes", headers=headers)

    def rows(self, since: int | None = None) -> Any:
        return self.page(since=since).json()["barcodes"]

    def scan(self, barcode: object, path: str = "checkin") -> httpx.Response:
        body = {"user_uuid": self.user, "service_uuid": self.service, "barcode_id": barcode}
        return self.http.post(f"/barcodes/{path}", json=body)

    def code(self, barcode: str, path: str = "checkin") -> object:
        return self.scan(barcode, path).json()["barcodes"][0]["scan_status_code"]

    def upload(self, *scans: dict[str, object]) -> httpx.Response:
        body = {"user_uuid": self.user, "service_uuid": self.service, "barcodes": list(scans)}
        return self.http.post("/barcodes/upload", json=body)


def small_event() -> Event:
    tickets = [Ticket("A"), Ticket("B", external_barcode_id="8710"), Ticket("123", remaining_scans=0)]
    return Event(Service(), NOW - 86_400, {ticket.barcode_id: ticket for ticket in tickets})


@contextmanager
def gate_at(event: Event | None = None, **habits: Any) -> Iterator[Gate]:
    with Simulator(event or small_event(), clock=lambda: NOW, habits=Habits(**habits)) as simulator:
        gate = Gate(simulator)
        with gate.http:
            gate.log_in()
            yield gate


@pytest.fixture
def gate() -> Iterator[Gate]:
    with gate_at() as gate:
        yield gate


# The document's endpoints


def test_login_gives_a_token_with_the_users_uuid_and_an_expiry(gate: Gate) -> None:
    claims = gate.log_in()

    assert claims["sub"] == claims["user"]["uuid"]
    assert claims["user"]["active"] is True
    assert claims["exp"] - claims["iat"] == 5_184_300


def test_login_with_a_wrong_password_is_401(gate: Gate) -> None:
    refused = gate.ask_login("wrong")

    assert (refused.status_code, refused.json()) == (401, {"info": {"message": "Invalid credentials."}})


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"X-DEVICE-INFO": ""}, 401),
        ({"Content-Type": "text/plain"}, 400),
        ({"Authorization": ""}, 401),
        ({"Authorization": "bearer x.y.z"}, 401),
        ({"X-PAGINATION-LIMIT": ""}, 400),
        ({"X-PAGINATION-PAGE": "application/json"}, 400),
        ({"X-PAGINATION-PAGE": "0"}, 400),
        ({"X-COMPARE-TIMESTAMP": "yesterday"}, 400),
    ],
)
def test_barcodes_want_their_headers(gate: Gate, changed: dict[str, str], status: int) -> None:
    answer = gate.http.get(f"/services/{gate.service}/barcodes", headers=PAGING | changed)

    assert answer.status_code == status
    assert answer.json()["info"]["message"]


def test_scheme_is_bearer_in_lower_case(gate: Gate) -> None:
    gate.http.headers["Authorization"] = gate.http.headers["Authorization"].replace("bearer", "Bearer")

    assert gate.services().status_code == 401


def test_service_has_the_documents_keys() -> None:
    with gate_at(made_up_event(10, NOW)) as gate:
        (service,) = gate.services().json()["services"]

    assert list(service) == [
        "uuid",
        "name",
        "description",
        "setup",
        "information_level",
        "sync_interval",
        "url",
        "count_total_available",
        "permissions",
        "ticket_types",
    ]
    assert [permission["name"] for permission in service["permissions"]] == ["checkin", "checkout", "lookup"]
    assert {kind["ticket_type"] for kind in service["ticket_types"]} == {"Regular", "VIP", "Child"}
    assert service["count_total_available"] == sum(
        kind["total_available"] for kind in service["ticket_types"]
    )


def test_other_services_are_listed_and_have_no_tickets() -> None:
    event = small_event()
    event.other_services.append(Service(uuid="backstage", name="Backstage"))
    with gate_at(event) as gate:
        assert len(gate.services().json()["services"]) == 2
        gate.service = "backstage"
        assert gate.rows() == []
        gate.service = "nowhere"
        assert gate.page().status_code == 404


def test_another_users_services_are_refused(gate: Gate) -> None:
    gate.user = "somebody"

    assert gate.services().status_code == 401


def test_pages_are_linked_and_hold_every_ticket_once() -> None:
    with gate_at(made_up_event(1000, NOW)) as gate:
        seen: list[str] = []
        number: int | None = 1
        while number is not None:
            body = gate.page(number, 300).json()
            pagination = body["pagination"]
            assert pagination["page_items"] == len(body["barcodes"])
            assert pagination["pages"]["current_page"] == number
            assert pagination["pages"]["previous_page"] == (number - 1 or None)
            seen += [row["barcode_id"] for row in body["barcodes"]]
            number = pagination["pages"]["next_page"]

        assert seen == list(gate.simulator.event.tickets)
        assert (pagination["total_items"], pagination["total_pages"]) == (len(seen), 4)


def test_page_beyond_the_last_is_empty(gate: Gate) -> None:
    body = gate.page(9).json()

    assert (body["barcodes"], body["pagination"]["pages"]["next_page"]) == ([], None)


def test_row_has_the_documents_keys(gate: Gate) -> None:
    documented = """
        barcode_id external_barcode_id batch_id ticket_type ticket_type_hash_id subtitle first_name sur_name
        city email mobile serial_number price is_checkin_allowed is_canceled expire_from
        checkin_valid_from checkin_valid_till validation_max_checkins remaining_scans count_checked_in
        last_checked_in_time last_checked_out_time section_id section row seat scan_status_code
        scan_status_message"""

    assert list(gate.rows()[0]) == documented.split()
    assert list(gate.scan("A").json()["barcodes"][0]) == documented.split()
    assert list(gate.scan("nobody's").json()["barcodes"][0]) == documented.split()


def test_delta_holds_what_a_check_in_changed(gate: Gate) -> None:
    assert gate.rows(since=NOW - 60) == []

    gate.scan("A")

    (changed,) = gate.rows(since=NOW - 60)
    assert (changed["barcode_id"], changed["count_checked_in"], changed["last_checked_in_time"]) == (
        "A",
        1,
        NOW,
    )


def test_direct_scans_answer_with_the_code_in_the_row(gate: Gate) -> None:
    assert gate.scan("A").status_code == gate.scan("A").status_code == 201
    assert [gate.code("A"), gate.code("nobody's"), gate.code("8710")] == [50, 40, 100]
    assert [gate.code("A", "checkout"), gate.code("A", "checkout")] == [200, 210]
    assert gate.scan("8710").json()["barcodes"][0]["barcode_id"] == "B"


def test_direct_scan_of_another_user_service_or_type_is_400(gate: Gate) -> None:
    assert gate.scan(123).status_code == 400
    gate.user, user = "somebody", gate.user
    assert gate.scan("A").status_code == 400
    gate.user, gate.service = user, "elsewhere"
    assert gate.scan("A").status_code == 400
    assert gate.simulator.checkins == []


def test_upload_is_kept_and_counted(gate: Gate) -> None:
    answer = gate.upload(SCAN, SCAN | {"status_code": 50})

    assert (answer.status_code, answer.json()) == (
        201,
        {"info": {"message": "Barcodes Inserted successfully."}},
    )
    assert [received.scan.status_code for received in gate.simulator.uploaded] == [100, 50]
    assert [movement.at for movement in gate.simulator.checkins] == [NOW]


@pytest.mark.parametrize(
    "changed",
    [{"barcode_id": 1}, {"checked_in_time": "now"}, {"checked_in_time": True}, {"status_code": 7}, None],
)
def test_upload_with_one_bad_row_inserts_none(gate: Gate, changed: dict[str, object] | None) -> None:
    bad: dict[str, object] = {"barcode_id": "A"} if changed is None else SCAN | changed

    assert gate.upload(SCAN, bad).status_code == 400
    assert gate.simulator.uploaded == []


def test_unknown_paths_are_404_and_counted_apart(gate: Gate) -> None:
    assert gate.http.get("/elsewhere").status_code == 404
    assert gate.http.get("/barcodes/upload").status_code == 404
    assert gate.simulator.requests["other"] == 2
    assert gate.simulator.requests["login"] == 1


def test_connection_is_kept_for_many_requests(gate: Gate) -> None:
    streams = {id(gate.services().extensions["network_stream"]) for _ in range(5)}

    assert len(streams) == 1


def test_revoked_token_is_401_until_the_next_login(gate: Gate) -> None:
    gate.simulator.revoke_tokens()
    assert gate.services().status_code == 401

    gate.log_in()
    assert gate.services().status_code == 200


def test_check_ins_at_once_admit_once(gate: Gate) -> None:
    codes: list[object] = []
    threads = [threading.Thread(target=lambda: codes.append(gate.code("A"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert codes.count(100) == 1
    assert codes.count(50) == 7


def test_page_of_five_hundred_is_quick() -> None:
    with gate_at(made_up_event(20_000, NOW)) as gate:
        gate.page(1)
        started = time.perf_counter()
        gate.page(30)
        assert time.perf_counter() - started < 0.25


# Starting and stopping


def test_stop_ends_idle_connections_and_start_takes_the_same_port() -> None:
    simulator = Simulator(small_event(), clock=lambda: NOW)
    simulator.start()
    gate = Gate(simulator)
    gate.log_in()
    url = simulator.url

    simulator.stop()
    with pytest.raises(httpx.TransportError):
        gate.services()

    simulator.start()
    assert simulator.url == url
    gate.log_in()
    assert gate.services().status_code == 200
    gate.http.close()
    simulator.stop()
    simulator.stop()


# Faults


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault.startswith("status_")])
def test_status_fault_answers_with_it_once(gate: Gate, fault: Fault) -> None:
    gate.simulator.faults.add("upload", fault, seconds=7)
    answer = gate.upload(SCAN)

    assert answer.status_code == int(fault.split("_")[1])
    assert answer.headers.get("Retry-After") == ("7" if answer.status_code in {429, 503} else None)
    assert len(gate.simulator.uploaded) == (1 if fault is Fault.STATUS_500_AFTER else 0)
    assert gate.upload(SCAN).status_code == 201


@pytest.mark.parametrize(
    ("fault", "recorded"),
    [
        (Fault.TIMEOUT, 0),
        (Fault.TIMEOUT_AFTER, 1),
        (Fault.CLOSED_BEFORE, 0),
        (Fault.CLOSED_AFTER, 1),
        (Fault.HEADERS_ONLY, 1),
        (Fault.HALF_BODY, 1),
    ],
)
def test_lost_answer_is_lost_before_or_after_the_work(gate: Gate, fault: Fault, recorded: int) -> None:
    gate.simulator.faults.add("checkin", fault, seconds=0.01)

    with pytest.raises(httpx.TransportError):
        gate.scan("A")
    assert len(gate.simulator.checkins) == recorded
    assert gate.code("A") == (50 if recorded else 100)


def test_timeout_lasts_until_the_client_gives_up(gate: Gate) -> None:
    gate.simulator.faults.add("any", Fault.TIMEOUT)
    gate.http.timeout = httpx.Timeout(0.02)

    with pytest.raises(httpx.ReadTimeout):
        gate.services()


def test_slow_body_comes_whole_and_late(gate: Gate) -> None:
    gate.simulator.faults.add("barcodes", Fault.SLOW_DRIP, seconds=0.05)
    started = time.perf_counter()

    assert len(gate.rows()) == 3
    assert time.perf_counter() - started >= 0.05


@pytest.mark.parametrize(
    ("fault", "status", "body"),
    [
        (Fault.NOT_JSON, 200, "<!doctype html>"),
        (Fault.EMPTY_BODY, 200, ""),
        (Fault.OTHER_SHAPE, 200, '{"data"'),
        (Fault.REDIRECT, 302, ""),
    ],
)
def test_strange_answers_take_the_place_of_the_right_one(
    gate: Gate, fault: Fault, status: int, body: str
) -> None:
    gate.simulator.faults.add("checkin", fault)
    answer = gate.scan("A")

    assert answer.status_code == status
    assert answer.text.startswith(body)
    assert gate.simulator.checkins == []


def test_empty_list_is_well_formed(gate: Gate) -> None:
    gate.simulator.faults.add("barcodes", Fault.EMPTY_LIST)
    body = gate.page().json()

    assert (body["barcodes"], body["pagination"]["total_items"]) == ([], 0)
    assert len(gate.rows()) == 3


def test_fault_strikes_its_endpoint_so_often_and_no_sooner(gate: Gate) -> None:
    gate.simulator.faults.add("services", "status_500", 2, after=1)

    assert gate.scan("A").status_code == 201
    assert [gate.services().status_code for _ in range(4)] == [200, 500, 500, 200]


def test_faults_can_be_forgotten(gate: Gate) -> None:
    gate.simulator.faults.add("any", "status_500", 1000)
    gate.simulator.faults.clear()

    assert gate.services().status_code == 200


@pytest.mark.parametrize(("endpoint", "fault"), [("elsewhere", "timeout"), ("upload", "earthquake")])
def test_fault_that_is_none_is_refused(gate: Gate, endpoint: str, fault: str) -> None:
    with pytest.raises(ValueError, match="is not a valid"):
        gate.simulator.faults.add(endpoint, fault)


def test_something_can_happen_between_two_pages(gate: Gate) -> None:
    gate.simulator.faults.meanwhile("barcodes", lambda: gate.simulator.event.remove("A"), after=1)

    pages = [[row["barcode_id"] for row in gate.page(number, 1).json()["barcodes"]] for number in (1, 2)]

    assert pages == [["A"], ["123"]]


# Habits


@pytest.mark.parametrize(
    ("times", "written"),
    [
        (Times.EPOCH, NOW),
        (Times.EPOCH_MS, NOW * 1000),
        (Times.ISO, "2020-07-16T15:10:28+00:00"),
        (Times.NAIVE, "2020-07-16 15:10:28"),
        (Times.PHP, {"date": "2020-07-16 15:10:28.000000", "timezone_type": 3, "timezone": "UTC"}),
    ],
)
def test_times_are_written_by_habit(times: Times, written: object) -> None:
    with gate_at(times=times) as gate:
        row = gate.scan("A").json()["barcodes"][0]

        assert row["last_checked_in_time"] == written
        assert row["expire_from"] is None


def first_row(gate: Gate) -> dict[str, Any]:
    row: dict[str, Any] = gate.rows()[0]
    return row


@pytest.mark.parametrize(
    ("habits", "seen", "expected"),
    [
        ({"zero_dates": True}, lambda gate: first_row(gate)["expire_from"], "0000-00-00 00:00:00"),
        ({"booleans": True}, lambda gate: first_row(gate)["is_checkin_allowed"], True),
        ({"numbers_as_strings": True}, lambda gate: first_row(gate)["remaining_scans"], "1"),
        ({"numbers_as_strings": True}, lambda gate: gate.page().json()["pagination"]["total_items"], "3"),
        ({"php_lists": True}, lambda gate: list(gate.rows()), ["1", "2", "3"]),
        ({"php_lists": True}, lambda gate: gate.rows(since=NOW), []),
        ({"barcodes_as_numbers": True}, lambda gate: gate.rows()[2]["barcode_id"], 123),
        ({"gzip": True}, lambda gate: gate.page().headers["Content-Encoding"], "gzip"),
        ({"gzip": True}, lambda gate: len(gate.rows()), 3),
        ({"user_active": False}, lambda gate: gate.log_in()["user"]["active"], False),
        ({"service_missing": True}, lambda gate: gate.services().json(), {"services": []}),
        ({"service_missing": True}, lambda gate: gate.page().status_code, 404),
        ({"permissions": ()}, lambda gate: gate.services().json()["services"][0]["permissions"], []),
        ({"permissions": None}, lambda gate: "permissions" in gate.services().text, False),
        ({"delta_ignores_header": True}, lambda gate: len(gate.rows(since=NOW)), 3),
        (
            {"next_page_loops": True},
            lambda gate: gate.page(2, 1).json()["pagination"]["pages"]["next_page"],
            2,
        ),
        ({"total_items_off_by": -1}, lambda gate: gate.page().json()["pagination"]["total_items"], 2),
        ({"code_as_string": True}, lambda gate: gate.code("A"), "100"),
        ({"answer_code": 110}, lambda gate: gate.code("A"), 110),
        (
            {"answer_text": "DENY - no"},
            lambda gate: gate.scan("A").json()["barcodes"][0]["scan_status_message"],
            "DENY - no",
        ),
        ({"answered_rows": AnsweredRows.TWO}, lambda gate: len(gate.scan("A").json()["barcodes"]), 2),
        (
            {"answered_rows": AnsweredRows.ANOTHER},
            lambda gate: gate.scan("A").json()["barcodes"][0]["barcode_id"],
            "GATED-ANOTHER",
        ),
        ({"refusals": Refusals.ROW_400}, lambda gate: gate.scan("123").status_code, 400),
        ({"refusals": Refusals.ROW_400}, lambda gate: gate.code("123"), 50),
        (
            {"refusals": Refusals.MESSAGE_400},
            lambda gate: gate.scan("nobody's").json()["info"]["message"][:4],
            "DENY",
        ),
        ({"refusals": Refusals.MESSAGE_400}, lambda gate: gate.scan("A").status_code, 201),
        (
            {"checkout_returns_entry": True},
            lambda gate: [gate.code("A"), gate.code("A", "checkout"), gate.code("A")],
            [100, 200, 100],
        ),
        ({"poisonous_barcodes": frozenset({"A"})}, lambda gate: gate.upload(SCAN).status_code, 400),
        ({"max_upload_rows": 1}, lambda gate: gate.upload(SCAN, SCAN).status_code, 413),
        (
            {"deduplicate_uploads": True},
            lambda gate: (gate.upload(SCAN, SCAN).status_code, len(gate.simulator.uploaded)),
            (201, 1),
        ),
        ({"no_date_header": True}, lambda gate: "Date" in gate.page().headers, False),
        ({}, lambda gate: gate.page().headers["Date"], "Thu, 16 Jul 2020 15:10:28 GMT"),
        ({"clock_offset_s": 600}, lambda gate: gate.page().headers["Date"], "Thu, 16 Jul 2020 15:20:28 GMT"),
        (
            {"clock_offset_s": 600},
            lambda gate: gate.scan("A").json()["barcodes"][0]["last_checked_in_time"],
            NOW + 600,
        ),
    ],
)
def test_habit_shows(habits: dict[str, Any], seen: Callable[[Gate], object], expected: object) -> None:
    with gate_at(**habits) as gate:
        assert seen(gate) == expected


def test_order_number_checks_in_every_ticket_of_the_order_by_habit() -> None:
    with gate_at(made_up_event(0, NOW), orders_check_in=True) as gate:
        rows = gate.scan("GATED-ORDER").json()["barcodes"]

        assert [row["barcode_id"] for row in rows] == ["GATED-GROUP-1", "GATED-GROUP-2", "GATED-GROUP-3"]
        assert len(gate.simulator.checkins) == 3


def test_second_login_revokes_the_first_token_by_habit() -> None:
    with gate_at(second_login_revokes=True) as gate:
        gate.ask_login()

        assert gate.services().status_code == 401


@pytest.mark.parametrize(("as_400", "status"), [(False, 401), (True, 400)])
def test_expired_token_is_refused_with_a_message_that_says_so(as_400: bool, status: int) -> None:
    with gate_at(token_life_s=0, expired_token_as_400=as_400) as gate:
        refused = gate.scan("A")

        assert refused.status_code == status
        assert "token has expired" in refused.json()["info"]["message"]
        assert gate.services().status_code == 401


def test_habits_can_change_while_it_runs(gate: Gate) -> None:
    gate.simulator.habits = Habits(booleans=True)

    assert first_row(gate)["is_canceled"] is False
