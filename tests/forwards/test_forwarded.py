"""An opt-out reaches the opt-out that the mail came with: whole Sluis, real TLS, real SMTP."""

from __future__ import annotations

import asyncio
import re
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import forwards_path  # noqa: F401
import pytest
import trustme
import verifiers
from https_peer import Peer, answer, trust
from running_sluis import CLIENTS, OPT_IN, World, fields, message, until
from signing_keys import ED25519, RECORDS, pem

from policy.address import parse
from policy.model import Objection
from proxy.clock import utc_now
from proxy.forwards import Forwarder, leads_here
from proxy.store.model import Forward, ForwardState, State

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

ANNA, BRAM = "anna@example.nl", "bram@example.nl"
NOBODY = "undisclosed-recipients:;"
SOON = '[delivery]\nretry_first = "20ms"\nretry_longest = "20ms"\n'


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def peer(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Peer]:
    monkeypatch.setenv("SSL_CERT_FILE", str(trust(authority, tmp_path)))
    peer = Peer(authority)
    await peer.start()
    yield peer
    await peer.close()


def foreign(uri: str, *, post: bool = True) -> list[str]:
    found = [f"List-Unsubscribe: <{uri}>"]
    return [*found, "List-Unsubscribe-Post: List-Unsubscribe=One-Click"] if post else found


async def mailed(
    w: World, uri: str, people: str | list[str] = ANNA, *, post: bool = True, to: str = NOBODY
) -> str:
    """Send a newsletter that came with `uri`; our own link in the first copy."""
    for address in [people] if isinstance(people, str) else people:
        await w.know(address, "opt-in", **OPT_IN)
    reply = await w.send(people, message(headers=foreign(uri, post=post), to=to))
    assert reply.startswith("250 "), reply
    content = w.sink.messages[-1].content
    [found] = fields(content, "List-Unsubscribe")
    match = re.search(r"<http://[^/>]+(/u/[^>]+)>", found)
    assert match is not None
    return match[1]


async def click(w: World, path: str, via: str = "one-click") -> int:
    body = b"List-Unsubscribe=One-Click" if via == "one-click" else b"via=page"
    url = f"http://127.0.0.1:{w.sluis.public_port}{path}"

    def post() -> int:
        request = urllib.request.Request(url, body, method="POST")
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)

    return await asyncio.get_running_loop().run_in_executor(CLIENTS, post)


async def ended(w: World) -> Forward:
    """The one forward, at its end."""

    async def over() -> bool:
        return [f.state for f in await w.sluis.store.forwards(ended=True)] not in (
            [],
            [ForwardState.WAITING],
        )

    await until(over)
    [one] = await w.sluis.store.forwards(ended=True)
    return one


def value(w: World, name: str) -> float:
    text = w.sluis.telemetry.render()[0].decode()
    found = re.search(rf"^sluis_{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


@pytest.mark.parametrize("via", ["one-click", "page"])
async def test_a_click_is_passed_on(world: Make, peer: Peer, via: str) -> None:
    w = await world()
    path = await mailed(w, f"https://127.0.0.1:{peer.port}/leave?id=7")
    assert await click(w, path, via) == 200
    one = await ended(w)
    assert (one.state, one.answer, one.attempts) == (ForwardState.PASSED, "HTTP 200", 1)
    [request] = peer.requests
    assert request.startswith(b"POST /leave?id=7 HTTP/1.1\r\n")
    assert request.endswith(b"\r\n\r\nList-Unsubscribe=One-Click")
    assert ANNA.encode() not in request
    assert await click(w, path, via) == 200, "a second click adds nothing"
    assert len(await w.sluis.store.forwards(ended=True)) == 1
    assert value(w, 'forwards_total{result="passed"}') == 1


async def test_by_mail_to_us(world: Make, peer: Peer) -> None:
    w = await world()
    path = await mailed(w, f"https://127.0.0.1:{peer.port}/leave")
    token = path.removeprefix("/u/")
    reply = await w.send(
        "u@fb.acme.example", f"Subject: unsubscribe {token}\r\n\r\n".encode(), mail_from=ANNA
    )
    assert reply.startswith("250 "), reply
    assert (await ended(w)).state is ForwardState.PASSED


async def test_two_processes_on_one_store_make_one_try(world: Make, peer: Peer) -> None:
    w = await world()
    path = await mailed(w, f"https://127.0.0.1:{peer.port}/leave")
    assert await click(w, path) == 200
    found = await w.sluis.store.forwards(ended=True)
    others = [
        Forwarder(
            w.settings,
            keys=w.sluis.keys,
            store=w.sluis.store,
            telemetry=w.sluis.telemetry,
            ring=lambda: None,
            clock=utc_now,
        )
        for _ in range(3)
    ]
    await asyncio.gather(*(other.attempt(found[0]) for other in others))
    one = await ended(w)
    assert (one.state, one.attempts) == (ForwardState.PASSED, 1)
    assert len(peer.requests) == 1


async def test_trouble_there_is_tried_again_and_the_click_is_answered_at_once(
    world: Make, peer: Peer
) -> None:
    w = await world(more=SOON)
    peer.answers += [answer(503), b"", answer(429)]
    assert await click(w, await mailed(w, f"https://127.0.0.1:{peer.port}/leave")) == 200
    one = await ended(w)
    assert (one.state, one.attempts) == (ForwardState.PASSED, 4)
    assert len(peer.requests) == 4
    assert value(w, 'forwards_total{result="retry"}') == 3
    # The opt-out itself did not wait for any of it.
    reply = await w.send(ANNA, message())
    assert reply.startswith("550 5.7.1 suppressed"), reply


async def test_a_silent_server_holds_up_neither_click_nor_others(world: Make, peer: Peer) -> None:
    w = await world()
    peer.answers.append(None)
    uri = f"https://127.0.0.1:{peer.port}/leave"
    assert await click(w, await mailed(w, uri)) == 200

    async def asked() -> bool:
        return len(peer.requests) == 1

    await until(asked)
    assert await click(w, await mailed(w, uri, BRAM)) == 200

    async def both() -> bool:
        return len(peer.requests) == 2

    await until(both)
    await peer.close()  # the first try ends, so that this Sluis can stop


async def test_a_dead_server_is_left_in_peace_and_does_not_stand_before_others(
    world: Make, peer: Peer, authority: trustme.CA
) -> None:
    w = await world(more='[delivery]\nretry_first = "1h"\n')
    peer.answers += [answer(503)] * 50
    other = Peer(authority)
    await other.start()
    people = [f"p{n}@example.nl" for n in range(12)]
    uri = f"https://127.0.0.1:{peer.port}/leave"
    paths = [await mailed(w, uri, address) for address in people]
    # The same machine under another name: hosts are told apart by name.
    last = await mailed(w, f"https://localhost:{other.port}/leave", BRAM)
    for path in (*paths, last):
        assert await click(w, path) == 200

    async def settled() -> bool:
        now = datetime.now(UTC)
        rows = await w.sluis.store.forwards()
        return len(rows) == 12 and all(f.next_try and f.next_try > now for f in rows)

    async def there() -> bool:
        return len(other.requests) == 1

    await until(there)
    await until(settled)
    assert 3 <= len(peer.requests) <= 4, "two at once at most, and three failures are enough"
    tried = [f.attempts for f in await w.sluis.store.forwards()]
    assert sum(tried) == len(peer.requests), "what is put off is not counted as tried"
    await other.close()


@pytest.mark.parametrize(
    ("status", "words"), [(302, "HTTP 302: a redirect is not followed"), (404, "HTTP 404")]
)
async def test_what_will_never_be_taken(world: Make, peer: Peer, status: int, words: str) -> None:
    w = await world(more=SOON)
    target = f"https://127.0.0.1:{peer.port}/elsewhere"
    peer.answers.append(answer(status, f"Location: {target}"))
    await click(w, await mailed(w, f"https://127.0.0.1:{peer.port}/leave"))
    one = await ended(w)
    assert (one.state, one.answer) == (ForwardState.REFUSED, words)
    assert len(peer.requests) == 1
    assert value(w, 'forwards_total{result="refused"}') == 1


async def test_it_expires_and_is_counted(world: Make, peer: Peer) -> None:
    now = datetime.now(UTC)
    shift = timedelta()

    def clock() -> datetime:
        return datetime.now(UTC) + shift

    w = await world(clock=clock)
    peer.answers += [answer(500)] * 50
    await click(w, await mailed(w, f"https://127.0.0.1:{peer.port}/leave"))

    async def tried() -> bool:
        return [f.attempts for f in await w.sluis.store.forwards()] == [1]

    await until(tried)
    shift = timedelta(days=6)
    one = await ended(w)
    assert one.state is ForwardState.EXPIRED
    assert one.answer == "not taken in time; the last answer: HTTP 500"
    assert one.asked_at - now < timedelta(minutes=2)
    assert len(peer.requests) == 1
    assert value(w, 'forwards_total{result="expired"}') == 1


async def test_private_addresses_are_refused_where_it_is_no_development(
    world: Make, peer: Peer
) -> None:
    w = await world(
        edit=lambda t: t.replace("development = true\n", "").replace(
            "http://mail.acme.example", "https://mail.acme.example"
        )
    )
    await w.know(ANNA, "opt-in", **OPT_IN)
    uri = f"https://127.0.0.1:{peer.port}/leave"
    assert (await w.send(ANNA, message(headers=foreign(uri)))).startswith("250 ")
    [found] = fields(w.sink.messages[-1].content, "List-Unsubscribe")
    match = re.search(r"<https://mail\.acme\.example(/u/[^>]+)>", found)
    assert match is not None
    await click(w, match[1])
    one = await ended(w)
    assert (one.state, one.answer) == (ForwardState.REFUSED, "not a public address")
    assert peer.connections == 0


async def test_a_mailto_gets_a_mail_through_the_outbox(world: Make) -> None:
    w = await world()
    path = await mailed(
        w, "mailto:leave+7@esp.example?subject=Leave%20k9.x&body=id%3D7&bcc=x@victim.example",
        post=False,
    )  # fmt: skip
    assert w.sink.total == 1
    await click(w, path)
    await w.sink.received(2)
    got = w.sink.messages[-1]
    assert (got.mail_from, got.recipients) == (b"", (b"leave+7@esp.example",))
    one = await ended(w)
    ref = one.answer.removeprefix("mail ")
    received, rest = re.split(rb"(?<=\r\n)(?=[A-Z])", got.content, maxsplit=1)
    assert received.startswith(b"Received: ")
    date = fields(got.content, "Date")[0]
    assert rest == (
        f"Date: {date}\r\n"
        "From: <postmaster@gate.acme.example>\r\n"
        "To: <leave+7@esp.example>\r\n"
        "Subject: Leave k9.x\r\n"
        f"Message-ID: <{ref}@gate.acme.example>\r\n"
        "Auto-Submitted: auto-generated\r\n"
        "MIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        "Content-Transfer-Encoding: 7bit\r\n"
        "\r\n"
        "id=7\r\n"
    ).encode()

    async def relayed() -> bool:
        return [e.state for e in await w.sluis.store.journal(ref=ref)] == [State.RELAYED]

    await until(relayed)
    await click(w, path)
    assert w.sink.total == 2


async def test_the_mail_is_signed_by_a_key_of_our_host_name(
    world: Make, tmp_path: Path
) -> None:
    (tmp_path / "e1.pem").write_bytes(pem(ED25519))
    w = await world(
        more='[[dkim.keys]]\ndomain = "acme.example"\nselector = "e1"\nkey_file = "e1.pem"\n'
    )
    await click(w, await mailed(w, "mailto:leave@esp.example?subject=Leave", post=False))
    await w.sink.received(2)
    got = w.sink.messages[-1].content
    assert fields(got, "To") == ["<leave@esp.example>"]
    assert verifiers.by_dkimpy(got, RECORDS) == [True]


@pytest.mark.parametrize(
    ("people", "shown", "uri", "post"),
    [
        ([ANNA, BRAM], NOBODY, "https://127.0.0.1:{port}/leave", True),
        ([ANNA], NOBODY, "https://127.0.0.1:{port}/leave", False),
        ([ANNA], NOBODY, "http://127.0.0.1:{port}/leave", True),
        ([ANNA], NOBODY, "http://mail.acme.example{own}", True),
        ([ANNA], f"Bram <{BRAM}>", "https://127.0.0.1:{port}/leave", True),
    ],
    ids=["of-several", "without-post", "plain-http", "ours-of-another", "shown-to-another"],
)
async def test_links_that_may_be_another_persons_are_not_used(
    world: Make, peer: Peer, people: list[str], shown: str, uri: str, post: bool
) -> None:
    w = await world()
    own = await mailed(w, "https://esp.example/", BRAM)
    path = await mailed(w, uri.format(port=peer.port, own=own), people, post=post, to=shown)
    assert await click(w, path) == 200
    assert await w.sluis.store.forwards(ended=True) == []
    assert peer.connections == 0
    if people == [ANNA]:
        subject = w.sluis.keys.subject("acme", parse(BRAM))
        known = (await w.sluis.store.lookup([subject])).known[subject]
        assert not any(isinstance(e.detail, Objection) for e in known.events)


async def test_a_mail_that_shows_its_own_recipient_is_theirs(world: Make, peer: Peer) -> None:
    w = await world()
    uri = f"https://127.0.0.1:{peer.port}/leave"
    await click(w, await mailed(w, uri, to="Anna <Anna@Example.NL>"))
    assert (await ended(w)).state is ForwardState.PASSED


async def test_a_recipient_who_was_refused_may_own_the_link(world: Make, peer: Peer) -> None:
    w = await world()
    path = await mailed(w, f"https://127.0.0.1:{peer.port}/leave", [ANNA])
    await w.know(BRAM, "objection", days=1)
    reply = await w.send(
        [BRAM, ANNA], message(headers=foreign(f"https://127.0.0.1:{peer.port}/b"))
    )
    assert reply.startswith("250 "), reply
    [found] = fields(w.sink.messages[-1].content, "List-Unsubscribe")
    match = re.search(r"mail\.acme\.example(/u/[^>]+)>", found)
    assert match is not None
    assert match[1] != path
    await click(w, match[1])
    assert await w.sluis.store.forwards(ended=True) == []


@pytest.mark.parametrize(
    "uri",
    ["https://mail.acme.example:443/u/{token}", "https://mail.acme.example/%75/{token}",
     "https://mail.acme.example./u/{token}",
     "mailto:v@fb.acme.example?subject=unsubscribe%20{token}"],
    ids=["port", "encoded", "dot", "mailto"],
)  # fmt: skip
async def test_our_own_links_in_another_spelling_are_not_used(world: Make, uri: str) -> None:
    w = await world()
    token = (await mailed(w, "https://esp.example/", BRAM)).removeprefix("/u/")
    path = await mailed(w, uri.format(token=token), post=not uri.startswith("mailto"))
    await click(w, path)
    one = await ended(w)
    assert one.state is ForwardState.REFUSED
    assert "of our own" in one.answer
    assert w.sink.total == 2


async def test_another_link_of_our_host_is_passed_on(world: Make, peer: Peer) -> None:
    own = "http://127.0.0.1:8080"
    w = await world(edit=lambda t: t.replace("http://mail.acme.example", own))
    await click(w, await mailed(w, f"https://127.0.0.1:{peer.port}/newsletter/leave?id=9"))
    one = await ended(w)
    assert (one.state, one.answer) == (ForwardState.PASSED, "HTTP 200")
    assert peer.requests[0].startswith(b"POST /newsletter/leave?id=9 HTTP/1.1\r\n")
    await click(w, await mailed(w, f"https://127.0.0.1:{peer.port}//%75/k1.AAAA", BRAM))

    async def over() -> bool:
        found = await w.sluis.store.forwards(ended=True)
        return [f.state for f in found] == [ForwardState.PASSED, ForwardState.REFUSED]

    await until(over)
    assert len(peer.requests) == 1


OWN = "https://www.acme.example"
OURS = [
    "/u/k1.AAAA", "/u/", ":8443/u/k1.AAAA", "./u/k1.AAAA", "/%75/k1.AAAA", "/u%2Fk1.AAAA",
    "/%2575/k1.AAAA", "//u///k1.AAAA", "/./u/k1.AAAA", "/a/../u/k1.AAAA", "/a/%2e%2E/u/k1.AAAA",
    "/../u/k1.AAAA", "/U/k1.AAAA", "/u;x=1/k1.AAAA", "/%5Cu%5Ck1.AAAA", "/u/../k1.AAAA",
    "/a//../u/k1.AAAA",
]  # fmt: skip
THEIRS = [
    "", "/", "/newsletter/leave?id=9", ":8443/leave", "/unsubscribe/7", "/a/u/7", "/user/7",
    "/u?id=9", "/u", "/leave?back=/u/k1.AAAA", "/leave#/u/k1.AAAA",
]  # fmt: skip


@pytest.mark.parametrize("base", ["", "/mail", "/Mail/x"])
def test_which_links_of_our_host_are_ours(base: str) -> None:
    for rest in OURS:
        port, slash, path = rest.partition("/")
        uri = f"https://WWW.acme.example{port}{base}{slash}{path}"
        if not (base and rest.startswith("/../")):  # beside the base
            assert leads_here(uri, OWN + base), uri
    for rest in THEIRS:
        port, slash, path = rest.partition("/")
        assert not leads_here(f"{OWN}{port}{base}{slash}{path}", OWN + base), rest
    for other in ("https://acme.example/u/k1.AAAA", "https://[/u/k1.AAAA"):
        assert not leads_here(other, OWN + base)
    assert leads_here(f"{OWN}/u/k1.AAAA", OWN + base) is not bool(base)


async def test_a_stream_may_switch_it_off(world: Make, peer: Peer) -> None:
    w = await world(
        edit=lambda t: t.replace(
            'from_domains = ["news.acme.example"]\n',
            'from_domains = ["news.acme.example"]\nlist_unsubscribe_forward = false\n',
        )
    )
    assert await click(w, await mailed(w, f"https://127.0.0.1:{peer.port}/leave")) == 200
    assert await w.sluis.store.forwards(ended=True) == []


async def test_no_log_line_says_where_or_who(
    world: Make, peer: Peer, capfd: pytest.CaptureFixture[str]
) -> None:
    w = await world()
    secret = "id-of-anna-7"
    await click(w, await mailed(w, f"https://127.0.0.1:{peer.port}/leave?{secret}"))
    await ended(w)
    logged = capfd.readouterr().err
    assert "optout.forwarded" in logged
    assert secret not in urllib.parse.unquote(logged)
    assert ANNA not in logged
