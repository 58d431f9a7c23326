"""What a steward reads: whole texts, and a table of first lines."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from gated.core.decide import Now, Question, Rules, decide
from gated.core.events import Came
from gated.core.explain import (
    Explanation,
    Mirrored,
    PastScan,
    Ruling,
    Tickets,
    Upload,
    ask_rules,
    data_of,
    lines_of,
)
from gated.core.overlay import NOTHING, Movement, Overlay, left, overlay_of
from gated.core.scan import Direction, LaneName, Moment, Scan, ScanId, TimeTrust
from gated.core.ticket import Ticket
from gated.core.verdict import Origin, Reason, Verdict, admit, deny

ZONE = ZoneInfo("Europe/Amsterdam")  # two hours before UTC in summer
NOW = datetime(2027, 7, 16, 17, 45, 10, tzinfo=UTC)
ENTERED = NOW - timedelta(minutes=3)
ALL = Tickets(complete=True, count=12345, as_of=NOW - timedelta(minutes=2))
IN, OUT = LaneName("in"), LaneName("out")


def ticket(**fields: Any) -> Ticket:
    return Ticket(
        **{
            "barcode_id": "SECRET-1",
            "external_barcode_id": "SECRET-2",
            "type_name": "Regular",
            "checkin_allowed": True,
            "max_checkins": 1,
            "remaining": 1,
            **fields,
        }
    )


def entered(direction: Direction = Direction.ENTRY, *, acknowledged: bool = False) -> Movement:
    return Movement(direction, acknowledged, 0, 1, ENTERED, "in" if direction is Direction.ENTRY else "out")


def past(number: int = 1, verdict: Verdict | None = None, **fields: Any) -> PastScan:
    return PastScan(
        **{
            "id": ScanId(UUID(int=number)),
            "at": ENTERED,
            "trust": TimeTrust.SYNCHRONISED,
            "lane": IN,
            "direction": Direction.ENTRY,
            "verdict": verdict or admit(100, Reason.VALID),
            "origin": Origin.LOCAL,
            "count_before": 0,
            "left_before": 1,
            "upload": Upload.DONE,
            **fields,
        }
    )


def explained(
    of: Ticket | None,
    overlay: Overlay = NOTHING,
    *,
    lanes: tuple[tuple[LaneName, Direction, frozenset[str]], ...] = ((IN, Direction.ENTRY, frozenset()),),
    trust: TimeTrust = TimeTrust.SYNCHRONISED,
    **fields: Any,
) -> Explanation:
    """What the store would make of a ticket, by the true rules."""
    now = Now(NOW, trust)
    rulings = []
    for name, direction, types in lanes:
        question = Question(of, overlay, Rules(lane_types=types), now)
        scan = Scan(ScanId(UUID(int=0)), "any", name, direction, Moment(NOW, trust, 0.0, "boot"))
        verdict = decide(scan, of, overlay, question.rules, now)
        rulings.append(
            Ruling(
                (name,),
                direction,
                question.rules,
                verdict,
                opens_always=direction is Direction.EXIT,
                answers=ask_rules(direction, question),
            )
        )
    return Explanation(
        **{
            "now": now,
            "tickets": ALL,
            "overlay": overlay,
            "mirrored": Mirrored(of, timedelta(minutes=4)) if of else None,
            "left": left(of, overlay, reentry_after_checkout=False) if of else None,
            "rulings": tuple(rulings),
            **fields,
        }
    )


BOTH = ((IN, Direction.ENTRY, frozenset[str]()), (OUT, Direction.EXIT, frozenset[str]()))

# Whole texts

ALREADY_SCANNED = """\
Denied: already scanned at 19:42 at lane in, 3 min ago.

  ticket   Regular, Friday, section B, row 4, seat 12
           allowed, not cancelled, valid from 18:00, expires 2027-07-17 03:00
           checked in: 0 of 1, 1 remaining, says the server
           last in never, last out never
           downloaded 4 min ago
  here     1 entry that the server has not got yet
           so no entries left

  Entry at in
    ✓ known
    ✓ not cancelled
    ✓ row readable
    ✓ allowed here
    ✓ not expired
    ✓ not too early
    ✓ no lapsed grant waiting
  > ✗ entries left: already scanned at 19:42 at lane in, 3 min ago

  Exit at out, which opens in any case
    ✓ in the service
    ✓ checked in
    ✓ not checked out
  > Admitted: may leave

  Scans here, newest last, times of Europe/Amsterdam
    2027-07-16 19:42:10  in, entry  Admitted: valid
      decided by this gate, waits for the server, the guest passed
    2027-07-16 19:44:40  in, entry  Denied: already scanned
      decided by this gate, set aside and not sent: refused"""

UNKNOWN = """\
Denied: no ticket has this barcode.

! ticket   not known here
           all 12345 tickets are downloaded, as of 19:43, 2 min ago
           never scanned here

  Entry at in
  > ✗ known: no ticket has this barcode

  Exit at out, which opens in any case
  > ✗ in the service: no ticket has this barcode"""

GONE = """\
Denied: the server does not have this ticket any more.

  ticket   of no type
           GONE: the last full download did not have it any more
           NOT ALLOWED, CANCELLED
           checked in: 1, says the server
           last in 2027-07-15 19:45, last out never
           downloaded at least 2 h ago

  Entry at in
  > ✗ known: the server does not have this ticket any more"""

A_SCAN = """\
Denied at 19:44 at lane in: already scanned at 19:42 at lane in.

  scan     2027-07-16 19:44:40, entry, 30 s ago
           decided by this gate
           not for the server
           by then checked in: 1, no entries left
           id 00000000-0000-0000-0000-000000000004
  ticket   Regular
           allowed, not cancelled
           checked in: 0 of 1, 1 remaining, says the server
           last in never, last out never
           downloaded 4 min ago
           the barcode is not kept; what holds now: gated explain BARCODE

  This ticket's scans here, newest last, times of Europe/Amsterdam
    2027-07-16 19:42:10  in, entry  Admitted: valid
      decided by the server, because this gate did not know the ticket, the server has it, nobody passed
  > 2027-07-16 19:44:40  in, entry  Denied: already scanned
      decided by this gate, not for the server
    2027-07-16 19:45:00  in, entry  Admitted: may go once more, was admitted and nobody passed
      decided by this gate, not for the server, its end was not seen, NOT ON DISK when it was acted on"""

MALFORMED = """\
Denied at 19:42 at lane in: what was read is no barcode.

  scan     2027-07-16 19:42:10, entry
           decided by this gate
           not for the server
           TIME UNKNOWN: then or later
           id 00000000-0000-0000-0000-000000000001"""

DENIAL = past(
    4,
    deny(50, Reason.ALREADY_SCANNED),
    at=NOW - timedelta(seconds=30),
    count_before=1,
    left_before=0,
    upload=Upload.NONE,
)
UNTRUSTED = past(1, deny(None, Reason.MALFORMED), trust=TimeTrust.UNKNOWN, upload=Upload.NONE)


@pytest.mark.parametrize(
    ("explanation", "text"),
    [
        (
            explained(
                ticket(
                    subtitle="Friday",
                    section="B",
                    row="4",
                    seat="12",
                    valid_from=NOW - timedelta(hours=1, minutes=45, seconds=10),
                    expire_from=NOW + timedelta(hours=7, minutes=14, seconds=50),
                ),
                overlay_of([entered()]),
                lanes=BOTH,
                scans=(
                    past(passage=Came.TAKEN, upload=Upload.WAITING),
                    replace(DENIAL, upload=Upload.PARKED, parked="refused"),
                ),
            ),
            ALREADY_SCANNED,
        ),
        (explained(None, lanes=BOTH), UNKNOWN),
        (
            explained(
                None,
                mirrored=Mirrored(
                    Ticket(
                        barcode_id="SECRET",
                        canceled=True,
                        checked_in=1,
                        last_checked_in=NOW - timedelta(days=1),
                    ),
                    timedelta(hours=2, minutes=59),
                    absent=True,
                    before_start=True,
                ),
            ),
            GONE,
        ),
        (
            replace(
                explained(ticket(), lanes=()),
                scan=DENIAL,
                scans=(
                    past(origin=Origin.ASK, passage=Came.NOT_TAKEN),
                    DENIAL,
                    past(
                        5,
                        admit(100, Reason.REGRANT),
                        at=NOW - timedelta(seconds=10),
                        origin=Origin.REGRANT,
                        upload=Upload.NONE,
                        undurable=True,
                    ),
                ),
            ),
            A_SCAN,
        ),
        (replace(explained(None, trust=TimeTrust.UNKNOWN, lanes=()), scan=UNTRUSTED), MALFORMED),
    ],
    ids=["already scanned", "unknown", "gone", "a scan", "malformed"],
)
def test_an_explanation_reads(explanation: Explanation, text: str) -> None:
    assert "\n".join(lines_of(explanation, ZONE)) == text


# The answer comes first, in one line

VIP = ((LaneName("VIP"), Direction.ENTRY, frozenset({"VIP"})),)
SOON = NOW + timedelta(minutes=15)


@pytest.mark.parametrize(
    ("of", "overlay", "changes", "answer"),
    [
        (ticket(), NOTHING, {}, "Admitted: valid, 1 entry left."),
        (ticket(remaining=5), NOTHING, {}, "Admitted: valid, 5 entries left."),
        (ticket(canceled=True), NOTHING, {}, "Denied: the ticket is cancelled."),
        (ticket(checkin_allowed=False), NOTHING, {}, "Denied: the organiser does not allow this ticket."),
        (ticket(), NOTHING, {"lanes": VIP}, "Denied: type Regular is not let in at this lane."),
        (
            ticket(unreadable="expire_from"),
            NOTHING,
            {},
            "Denied: the server's data of this ticket can't be read: expire_from.",
        ),
        (ticket(valid_from=SOON), NOTHING, {}, "Denied: valid only from 20:00."),
        (
            ticket(valid_from=NOW + timedelta(days=1)),
            NOTHING,
            {},
            "Denied: valid only from 2027-07-17 19:45.",
        ),
        (ticket(expire_from=NOW - timedelta(hours=1)), NOTHING, {}, "Denied: expired at 18:45, 60 min ago."),
        (
            ticket(valid_till=NOW - timedelta(days=3)),
            NOTHING,
            {},
            "Denied: expired on 2027-07-13 at 19:45, 3 days ago.",
        ),
        (
            ticket(remaining=0, checked_in=1, last_checked_in=ENTERED),
            NOTHING,
            {},
            "Denied: already scanned at 19:42, not at this gate, 3 min ago.",
        ),
        (
            ticket(remaining=0, checked_in=1, last_checked_in=ENTERED - timedelta(seconds=1)),
            NOTHING,
            {"scans": (past(),)},
            "Denied: already scanned at 19:42 at lane in, 3 min ago.",
        ),
        (
            ticket(remaining=0, checked_in=2, last_checked_in=ENTERED + timedelta(minutes=1)),
            NOTHING,
            {"scans": (past(),)},
            "Denied: already scanned at 19:43, 2 min ago.",
        ),
        (ticket(remaining=0), NOTHING, {}, "Denied: already scanned, nobody knows when."),
        (
            ticket(remaining=0, last_checked_in=ENTERED),
            NOTHING,
            {"trust": TimeTrust.UNKNOWN},
            "Denied: already scanned at 19:42, not at this gate.",
        ),
        (
            ticket(),
            overlay_of([entered(acknowledged=True)], lapsed=True),
            {},
            "Admitted: may go once more, was admitted and nobody passed.",
        ),
        (ticket(), NOTHING, {"lanes": BOTH[1:]}, "Denied: not checked in."),
        (
            ticket(),
            overlay_of([entered(), entered(Direction.EXIT)]),
            {"lanes": BOTH[1:]},
            "Denied: already checked out at 19:42 at lane out, 3 min ago.",
        ),
    ],
)
def test_the_answer_is_one_line(of: Ticket, overlay: Overlay, changes: dict[str, Any], answer: str) -> None:
    first, second, *_ = lines_of(explained(of, overlay, **changes), ZONE)
    assert (first, second) == (answer, "")


@pytest.mark.parametrize(
    ("verdict", "asks", "answer"),
    [
        (deny(None, Reason.NOT_READY), False, "Denied: not all tickets are downloaded yet."),
        (
            deny(None, Reason.AMBIGUOUS),
            False,
            "Denied: two tickets go by this barcode, which the organiser has to mend.",
        ),
        (deny(None, Reason.BUSY), False, "Denied: busy asking the server, scan again."),
        (deny(None, Reason.NO_ANSWER), False, "Denied: the server did not answer."),
        (
            deny(40, Reason.UNKNOWN),
            True,
            "The server would be asked. Without its answer: denied, no ticket has this barcode.",
        ),
    ],
)
def test_what_no_rule_decides_is_told_too(verdict: Verdict, asks: bool, answer: str) -> None:
    ruling = Ruling((IN,), Direction.ENTRY, Rules(), verdict, asks)
    lines = lines_of(replace(explained(None), rulings=(ruling,)), ZONE)
    assert lines[0] == answer
    assert ("    the server would be asked: this holds if it does not answer" in lines) == asks


def test_lanes_that_differ_get_a_line_each() -> None:
    lanes = (*BOTH, *VIP)
    first, second, third, *_ = lines_of(explained(ticket(), lanes=lanes), ZONE)
    assert (first, second, third) == (
        "in: Admitted: valid, 1 entry left.",
        "VIP: Denied: type Regular is not let in at this lane.",
        "",
    )


# Details


def test_rules_after_the_one_that_decides_are_asked_too() -> None:
    over = ticket(canceled=True, expire_from=NOW, remaining=0)
    lines = lines_of(explained(over), ZONE)
    assert [line for line in lines if "✗" in line] == [
        "  > ✗ not cancelled: the ticket is cancelled",
        "    ✗ not expired: expired at 19:45, 0 s ago",
        "    ✗ entries left: already scanned, nobody knows when",
    ]


def test_the_ticket_types_of_a_lane_are_told() -> None:
    lines = lines_of(explained(ticket(type_name="VIP"), lanes=VIP), ZONE)
    assert "    ticket types: VIP" in lines
    assert lines[-1] == "  > Admitted: valid"


@pytest.mark.parametrize(
    ("overlay", "told"),
    [
        (NOTHING, ["so 1 entry left"]),
        (
            overlay_of([entered(acknowledged=True), entered(Direction.EXIT)]),
            [
                "1 entry that the server has and the ticket above may not show",
                "1 exit that the ticket above may not show",
                "so no entries left",
            ],
        ),
        (
            overlay_of([entered(), entered()], lapsed=True),
            [
                "2 entries that the server has not got yet",
                "admitted, and nobody passed: may go once more",
                "so no entries left",
            ],
        ),
    ],
)
def test_what_this_gate_knows_beyond_the_server_is_told(overlay: Overlay, told: list[str]) -> None:
    lines = lines_of(explained(ticket(), overlay), ZONE)
    start = next(number for number, line in enumerate(lines) if line.startswith("  here"))
    assert [line[11:] for line in lines[start : start + len(told)]] == told
    assert lines[start + len(told)] == ""


def test_an_incomplete_download_and_earlier_scans_of_an_unknown_ticket_are_told() -> None:
    lines = lines_of(explained(None, tickets=Tickets(False, 0), scans=(past(),)), ZONE)
    assert lines[2:4] == ["! ticket   not known here", "           NOT ALL TICKETS ARE DOWNLOADED YET"]
    assert not [line for line in lines if "never scanned here" in line]
    no_mark = lines_of(explained(None, tickets=Tickets(True, 7)), ZONE)
    assert "           all 7 tickets are downloaded" in no_mark


@pytest.mark.parametrize("reason", Reason)
def test_every_scan_has_words(reason: Reason) -> None:
    for origin, upload in product(Origin, Upload):
        scan = past(verdict=deny(None, reason), origin=origin, upload=upload)
        text = "\n".join(lines_of(replace(explained(ticket()), scan=scan, scans=(scan,)), ZONE))
        assert text.startswith("Not decided" if reason is Reason.UNDECIDED else "Denied"), (origin, upload)
        assert not re.search(r"[A-Za-z]_[a-z]|None", text), (origin, upload)  # words of a program


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"origin": Origin.DIRECT, "upload": Upload.NONE}, "decided by the server, the server knows"),
        (
            {"origin": Origin.FALLBACK, "upload": Upload.UNANSWERED},
            "decided by this gate, because the server did not answer, sent, not answered yet",
        ),
        ({"origin": Origin.OVERRIDE}, "decided by staff, whatever the rules say, the server has it"),
        (
            {"sent_again": True, "passage": Came.UNKNOWN},
            "sent twice and marked so, no sensor says who passed",
        ),
        (
            {"passage": Came.NOT_TAKEN, "granted_again": True},
            "the server has it, nobody passed, granted again later",
        ),
    ],
)
def test_what_became_of_a_scan_is_told_in_words(fields: dict[str, Any], told: str) -> None:
    assert told in lines_of(explained(ticket(), scans=(past(**fields),)), ZONE)[-1]


def test_only_the_last_scans_of_very_many_are_shown_and_the_others_are_counted() -> None:
    scans = tuple(past(number) for number in range(1, 2001))
    lines = lines_of(explained(ticket(), scans=scans), ZONE)
    assert "    1950 more before these" in lines
    assert len(lines) < 130


def test_a_denial_whose_ticket_was_scanned_elsewhere_says_so() -> None:
    lines = lines_of(replace(explained(ticket()), scan=DENIAL, scans=(DENIAL, past(5))), ZONE)
    assert lines[0] == "Denied at 19:44 at lane in: already scanned, not at this gate."


# For programs


def test_programs_get_everything_but_barcodes() -> None:
    explanation = explained(ticket(), overlay_of([entered()]), scans=(past(),), lanes=BOTH)
    data = data_of(explanation)
    assert data["mirrored"]["ticket"]["type_name"] == "Regular"
    assert data["rulings"][0]["verdict"]["reason"] == "already_scanned"
    assert data["scans"][0]["lane"] == "in"
    assert "SECRET" not in repr(data)
    assert "SECRET" not in "\n".join(lines_of(explanation, ZONE))
    assert data_of(explained(None))["mirrored"] is None
