"""The one-click POST against a real TLS server on loopback, and against hostile ones."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from https_peer import Peer, answer, trust
from hypothesis import given
from hypothesis import strategies as st

from proxy.delivery.one_click import Answer, OneClick, Outcome, is_public

HERE = ["127.0.0.1"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def peer(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Peer]:
    monkeypatch.setenv("SSL_CERT_FILE", str(trust(authority, tmp_path)))
    peer = Peer(authority, "leave.esp.example")
    await peer.start()
    yield peer
    await peer.close()


def client(
    *addresses: str, asked: list[tuple[str, int]] | None = None, seconds: float = 20
) -> OneClick:
    async def resolve(host: str, port: int) -> list[str]:
        if asked is not None:
            asked.append((host, port))
        return list(addresses or HERE)

    return OneClick(loopback=True, resolve=resolve, seconds=seconds)


def uri(peer: Peer, rest: str = "/u/abc?x=1&y=%20#f") -> str:
    return f"https://leave.esp.example:{peer.port}{rest}"


async def test_one_request_as_the_rfc_has_it(peer: Peer) -> None:
    asked: list[tuple[str, int]] = []
    said = await client(asked=asked).post(uri(peer))
    assert said == Answer(Outcome.TAKEN, "HTTP 200")
    assert asked == [("leave.esp.example", peer.port)], "resolved once"
    assert peer.names == ["leave.esp.example"]
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    assert body == b"List-Unsubscribe=One-Click"
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /u/abc?x=1&y=%20 HTTP/1.1"
    assert f"Host: leave.esp.example:{peer.port}" in lines
    assert "Content-Type: application/x-www-form-urlencoded" in lines
    sent = {line.partition(":")[0].lower() for line in lines[1:]}
    assert sent == {"host", "user-agent", "content-type", "content-length", "connection"}


async def test_no_path_is_the_root_and_proxies_of_the_environment_are_not_asked(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await client().post(uri(peer, ""))).outcome is Outcome.TAKEN
    assert peer.requests[0].startswith(b"POST / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("said", "outcome", "words"),
    [
        (answer(200), Outcome.TAKEN, "HTTP 200"),
        (answer(202), Outcome.TAKEN, "HTTP 202"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Outcome.TAKEN, "HTTP 204"),
        (b"HTTP/1.1 103 Early\r\n\r\n" + answer(200), Outcome.TAKEN, "HTTP 200"),
        (b"HTTP/1.1 100 Go on\r\n\r\n" + answer(503), Outcome.LATER, "HTTP 503"),
        (answer(301, "Location: /"), Outcome.NEVER, "HTTP 301: a redirect is not followed"),
        (answer(302, "Location: /"), Outcome.NEVER, "HTTP 302: a redirect is not followed"),
        (answer(307, "Location: /"), Outcome.NEVER, "HTTP 307: a redirect is not followed"),
        (answer(404), Outcome.NEVER, "HTTP 404"),
        (answer(410), Outcome.NEVER, "HTTP 410"),
        (answer(429), Outcome.LATER, "HTTP 429"),
        (answer(500), Outcome.LATER, "HTTP 500"),
        (b"", Outcome.LATER, "no HTTP answer"),
        (b"220 mx.example ESMTP\r\n", Outcome.LATER, "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000, Outcome.LATER, "no HTTP answer"),
        (b"HTTP/1.1 103 Early\r\n\r\n" * 5_000, Outcome.LATER, "no HTTP answer"),
    ],
    ids=[
        *("200", "202", "204", "103-200", "100-503", "301", "302", "307", "404", "410", "429"),
        *("500", "dropped", "no-http", "long-head", "only-interim"),
    ],
)
async def test_what_an_answer_means(
    peer: Peer, said: bytes, outcome: Outcome, words: str
) -> None:
    peer.answers.append(said)
    assert await client().post(uri(peer)) == Answer(outcome, words)
    assert len(peer.requests) == 1, "no redirect is followed, and nothing is asked twice"


async def test_a_body_without_end_is_not_read(peer: Peer) -> None:
    peer.answers.append(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n" + b"x" * 65_536)
    assert (await client(seconds=60).post(uri(peer))).outcome is Outcome.TAKEN


async def test_a_silent_server_is_given_up(peer: Peer) -> None:
    peer.answers.append(None)
    began = time.monotonic()
    assert await client(seconds=0.3).post(uri(peer)) == Answer(Outcome.LATER, "no answer in time")
    assert time.monotonic() - began < 20


async def test_the_certificate_must_be_of_that_name(peer: Peer) -> None:
    other = f"https://other.esp.example:{peer.port}/u"
    said = await client().post(other)
    assert said == Answer(Outcome.LATER, "its certificate is not valid")
    assert peer.requests == []


async def test_the_certificate_must_be_of_a_trusted_authority(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(trust(trustme.CA(), tmp_path)))
    said = await client().post(uri(peer))
    assert said == Answer(Outcome.LATER, "its certificate is not valid")
    assert peer.requests == []


async def test_nobody_listens(authority: trustme.CA) -> None:
    gone = Peer(authority)
    await gone.start()
    await gone.close()
    said = await client().post(f"https://leave.esp.example:{gone.port}/")
    assert said == Answer(Outcome.LATER, "no connection: ConnectionRefusedError")


async def test_a_host_without_address() -> None:
    async def nothing(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    said = await OneClick(resolve=nothing).post("https://leave.esp.example/")
    assert said == Answer(Outcome.LATER, "its host has no address now")


PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "0.0.0.0", "224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::",
    "2002:a00:1::", "64:ff9b:1::a00:1", "::10.0.0.1", "::ffff:0:10.0.0.1", "fec0::1", "5f00::1",
    "400::1", "not an address",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_nothing_is_posted_to(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::1"], ["8.8.8.8", "10.0.0.1"]],
    ids="+".join,
)
async def test_one_private_address_among_all_refuses(peer: Peer, addresses: list[str]) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return addresses

    said = await OneClick(resolve=resolve).post(uri(peer))
    assert said == Answer(Outcome.NEVER, "not a public address")
    assert peer.connections == 0


async def test_development_opens_this_machine_and_no_other_network(peer: Peer) -> None:
    said = await client("10.0.0.1").post(uri(peer))
    assert said == Answer(Outcome.NEVER, "not a public address")


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f000001", "localhost"])
async def test_names_of_this_machine_in_every_spelling(peer: Peer, host: str) -> None:
    """By the system's own resolver, which reads numbers in many ways."""
    said = await OneClick().post(f"https://{host}:{peer.port}/")
    assert said.outcome is not Outcome.TAKEN
    assert peer.connections == 0


@pytest.mark.parametrize(
    "bad",
    [
        "http://leave.esp.example/", "ftp://leave.esp.example/", "https:///u", "https://",
        "https://user@leave.esp.example/", "https://a:b@leave.esp.example/", "https://[::1]/",
        "https://leave.esp.example:99999/", "https://leave.esp.example:x/",
        "https://leave.esp.example\\@127.0.0.1/", "https://leave.esp.example/a b",
        "https://leave.esp.example/\r\nX: y", "https://leave.esp.ex\u00e4mple/",
    ],
)  # fmt: skip
async def test_uris_that_are_not_used(bad: str) -> None:
    asked: list[tuple[str, int]] = []
    assert (await client(asked=asked).post(bad)).outcome is Outcome.NEVER
    assert asked == []


@given(st.text(max_size=80))
def test_no_text_raises_or_connects(text: str) -> None:
    async def nothing(host: str, port: int) -> list[str]:
        return []

    said = asyncio.run(OneClick(resolve=nothing).post(f"https://{text}"))
    assert said.outcome is not Outcome.TAKEN


async def test_the_connection_goes_to_the_address_that_was_checked(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that answers otherwise the second time gains nothing: nobody asks a second time."""
    loop = asyncio.get_running_loop()
    looked_up: list[object] = []
    real = loop.getaddrinfo

    async def getaddrinfo(host: object, *args: object, **more: object) -> object:
        looked_up.append(host)
        return await real(host, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    assert (await client().post(uri(peer))).outcome is Outcome.TAKEN
    assert "leave.esp.example" not in looked_up


async def test_names_that_never_answer_keep_no_thread_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What reads large mail, and finds an upstream, works in the threads of the loop."""
    over = threading.Event()
    begun: list[object] = []

    def never(host: object, *_: object, **__: object) -> list[object]:
        begun.append(host)
        over.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", never)
    posts = [
        asyncio.create_task(OneClick().post(f"https://leave{n}.esp.example/"))
        for n in range((os.cpu_count() or 1) + 5)  # more than the loop has threads
    ]
    try:
        async with asyncio.timeout(20):
            while len(begun) < 4:  # noqa: ASYNC110 - told by threads
                await asyncio.sleep(0.01)
            assert await asyncio.to_thread(lambda: "read") == "read"
        assert not any(post.done() for post in posts)
    finally:
        over.set()
        said = await asyncio.gather(*posts)
    assert {one.outcome for one in said} == {Outcome.LATER}


async def test_the_tls_is_of_this_century(peer: Peer) -> None:
    assert client()._context().minimum_version >= ssl.TLSVersion.TLSv1_2
