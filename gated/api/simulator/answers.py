"""From a request to its answer: the documented endpoints, without sockets and without faults.

Strict as the document reads: required headers are required, types are exact, and refusals carry its info
message. What it leaves open is a :class:`~gated.api.simulator.wire.Habits`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from typing import TypeVar

import msgspec

from gated.api.simulator.event import Event, Outcome, Page, UploadedScan
from gated.api.simulator.faults import Endpoint
from gated.api.simulator.rules import MESSAGES
from gated.api.simulator.tokens import Tokens
from gated.api.simulator.wire import (
    Body,
    Habits,
    Refusals,
    barcodes_body,
    encode,
    info,
    outcomes_body,
    services_body,
)

BASE_PATH = "/scanapi/v2.0"
USER_UUID = "c0a1b2c3-1111-4222-8333-000000000001"

# Pages of more rows than this are refused: "preferable 500 or lower", says the document.
MOST_ROWS = 5000


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request, read whole. ``headers`` are found whatever their case."""

    method: str
    path: str
    headers: Message
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer but for its Date."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)


class Refused(Exception):
    """The request is refused with this status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Credentials(msgspec.Struct, frozen=True):
    username: str
    password: str


class _Login(msgspec.Struct, frozen=True):
    credentials: _Credentials


class _DirectScan(msgspec.Struct, frozen=True):
    user_uuid: str
    service_uuid: str
    barcode_id: str


class _Upload(msgspec.Struct, frozen=True):
    user_uuid: str
    service_uuid: str
    barcodes: list[UploadedScan]


ROUTES = (
    ("POST", re.compile(r"/userlogin"), Endpoint.LOGIN),
    ("GET", re.compile(r"/users/([^/]+)/services"), Endpoint.SERVICES),
    ("GET", re.compile(r"/services/([^/]+)/barcodes"), Endpoint.BARCODES),
    ("POST", re.compile(r"/barcodes/checkin"), Endpoint.CHECKIN),
    ("POST", re.compile(r"/barcodes/checkout"), Endpoint.CHECKOUT),
    ("POST", re.compile(r"/barcodes/upload"), Endpoint.UPLOAD),
)


def route(request: Request) -> tuple[Endpoint, str]:
    """The endpoint a request is for, and the uuid in its path, blank where there is none."""
    path = request.path.split("?")[0]
    for method, pattern, endpoint in ROUTES:
        match = pattern.fullmatch(path.removeprefix(BASE_PATH))
        if match and path.startswith(BASE_PATH) and request.method == method:
            return endpoint, match[1] if pattern.groups else ""
    return Endpoint.OTHER, ""


Decoded = TypeVar("Decoded")


@dataclass
class Answers:
    """The API's answers about one event, for one scan user. ``url`` is the address that services are told."""

    event: Event
    username: str
    password: str
    now: Callable[[], float]
    url: str = ""
    habits: Habits = field(default_factory=Habits)

    def __post_init__(self) -> None:
        self.tokens = Tokens()

    def answer(self, request: Request) -> Answer:
        """Carries out a request."""
        endpoint, uuid = route(request)
        try:
            self._check_headers(request)
            match endpoint:
                case Endpoint.LOGIN:
                    return self._log_in(request)
                case Endpoint.SERVICES:
                    self._check_token(request, refusal=401)
                    return self._services(uuid)
                case Endpoint.BARCODES:
                    self._check_token(request, refusal=401)
                    return self._barcodes(request, uuid)
                case Endpoint.CHECKIN | Endpoint.CHECKOUT:
                    self._check_token(request, refusal=400 if self.habits.expired_token_as_400 else 401)
                    return self._direct(request, endpoint)
                case Endpoint.UPLOAD:
                    self._check_token(request, refusal=400 if self.habits.expired_token_as_400 else 401)
                    return self._upload(request)
                case _:
                    raise Refused(404, "There is no such endpoint.")
        except Refused as refused:
            return self._written(refused.status, info(str(refused)))

    def _check_headers(self, request: Request) -> None:
        if not request.headers.get("X-DEVICE-INFO", "").strip():
            raise Refused(401, "The header X-DEVICE-INFO is missing.")
        if not request.headers.get("Content-Type", "").startswith("application/json"):
            raise Refused(400, "The header Content-Type must be application/json.")

    def _check_token(self, request: Request, *, refusal: int) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "bearer":  # in lower case, as in the document
            raise Refused(401, "The header Authorization must be: bearer, a blank, the token.")
        objection = self.tokens.objection(token, self.now())
        if objection is not None:
            raise Refused(refusal, objection)

    def _log_in(self, request: Request) -> Answer:
        credentials = _decoded(request.body, _Login).credentials
        if (credentials.username, credentials.password) != (self.username, self.password):
            raise Refused(401, "Invalid credentials.")
        if self.habits.second_login_revokes:
            self.tokens.revoke_all()
        token = self.tokens.issue(
            USER_UUID,
            active=self.habits.user_active,
            now=self.now(),
            life_s=self.habits.token_life_s,
            other_uuid="another" if self.habits.two_users else "",
        )
        return self._written(200, {"login": {"message": "Successfully authenticated", "token": token}})

    def _services(self, user_uuid: str) -> Answer:
        if user_uuid != USER_UUID:
            raise Refused(401, "The token is another scan user's.")
        return self._written(200, services_body(self.event, self.url, self.habits))

    def _barcodes(self, request: Request, service_uuid: str) -> Answer:
        limit = _whole_number(request, "X-PAGINATION-LIMIT", least=1, most=MOST_ROWS)
        number = _whole_number(request, "X-PAGINATION-PAGE", least=1)
        since = None
        if "X-COMPARE-TIMESTAMP" in request.headers:
            since = _whole_number(request, "X-COMPARE-TIMESTAMP", least=0)
        if any(service_uuid == service.uuid for service in self.event.other_services):
            return self._written(200, barcodes_body(Page([], 0), number, limit, self.habits))
        self._check_service(service_uuid, refusal=404)
        page = self.event.page(number, limit, since=None if self.habits.delta_ignores_header else since)
        return self._written(200, barcodes_body(page, number, limit, self.habits))

    def _direct(self, request: Request, endpoint: Endpoint) -> Answer:
        scan = _decoded(request.body, _DirectScan)
        self._check_user(scan.user_uuid)
        self._check_service(scan.service_uuid, refusal=400)
        order = self.event.order(scan.barcode_id) if self.habits.orders_check_in else []
        outcomes = [self._outcome(endpoint, barcode) for barcode in order or [scan.barcode_id]]
        body = outcomes_body(outcomes, self.habits)
        if outcomes[0].admitted or self.habits.refusals is Refusals.ROW_201:
            return self._written(201, body)
        if self.habits.refusals is Refusals.ROW_400:
            return self._written(400, body)
        raise Refused(400, outcomes[0].message)

    def _outcome(self, endpoint: Endpoint, barcode: str) -> Outcome:
        if endpoint is Endpoint.CHECKIN:
            return self.event.check_in(barcode)
        return self.event.check_out(barcode, returns_entry=self.habits.checkout_returns_entry)

    def _upload(self, request: Request) -> Answer:
        upload = _decoded(request.body, _Upload)
        self._check_user(upload.user_uuid)
        self._check_service(upload.service_uuid, refusal=400)
        most = self.habits.max_upload_rows
        if most is not None and len(upload.barcodes) > most:
            raise Refused(413, f"More than {most} barcodes.")
        for scan in upload.barcodes:
            if scan.status_code not in MESSAGES or scan.barcode_id in self.habits.poisonous_barcodes:
                raise Refused(400, "A barcode can't be inserted.")
        self.event.upload(upload.barcodes, deduplicate=self.habits.deduplicate_uploads)
        return self._written(201, info("Barcodes Inserted successfully."))

    def _check_user(self, user_uuid: str) -> None:
        if user_uuid != USER_UUID:
            raise Refused(400, "The user_uuid is another scan user's.")

    def _check_service(self, service_uuid: str, *, refusal: int) -> None:
        if self.habits.service_missing or service_uuid != self.event.service.uuid:
            raise Refused(refusal, "The scan user has no such service.")

    def _written(self, status: int, body: Body) -> Answer:
        return Answer(status, encode(body, self.habits))


def _decoded(body: bytes, shape: type[Decoded]) -> Decoded:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.DecodeError as error:
        raise Refused(400, f"The body can't be read: {error}") from error


def _whole_number(request: Request, header: str, *, least: int, most: int | None = None) -> int:
    text = request.headers.get(header, "")
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise Refused(400, f"The header {header} must be a whole number.")
    number = int(text)
    if number < least or (most is not None and number > most):
        raise Refused(400, f"The header {header} is out of range.")
    return number
