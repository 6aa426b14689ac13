"""What uvicorn leaves open and `proxy.web.server` closes; and that the rest still works."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from web_site import Site, Sites, free_socket  # type: ignore[import-not-found,unused-ignore]

from proxy.web.server import HEADER_BYTES, HttpServer

pytest_plugins = ("web_site",)


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello " + str(len(await request.body())))


def app() -> Starlette:
    return Starlette(routes=[Route("/", hello, methods=["GET", "POST"])])


async def say(port: int, data: bytes) -> bytes:
    """Send `data`, and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""
    finally:
        writer.close()


GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
LAST = GET + b"Connection: close\r\n\r\n"


async def test_it_serves_and_pipelines(sites: Sites) -> None:
    port = await sites.serve(app())
    answer = await say(port, GET + b"\r\n" + GET + b"\r\n" + LAST)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert b"\r\ndate: " in answer
    assert b"server:" not in answer.lower()


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"x" * HEADER_BYTES * 3,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * HEADER_BYTES,
        b"GET / HTTP/1.1\r\nX-Long: " + b"y" * (HEADER_BYTES * 2) + b"\r\n",
        GET + b"\r\n" + b"GET / HTTP/1.1\r\nX-Long: " + b"y" * (HEADER_BYTES * 4),
    ],
    ids=["line", "fields", "field", "second"],
)
async def test_a_header_is_bounded(sites: Sites, data: bytes) -> None:
    port = await sites.serve(app())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    received = b""
    try:
        while chunk := await asyncio.wait_for(reader.read(4096), 20):
            received += chunk
    except ConnectionError:
        pass  # we were still sending when it hung up
    writer.close()
    if received:
        assert received.startswith((b"HTTP/1.1 431 Request header", b"HTTP/1.1 200 OK"))
    assert await say(port, LAST), "others are served"


async def test_a_header_within_the_bound_passes(sites: Sites) -> None:
    port = await sites.serve(app())
    filler = b"X-Long: " + b"y" * (HEADER_BYTES - 200) + b"\r\n"
    assert (await say(port, GET + filler + b"Connection: close\r\n\r\n")).startswith(
        b"HTTP/1.1 200"
    )


async def test_a_long_body_is_no_header(sites: Sites) -> None:
    port = await sites.serve(app())
    post = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n"
    assert (await say(port, post + b"z" * 300_000)).endswith(b"hello 300000")


@pytest.mark.parametrize("data", [b"", b"GET / HT", GET])
async def test_a_slow_header_is_cut_off(sites: Sites, data: bytes) -> None:
    port = await sites.serve(app(), header_seconds=0.2)
    assert (await say(port, data)).startswith(b"HTTP/1.1 408 Request too slow\r\n")


async def test_a_slow_answer_is_not(sites: Sites) -> None:
    go = asyncio.Event()

    async def slow(_: Request) -> Response:
        await go.wait()
        return PlainTextResponse("late")

    port = await sites.serve(Starlette(routes=[Route("/", slow)]), header_seconds=0.1)
    asking = asyncio.create_task(say(port, LAST))
    # Another connection's header time runs out meanwhile: longer than the first's would have.
    assert b" 408 " in await say(port, b"GET")
    assert b" 408 " in await say(port, b"GET")
    go.set()
    assert (await asking).endswith(b"late")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"HELO x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused(sites: Sites, data: bytes) -> None:
    port = await sites.serve(app())
    answer = await say(port, data)
    assert b" 400 " in answer.split(b"\r\n", 1)[0]


async def test_silent_connections_cannot_keep_people_out(sites: Sites) -> None:
    port = await sites.serve(app(), connections=4)
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
    assert (await say(port, LAST)).startswith(b"HTTP/1.1 200")
    dropped = 0
    for reader, writer in silent:
        writer.write(LAST)
        try:
            dropped += not await asyncio.wait_for(reader.read(), 20)
        except ConnectionError:
            dropped += 1
        writer.close()
    assert dropped == 1, "only the one that waited longest had to go"


async def test_503_when_all_connections_are_being_answered(sites: Sites) -> None:
    go = asyncio.Event()
    busy = asyncio.Semaphore(0)

    async def slow(_: Request) -> Response:
        busy.release()
        await go.wait()
        return PlainTextResponse("late")

    port = await sites.serve(Starlette(routes=[Route("/", slow)]), connections=2)
    asking = [asyncio.create_task(say(port, LAST)) for _ in range(2)]
    for _ in asking:
        await busy.acquire()
    answer = await say(port, LAST)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 60\r\n" in answer
    go.set()
    assert all(a.endswith(b"late") for a in await asyncio.gather(*asking))


async def test_stopping_lets_requests_end_and_leaves_the_port(sites: Sites) -> None:
    go, begun = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Response:
        begun.set()
        await go.wait()
        return PlainTextResponse("late")

    bound = free_socket()
    server = HttpServer(Starlette(routes=[Route("/", slow)]), bound)
    await server.start()
    idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", server.port)
    asking = asyncio.create_task(say(server.port, GET + b"\r\n"))
    await begun.wait()
    stopping = asyncio.create_task(server.stop())
    assert await asyncio.wait_for(idle_reader.read(), 20) == b"", "the idle one is closed"
    assert not stopping.done()
    go.set()
    assert (await asking).endswith(b"late")
    await stopping
    await server.stop()
    idle_writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)
    assert bound.fileno() == -1


async def test_start_tells_why_it_could_not(sites: Sites) -> None:
    closed = free_socket()
    server = HttpServer(app(), closed)
    closed.close()
    with pytest.raises(OSError):  # noqa: PT011  (which one depends on the loop)
        await server.start()


async def test_signals_and_logging_stay_the_owners(sites: Sites) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    handlers = list(logging.getLogger().handlers)
    port = await sites.serve(app())
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert logging.getLogger().handlers == handlers
    assert (await say(port, LAST)).startswith(b"HTTP/1.1 200")


async def test_ipv6(sites: Sites) -> None:
    bound = socket.socket(socket.AF_INET6)
    bound.bind(("::1", 0))
    server = HttpServer(app(), bound)
    await server.start()
    reader, writer = await asyncio.open_connection("::1", server.port)
    writer.write(LAST)
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    await server.stop()


async def test_one_click_over_a_raw_socket(site: Site) -> None:
    """As a mailbox provider may send it: HTTP/1.0, chunked, and with Expect."""
    body = b"List-Unsubscribe=One-Click"
    for n, (version, fields, sent) in enumerate(
        [
            (b"1.0", b"Content-Length: 26\r\n", body),
            (b"1.1", b"Transfer-Encoding: chunked\r\n", b"1a\r\n" + body + b"\r\n0\r\n\r\n"),
            (b"1.1", b"Expect: 100-continue\r\nContent-Length: 26\r\n", body),
            (b"1.1", b"Upgrade: h2c\r\nContent-Length: 26\r\n", body),
        ]
    ):
        person = f"p{n}@example.nl"
        head = b"POST %b HTTP/%b\r\nHost: x\r\nConnection: close\r\n" % (
            site.link(person).encode(),
            version,
        )
        answer = await say(site.port, head + fields + b"\r\n" + sent)
        assert b"HTTP/1.1 200 OK" in answer
        assert len(await site.events(person)) == 1
