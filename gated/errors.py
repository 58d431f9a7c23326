"""The one tree of errors: each has a message for the log and a hint for the operator.

A DENY is a value, never an error. ``retry`` says whether trying the same again can help.
"""


class GatedError(Exception):
    """Something gated could not do. ``hint`` tells the operator what to do about it."""

    hint: str = ""
    retry: bool = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        if hint:
            self.hint = hint


class ConfigError(GatedError):
    """The configuration can't be used; ``mistakes`` lists every one found."""

    hint = "Mend the lines named, then run: gated check-config"

    def __init__(self, mistakes: tuple[str, ...], *, hint: str = "") -> None:
        super().__init__("\n".join(mistakes), hint=hint)
        self.mistakes = mistakes


class ScannerError(GatedError):
    """A scanner could not be opened or was lost."""

    hint = "Check the scanner's cable and the device name under [[lanes.scanners]]."
    retry = True


class PinError(GatedError):
    """A pin could not be claimed or driven."""

    hint = "Check [pins] factory and the pin numbers; no other program may use the same pins."


class StoreError(GatedError):
    """A database could not be opened, read or written."""

    hint = "Check the disk: free space, mount options, and the card itself."
    retry = True


class ControlError(GatedError):
    """A running gated could not be reached, or refused a command."""


class ApiError(GatedError):
    """The Ticket Scan API did not do what was asked."""

    hint = "The gate goes on without it; look at the network and at the API's status."
    retry = True
    may_be_done: bool = False
    """Whether the API may have carried out the call all the same."""


class ApiUnreachable(ApiError):
    """Nothing was sent: no name, no route, no connection, or no TLS. Safe to send again."""


class ApiAnswerLost(ApiError):
    """The request went out and no whole answer came back: it may have been carried out."""

    may_be_done = True


class ApiBadAnswer(ApiError):
    """An answer came, but not one that the API's document describes."""

    may_be_done = True


class ApiRefused(ApiError):
    """The API answered with a status of 4xx or 5xx. ``status`` is that status; ``retry_after_s`` its wish."""

    def __init__(
        self, message: str, *, status: int, retry_after_s: float | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.retry_after_s = retry_after_s
        self.retry = status == 429 or status >= 500
        self.may_be_done = status >= 500 and status != 503  # at 503 it has not begun


class ApiLoginRefused(ApiError):
    """The API does not know this user name and password, or the user is not active."""

    hint = "Check [api] username and the password file; ask the organiser whether the scan user is active."
    retry = False


class DownloadUnstable(ApiError):
    """The number of tickets changed while they were fetched: some may have slipped through between pages."""

    hint = "It is fetched again by itself; during a sale this takes a few tries."


class ServiceNotChosen(ApiError):
    """The scan user has several services, or not the one configured."""

    hint = "Set [api] service to one of the services listed."
    retry = False


class ApiUserShared(ApiLoginRefused):
    """The API took our tokens back again and again: somebody else seems to log in as the same scan user."""

    hint = "Another device may be using this scan user: ask the organiser for one scan user a gate."
    retry = True
