"""The whole gate: a real process, real bytes through pseudo-terminals, a real server over a socket."""

import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from gated.__main__ import main
from gated.api.simulator import LATER, Simulator, Ticket, made_up_event
from gated.control import SOCKET, ask
from tests.gate import GateProcess, uploaded


@pytest.fixture(scope="module")
def server() -> Iterator[Simulator]:
    with Simulator(made_up_event(extra=40)) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def gate(server: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GateProcess]:
    with GateProcess(tmp_path_factory.mktemp("gate"), server.url) as process:
        process.wait_downloaded()
        yield process


def test_a_valid_ticket_is_admitted_once_and_the_server_has_both_scans_with_their_times(
    gate: GateProcess, server: Simulator
) -> None:
    before = int(time.time())
    first = gate.scan("GATED-REGULAR")
    assert (first["verdict"], first["code"], first["reason"], first["origin"]) == (
        "ADMIT",
        100,
        "valid",
        "local",
    )
    gate.wait("passage")
    second = gate.scan("GATED-REGULAR")
    assert (second["verdict"], second["code"], second["reason"]) == ("DENY", 50, "already_scanned")
    times = uploaded(server, "GATED-REGULAR", [100, 50])
    assert all(before <= each <= time.time() for each in times)


@pytest.mark.parametrize(
    ("barcode", "code", "reason"),
    [
        ("GATED-CANCELED", 45, "canceled"),
        ("GATED-NOTALLOWED", 45, "not_allowed"),
        ("GATED-EARLY", 45, "too_early"),
        ("GATED-EXPIRED", 60, "expired"),
        ("GATED-OVER", 60, "expired"),
        ("GATED-USED", 50, "already_scanned"),
        ("GATED-ORDER", 40, "order"),
    ],
)
def test_a_ticket_that_may_not_enter_is_denied_for_its_reason(
    gate: GateProcess, barcode: str, code: int, reason: str
) -> None:
    scan = gate.scan(barcode)
    assert (scan["verdict"], scan["code"], scan["reason"]) == ("DENY", code, reason)


def test_what_was_denied_is_uploaded_too(gate: GateProcess, server: Simulator) -> None:
    gate.scan("GATED-OUT")
    uploaded(server, "GATED-OUT", [50])


def test_an_unknown_ticket_is_asked_about_then_denied_with_40(gate: GateProcess, server: Simulator) -> None:
    asked = server.requests["checkin"]
    scan = gate.scan("NOBODY-KNOWS-ME")
    assert (scan["code"], scan["origin"]) == (40, "ask")
    assert server.requests["checkin"] == asked + 1
    uploaded(server, "NOBODY-KNOWS-ME", [40])


def test_a_ticket_sold_a_minute_ago_is_admitted_by_asking_and_only_once(
    gate: GateProcess, server: Simulator
) -> None:
    server_event = server.event
    server_event.add_ticket(Ticket(LATER))
    assert (scan := gate.scan(LATER))["verdict"] == "ADMIT", scan
    assert scan["origin"] == "ask"
    gate.wait("passage")
    assert gate.scan(LATER)["code"] == 50


def test_a_ticket_is_found_by_its_external_barcode_and_uploaded_under_its_own(
    gate: GateProcess, server: Simulator
) -> None:
    assert gate.scan("8710000123458")["code"] == 100
    gate.wait("passage")
    assert gate.scan("GATED-PRINTED")["code"] == 50
    uploaded(server, "GATED-PRINTED", [100, 50])


def test_an_exit_opens_for_everybody_and_journals_its_verdict(gate: GateProcess) -> None:
    watch = ask(gate.folder / "state" / SOCKET, "watch")
    assert [next(watch)["what"] for _ in range(2)] == ["view", "view"]
    gate.exit.send(b"NOT-A-TICKET\r")
    assert gate.wait("scan", lane="out")["code"] == 230
    happened = [next(watch) for _ in range(3)]
    assert ("barrier", True) in [(each["what"], each.get("released")) for each in happened]


def test_a_hostile_barcode_is_malformed_and_opens_nothing(gate: GateProcess) -> None:
    gate.entry.send(b"\x1b[2J; rm -rf /\x00\r")
    assert gate.wait("scan", lane="in")["reason"] == "malformed"
    assert gate.scan("';DROP TABLE ticket;--")["code"] == 40
    assert gate.scan("GATED000001")["code"] == 100


def test_an_unplugged_scanner_is_shown_and_comes_back(gate: GateProcess) -> None:
    gate.entry.unplug()
    gate.wait("scanner_lost")
    gate.wait_until("status['lanes'][0]['shown'] == 'scanner_lost'")
    assert gate.process.poll() is None
    gate.entry.plug_in()
    gate.wait("scanner_found")
    assert gate.scan("GATED000002")["code"] == 100


def test_an_operator_releases_a_lane_and_the_journal_knows_why(gate: GateProcess) -> None:
    command = ["release", "out", "--why", "wheelchair", "--config", str(gate.config)]
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, done.output) == (0, "out: released\n")
    assert gate.wait("released_by_operator")["why"] == "wheelchair"
