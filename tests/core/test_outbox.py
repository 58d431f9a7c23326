from datetime import UTC, datetime, timedelta

import pytest

from gated.core.outbox import UPLOAD_ALL, Kind, UploadRules, kind_of, stamped
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
