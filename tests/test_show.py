"""What people read: golden texts of a gate's status, and how an upload and a download are shown."""

import re
from collections.abc import Mapping
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from gated.core.events import State
from gated.core.passage import TABLE
from gated.errors import ControlError
from gated.show import follow_sync, lane_table, lane_table_lines, outbox_lines, purged, status_lines


def lane(name: str, **changed: object) -> dict[str, Any]:
    reading = {f"{name} scanner": {"state": "reading", "why": "/dev/ttyACM0"}}
    view = {
        "name": name,
        "direction": "entry",
        "state": "ready",
        "mode": "controlled",
        "shown": "ready",
        "released": False,
        "scanners": reading,
    }
    return view | changed


def status(**changed: object) -> dict[str, Any]:
    """The daemon's answer for a gate where all is well, but for what is given; ``store`` is merged."""
    store = {
        "complete": True,
        "tickets": 12345,
        "outbox": outbox(0, 0),
        "undurable": 0,
    }
    well = {
        "gate": "North gate",
        "version": "0.1.0",
        "strategy": "local",
        "service": "Summer festival",
        "api": "ok",
        "emergency": False,
        "alarms": {},
        "time": "2026-06-12T14:03:22+00:00",
        "time_trust": "synchronised",
        "lanes": [lane("in"), lane("way out", direction="exit")],
    }
    more = changed.pop("store", {})
    assert isinstance(more, dict)
    return well | changed | {"store": store | more}


def outbox(check_ins: int, others: int, parked: int = 0) -> dict[str, Any]:
    oldest_ms = 1_781_272_800_000 if check_ins + others else None
    return {"check_ins": check_ins, "others": others, "parked": parked, "oldest_ms": oldest_ms}


HEALTHY = """\
North gate

  lane     in       entry  ready
           scanner in scanner: reading
  lane     way out  exit   ready
           scanner way out scanner: reading
  service  Summer festival: 12345 tickets
  API      answers
  outbox   empty: the server has every scan
  time     2026-06-12 14:03:22 UTC, synchronised
  gated    0.1.0, strategy local"""

OFFLINE = """\
North gate

! lane     in       entry  ready
!          scanner left: lost, no such device
           scanner right: reading
  lane     way out  exit   passing, barrier released
           scanner way out scanner: reading
  service  Summer festival: 12345 tickets
! API      api.cm.com: connection timed out
! outbox   312 scans for the server, the oldest of 2026-06-12 14:00:00 UTC
! time     2026-06-12 14:03:22 UTC, unknown
  gated    0.1.0, strategy direct"""

EMERGENCY = """\
North gate

! EMERGENCY  once its cause is over, end it with: gated emergency reset --why …
  lane     in       entry  emergency, mode out of service, barrier released
           scanner in scanner: reading
  lane     way out  exit   emergency
           scanner way out scanner: reading
  service  Summer festival: 12345 tickets
  API      answers
  outbox   1 scan for the server, the oldest of 2026-06-12 14:00:00 UTC
  time     2026-06-12 14:03:22 UTC, estimated
  gated    0.1.0, strategy local"""

UNDURABLE = """\
North gate

  lane     in  entry  out of service
           scanner in scanner: reading
! service  not known yet: tickets not downloaded yet
! API      not reached yet
  outbox   empty: the server has every scan
! disk     FAILING: 3 scans in memory only
  time     2026-06-12 14:03:22 UTC, synchronised
  gated    0.1.0, strategy local"""

ALARMS = """\
North gate

  lane     in  entry  ready
           scanner in scanner: reading
  service  Summer festival: 12345 tickets
  API      answers
! outbox   3 scans for the server, the oldest of 2026-06-12 14:00:00 UTC; 1 parked: gated outbox
! alarm    uncertain: scans 1, hint gated outbox list
! alarm    double_entry: here 2026-06-12T13:00:00+00:00 and 2026-06-12T14:00:00+00:00, server unknown
  time     2026-06-12 14:03:22 UTC, synchronised
  gated    0.1.0, strategy local"""

LEFT_LOST = {
    "left": {"state": "lost", "why": "no such device"},
    "right": {"state": "reading", "why": "/dev/ttyACM1"},
}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (status(), HEALTHY),
        (
            status(
                api="api.cm.com: connection timed out",
                strategy="direct",
                time_trust="unknown",
                store={"outbox": outbox(300, 12)},
                lanes=[
                    lane("in", scanners=LEFT_LOST),
                    lane("way out", direction="exit", state="passing", released=True),
                ],
            ),
            OFFLINE,
        ),
        (
            status(
                emergency=True,
                time_trust="estimated",
                store={"outbox": outbox(1, 0)},
                lanes=[
                    lane("in", state="emergency", mode="out_of_service", released=True),
                    lane("way out", direction="exit", state="emergency"),
                ],
            ),
            EMERGENCY,
        ),
        (
            status(
                service=None,
                api="not reached yet",
                store={"undurable": 3, "complete": False},
                lanes=[lane("in", state="out_of_service", mode="out_of_service")],
            ),
            UNDURABLE,
        ),
        (
            status(
                lanes=[lane("in")],
                store={"outbox": outbox(2, 1, parked=1)},
                alarms={
                    "uncertain": {"scans": 1, "hint": "gated outbox list"},
                    "double_entry": {
                        "here": ["2026-06-12T13:00:00+00:00", "2026-06-12T14:00:00+00:00"],
                        "server": None,
                    },
                },
            ),
            ALARMS,
        ),
    ],
    ids=["healthy", "offline", "emergency", "undurable", "alarms"],
)
def test_a_status_is_shown_as(answer: Mapping[str, Any], text: str) -> None:
    assert "\n".join(status_lines(answer)) == text


def test_where_all_is_well_no_line_asks_to_be_looked_at() -> None:
    assert not [line for line in status_lines(status()) if line.startswith("!")]


def shown(*answers: Mapping[str, Any], terminal: bool = False) -> str:
    file = StringIO()
    follow_sync(answers, Console(file=file, width=80, force_terminal=terminal, highlight=False))
    return file.getvalue()


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ([{"uploaded": 0}, {"changed": 1}], "no scans uploaded\n1 changed ticket fetched\n"),
        ([{"uploaded": 1}, {"changed": 0}], "1 scan uploaded\nno changed tickets fetched\n"),
        ([{"uploaded": 50}, {"tickets": 1500}], "50 scans uploaded\n1500 tickets fetched\n"),
    ],
)
def test_what_came_of_a_sync_is_told_in_a_line_each(answers: list[Mapping[str, Any]], text: str) -> None:
    assert shown(*answers) == text


PAGES = [{"page": page, "pages": 3, "tickets": page * 500} for page in (1, 2, 3)]


def test_a_full_download_moves_a_bar_page_by_page_on_a_terminal() -> None:
    text = shown({"uploaded": 2}, *PAGES, {"tickets": 1500}, terminal=True)
    assert "page 3 of 3, 1500 tickets" in text
    assert "━" in text
    assert "1500 tickets fetched\n" in text


def test_a_full_download_shows_no_bar_where_there_is_no_terminal() -> None:
    assert "page" not in shown({"uploaded": 2}, *PAGES, {"tickets": 1500})


def test_a_server_that_does_not_say_how_many_pages_there_are_gets_a_question_mark() -> None:
    assert "page 7 of ?, 3500 tickets" in shown({"page": 7, "pages": None, "tickets": 3500}, terminal=True)


def test_an_error_in_mid_download_leaves_what_was_done_before_in_sight() -> None:
    def answers() -> Any:
        yield {"uploaded": 2}
        yield PAGES[0]
        raise ControlError("gated broke off")

    file = StringIO()
    with pytest.raises(ControlError):
        follow_sync(answers(), Console(file=file, width=80))
    assert "2 scans uploaded" in file.getvalue()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"uploaded": 2}, "2 scans uploaded"),
        ({"upload_failed": "no network", "hint": "Look."}, "the upload failed: no network\nLook."),
        (
            {"purged": True, "lost": 0},
            "purged: this gate knows no ticket and no scan, and downloads the tickets anew",
        ),
        (
            {"purged": True, "lost": 1},
            "purged: 1 scan lost to the server; this gate knows no ticket and no scan, and downloads the"
            " tickets anew",
        ),
    ],
)
def test_what_came_of_a_purge_is_told_in_a_line_each(answer: Mapping[str, Any], text: str) -> None:
    assert purged(answer) == text


def waiting(**changed: object) -> dict[str, Any]:
    row = {"time_ms": 1_781_272_800_000, "lane": "in", "barcode": "GAT…01", "code": 100, "lost": False}
    return row | {"parked": ""} | changed


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        ([], ["The server has everything."]),
        (
            [waiting()],
            ["1 scan in the outbox:", "2026-06-12 14:00:00 UTC  in  GAT…01  100  waits"],
        ),
        (
            [waiting(lost=True), waiting(code=50, parked="refused")],
            [
                "2 scans in the outbox:",
                "2026-06-12 14:00:00 UTC  in  GAT…01  100  answer lost",
                "2026-06-12 14:00:00 UTC  in  GAT…01  50  parked: refused",
            ],
        ),
    ],
    ids=["empty", "one waits", "lost and parked"],
)
def test_the_outbox_says_of_each_scan_why_it_is_there(
    rows: list[Mapping[str, Any]], lines: list[str]
) -> None:
    assert outbox_lines(rows) == lines


def test_the_lane_table_has_every_state_and_event_and_says_what_the_code_does() -> None:
    table = lane_table()
    assert list(table) == list(State)
    assert sum(map(len, table.values())) == len(TABLE)
    for row in table.values():
        for sentence in row.values():
            assert re.fullmatch(r"[A-Z].*[.]", sentence), f"a transition without a docstring: {sentence}"
    assert table["locked"]["operator released"] == "Refused: unlock the lane first."


def test_the_lane_table_fits_a_terminal() -> None:
    lines = lane_table_lines(80)
    assert lines[0] == "ready"
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line and not line.startswith(" ")] == [
        state.replace("_", " ") for state in State
    ]
