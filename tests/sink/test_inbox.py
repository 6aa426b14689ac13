"""The inbox shows foreign mail without letting it do anything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.inbox import may_post, shown
from proxy.sink import Sink

EVIL = (
    b"From: =?utf-8?q?J=C3=BCrgen?= <j@example.de>\r\n"
    b"Subject: <script>alert(1)</script>\r\n"
    b"X-Folded: one\r\n\ttwo\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: multipart/alternative; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n</pre><script>x</script>\xc3\xa9\r\n"
    b"--b\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    b"PHNjcmlwdD5ldmlsKCk8L3NjcmlwdD4=\r\n--b--\r\n"
)


@contextlib.asynccontextmanager
async def inbox(public_url: str = "") -> AsyncIterator[tuple[Sink, httpx2.AsyncClient]]:
    sink = Sink(public_url=public_url)
    await sink.start(http_port=0)
    base = f"http://127.0.0.1:{sink.http_port}"
    try:
        async with httpx2.AsyncClient(base_url=base, trust_env=False) as client:
            yield sink, client
    finally:
        await sink.close()


def add(sink: Sink, content: bytes, recipient: bytes = b"anna@example.nl") -> int:
    sink.add(b"bounce@acme.example", [recipient], content, b"")
    return sink.total


def one_click(uri: str) -> bytes:
    return (
        f"Subject: x\r\nList-Unsubscribe: <mailto:u@acme.example>,\r\n <{uri}>\r\n"
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\nhi\r\n"
    ).encode()


async def test_pages_show_mail_escaped_under_a_strict_policy() -> None:
    async with inbox() as (sink, client):
        assert "No mail yet" in (await client.get("/")).text
        n = add(sink, EVIL, b"<b>@example.nl")
        listing, page = await client.get("/"), await client.get(f"/mail/{n}")
        for answer in (listing, page):
            assert answer.status_code == 200
            assert "<script" not in answer.text
            assert "&lt;script&gt;alert(1)" in answer.text
            assert "&lt;b&gt;@example.nl" in answer.text
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'")
            assert "script-src" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert "http" not in answer.text.replace("http-equiv", "")
        assert "Jürgen" in listing.text
        assert "&lt;/pre&gt;&lt;script&gt;x&lt;/script&gt;é" in page.text
        assert '<iframe sandbox=""' in page.text
        assert "&lt;script&gt;evil()" in page.text


async def test_the_html_part_may_do_nothing() -> None:
    async with inbox() as (sink, client):
        answer = await client.get(f"/mail/{add(sink, EVIL)}/html")
        assert answer.text == "<script>evil()</script>"
        policy = answer.headers["content-security-policy"].split("; ")
        assert {"sandbox", "default-src 'none'", "form-action 'none'"} <= set(policy)


async def test_the_raw_mail_is_the_octets() -> None:
    content = b"a\r\n.\r\n\x00\xff\r\n"
    async with inbox() as (sink, client):
        answer = await client.get(f"/mail/{add(sink, content)}/raw")
        assert answer.content == content
        assert answer.headers["content-disposition"].startswith("attachment")


async def test_json() -> None:
    async with inbox() as (sink, client):
        add(sink, b"Subject: one\r\n\r\n")
        n = add(sink, one_click("https://mail.acme.example/u/t"))
        listing = (await client.get("/api/messages")).json()
        assert [mail["subject"] for mail in listing] == ["x", "one"]
        assert listing[0]["recipients"] == ["anna@example.nl"]
        one = (await client.get(f"/api/messages/{n}")).json()
        assert one["headers"][0] == ["Subject", "x"]
        assert one["text"] == "hi\r\n"
        assert one["one_click"] == "https://mail.acme.example/u/t"
        assert one["list_unsubscribe"] == ["mailto:u@acme.example", one["one_click"]]
        assert (await client.get("/api/messages/99")).status_code == 404
        assert (await client.delete("/api/messages")).status_code == 204
        assert (await client.get("/api/messages")).json() == []


async def test_other_host_names_and_other_sites_are_refused() -> None:
    async with inbox() as (sink, client):
        n = add(sink, EVIL)
        for host in ("evil.example", "evil.example:8025", "127.0.0.1.evil.example", ""):
            answer = await client.get(f"/mail/{n}", headers={"host": host})
            assert answer.status_code in (400, 421)
            assert "script" not in answer.text
        for host in ("localhost:1", "127.0.0.1", "[::1]:8025"):
            assert (await client.get("/", headers={"host": host})).status_code == 200
        cross = {"sec-fetch-site": "cross-site"}
        assert (await client.post(f"/mail/{n}/unsubscribe", headers=cross)).status_code == 403
        assert (await client.delete("/api/messages", headers=cross)).status_code == 403
        assert len(sink.messages) == 1


async def test_the_button_makes_the_request_of_rfc_8058() -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head + await reader.readexactly(26))
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, inbox() as (sink, client):
        n = add(sink, one_click(f"http://127.0.0.1:{port}/u/token?x=1"))
        page = (await client.get(f"/mail/{n}")).text
        assert "<button>" in page
        assert page.count("<a href") == 3  # all mail, as received, and the page behind the link
        assert f'<a href="http://127.0.0.1:{port}/u/token?x=1">' in page
        answer = await client.post(f"/mail/{n}/unsubscribe")
        assert "Answered 302 Found" in answer.text
        (request,) = seen  # the redirect was not followed
        head, _, body = request.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /u/token?x=1 HTTP/1.1\r\n")
        assert b"Content-Type: application/x-www-form-urlencoded" in head
        assert body == b"List-Unsubscribe=One-Click"
        assert b"cookie" not in head.lower()


async def test_no_button_where_it_may_not_be_pressed_or_nobody_answers() -> None:
    async with inbox() as (sink, client):
        far = add(sink, one_click("https://mail.acme.example/u/t"))
        page = (await client.get(f"/mail/{far}")).text
        assert "<button>" not in page
        assert "acme.example/u/t" in page
        assert page.count("<a href") == 2  # no link to what foreign mail names
        assert (await client.post(f"/mail/{far}/unsubscribe")).status_code == 409
        no_post = add(sink, b"List-Unsubscribe: <http://127.0.0.1:1/u>\r\n\r\n")
        assert (await client.post(f"/mail/{no_post}/unsubscribe")).status_code == 409
        for uri in ("http://127.0.0.1:1/u/t", "http://127.0.0.1:1/ü"):
            dead = add(sink, one_click(uri))
            assert "No answer" in (await client.post(f"/mail/{dead}/unsubscribe")).text


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("http://127.0.0.1:8080/u/t", True),
        ("http://[::1]:8080/u/t", True),
        ("http://localhost/u/t", True),
        ("https://mail.acme.example/u/t", True),
        ("https://mail.acme.example:443/u/t", True),
        ("http://mail.acme.example/u/t", False),
        ("https://mail.acme.example:8443/u/t", False),
        ("https://mail.acme.example@evil.example/", False),
        ("https://x@mail.acme.example/", False),
        ("https://evil.example/?https://mail.acme.example", False),
        ("http://169.254.169.254/latest", False),
        ("http://127.0.0.1.evil.example/", False),
        ("file:///etc/passwd", False),
        ("gopher://127.0.0.1/", False),
        ("http://[::1", False),
        ("http://127.0.0.1:99999/", False),
        ("mailto:u@acme.example", False),
        ("", False),
    ],
)
def test_where_the_inbox_may_post(uri: str, allowed: bool) -> None:
    assert may_post(uri, "https://mail.acme.example") is allowed
    assert not may_post("https://mail.acme.example/u/t", "")


@given(content=st.binary(max_size=300) | st.lists(
    st.sampled_from([
        b"Content-Type: multipart/mixed; boundary=b\r\n", b"--b\r\n", b"--b--\r\n", b"\r\n",
        b"Content-Type: text/html; charset=nonsense\r\n", b"Subject: =?x?q?=?=\r\n", b"\xff\r\n",
        b"Content-Transfer-Encoding: base64\r\n", b" folded\r\n", b"From: =?utf-8?b?!?=\r\n",
        b"Content-Type: message/rfc822\r\n", b"Content-Transfer-Encoding: x-uuencode\r\n",
    ]),
    max_size=20,
).map(b"".join))
def test_every_mail_can_be_shown(content: bytes) -> None:
    view = shown(content)
    assert isinstance(view.text, str)
    assert all(isinstance(name, str) for name, _ in view.fields)


def test_a_mail_made_to_exhaust_the_reader_is_shown() -> None:
    level = b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n"
    deep = b"".join(level % (n, n) for n in range(1500))
    assert shown(deep).fields[0][0] == "Content-Type"
