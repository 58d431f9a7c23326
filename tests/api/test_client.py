import asyncio
import base64
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gated import __version__
from gated.api import link
from gated.api.client import ApiSettings, TicketScanApi
from gated.api.simulator import AnsweredRows, Habits, Refusals, Simulator, Times, made_up_event
from gated.api.wire import UploadRow, choose_service
from gated.errors import (
    ApiAnswerLost,
    ApiBadAnswer,
    ApiError,
    ApiLoginRefused,
    ApiRefused,
    ApiUnreachable,
    ApiUserShared,
    ConfigError,
)

SETTINGS = ApiSettings(
    base_url="https://api.example.org/scanapi/v2.0",
    username="gate",
    device_info="DEVICE_ID:0-1,MANUFACTURER:X,MODEL:Y",
)
DAY = 86_400.0
ROWS = [UploadRow("GATED-REGULAR", 1_784_200_000, 100, "ADMIT - Ticket is valid")]


class Clock:
    """A monotonic clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Server:
    """An API of one's own: hands out numbered tokens, and asks ``answer`` about everything else."""

    answer: Callable[[httpx.Request], httpx.Response] = lambda _: httpx.Response(200, json={"services": []})
    login: Callable[[], httpx.Response | None] = lambda: None
    life_s: float = 60 * DAY
    logins: int = 0
    requests: list[httpx.Request] = field(default_factory=list)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/userlogin"):
            self.requests.append(request)
            return self.answer(request)
        await asyncio.sleep(0)
        self.logins += 1
        return self.login() or httpx.Response(200, json={"login": {"token": self.token(self.logins)}})

    def token(self, number: int) -> str:
        claims = {"sub": "user-1", "iat": 1000, "exp": 1000 + self.life_s, "number": number}
        return f"h.{base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b'=').decode()}.s"

    def bearers(self) -> list[str]:
        return [request.headers["Authorization"] for request in self.requests]


def client(server: Server, clock: Clock | None = None, **changes: Any) -> TicketScanApi:
    transport = httpx.MockTransport(server)
    settings = replace(SETTINGS, **changes)
    return TicketScanApi(settings, "secret", transport=transport, monotonic=clock or Clock())


def raising(error: type[httpx.RequestError]) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error("as planned", request=request)

    return answer


def refusing(status: int, message: str = "") -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(status, json={"info": {"message": message}})


def scanned(
    status: int = 201, *, barcode: str = "A", code: Any = 100
) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(
        status, json={"barcodes": [{"barcode_id": barcode, "scan_status_code": code}]}
    )


def taking_only(token: str, otherwise: httpx.Response) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.headers["Authorization"] == f"bearer {token}":
            return httpx.Response(200, json={"services": [], "barcodes": []})
        return otherwise

    return answer


async def test_a_page_gives_way_before_it_is_asked_for_and_between_two_pieces_of_it() -> None:
    ways: list[int] = []
    page = {"barcodes": [{"barcode_id": f"T{number}"} for number in range(160)]}
    server = Server(answer=lambda _: httpx.Response(200, content=_in_chunks(page, chunks=3)))

    async def give_way() -> None:
        ways.append(len(server.requests))

    api = TicketScanApi(SETTINGS, "secret", transport=httpx.MockTransport(server), give_way=give_way)
    await api.login()
    ways.clear()
    assert len((await api.page("1", 1, since=None)).value.tickets) == 160
    # Before it is asked for; after each chunk; after it is read as JSON; after 75 rows, and 150.
    assert ways == [0] + [1] * (3 + 1 + 2)


async def test_a_call_that_a_scan_waits_for_gives_way_to_none() -> None:
    ways: list[str] = []

    async def give_way() -> None:
        ways.append("way")

    server = Server(answer=scanned())
    api = TicketScanApi(SETTINGS, "secret", transport=httpx.MockTransport(server), give_way=give_way)
    await api.check_in("1", "A")
    assert server.logins == 1
    assert not ways  # for the login neither


async def _in_chunks(page: Any, *, chunks: int) -> AsyncIterator[bytes]:
    whole = json.dumps(page).encode()
    size = -(-len(whole) // chunks)
    for start in range(0, len(whole), size):
        yield whole[start : start + size]


# What is sent


async def test_every_request_carries_the_documented_headers() -> None:
    seen: list[httpx.Request] = []
    server = Server()

    async def all_of_them(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return await server(request)

    api = TicketScanApi(SETTINGS, "secret", transport=httpx.MockTransport(all_of_them))
    await api.services()
    assert [f"{request.method} {request.url}" for request in seen] == [
        "POST https://api.example.org/scanapi/v2.0/userlogin",
        "GET https://api.example.org/scanapi/v2.0/users/user-1/services",
    ]
    for request in seen:
        assert request.headers["X-DEVICE-INFO"] == SETTINGS.device_info
        assert request.headers["Content-Type"] == request.headers["Accept"] == "application/json"
        assert request.headers["User-Agent"] == f"gated/{__version__}"
        assert not {"origin", "referer"} & {name.lower() for name in request.headers}
    assert json.loads(seen[0].content) == {"credentials": {"username": "gate", "password": "secret"}}
    assert "Authorization" not in seen[0].headers
    assert seen[1].headers["Authorization"] == f"bearer {server.token(1)}"
    assert seen[1].content == b""


async def test_a_page_is_asked_for_in_headers() -> None:
    server = Server(lambda _: httpx.Response(200, json={"barcodes": []}))
    api = client(server, page_size=250)
    await api.page("service/1", 3, since=None)
    await api.page("service/1", 1, since=1_594_912_228)
    first, second = server.requests
    assert first.url.raw_path == b"/scanapi/v2.0/services/service%2F1/barcodes"
    assert (first.headers["X-PAGINATION-LIMIT"], first.headers["X-PAGINATION-PAGE"]) == ("250", "3")
    assert "X-COMPARE-TIMESTAMP" not in first.headers
    assert second.headers["X-COMPARE-TIMESTAMP"] == "1594912228"


async def test_a_scan_is_sent_as_the_document_has_it() -> None:
    server = Server(scanned(code=200))
    answer = await client(server).check_out("service-1", "A")
    assert server.requests[0].url.path.endswith("/barcodes/checkout")
    assert json.loads(server.requests[0].content) == {
        "user_uuid": "user-1",
        "service_uuid": "service-1",
        "barcode_id": "A",
    }
    assert (answer.value.code, answer.value.matches) == (200, True)


async def test_an_answer_is_dated_by_the_server_and_timed_by_the_monotonic_clock() -> None:
    clock = Clock()

    def later(_: httpx.Request) -> httpx.Response:
        clock.now += 0.25
        return httpx.Response(200, json={"services": []}, headers={"Date": "Thu, 16 Jul 2026 12:00:00 GMT"})

    answer = await client(Server(later), clock).services()
    assert answer.date == datetime(2026, 7, 16, 12, tzinfo=UTC)
    assert (answer.sent, answer.received) == (1000.0, 1000.25)


@pytest.mark.parametrize(
    ("trusted", "url", "host"),
    [
        (("api.example.org", "own.example.org"), "https://own.example.org/v2/", "own.example.org"),
        (("own.example.org",), "https://own.example.org/v2/", "api.example.org"),
        (("api.example.org",), "https://own.example.org/v2/", "api.example.org"),
        (("api.example.org", "own.example.org"), "http://own.example.org/v2/", "api.example.org"),
        (("api.example.org", "own.example.org"), "https://x@own.example.org/v2/", "api.example.org"),
        (("api.example.org", "own.example.org"), "https://own.example.org:8443/", "api.example.org"),
        (("api.example.org", "own.example.org"), "https://[own.example.org/", "api.example.org"),
        (("api.example.org", "own.example.org"), "https://own.example.org/?x=", "api.example.org"),
        (("api.example.org", "own.example.org"), "https://own.example.org/\x00", "api.example.org"),
        (("api.example.org", "own.example.org"), None, "api.example.org"),
    ],
)
async def test_a_services_own_url_is_used_only_between_trusted_hosts(
    trusted: tuple[str, ...], url: str | None, host: str
) -> None:
    listed = {"services": [{"uuid": "1", "url": url}], "barcodes": []}
    server = Server(lambda _: httpx.Response(200, json=listed))
    api = client(server, trusted_hosts=trusted)
    await api.services()
    await api.page("1", 1, since=None)
    await api.page("2", 1, since=None)
    assert [request.url.host for request in server.requests] == ["api.example.org", host, "api.example.org"]


async def test_a_services_own_url_that_cant_be_reached_is_given_up_for_the_base_url() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "own.example.org":
            raise httpx.ConnectError("no such host", request=request)
        listed = {"services": [{"uuid": "1", "url": "https://own.example.org/v2/"}], "barcodes": []}
        return httpx.Response(200, json=listed)

    server = Server(answer)
    api = client(server, trusted_hosts=("api.example.org", "own.example.org"))
    await api.services()
    for page in (1, 2):
        await api.page("1", page, since=None)
    assert [request.url.host.partition(".")[0] for request in server.requests] == ["api", "own", "api", "api"]


async def test_a_probe_asks_where_the_direct_calls_go() -> None:
    listed = {"services": [{"uuid": "1", "url": "https://own.example.org/v2/"}]}
    server = Server(lambda _: httpx.Response(200, json=listed))
    api = client(server, trusted_hosts=("api.example.org", "own.example.org"))
    await api.probe("")
    await api.services()
    await api.probe("1")
    assert [request.url.host for request in server.requests] == ["api.example.org"] * 2 + ["own.example.org"]


async def test_a_services_own_url_without_the_api_is_given_up_for_the_base_url() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "own.example.org":
            return httpx.Response(404)
        return httpx.Response(200, json={"services": [{"uuid": "1", "url": "https://own.example.org/v2/"}]})

    server = Server(answer)
    api = client(server, trusted_hosts=("api.example.org", "own.example.org"))
    await api.services()
    for _ in range(2):
        await api.probe("1")
    assert [request.url.host.partition(".")[0] for request in server.requests] == ["api", "own", "api", "api"]


# What comes back


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        *[
            (error, ApiUnreachable)
            for error in (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
        ],
        *[
            (error, ApiAnswerLost)
            for error in (httpx.ReadTimeout, httpx.ReadError, httpx.WriteTimeout, httpx.WriteError)
        ],
        *[(error, ApiAnswerLost) for error in (httpx.RemoteProtocolError, httpx.LocalProtocolError)],
    ],
)
async def test_what_httpx_raises_says_what_is_known_of_the_request(
    raised: type[httpx.RequestError], expected: type[ApiError]
) -> None:
    api = client(Server(raising(raised)))
    for call in (api.services(), api.check_in("1", "A"), api.upload("1", ROWS), api.page("1", 1, since=None)):
        with pytest.raises(ApiError) as caught:
            await call
        assert type(caught.value) is expected
        assert "0.00 s" in str(caught.value)


@pytest.mark.parametrize("status", [403, 404, 405, 408, 413, 422, 429, 500, 502, 503, 511])
async def test_a_refusal_has_its_status_and_its_message(status: int) -> None:
    api = client(Server(refusing(status, "no")))
    for call in (api.services(), api.check_in("1", "A"), api.upload("1", ROWS), api.page("1", 1, since=None)):
        with pytest.raises(ApiRefused, match=f"{status} no") as caught:
            await call
        assert caught.value.status == status
        assert caught.value.retry is (status == 429 or status >= 500)


async def test_a_refusal_says_when_to_come_again() -> None:
    def busy(_: httpx.Request) -> httpx.Response:
        return httpx.Response(429, headers={"Retry-After": "7"})

    with pytest.raises(ApiRefused) as caught:
        await client(Server(busy)).services()
    assert caught.value.retry_after_s == 7.0


async def test_a_barcode_that_the_server_repeats_is_masked() -> None:
    api = client(Server(refusing(422, "barcode GATED-REGULAR is odd")))
    with pytest.raises(ApiRefused, match="barcode … is odd"):
        await api.check_in("1", "GATED-REGULAR")
    with pytest.raises(ApiRefused, match="barcode … is odd"):
        await api.upload("1", ROWS)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed(status: int) -> None:
    server = Server(lambda _: httpx.Response(status, headers={"Location": "https://portal.example.org/"}))
    with pytest.raises(ApiBadAnswer, match=r"sent on to https://portal\.example\.org/") as caught:
        await client(server).services()
    assert "log-in page" in caught.value.hint
    assert len(server.requests) == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"<html>Free Wi-Fi</html>", b'{"data":[]}', b"\xff"])
async def test_a_good_status_with_another_body_is_a_bad_answer(content: bytes) -> None:
    api = client(Server(lambda _: httpx.Response(200, content=content)))
    for call in (api.services(), api.check_in("1", "A"), api.upload("1", ROWS), api.page("1", 1, since=None)):
        with pytest.raises(ApiBadAnswer):
            await call


async def test_an_answer_over_the_cap_is_not_read_to_its_end() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b" " * 1024 * 1024

    with pytest.raises(ApiBadAnswer, match="longer than"):
        await client(Server(lambda _: httpx.Response(200, content=endless()))).services()
    assert read == link.MOST_BYTES // 1024 // 1024 + 1


async def test_an_answer_that_only_drips_is_given_up_and_may_have_been_carried_out() -> None:
    clock = Clock()

    async def dripping() -> AsyncIterator[bytes]:
        while True:
            clock.now += 3.0
            yield b" "

    with pytest.raises(ApiAnswerLost, match=r"given up at 3 bytes of an answer, 9\.0 s"):
        await client(Server(lambda _: httpx.Response(200, content=dripping())), clock).check_in("1", "A")


async def test_a_400_that_names_a_code_is_a_refusal_and_no_error() -> None:
    answer = await client(Server(scanned(400, code=50))).check_in("1", "A")
    assert answer.value.code == 50


async def test_a_400_never_admits() -> None:
    with pytest.raises(ApiRefused):
        await client(Server(scanned(400, code=100))).check_in("1", "A")


async def test_a_pool_without_a_place_left_is_replaced() -> None:
    class Pool(httpx.AsyncBaseTransport):
        closed = 0

        def __init__(self, server: Server) -> None:
            self.mock = httpx.MockTransport(server)

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return await self.mock.handle_async_request(request)

        async def aclose(self) -> None:
            self.closed += 1

    server = Server(raising(httpx.PoolTimeout))
    pool = Pool(server)
    api = TicketScanApi(SETTINGS, "secret", transport=pool)
    with pytest.raises(ApiUnreachable):
        await api.services()
    assert pool.closed == 1
    server.answer = Server.answer
    await api.services()
    await api.close()
    assert pool.closed == 3


# Logging in


async def test_calls_at_the_same_time_share_one_login() -> None:
    server = Server()
    api = client(server)
    await asyncio.gather(*(api.services() for _ in range(10)))
    assert (server.logins, len(server.requests)) == (1, 10)


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, ""), (400, "The token has expired."), (400, "JWT invalid"), (400, "expired")],
)
async def test_a_refused_token_is_replaced_and_the_call_made_once_more(status: int, message: str) -> None:
    server = Server()
    server.answer = taking_only(server.token(2), refusing(status, message)(httpx.Request("GET", "/")))
    api = client(server)
    await asyncio.gather(*(api.services() for _ in range(5)), api.check_in("1", "A"))
    assert server.logins == 2
    assert len(server.requests) == 12


async def test_a_second_refusal_of_the_token_is_an_error_and_no_loop() -> None:
    server = Server(refusing(401, "no"))
    with pytest.raises(ApiRefused) as caught:
        await client(server).services()
    assert (caught.value.status, server.logins, len(server.requests)) == (401, 2, 2)


@pytest.mark.parametrize(
    "message",
    ["A barcode can't be inserted.", "DENY - Ticket barcode is expired: on 2026-07-16 12:00:00 UTC"],
)
async def test_a_400_about_something_else_costs_no_login(message: str) -> None:
    server = Server(refusing(400, message))
    with pytest.raises(ApiRefused):
        await client(server).check_in("1", "A")
    assert (server.logins, len(server.requests)) == (1, 1)


async def test_tokens_taken_back_again_and_again_point_to_another_device() -> None:
    clock, server = Clock(), Server(refusing(401))
    api = client(server, clock)
    for _ in range(3):
        with pytest.raises(ApiRefused):
            await api.services()
    with pytest.raises(ApiUserShared, match="no new login for 600 s") as caught:
        await api.services()
    assert "another device" in caught.value.hint.lower()
    assert server.logins == 4
    clock.now += 601
    with pytest.raises(ApiRefused):
        await api.services()
    assert server.logins == 5


async def test_400s_that_only_seem_to_be_about_the_token_stay_400s() -> None:
    server = Server(refusing(400, "author unknown"))
    api = client(server)
    for _ in range(5):
        with pytest.raises(ApiRefused) as caught:
            await api.upload("1", ROWS)
        assert caught.value.status == 400
    assert server.logins == 4


@pytest.mark.parametrize("status", [400, 401, 403, 422])
async def test_wrong_credentials_are_not_tried_again_for_five_minutes(status: int) -> None:
    clock = Clock()
    server = Server(login=lambda: refusing(status, "Invalid: secret")(httpx.Request("POST", "/")))
    api = client(server, clock)
    with pytest.raises(ApiLoginRefused, match="Invalid: …"):
        await api.services()
    clock.now += 299
    with pytest.raises(ApiLoginRefused, match="not tried again for 1 s"):
        await api.check_in("1", "A")
    assert (server.logins, server.requests) == (1, [])
    clock.now += 1
    server.login = lambda: None
    await api.services()
    assert server.logins == 2


@pytest.mark.parametrize(
    ("status", "content", "expected"),
    [
        (500, b"", ApiRefused),
        (429, b"", ApiRefused),
        (403, b"<html>Blocked by the venue</html>", ApiRefused),
        (302, b"", ApiBadAnswer),
        (200, b"<html>", ApiBadAnswer),
        (200, b'{"login":{"message":"Wrong"}}', ApiBadAnswer),
        (200, b'{"login":{"token":"opaque"}}', ApiBadAnswer),
    ],
)
async def test_another_failure_of_the_login_is_not_taken_for_wrong_credentials(
    status: int, content: bytes, expected: type[ApiError]
) -> None:
    server = Server(login=lambda: httpx.Response(status, content=content))
    api = client(server)
    for attempt in (1, 2):
        with pytest.raises(expected):
            await api.login()
        assert server.logins == attempt


async def test_the_login_says_who_the_scan_user_is() -> None:
    server = Server()
    claims = await client(server).login()
    assert (claims.user_id, claims.active, claims.expires_in) == ("user-1", True, timedelta(days=60))


@pytest.mark.parametrize(
    ("life_s", "renewed_after_s"),
    [(60 * DAY, 54 * DAY), (5 * DAY, 4 * DAY), (1 * DAY, 0.5 * DAY), (3600, 1800), (60, 30), (1, 10)],
)
async def test_a_token_is_renewed_early_by_its_own_life(life_s: float, renewed_after_s: float) -> None:
    clock, server = Clock(), Server(life_s=life_s)
    api = client(server, clock)
    await api.services()
    clock.now += renewed_after_s - 0.5
    await api.services()
    assert server.logins == 1
    clock.now += 0.5
    await api.services()
    await api.services()
    assert server.logins == 2


async def test_a_token_that_does_not_say_how_long_it_lives_is_kept_until_it_is_refused() -> None:
    clock, server = Clock(), Server(life_s=-1)
    api = client(server, clock)
    await api.services()
    clock.now += 1000 * DAY
    await api.services()
    assert server.logins == 1


@pytest.mark.parametrize(
    ("login", "kind"),
    [
        (refusing(401, "Invalid"), ApiLoginRefused),
        (refusing(503), ApiRefused),
        (raising(httpx.ConnectError), ApiUnreachable),
    ],
)
async def test_an_early_renewal_that_fails_leaves_the_old_token_at_work(
    login: Callable[[httpx.Request], httpx.Response], kind: type[ApiError]
) -> None:
    clock, server = Clock(), Server()
    api = client(server, clock)
    await api.services()
    clock.now += 55 * DAY
    server.login = lambda: login(httpx.Request("POST", "/"))
    for _ in range(3):
        await api.services()
    assert server.logins == 2
    assert isinstance(api.early_renewal_error, kind)
    assert set(server.bearers()) == {f"bearer {server.token(1)}"}
    clock.now += 300
    server.login = lambda: None
    await api.services()
    assert server.logins == 3
    assert api.early_renewal_error is None


async def test_a_direct_call_leaves_the_early_renewal_to_others() -> None:
    clock, server = Clock(), Server(scanned())
    api = client(server, clock)
    await api.check_in("1", "A")
    clock.now += 55 * DAY
    await api.check_in("1", "A")
    assert server.logins == 1
    clock.now += 6 * DAY
    await api.check_in("1", "A")
    assert server.logins == 2


async def test_an_idle_connection_is_closed_before_a_server_does_it_in_mid_request() -> None:
    api = TicketScanApi(SETTINGS, "secret")
    for each in (api._direct, api._transfers):
        transport = each._client._transport
        assert isinstance(transport, httpx.AsyncHTTPTransport)
        assert transport._pool._keepalive_expiry == 20.0
    await api.close()


# TLS, and what the client keeps to itself


def certificate(folder: Path, valid_from: datetime, days: int) -> ssl.SSLContext:
    """A server's TLS with a certificate of its own making, which is also the authority in ca.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid_from)
        .not_valid_after(valid_from + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


async def tls_error(context: ssl.SSLContext, ca_file: Path | None) -> ApiError:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    settings = replace(SETTINGS, base_url=f"https://localhost:{port}", ca_file=ca_file)
    api = TicketScanApi(settings, "secret")
    try:
        await api.login()
    except ApiError as error:
        return error
    finally:
        await api.close()
        server.close()
    raise AssertionError


@pytest.mark.parametrize(
    ("from_days", "for_days", "hint"),
    [(1, 9, "clock is behind"), (-9, 1, "expired, or this machine's clock is ahead")],
)
async def test_a_certificate_out_of_its_time_points_to_the_clock(
    tmp_path: Path, from_days: int, for_days: int, hint: str
) -> None:
    context = certificate(tmp_path, datetime.now(UTC) + timedelta(days=from_days), for_days)
    error = await tls_error(context, tmp_path / "ca.pem")
    assert type(error) is ApiUnreachable
    assert hint in error.hint


async def test_a_certificate_of_a_stranger_is_not_trusted(tmp_path: Path) -> None:
    error = await tls_error(certificate(tmp_path, datetime.now(UTC) - timedelta(days=1), 9), None)
    assert type(error) is ApiUnreachable
    assert "not trusted" in error.hint


@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated")
async def test_tls_below_1_2_is_not_spoken(tmp_path: Path) -> None:
    context = certificate(tmp_path, datetime.now(UTC) - timedelta(days=1), 9)
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    assert link._trust(None).minimum_version is ssl.TLSVersion.TLSv1_2  # OpenSSL's own default may be lower
    assert type(await tls_error(context, tmp_path / "ca.pem")) is ApiUnreachable


async def test_a_certificate_in_ca_file_is_trusted(tmp_path: Path) -> None:
    error = await tls_error(
        certificate(tmp_path, datetime.now(UTC) - timedelta(days=1), 9), tmp_path / "ca.pem"
    )
    assert type(error) is ApiAnswerLost


def test_a_ca_file_that_cant_be_used_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match=r"api\.ca_file"):
            TicketScanApi(replace(SETTINGS, ca_file=path), "secret")


async def test_requests_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await client(Server()).services()
    assert [record for record in caplog.records if record.name.startswith("http")] == []


# Against the simulator, over a socket


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(made_up_event(extra=40)) as running:
        yield running


@pytest.fixture
async def api(simulator: Simulator) -> AsyncIterator[TicketScanApi]:
    made = TicketScanApi(replace(SETTINGS, base_url=simulator.url, page_size=25), "secret")
    yield made
    await made.close()


async def service_of(api: TicketScanApi) -> str:
    return choose_service((await api.services()).value, None).id


async def all_tickets(api: TicketScanApi, service_id: str, since: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    number = 1
    while True:
        page = (await api.page(service_id, number, since)).value
        assert (page.set_aside, page.total_items) == (0, page.total_items)
        found |= {ticket.barcode_id: ticket for ticket in page.tickets}
        if page.next_page is None:
            return found
        number = page.next_page


@pytest.mark.parametrize(
    "habits",
    [
        *[Habits(times=times) for times in Times],
        Habits(times=Times.NAIVE, zero_dates=True, numbers_as_strings=True),
        Habits(booleans=True, php_lists=True),
        Habits(php_lists=True, numbers_as_strings=True, barcodes_as_numbers=True, gzip=True),
    ],
)
async def test_every_habit_of_writing_gives_the_same_tickets(
    simulator: Simulator, api: TicketScanApi, habits: Habits
) -> None:
    service = await service_of(api)
    plain = await all_tickets(api, service)
    assert len(plain) == len(simulator.event.tickets)
    simulator.habits = habits
    assert await service_of(api) == service
    assert await all_tickets(api, service) == plain


async def test_a_check_in_admits_once_and_its_refusal_says_when(
    simulator: Simulator, api: TicketScanApi
) -> None:
    service = await service_of(api)
    first = (await api.check_in(service, "GATED-REGULAR")).value
    second = (await api.check_in(service, "GATED-REGULAR")).value
    assert (first.code, first.matches, second.code, second.matches) == (100, True, 50, True)
    assert second.last_checked_in is not None
    assert len(simulator.checkins) == 1
    assert (await api.check_out(service, "GATED-REGULAR")).value.code == 200


@pytest.mark.parametrize(
    ("habits", "code", "matches"),
    [
        (Habits(code_as_string=True, numbers_as_strings=True, php_lists=True), 100, True),
        (Habits(answer_code=110), 110, True),
        (Habits(answered_rows=AnsweredRows.TWO), 100, False),
        (Habits(answered_rows=AnsweredRows.ANOTHER), 100, False),
    ],
)
async def test_an_odd_answer_to_a_check_in_is_read_for_what_it_is(
    simulator: Simulator, api: TicketScanApi, habits: Habits, code: int, matches: bool
) -> None:
    simulator.habits = habits
    answer = (await api.check_in(await service_of(api), "GATED-REGULAR")).value
    assert (answer.code, answer.matches) == (code, matches)


@pytest.mark.parametrize(
    ("refusals", "code"), [(Refusals.ROW_201, 45), (Refusals.ROW_400, 45), (Refusals.MESSAGE_400, None)]
)
async def test_a_refusal_is_understood_however_it_is_answered(
    simulator: Simulator, api: TicketScanApi, refusals: Refusals, code: int | None
) -> None:
    simulator.habits = Habits(refusals=refusals)
    service = await service_of(api)
    if code is None:
        with pytest.raises(ApiRefused) as caught:
            await api.check_in(service, "GATED-CANCELED")
        assert caught.value.status == 400
    else:
        assert (await api.check_in(service, "GATED-CANCELED")).value.code == code
    assert simulator.requests["login"] == 1


async def test_an_upload_arrives_as_it_was_given(simulator: Simulator, api: TicketScanApi) -> None:
    await api.upload(await service_of(api), ROWS)
    (received,) = simulator.uploaded
    assert received.scan.barcode_id == ROWS[0].barcode_id
    assert received.scan.checked_in_time == ROWS[0].checked_in_time


@pytest.mark.parametrize("as_400", [False, True])
async def test_a_revoked_token_is_renewed_unnoticed(
    simulator: Simulator, api: TicketScanApi, as_400: bool
) -> None:
    simulator.habits = Habits(expired_token_as_400=as_400)
    service = await service_of(api)
    simulator.revoke_tokens()
    assert (await api.check_in(service, "GATED-VIP")).value.code == 100
    assert (simulator.requests["login"], len(simulator.checkins)) == (2, 1)


async def test_a_wrong_password_is_refused(simulator: Simulator) -> None:
    api = TicketScanApi(replace(SETTINGS, base_url=simulator.url), "wrong")
    with pytest.raises(ApiLoginRefused):
        await api.services()
    await api.close()


FAULTS: list[tuple[str, type[ApiError]]] = [
    *[(f"status_{status}", ApiRefused) for status in (403, 404, 405, 408, 413, 422, 429, 500, 502, 503)],
    ("status_500_after", ApiRefused),
    *[(fault, ApiAnswerLost) for fault in ("closed_before", "closed_after", "headers_only", "half_body")],
    *[(fault, ApiBadAnswer) for fault in ("not_json", "empty_body", "other_shape", "redirect")],
]


@pytest.mark.parametrize(("fault", "expected"), FAULTS)
async def test_each_fault_is_one_error_and_the_next_call_is_good(
    simulator: Simulator, api: TicketScanApi, fault: str, expected: type[ApiError]
) -> None:
    service = await service_of(api)
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "services": api.services,
        "barcodes": lambda: api.page(service, 1, None),
        "checkin": lambda: api.check_in(service, "GATED-REGULAR"),
        "upload": lambda: api.upload(service, ROWS),
    }
    for endpoint, call in calls.items():
        simulator.faults.add(endpoint, fault)
        with pytest.raises(ApiError) as caught:
            await call()
        assert type(caught.value) is expected
        await call()
    assert simulator.requests["other"] == 0
    assert simulator.requests["login"] == 1


async def test_a_slow_server_is_an_answer_lost_by_its_time_out(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = link.Patience(httpx.Timeout(5.0, read=0.25), whole_s=0.3)
    monkeypatch.setattr("gated.api.client._DIRECT", brief)
    api = TicketScanApi(replace(SETTINGS, base_url=simulator.url), "secret")
    service = await service_of(api)
    simulator.faults.add("checkin", "timeout_after", seconds=0.5)
    with pytest.raises(ApiAnswerLost, match="ReadTimeout"):
        await api.check_in(service, "GATED-REGULAR")
    simulator.faults.add("checkin", "slow_drip", seconds=1.0)
    with pytest.raises(ApiAnswerLost):
        await api.check_in(service, "GATED-VIP")
    assert len(simulator.checkins) == 2
    await api.close()


async def test_a_server_that_is_gone_was_sent_nothing_and_is_found_again(
    simulator: Simulator, api: TicketScanApi
) -> None:
    service = await service_of(api)
    await api.probe(service)
    simulator.stop()
    failures = []
    for _ in range(3):
        with pytest.raises(ApiError) as caught:
            await api.check_in(service, "GATED-REGULAR")
        failures.append(type(caught.value))
    assert failures[-1] is ApiUnreachable
    simulator.start()
    assert (await api.check_in(service, "GATED-REGULAR")).value.code == 100


async def test_many_calls_at_once_are_all_answered(simulator: Simulator, api: TicketScanApi) -> None:
    service = await service_of(api)
    names = [f"GATED{number:06}" for number in range(1, 41)]
    answers = await asyncio.gather(*(api.check_in(service, name) for name in names))
    assert [answer.value.ticket.barcode_id for answer in answers if answer.value.ticket] == names
    assert all(answer.value.code == 100 and answer.value.matches for answer in answers)
