"""A body that was looked at for another mail gives what looking at it again would."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bench.acme import ACME, relay_toml, stream_toml
from policy.address import Address, parse
from proxy import looks, planning
from proxy.clock import utc_now
from proxy.config import Settings, Stream, load
from proxy.content import SPOOL_AT, Content, Spool
from proxy.envelope import Envelope, Submitter
from proxy.keys import Keys, load_keys
from proxy.looks import Look, Looks, fields_of
from proxy.message import body as body_module
from proxy.message.body import BodyPlan
from proxy.message.canonical import BodyHash
from proxy.message.classify import Class
from proxy.message.header import Header, HeaderRefused, index
from proxy.message.inspect import Shown
from proxy.planning import Planner
from proxy.tokens import OptOut, seal

CONFIG = (
    relay_toml()
    + ACME
    + stream_toml("newsletter", "news.acme.example")
    + stream_toml("strict", "", 'footer = "off"', "every_alternative = true")
)
REF = "01J9ZV3K7Q8M4T00"


class Site:
    """A planner that keeps what it saw, and one that does not."""

    def __init__(self, folder: Path) -> None:
        (folder / "sluis.toml").write_text(CONFIG)
        self.settings: Settings = load(folder / "sluis.toml", {})
        self.keys: Keys = load_keys(folder / "keys", create=True)
        self.keeps, self.apart = (
            Planner(self.settings, keys=self.keys, instance="i1", clock=utc_now) for _ in range(2)
        )
        self.token = seal(self.keys, OptOut("acme", "newsletter", "anna@example.nl", f"{REF}.1"))

    def look(
        self, planner: Planner, content: Content, stream: str, to: Address, signed_by: str
    ) -> tuple[Header, Shown, BodyPlan, BodyHash | None]:
        header = index(content)
        envelope = Envelope(
            submitter=Submitter(listener="127.0.0.1:2525", peer="127.0.0.1"),
            ref=REF,
            received_at=utc_now(),
            recipients=[to],
        )
        class_ = Class(self.settings.stream(stream), self.settings.stream(stream).category, "test")
        looking = planner.look(envelope, content, header, (to,), class_, signed_by=signed_by)
        with pytest.MonkeyPatch.context() as patch:
            if planner is self.apart:
                patch.setattr(planning, "fields_of", lambda _: None)
            return header, *asyncio.run(looking)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("looks"))


HEADERS = st.lists(
    st.sampled_from(
        [
            *(b"From: Acme Schoenen B.V. <a@news.acme.example>", b"From: a@news.acme.example"),
            *(b"Subject: Spring", b"Subject: Re: Spring", b"In-Reply-To: <1@x.example>"),
            *(b"Content-Type: text/html", b"Content-Type: text/plain; charset=utf-8"),
            b'Content-Type: multipart/alternative;\r\n boundary="b"',
            *(b"Content-Transfer-Encoding: base64", b"Content-Transfer-Encoding: 8bit"),
            *(b"Content-Transfer-Encoding: quoted-printable", b"References:"),
            *(b"Content-Disposition: attachment", b"X-Long: " + b"y" * 900),
            *(b"To: anna@example.nl", b"X-Name: \xc3\xa9"),
            *(b"Message-ID: <2@x.example>", b"List-Id: <x.example>", b"DKIM-Signature: v=1"),
        ]
    ),
    min_size=1,
    max_size=7,
)
BODIES = st.lists(
    st.sampled_from(
        [
            *(b"Hello", b"\r\n", b"\r\n", b"<p>x</p>", b"<html><body>", b"</body></html>"),
            *(b"Acme Schoenen B.V.", b"Keizersgracht 1, 1015 AA Amsterdam"),
            b"https://acme.example/x unsubscribe",
            *(b'<a href="https://acme.example/x">Unsubscribe</a>', b"SGVsbG8=", b"=C3=A9"),
            *(b"\xc3\xa9", b"=\r\n"),
            *(b"\r\n--b\r\n", b"\r\n--b--\r\n", b"--b\r\n", b"Content-Type: text/html\r\n\r\n"),
            *(b"Content-Type: text/plain\r\n\r\n", b"{{sluis.unsubscribe_url}}", b"{{sluis.x}}"),
            *(b"https://mail.acme.example/u/TOKEN", b"x" * 890, b"-----BEGIN PGP "),
        ]
    ),
    max_size=14,
)


def spooled(octets: bytes, folder: Path) -> Content:
    """As the front door has it."""
    spool = Spool(folder)
    spool.write(octets, ascii_only=octets.isascii(), dots=True)
    return spool.take()


def told(header: Header, shown: Shown, body: BodyPlan, content: Content) -> list[object]:
    """All that later steps take from looking at a mail."""
    values: list[object] = [getattr(shown, f.name) for f in fields(shown) if f.name != "seen"]
    values += [(s.kind, s.identity, s.address, s.opt_out, s.own_tokens) for s in shown.seen]
    values += [body.can_inject, body.stopped, body.placeholders, body.refused, body.room]
    values.append(body.marks)
    url = "https://mail.acme.example/u/k1.abc"
    for duties in (frozenset[str](), body.can_inject):
        for language in ("en", "nl"):
            pieces = body.pieces(url=url, duties=duties, language=language)
            values.append(b"".join(bytes(piece) for piece in pieces))
            values.append(BodyHash().digest(pieces))
    untouched = replace(body, pages=()).pieces()
    assert b"".join(map(bytes, untouched)) == bytes(content[header.end :])
    return values


@hypothesis_settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(
    HEADERS,
    BODIES,
    st.sampled_from(["newsletter", "strict"]),
    st.sampled_from(["anna@example.nl", "b@example.nl", "a.very.long.name@sub.example.nl"]),
    st.sampled_from(["", "esp.example"]),
)
def test_what_is_kept_is_what_looking_again_finds(
    site: Site, lines: list[bytes], pieces: list[bytes], stream: str, to: str, signed_by: str
) -> None:
    body = b"".join(pieces).replace(b"TOKEN", site.token.encode())
    for more in (b"", b"X-Mail: 2\r\nSubject: Aw: x\r\n"):
        content = b"\r\n".join(lines) + b"\r\n" + more + b"\r\n" + body
        try:
            index(content)
        except HeaderRefused:
            return
        asked = content, stream, parse(to), signed_by
        header, shown, plan, shared = site.look(site.keeps, *asked)
        _, expected, other, none = site.look(site.apart, *asked)
        assert none is None
        assert told(header, shown, plan, content) == told(header, expected, other, content)
        assert shown == expected
        if shared is not None:
            parts = plan.pieces(url="https://x.example", duties=plan.can_inject)
            assert shared.digest(parts) == BodyHash().digest(parts)


@hypothesis_settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    HEADERS,
    BODIES,
    st.sampled_from([b"", b"Acme Schoenen Gracht 1, Amsterdam https://x.example/unsubscribe"]),
    st.sampled_from(["newsletter", "strict"]),
    st.sampled_from(["", "esp.example"]),
)
def test_a_body_in_which_nothing_is_edited_is_planned_as_any_other(
    site: Site, lines: list[bytes], pieces: list[bytes], ends: bytes, stream: str, signed_by: str
) -> None:
    body = b"".join(pieces).replace(b"TOKEN", site.token.encode())
    for part in (body, base64.b64encode(body)):
        content = b"\r\n".join(lines) + b"\r\n\r\n" + ends + part
        try:
            index(content)
        except HeaderRefused:
            return
        asked = site.apart, content, stream, parse("anna@example.nl"), signed_by
        header, shown, plan, _ = site.look(*asked)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(body_module, "_nothing_in", lambda _: False)
            _, same, other, _ = site.look(*asked)
        assert shown == same
        assert told(header, shown, plan, content) == told(header, same, other, content)


GOOD = b"From: a@acme.example\r\nTo: b@example.nl\r\n\r\nbody"


@pytest.mark.parametrize(
    "content",
    [
        b"From: a@acme.example\r\nX: \xc3\xa9\r\n\r\nbody",
        b"From: a@acme.example\r\nX: y\r\n \t\r\n z\r\n\r\nbody",
        b"From: a@acme.example\r\njunk\r\n\r\nbody",
        b"From: a@acme.example\r\n",
        b"X: no field that counts\r\n\r\nbody",
    ],
)
def test_mail_that_is_looked_at_by_itself(content: bytes) -> None:
    assert fields_of(index(content)) is None
    assert fields_of(index(GOOD)) == b"From: a@acme.example\r\n"


def shown_of(site: Site) -> tuple[Shown, BodyPlan]:
    return site.look(site.apart, GOOD, "newsletter", parse("b@example.nl"), "")[1:3]


def test_what_is_kept_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "ALL", 50_000)
    monkeypatch.setattr(looks, "MOST", 20)
    kept = Looks()
    shown, plan = shown_of(site)
    for n in range(200):
        key = "newsletter", b"", GOOD + b"%d" % n + b"x" * (n % 7 * 1000)
        look = kept.keep(key, shown)
        for longest in range(n % 9):
            kept.keep_plan(look, longest, "", plan)
        assert 0 < len(kept._kept) <= 20
        assert sum(x.octets for x in kept._kept.values()) == kept._octets <= 50_000
        assert kept.find(key) is look
    again = kept.keep(key, shown)
    assert kept.find(key) is again
    assert sum(x.octets for x in kept._kept.values()) == kept._octets
    huge = kept.keep(("newsletter", b"", b"x" * 60_000), shown)
    kept.keep_plan(huge, 1, "", plan)
    assert (len(kept._kept), kept._octets) == (0, 0)


def test_streams_have_their_own(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    looked = site.keeps._seen

    async def noting(content: Content, header: Header, stream: Stream, start: int) -> Shown:
        seen.append(stream.id)
        return await looked(content, header, stream, start)

    monkeypatch.setattr(site.keeps, "_seen", noting)
    content = GOOD + b" of a mail that no other test has"
    for stream in ("newsletter", "strict", "newsletter", "strict"):
        site.look(site.keeps, content, stream, parse("b@example.nl"), "")
    assert seen == ["newsletter", "strict"]


@pytest.mark.parametrize("size", [4_096, 100_000, 200_000, 1_000_000])
@pytest.mark.parametrize("ends", [b"", b'<a href="{{sluis.unsubscribe_url}}">x</a>'])
def test_a_body_of_any_size_is_looked_at_once(
    site: Site, tmp_path: Path, size: int, ends: bytes
) -> None:
    head = b"From: a@news.acme.example\r\nContent-Type: text/html\r\n"
    body = b"<p>Hello</p>" + b"<p>a line</p>\r\n" * (size // 15) + ends
    site.keeps._looks = kept = Looks()
    made: list[Look] = []
    for n in range(3):
        content = spooled(head + b"X-Mail: %d\r\n" % 10**n + b"\r\n" + body, tmp_path)
        asked = content, "newsletter", parse("b@example.nl"), ""
        header, shown, plan, shared = site.look(site.keeps, *asked)
        _, expected, other, _ = site.look(site.apart, *asked)
        assert isinstance(content, bytes) is (shared is not None) is (size < SPOOL_AT)
        assert told(header, shown, plan, content) == told(header, expected, other, content)
        (look,) = kept._kept.values()
        made.append(look)
        assert look is made[0]
        # A file is held by nobody but its own mail.
        (known,) = look.plans.values()
        assert (known.content == b"") is (size >= SPOOL_AT)
