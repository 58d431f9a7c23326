"""A server's answers of any kind, through the real client: values, or errors of ours, and nothing else."""

import asyncio
import base64
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.api import client as api_client
from gated.api import link, wire
from gated.api.client import TicketScanApi
from gated.api.link import Patience
from gated.api.wire import Service
from gated.errors import ApiAnswerLost, ApiBadAnswer, ApiError, ServiceNotChosen
from tests.api.test_client import ROWS, SETTINGS, Server, client
from tests.hostile.words import HOSTILE, harmless, tried
from tests.store.desks import Counter

FIELDS = sorted(
    {
        "barcodes",
        "pagination",
        "pages",
        "next_page",
        "total_items",
        "total_pages",
        "services",
        "login",
        "token",
    }
    | {"info", "message", "error", "errors", "uuid", "name", "url", "sync_interval", "permissions", "setup"}
    | {"ticket_types", "ticket_type_hash_id", "count_total_available", "date", "timezone", "scan_status_code"}
    | {"scan_status_message", "sub", "exp", "iat", "user", "active"}
    | set(wire._ScannedRow.__struct_fields__)
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**30, -(10**400), 1e308, -0.0, 5e-324, 2**63, 9e15, 1784200000, 100, 200, 50])
    | st.floats()  # NaN and the infinities too, which are no JSON
    | st.text(max_size=20)
    | st.sampled_from([*HOSTILE.values(), "0000-00-00", "9999-12-31T23:59:59-23:59", "1e999", "\ud800", "A"])
)
ANY_JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=8)
    ),
    max_leaves=25,
)
ROW = st.dictionaries(st.sampled_from(FIELDS), LEAVES | ANY_JSON, max_size=8).map(
    lambda row: {"barcode_id": "A", **row}
)
LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "barcodes": st.lists(ROW | ANY_JSON, max_size=3) | ANY_JSON,
        "services": st.lists(ROW.map(lambda row: {"uuid": "1", **row}), max_size=3) | ANY_JSON,
        "pagination": ANY_JSON,
        "info": ANY_JSON,
        "message": LEAVES,
        "login": ANY_JSON,
    },
)


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


BODIES = (
    ANY_JSON.map(written)
    | LIKELY.map(written)
    | LIKELY.map(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"))
    | st.binary(max_size=200)
    | st.tuples(LIKELY.map(written), st.integers(0, 200), st.binary(max_size=3)).map(
        lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] :]
    )
    | st.sampled_from(
        [
            b"[" * 100_000,
            b'{"barcodes":' * 50_000 + b"1" + b"}" * 50_000,
            b'{"barcodes":[{"barcode_id":"A","barcode_id":"B","is_canceled":1,"is_canceled":0}]}',
            b'{"services":[],"services":5,"barcodes":[1,null,{"barcode_id":{}}]}',
            b'{"info":' + b"9" * 5000 + b"}",
            b'{"message":"\\ud800"}',
        ]
    )
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Date": st.text(st.characters(max_codepoint=255), max_size=40)
        | st.sampled_from(["Mon, 01 Jan 9999 23:59:59 -2359", "Mon, 01 Jan 1 00:00:00 +2359", "0" * 5000]),
        "Retry-After": st.sampled_from(
            ["-1", "9" * 400, "nan", "1e9", "Fri, 31 Dec 9999 23:59:59 GMT", "\x1b[2J"]
        ),
        "Location": st.sampled_from(["\x9b31m", "javascript:alert(1)", "https://" + "a" * 5000])
        | st.text(st.characters(max_codepoint=255), max_size=20).map(lambda text: "//" + text),
        "Content-Encoding": st.sampled_from(["identity", "br", "gzip, gzip", "\x1b[2J", "x" * 500]),
    },
)
STATUS = st.sampled_from([200, 200, 200, 201, 204, 302, 400, 401, 403, 422, 429, 500, 503, 599])


async def outcome(call: Awaitable[Any]) -> object:
    """What a call gives: a value, or an error of ours with a text that is fit for a log."""
    try:
        return await call
    except ApiError as error:
        found = error
    assert harmless(str(found))
    assert len(str(found)) < 1000
    return found


@tried(5)
@given(body=BODIES, status=STATUS, headers=HEADERS)
async def test_any_answer_to_any_call_is_a_value_or_an_error_of_ours(
    body: bytes, status: int, headers: dict[str, str]
) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

    def answer(_: httpx.Request | None = None) -> httpx.Response:
        return httpx.Response(status, headers=raw, stream=httpx.ByteStream(body))

    api = client(Server(answer))
    for call in (
        api.services(),
        api.probe("1"),
        api.page("1", 1, since=None),
        api.check_in("1", "A"),
        api.check_out("1", "A"),
        api.upload("1", ROWS),
    ):
        await outcome(call)
    await outcome(client(Server(login=answer)).login())


@tried(10)
@given(body=BODIES)
def test_the_rows_of_any_page_are_tickets_or_set_aside_and_counted(body: bytes) -> None:
    try:
        page = wire.read_page(body, asked=1, limit=500)
    except ApiBadAnswer:
        return
    rows = json.loads(body.decode("utf-8-sig", errors="replace"))["barcodes"]  # the rest is skipped unread
    doubles = len(rows or ()) - page.set_aside - len(page.tickets)
    assert 0 <= doubles <= page.odd
    for ticket in page.tickets:
        assert not (ticket.unreadable and ticket.checkin_allowed)


@tried(10)
@given(body=BODIES, sent=st.sampled_from(["A", "B", *HOSTILE.values()]))
def test_no_answer_admits_but_with_the_code_and_the_ticket_that_was_sent(body: bytes, sent: str) -> None:
    try:
        answer = wire.read_scan_answer(body, sent)
    except ApiBadAnswer:
        return
    if answer.matches and answer.code in (100, 200):
        listed = json.loads(body.decode("utf-8-sig", errors="replace"))["barcodes"]
        [row] = listed if isinstance(listed, list) else listed.values()
        assert sent in {str(row.get("barcode_id")).strip(), str(row.get("external_barcode_id")).strip()}


@tried(10)
@given(claims=st.dictionaries(st.sampled_from(FIELDS), LEAVES))
def test_the_claims_of_any_token_are_read_or_refused(claims: dict[str, Any]) -> None:
    token = base64.urlsafe_b64encode(json.dumps({"sub": "u", **claims}).encode()).decode()
    with suppress(ApiBadAnswer):
        wire.token_claims(f"h.{token}.s")


def test_whatever_can_be_read_can_be_stored(tmp_path: Path) -> None:
    rows = [
        {
            "barcode_id": f"{number}",
            "remaining_scans": many,
            "ticket_type": text,
            "seat": 10**400,
            "expire_from": when,
        }
        for number, (many, text, when) in enumerate(
            (many, text, when)
            for many in (1e308, 10**400, -(10**400), 2**63, "9" * 18)
            for text in HOSTILE.values()
            for when in (None, 4102444799, "2100-12-31 23:59:59")
        )
    ]
    body = written({"barcodes": rows, "pagination": {"total_items": 10**30, "total_pages": 1e308}})
    page = wire.read_page(body, asked=1, limit=500)
    counter = Counter(tmp_path)
    counter.load(*page.tickets)
    assert counter.mirror_db.execute("SELECT count(*) FROM ticket").fetchone() == (len(rows),)
    assert (page.total_items, page.total_pages) == (None, None)
    counter.close()


def test_a_name_of_megabytes_is_cut() -> None:
    page = wire.read_page(
        written({"barcodes": [{"barcode_id": "A", "ticket_type": "x" * 10**6}]}), asked=1, limit=9
    )
    assert len(page.tickets[0].type_name) == 256


def test_an_error_lists_some_services_and_counts_the_rest() -> None:
    services = wire.read_services(
        written({"services": [{"uuid": f"{n}", "name": "x" * 999} for n in range(120)]})
    )
    with pytest.raises(ServiceNotChosen, match="and 100 more") as caught:
        wire.choose_service(services, None)
    assert len(str(caught.value)) < 6000
    assert isinstance(services[0], Service)


# On the wire


@asynccontextmanager
async def serving(answer: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[TicketScanApi]:
    """A client of a server that writes as it likes, once it has given a token."""
    token = Server().token(1)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                if b"userlogin" in request:
                    body = json.dumps({"login": {"token": token}}).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                    await reader.readexactly(
                        int(request.lower().split(b"content-length: ")[1].split(b"\r")[0])
                    )
                else:
                    await answer(writer)
                    return
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    api = TicketScanApi(replace(SETTINGS, base_url=f"http://127.0.0.1:{port}"), "secret")
    try:
        yield api
    finally:
        await api.close()
        server.close()


async def test_a_body_of_100_mb_is_not_read_to_its_end() -> None:
    written_bytes = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal written_bytes
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n")
        while written_bytes < 104_857_600:
            writer.write(b" " * 65_536)
            written_bytes += 65_536
            await writer.drain()

    async with serving(endless) as api:
        with pytest.raises(ApiBadAnswer, match="longer than 8388608 bytes"):
            await api.services()
    assert written_bytes < 3 * link.MOST_BYTES


def packed(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("gzip", "longer than 8388608 bytes"),
        ("gzip, gzip", "packed with 'gzip, gzip'"),
        ("br", "packed with 'br'"),
    ],
)
async def test_a_bomb_is_not_unpacked(encoding: str, told: str) -> None:
    bomb = packed(b" " * 20_000_000)
    if encoding != "gzip":
        bomb = packed(bomb)

    async def throw(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(bomb)}\r\n\r\n"
        writer.write(head.encode() + bomb)
        await writer.drain()

    async with serving(throw) as api:
        await api.login()
        tracemalloc.start()
        with pytest.raises(ApiBadAnswer, match=told):
            await api.services()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2 * link.MOST_BYTES


@pytest.mark.parametrize("body", [b"no gzip", packed(b'{"services":[]}')[:-12], b""])
async def test_a_packed_answer_that_is_broken_is_a_bad_one(body: bytes) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(body))

    with pytest.raises(ApiBadAnswer):
        await client(Server(answer)).services()


async def test_a_packed_answer_in_small_pieces_is_read() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in gzip.compress(b'{"services":[{"uuid":"1"}]}') + b"more than there should be":
            yield bytes([byte])

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Encoding": "GZIP"}, content=pieces())

    assert [each.id for each in (await client(Server(answer)).services()).value] == ["1"]


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_048_576 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"\x1b[2J\x9b31m\x00" * 5000 + b"\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000,
    ],
    ids=["1 MB", "100,000", "no HTTP", "SSH", "negative", "two lengths", "chunk", "100 Continue"],
)
async def test_headers_that_are_none_are_an_error_with_a_short_text(head: bytes) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await writer.drain()

    async with serving(answer) as api:
        found = await outcome(api.services())
        assert isinstance(found, ApiError)


async def test_headers_that_only_drip_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = Patience(httpx.Timeout(5.0), whole_s=0.3)
    monkeypatch.setattr(api_client, "_TRANSFER", patience)

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serving(drip) as api:
        async with asyncio.timeout(5):
            with pytest.raises(ApiAnswerLost):
                await api.services()
