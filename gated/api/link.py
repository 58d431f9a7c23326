"""One HTTP client and its limits: a request in, an answer or one of our errors out.

- An error says what is known of the request: nothing was sent (ApiUnreachable), it was sent and may have been
  carried out (ApiAnswerLost), or the answer can't be one of this API (ApiBadAnswer).
- No redirect is followed, and no answer is read past 8 MiB or past its time. It is unpacked here, a piece at
  a time: httpx would unpack all that has come at once, a thousandfold, and as often over as it is told to.
- A request is never cancelled from outside: httpcore 1.0 then loses a place in its pool for ever. Its own
  time-outs end it. A pool that has no place left is replaced.
"""

import asyncio
import ssl
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

# httpcore imports this at the first connection, for tens of milliseconds in which no scan would be read.
import anyio._backends._asyncio  # noqa: F401 - for what it costs here and not there
import httpx

from gated import __version__
from gated.api import wire
from gated.api.values import printable
from gated.errors import ApiAnswerLost, ApiBadAnswer, ApiError, ApiRefused, ApiUnreachable, ConfigError

# A page of 500 tickets is about 350 kB; whatever is above this is no answer of this API.
MOST_BYTES = 8 * 1024 * 1024
# Of a packed answer so much is unpacked at once.
_PIECE_BYTES = 64 * 1024
# gzip's window of 32 kB; 16 is zlib's mark for gzip.
_GZIP = zlib.MAX_WBITS | 16
# Seconds. Servers close idle connections after some time of their own, and a POST on a connection that is
# being closed may or may not have been carried out: we close first.
_IDLE_S = 20.0
# Far above the calls that run at once, in case places are lost all the same.
_LIMITS = httpx.Limits(max_connections=32, max_keepalive_connections=4, keepalive_expiry=_IDLE_S)

# httpx raises these before the first byte of the request has left.
_NOTHING_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
# Characters of an error's text that are kept.
_WHAT_LENGTH = 300
# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_NOT_YET_VALID, _HAS_EXPIRED = 9, 10

_HINTS = {
    401: "The API does not take the tokens it gives: ask the organiser whether the scan user is active.",
    403: "The scan user may not do this: ask the organiser for its permissions.",
    404: "Check [api] base_url and [api] service: the API does not know what was asked for.",
    511: wire.CAPTIVE_HINT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked. ``private`` are texts that must not reach a log, should the server repeat them."""

    method: str
    base: str
    path: str
    content: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    private: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. ``sent`` and ``received`` (of its headers) are monotonic seconds."""

    request: Request
    status: int
    headers: httpx.Headers
    body: bytes
    sent: float
    received: float

    @property
    def date(self) -> datetime | None:
        """The server's ``Date``, aware UTC."""
        return wire.read_http_date(self.headers.get("Date"))

    @property
    def message(self) -> str:
        """What the server says, fit for a log."""
        said = wire.info_message(self.body)
        for text in self.request.private:
            said = said.replace(text, "…")
        return said

    def check(self) -> None:
        """Returns if the status is 2xx. Raises ApiRefused or ApiBadAnswer."""
        if self.status >= 400:
            raise ApiRefused(
                f"{self.request}: {self.status} {self.message}".rstrip(),
                status=self.status,
                retry_after_s=wire.read_retry_after(self.headers.get("Retry-After"), self.date),
                hint=_HINTS.get(self.status, ""),
            )
        if self.status >= 300:
            to = printable(self.headers.get("Location", "nowhere"), 200)
            raise ApiBadAnswer(f"{self.request}: {self.status}, sent on to {to}", hint=wire.CAPTIVE_HINT)


GiveWay = Callable[[], Awaitable[None]]
"""Waits while a scan is being decided."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call may take: ``steps`` for each of its steps, ``whole_s`` seconds for all of it."""

    steps: httpx.Timeout
    whole_s: float


class Opener:
    """Opens clients that differ in their patience only.

    ``through_proxies`` heeds the environment's: a venue may let nothing out but through one, only an
    administrator sets the daemon's environment, and TLS runs through a proxy unread. Plain http, which goes
    to this machine alone, does without.
    """

    def __init__(
        self,
        *,
        device_info: str,
        ca_file: Path | None,
        through_proxies: bool,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self._trust = _trust(ca_file)
        self._through_proxies = through_proxies
        self._transport = transport
        self._headers = {
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "Content-Type": "application/json",  # the document asks for it on GET as well
            "User-Agent": f"gated/{__version__}",
            "X-DEVICE-INFO": device_info,
        }

    def open(self, patience: Patience) -> httpx.AsyncClient:
        """A client with a pool of its own."""
        return httpx.AsyncClient(
            headers=self._headers,
            verify=self._trust,
            trust_env=self._through_proxies,
            http2=False,
            follow_redirects=False,
            timeout=patience.steps,
            limits=_LIMITS,
            transport=self._transport,
        )


class Link:
    """A client that is replaced when its pool has no place left, or a call is not over when it should be."""

    def __init__(
        self,
        opener: Opener,
        patience: Patience,
        monotonic: Callable[[], float],
        *,
        give_way: GiveWay | None = None,
    ) -> None:
        """``give_way`` is awaited before a request, and between two pieces of its answer."""
        self._opener = opener
        self._patience = patience
        self._monotonic = monotonic
        self._give_way = give_way
        self._client = opener.open(patience)
        self._closing: set[asyncio.Task[None]] = set()

    async def exchange(self, request: Request, *headers: tuple[str, str], in_a_hurry: bool = False) -> Answer:
        """Sends a request and reads its answer, whatever its status. Raises ApiError.

        ``in_a_hurry`` gives no way: a scan may wait for it.
        """
        give_way = None if in_a_hurry else self._give_way
        if give_way:
            await give_way()
        client = self._client
        sent = self._monotonic()
        # httpx's read time-out begins anew with each byte, and headers come from it whole or not at all.
        overdue = asyncio.get_running_loop().call_later(self._patience.whole_s, self._hang_up, client)
        try:
            async with client.stream(
                request.method,
                f"{request.base}/{request.path}",
                content=request.content,
                headers=[*request.headers, *headers],
            ) as response:
                received = self._monotonic()
                body = await self._body(request, response, sent, give_way)
        except httpx.HTTPError as error:
            if isinstance(error, httpx.PoolTimeout):
                await self._replace(client)
            raise _failure(request, error, self._monotonic() - sent) from error
        except httpx.InvalidURL as error:  # it looks at a redirect's target, though it is not to follow it
            raise ApiBadAnswer(f"{request}: sent on to nowhere", hint=wire.CAPTIVE_HINT) from error
        finally:
            overdue.cancel()
        return Answer(request, response.status_code, response.headers, body, sent, received)

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()

    async def _body(
        self, request: Request, response: httpx.Response, sent: float, give_way: GiveWay | None
    ) -> bytes:
        body, unpack = bytearray(), _unpacking(request, response)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        async for raw in response.stream:
            for piece in unpack(raw):
                body += piece
                if len(body) > MOST_BYTES:
                    raise ApiBadAnswer(f"{request}: the answer is longer than {MOST_BYTES} bytes")
            elapsed = self._monotonic() - sent
            if elapsed > self._patience.whole_s:
                raise ApiAnswerLost(f"{request}: given up at {len(body)} bytes of an answer, {elapsed:.1f} s")
            if give_way:
                await give_way()
        return bytes(body)

    def _hang_up(self, client: httpx.AsyncClient) -> None:
        """Closes the connections of a call that is overdue, which ends it as an answer that was lost."""
        closing = asyncio.create_task(self._replace(client), name="hang up")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _replace(self, lost: httpx.AsyncClient) -> None:
        if self._client is lost:
            self._client = self._opener.open(self._patience)
            await lost.aclose()


def _unpacking(request: Request, response: httpx.Response) -> Callable[[bytes], Iterator[bytes]]:
    """What undoes the packing of an answer: gzip, which we offer, or none. Both raise ApiBadAnswer."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding == "identity":
        return lambda raw: iter((raw,))
    if encoding not in ("gzip", "x-gzip"):
        told = printable(encoding, 80)
        raise ApiBadAnswer(f"{request}: the answer can't be unpacked: it is packed with {told!r}")
    packed = zlib.decompressobj(_GZIP)

    def unpack(raw: bytes) -> Iterator[bytes]:
        try:
            while raw and not packed.eof:
                yield packed.decompress(raw, _PIECE_BYTES)
                raw = packed.unconsumed_tail
        except zlib.error as error:
            raise ApiBadAnswer(f"{request}: the answer can't be unpacked: {error}") from error

    return unpack


def _failure(request: Request, error: httpx.HTTPError, elapsed: float) -> ApiError:
    # What is no HTTP at all is quoted in whole.
    what = printable(f"{type(error).__name__} {error}", _WHAT_LENGTH)
    if isinstance(error, _NOTHING_SENT):
        return ApiUnreachable(f"{request}: nothing sent in {elapsed:.2f} s: {what}", hint=_tls_hint(error))
    return ApiAnswerLost(f"{request}: no whole answer {elapsed:.2f} s after it was begun: {what}")


def _tls_hint(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return ""
    if cause.verify_code == _NOT_YET_VALID:
        return "The server's certificate is not valid yet: this machine's clock is behind. See: timedatectl"
    if cause.verify_code == _HAS_EXPIRED:
        return "The server's certificate has expired, or this machine's clock is ahead. See: timedatectl"
    return "The server's certificate is not trusted: check [api] base_url, ca_file, and who is in between."


@lru_cache(maxsize=1)
def _trust(ca_file: Path | None) -> ssl.SSLContext:
    """Whom to believe. Reading the system's authorities takes tens of milliseconds: once is enough."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl's errors are OSErrors
        raise ConfigError((f"api.ca_file: {ca_file} can't be used: {error}",)) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
