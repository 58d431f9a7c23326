from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.core.outbox import (
    UPLOAD_ALL,
    Kind,
    Lost,
    Row,
    Shown,
    UploadRules,
    Window,
    kind_of,
    lost,
    stamped,
)
from gated.core.scan import Moment, TimeTrust
from gated.core.verdict import Origin, Reason, Verdict, admit, deny

NOON = datetime(2027, 7, 16, 12, 0, 0, tzinfo=UTC)

ADMITTED = admit(100, Reason.VALID)
CHECKED_OUT = admit(200, Reason.CHECKED_OUT)
UNKNOWN = deny(40, Reason.UNKNOWN)
USED = deny(50, Reason.ALREADY_SCANNED)
NO_DENIALS = UploadRules(denials=False)
NO_UNKNOWN = UploadRules(unknown=False)
REPLAY = UploadRules(replay_checkouts=True)


@pytest.mark.parametrize(
    ("verdict", "origin", "rules", "kind"),
    [
        (ADMITTED, Origin.LOCAL, UPLOAD_ALL, Kind.CHECK_IN),
        (ADMITTED, Origin.FALLBACK, UPLOAD_ALL, Kind.CHECK_IN),
        (ADMITTED, Origin.OVERRIDE, UPLOAD_ALL, Kind.CHECK_IN),
        (ADMITTED, Origin.LOCAL, NO_DENIALS, Kind.CHECK_IN),
        (ADMITTED, Origin.DIRECT, UPLOAD_ALL, None),
        (ADMITTED, Origin.ASK, UPLOAD_ALL, None),
        (admit(100, Reason.REGRANT), Origin.REGRANT, UPLOAD_ALL, None),
        (CHECKED_OUT, Origin.LOCAL, UPLOAD_ALL, Kind.OTHER),
        (CHECKED_OUT, Origin.LOCAL, NO_DENIALS, Kind.OTHER),
        (CHECKED_OUT, Origin.LOCAL, REPLAY, Kind.CHECK_OUT),
        (CHECKED_OUT, Origin.FALLBACK, REPLAY, Kind.CHECK_OUT),
        (CHECKED_OUT, Origin.DIRECT, REPLAY, None),
        (USED, Origin.LOCAL, UPLOAD_ALL, Kind.OTHER),
        (USED, Origin.LOCAL, REPLAY, Kind.OTHER),
        (USED, Origin.DIRECT, UPLOAD_ALL, None),
        (USED, Origin.LOCAL, NO_DENIALS, None),
        (UNKNOWN, Origin.LOCAL, UPLOAD_ALL, Kind.OTHER),
        (UNKNOWN, Origin.ASK, UPLOAD_ALL, Kind.OTHER),
        (UNKNOWN, Origin.LOCAL, NO_UNKNOWN, None),
        (UNKNOWN, Origin.LOCAL, NO_DENIALS, Kind.OTHER),
        (deny(None, Reason.BUSY), Origin.LOCAL, UPLOAD_ALL, None),
        (deny(None, Reason.NOT_READY), Origin.LOCAL, UPLOAD_ALL, None),
    ],
)
def test_which_verdicts_go_up_and_in_which_queue(
    verdict: Verdict, origin: Origin, rules: UploadRules, kind: Kind | None
):
    assert kind_of(verdict, origin, rules) is kind


def test_check_ins_go_before_the_rest():
    assert sorted(Kind)[0] is Kind.CHECK_IN


def moment(trust: TimeTrust, monotonic: float, wall: datetime = NOON, boot: str = "this") -> Moment:
    return Moment(wall, trust, monotonic, boot)


LATER = NOON + timedelta(hours=5)


@pytest.mark.parametrize(
    ("name", "scan", "now", "time"),
    [
        (
            "its time was known",
            moment(TimeTrust.SYNCHRONISED, 10),
            moment(TimeTrust.SYNCHRONISED, 100, LATER),
            NOON,
        ),
        (
            "estimates are kept",
            moment(TimeTrust.ESTIMATED, 10),
            moment(TimeTrust.SYNCHRONISED, 100, LATER),
            NOON,
        ),
        (
            "unknown then, known now",
            moment(TimeTrust.UNKNOWN, 10),
            moment(TimeTrust.ESTIMATED, 100, LATER),
            LATER - timedelta(seconds=90),
        ),
        (
            "still unknown",
            moment(TimeTrust.UNKNOWN, 10),
            moment(TimeTrust.UNKNOWN, 100, LATER),
            NOON,
        ),
        (
            "of an earlier boot",
            moment(TimeTrust.UNKNOWN, 10, boot="earlier"),
            moment(TimeTrust.SYNCHRONISED, 100, LATER),
            NOON,
        ),
    ],
)
def test_a_scan_of_unknown_time_is_corrected_within_its_boot(name, scan, now, time):
    assert stamped(scan, now) == time


# ---- what went out and was not answered

SENT = 1_800_000_000  # Unix seconds: the time that the row was sent with
CALL = Window(SENT - 5, SENT + 11)
RECORDED, AGAIN, UNCERTAIN = Lost.RECORDED, Lost.AGAIN, Lost.UNCERTAIN


def row(code: int, time: int = SENT) -> Row:
    return Row(1, Kind.CHECK_IN if code == 100 else Kind.OTHER, "T1", time, code, "")


def entered(at: int | None, entries: int = 1) -> Shown:
    return Shown(last_in=at, last_out=None, entries=entries)


def left(at: int | None, last_in: int | None = None) -> Shown:
    return Shown(last_in=last_in, last_out=at, entries=1)


@pytest.mark.parametrize(
    ("code", "window", "shown", "fate"),
    [
        pytest.param(100, None, entered(SENT), RECORDED, id="check-in, exact time"),
        pytest.param(100, None, entered(SENT, 5), RECORDED, id="check-in, exact time, multi-entry"),
        pytest.param(100, None, entered(SENT + 1), AGAIN, id="check-in, a second later, single-entry"),
        pytest.param(100, None, entered(SENT + 1, 2), UNCERTAIN, id="check-in, a second later, multi-entry"),
        pytest.param(100, None, entered(None), AGAIN, id="check-in, never checked in, single-entry"),
        pytest.param(100, None, entered(None, 2), UNCERTAIN, id="check-in, never checked in, multi-entry"),
        pytest.param(100, None, entered(None, 0), AGAIN, id="check-in, nothing said of entries"),
        pytest.param(100, None, left(SENT), AGAIN, id="check-in, checked out at that time"),
        pytest.param(100, None, None, AGAIN, id="check-in, ticket unknown"),
        pytest.param(100, CALL, entered(CALL.start), RECORDED, id="direct check-in, at the window's start"),
        pytest.param(100, CALL, entered(CALL.end, 5), RECORDED, id="direct check-in, at the window's end"),
        pytest.param(100, CALL, entered(CALL.start - 1), AGAIN, id="direct check-in, before the window"),
        pytest.param(100, CALL, entered(CALL.end + 1), AGAIN, id="direct check-in, after the window"),
        pytest.param(100, CALL, entered(CALL.end + 1, 2), UNCERTAIN, id="direct, after it, multi-entry"),
        pytest.param(100, CALL, entered(None), AGAIN, id="direct check-in, never checked in"),
        pytest.param(100, CALL, None, AGAIN, id="direct check-in, ticket unknown"),
        pytest.param(200, None, left(SENT), RECORDED, id="check-out, exact time"),
        pytest.param(200, None, left(SENT - 1), AGAIN, id="check-out, another time"),
        pytest.param(200, None, left(None, last_in=SENT), AGAIN, id="check-out, checked in at that time"),
        pytest.param(200, None, None, AGAIN, id="check-out, ticket unknown"),
        pytest.param(200, CALL, left(CALL.start), RECORDED, id="direct check-out, in the window"),
        pytest.param(200, CALL, left(CALL.end + 1), AGAIN, id="direct check-out, after the window"),
        pytest.param(200, CALL, left(None, last_in=SENT), AGAIN, id="direct check-out, only checked in"),
        pytest.param(50, None, entered(SENT), AGAIN, id="denial: no download shows it"),
        pytest.param(50, None, entered(SENT, 5), AGAIN, id="denial of a multi-entry ticket"),
        pytest.param(40, None, None, AGAIN, id="denial of an unknown ticket"),
    ],
)
def test_what_became_of_a_lost_row_is_read_from_a_later_download(
    code: int, window: Window | None, shown: Shown | None, fate: Lost
):
    assert lost(row(code), window, shown) is fate


times = st.integers(SENT - 20, SENT + 20)


@given(
    row=st.builds(row, st.sampled_from([40, 45, 50, 60, 100, 200, 210]), times),
    window=st.none() | st.builds(lambda start: Window(start, start + 16), times),
    shown=st.none() | st.builds(Shown, st.none() | times, st.none() | times, st.integers(0, 3)),
)
def test_only_a_time_that_the_server_shows_proves_a_lost_row_and_only_a_check_in_is_parked(
    row: Row, window: Window | None, shown: Shown | None
):
    fate = lost(row, window, shown)
    if fate is RECORDED:
        assert shown is not None
        assert row.status_code in (100, 200)
        seen = shown.last_in if row.status_code == 100 else shown.last_out
        assert seen == row.checked_in_time or (window is not None and window.has(seen))
    if fate is UNCERTAIN:
        assert (row.status_code, shown is not None and shown.entries > 1) == (100, True)
