from datetime import UTC, datetime, timedelta, timezone

import pytest

from gated.core.verdict import ADMITTING, STATUS_MESSAGES, Reason, Verdict, admit, deny

NOON = datetime(2027, 7, 16, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (deny(40, Reason.UNKNOWN), "DENY - Ticket barcode unknown: not accepted at this check-in point"),
        (deny(45, Reason.CANCELED), "DENY - Ticket is not allowed: this ticket type can not be scanned"),
        (
            deny(50, Reason.ALREADY_SCANNED, time=NOON),
            "DENY - Ticket already scanned: 2027-07-16 12:00:00 UTC",
        ),
        (deny(60, Reason.EXPIRED, time=NOON), "DENY - Ticket barcode is expired: on 2027-07-16 12:00:00 UTC"),
        (admit(100, Reason.VALID), "ADMIT - Ticket is valid"),
        (admit(200, Reason.CHECKED_OUT), "ADMIT - Ticket checked-out correctly"),
        (
            deny(210, Reason.ALREADY_CHECKED_OUT, time=NOON),
            "DENY - Can not check-out ticket: ticket already checked-out",
        ),
        (
            deny(220, Reason.NOT_CHECKED_IN),
            "DENY - Can not check-out ticket: no valid check-ins found",
        ),
        (deny(230, Reason.NOT_IN_SERVICE), "DENY - Can not check-out ticket: barcode not in service"),
    ],
)
def test_the_message_is_the_apis_with_its_time_filled_in(verdict: Verdict, message: str):
    assert verdict.message == message
    assert message.startswith(verdict.word)


def test_times_in_messages_are_utc():
    in_amsterdam = NOON.astimezone(timezone(timedelta(hours=2)))
    assert deny(50, Reason.ALREADY_SCANNED, time=in_amsterdam).message.endswith("12:00:00 UTC")


def test_a_time_that_nobody_knows_is_called_unknown():
    assert deny(50, Reason.ALREADY_SCANNED).message == "DENY - Ticket already scanned: unknown UTC"


def test_a_verdict_without_a_code_has_a_text_of_ours():
    assert deny(None, Reason.BUSY).message == "DENY - busy"


def test_every_code_of_the_api_has_a_message_that_says_what_the_code_does():
    for code, message in STATUS_MESSAGES.items():
        assert message.startswith("ADMIT" if code in ADMITTING else "DENY")
