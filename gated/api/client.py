"""The client of the Ticket Scan API: its documented calls, each failure as one error of ours.

- Nothing is sent twice but after a new login, once, when the API has said that it did not do it.
- A refusal of a ticket is a value; an error means that the API did not decide.
- Never cancel a call, and put no time-out round it: each ends by itself (:mod:`gated.api.link`). A lane that
  can wait no longer leaves the call to its end, and its answer still settles the record.

Paths, headers and bodies are those of the Ticket Scan API's document. What that leaves open (refusals as 400,
an expired token as 400, the service's own ``url``) is decided here and in :mod:`gated.api.wire`.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from gated.api import wire
from gated.api.auth import Token, TokenKeeper
from gated.api.link import Answer, GiveWay, Link, Opener, Patience, Request
from gated.api.wire import Claims, DirectAnswer, Page, Service, UploadRow
from gated.errors import ApiBadAnswer, ApiError, ApiLoginRefused, ApiUnreachable, ApiUserShared

_T = TypeVar("_T")

# Seconds. A lane waits less than this for a direct call. A page over a bad mobile link may take a minute.
_DIRECT = Patience(httpx.Timeout(connect=2.0, write=2.0, read=4.0, pool=1.0), whole_s=6.0)
_TRANSFER = Patience(httpx.Timeout(connect=10.0, write=30.0, read=30.0, pool=5.0), whole_s=120.0)


_PLAIN_URL = re.compile(
    r"https://[!-\"$->A-~]{1,500}"
)  # printable ASCII, but no query, fragment or user name


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """What the client needs to know.

    ``base_url`` has no slash at its end, and is https unless it names this machine. ``device_info`` is sent
    verbatim. ``ca_file`` takes the place of the system's authorities. A service's own ``url`` is used for its
    calls only when its host and base_url's are both among ``trusted_hosts``. ``page_size`` is 1 to 500.
    """

    base_url: str
    username: str
    device_info: str
    ca_file: Path | None = None
    trusted_hosts: tuple[str, ...] = ()
    page_size: int = 500


@dataclass(frozen=True, slots=True)
class Dated(Generic[_T]):
    """An answer, with what it says of the time.

    ``date`` is the server's ``Date``, aware UTC in whole seconds, None if it sent none; ``sent`` and
    ``received`` are monotonic seconds: when the request was begun, and when the answer's headers were there.
    """

    value: _T
    date: datetime | None
    sent: float
    received: float


class TicketScanApi:
    """The API as one scan user. Every call raises ApiError if it fails, and nothing else.

    ``transport`` takes the place of the network in tests; ``monotonic`` gives seconds since boot.
    ``give_way`` is awaited between two pieces of what takes long. Raises ConfigError if the ``ca_file`` is
    no use.
    """

    def __init__(
        self,
        settings: ApiSettings,
        password: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        give_way: GiveWay | None = None,
    ) -> None:
        _hush()
        self._give_way = give_way or partial(asyncio.sleep, 0)
        opener = Opener(
            device_info=settings.device_info,
            ca_file=settings.ca_file,
            through_proxies=settings.base_url.startswith("https:"),
            transport=transport,
        )
        self._settings = settings
        self._password = password
        self._direct = Link(opener, _DIRECT, monotonic)  # which gives way to none: a scan waits for it
        self._transfers = Link(opener, _TRANSFER, monotonic, give_way=self._give_way)
        self._tokens = TokenKeeper(self._log_in, monotonic)
        self._own_bases: dict[str, str] = {}
        self._dead_bases: set[str] = set()

    @property
    def early_renewal_error(self) -> ApiError | None:
        """Why the token could not be renewed early, while the old one still serves; else None."""
        return self._tokens.early_renewal_error

    async def login(self) -> Claims:
        """What the token says of the scan user; logs in first if need be."""
        return (await self._tokens.current()).claims

    async def services(self) -> Dated[tuple[Service, ...]]:
        """The scan user's services."""
        answer = await self._call(self._transfers, self._services_request)
        services = _read(answer, wire.read_services)
        self._own_bases = {each.id: base for each in services if (base := self._trusted(each.url))}
        return _dated(answer, services)

    async def probe(self, service_id: str) -> Dated[None]:
        """Asks for the services where the direct calls of a service go (blank while there is none).

        So the API answers there, and the connection is warm. An idle one is closed after 20 s; more often
        than that keeps it warm.
        """

        def request(user_id: str) -> Request:
            return replace(self._services_request(user_id), base=self._base(service_id))

        answer = await self._call(self._direct, request)
        _read(answer, wire.read_services)
        return _dated(answer, None)

    async def page(self, service_id: str, page: int, since: int | None) -> Dated[Page]:
        """Page ``page`` (from 1) of a service's tickets: all, or those changed ``since`` (epoch seconds)."""
        size = self._settings.page_size
        headers = [("X-PAGINATION-LIMIT", str(size)), ("X-PAGINATION-PAGE", str(page))]
        if since is not None:
            headers.append(("X-COMPARE-TIMESTAMP", str(since)))

        def request(_: str) -> Request:
            path = f"services/{quote(service_id, safe='')}/barcodes"
            return Request(method="GET", base=self._base(service_id), path=path, headers=tuple(headers))

        answer = await self._call(self._transfers, request)
        with _reading(answer):
            reading = wire.reading_page(answer.body, asked=page, limit=size)
            return _dated(answer, await self._in_turns(reading))

    async def check_in(self, service_id: str, barcode_id: str) -> Dated[DirectAnswer]:
        """Checks a ticket in. Only code 100 with ``matches`` admits.

        ApiAnswerLost, ApiBadAnswer and an ApiRefused of 5xx leave open whether it was recorded. An ApiRefused
        of 400 is the API's refusal without a code.
        """
        return await self._scan("checkin", service_id, barcode_id)

    async def check_out(self, service_id: str, barcode_id: str) -> Dated[DirectAnswer]:
        """Checks a ticket out: as :meth:`check_in`, but for code 200."""
        return await self._scan("checkout", service_id, barcode_id)

    async def upload(self, service_id: str, rows: Sequence[UploadRow]) -> Dated[None]:
        """Uploads scans; returns when the API has said that it has them all.

        ApiAnswerLost, ApiBadAnswer and an ApiRefused of 5xx leave open whether it has.
        """

        def request(user_id: str) -> Request:
            return Request(
                method="POST",
                base=self._base(service_id),
                path="barcodes/upload",
                content=wire.encode_upload(user_id, service_id, rows),
                private=tuple(row.barcode_id for row in rows),
            )

        answer = await self._call(self._transfers, request)
        return _dated(answer, _read(answer, wire.read_upload_answer))

    async def close(self) -> None:
        """Closes all connections. No call may follow."""
        await self._direct.close()
        await self._transfers.close()

    async def _in_turns(self, reading: Generator[None, None, _T]) -> _T:
        while True:
            try:
                next(reading)
            except StopIteration as done:
                read: _T = done.value
                return read
            await self._give_way()

    def _services_request(self, user_id: str) -> Request:
        path = f"users/{quote(user_id, safe='')}/services"
        return Request(method="GET", base=self._settings.base_url, path=path)

    async def _scan(self, verb: str, service_id: str, barcode_id: str) -> Dated[DirectAnswer]:
        def request(user_id: str) -> Request:
            return Request(
                method="POST",
                base=self._base(service_id),
                path=f"barcodes/{verb}",
                content=wire.encode_scan(user_id, service_id, barcode_id),
                private=(barcode_id,),
            )

        answer = await self._call(self._direct, request)
        if answer.status == 400:
            refusal = wire.read_scan_refusal(answer.body, barcode_id)
            if refusal is not None:
                return _dated(answer, refusal)
        return _dated(answer, _read(answer, lambda body: wire.read_scan_answer(body, barcode_id)))

    async def _call(self, link: Link, request: Callable[[str], Request]) -> Answer:
        """One call, and once more with another token if that is what the API refused."""
        with _before_the_call():
            token = await self._tokens.current(in_a_hurry=link is self._direct)
        answer = await self._exchange(link, request, token)
        if not _refuses_token(answer):
            return answer
        try:
            with _before_the_call():
                token = await self._tokens.replace(token)
        except ApiUserShared:
            if answer.status == 400:  # it may have been about something else
                return answer
            raise
        return await self._exchange(link, request, token)

    async def _exchange(self, link: Link, request: Callable[[str], Request], token: Token) -> Answer:
        """One exchange; where a service's own url has no such API, base_url's, which the document gives."""
        asked = request(token.claims.user_id)
        bearer = ("Authorization", f"bearer {token.text}")  # in lower case, as in the document
        try:
            answer = await link.exchange(asked, bearer)
        except ApiUnreachable:
            if asked.base == self._settings.base_url:
                raise
        else:
            if answer.status != 404 or asked.base == self._settings.base_url:
                return answer
        self._dead_bases.add(asked.base)
        return await link.exchange(request(token.claims.user_id), bearer)

    async def _log_in(self) -> str:
        request = Request(
            method="POST",
            base=self._settings.base_url,
            path="userlogin",
            content=wire.encode_login(self._settings.username, self._password),
            private=(self._password,),
        )
        answer = await self._transfers.exchange(request, in_a_hurry=True)  # a direct call may wait for it
        if answer.status == 401 or (answer.status in (400, 403, 422) and answer.message):
            raise ApiLoginRefused(f"{request}: {answer.status} {answer.message}".rstrip())
        return _read(answer, wire.read_login)

    def _base(self, service_id: str) -> str:
        own = self._own_bases.get(service_id)
        return self._settings.base_url if own is None or own in self._dead_bases else own

    def _trusted(self, url: str | None) -> str | None:
        """A service's own base address, if the token may be shown to its host."""
        hosts = {_https_host(self._settings.base_url), _https_host(url or "")}
        return url.rstrip("/") if url and hosts <= set(self._settings.trusted_hosts) else None


def _https_host(url: str) -> str:
    """The host of a plain https address, blank for any other."""
    if not _PLAIN_URL.fullmatch(url):
        return ""
    try:
        parts = urlsplit(url)
        return parts.hostname or "" if parts.port in (None, 443) else ""
    except ValueError:
        return ""


@contextmanager
def _before_the_call() -> Iterator[None]:
    """Whatever became of a login, the call that it was for has not been made."""
    try:
        yield
    except ApiError as error:
        error.may_be_done = False
        raise


def _refuses_token(answer: Answer) -> bool:
    """A 401, or a 400 that speaks of the token: the document knows no other refusal of the scan calls."""
    return answer.status == 401 or (answer.status == 400 and wire.speaks_of_token(answer.message))


def _read(answer: Answer, reader: Callable[[bytes], _T]) -> _T:
    with _reading(answer):
        return reader(answer.body)


@contextmanager
def _reading(answer: Answer) -> Iterator[None]:
    """Only what succeeded is read, and what can't be read is told with what it answered."""
    answer.check()
    try:
        yield
    except ApiBadAnswer as error:
        raise ApiBadAnswer(f"{answer.request}: {answer.status}, but {error}", hint=error.hint) from error


def _dated(answer: Answer, value: _T) -> Dated[_T]:
    return Dated(value, answer.date, answer.sent, answer.received)


def _hush() -> None:
    """httpx and httpcore log every request; ours are logged where it is known what came of them."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
