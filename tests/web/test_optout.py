"""One-click, page and mailto opt-outs, over HTTP, into the real store."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
from datetime import timedelta
from urllib.parse import parse_qs

import httpx2
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from web_site import START, Site, Sites  # type: ignore[import-not-found,unused-ignore]

from policy.address import parse
from policy.model import Box, Objection, OptIn, Scope, Via
from proxy.errors import StoreUnavailable
from proxy.keys import rotate
from proxy.store.model import NewEvent
from proxy.tokens import OptOut, seal
from proxy.web import public
from proxy.web.record import record_token

pytest_plugins = ("web_site",)

ONE_CLICK = {"List-Unsubscribe": "One-Click"}
PAGE = {"via": "page"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


async def opt_in(site: Site, address: str = "anna@example.nl") -> None:
    """A new opt-in by the same person, now."""
    event = NewEvent(
        uid=f"in-{site.clock()}",
        subject=site.keys.subject("acme", parse(address)),
        detail=OptIn(box=Box.UNTICKED, topics=("newsletter",)),
        at=site.clock(),
        recorded_at=site.clock(),
        evidence="form:1",
    )
    assert await site.store.append([event]) == [True]


# -- reading changes nothing ---------------------------------------------------------------------


async def test_no_other_method_changes_anything(site: Site) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"):
        for query in ("", "?List-Unsubscribe=One-Click", "?via=page"):
            answer = await site.client.request(method, site.link() + query)
            expected = {"GET": 200, "HEAD": 200, "OPTIONS": 204}.get(method, 405)
            assert (method, answer.status_code) == (method, expected)
            if expected in (204, 405):
                assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert await site.events() == []


async def test_head_is_get_without_a_body(site: Site) -> None:
    link = site.link()
    get, head = await site.client.get(link), await site.client.head(link)
    assert head.content == b""
    assert {k: v for k, v in head.headers.items() if k != "date"} == {
        k: v for k, v in get.headers.items() if k != "date"
    }


async def test_the_page_says_who_and_what(site: Site) -> None:
    page = (await site.client.get(site.link())).text
    assert "stop all marketing mail from Acme Schoenen &amp; Zn. B.V.?" in page
    assert 'href="mailto:privacy@acme.example"' in page
    assert 'href="https://www.acme.example/privacy?a=1&amp;b=2"' in page
    assert "#f7c948" in page
    assert "anna" not in page, "the page is all that a forwarded link shows"
    assert '<form method="post">' in page
    assert "<script" not in page
    assert "Nothing has changed yet" in page


async def test_the_page_of_a_narrow_stream_offers_both(site: Site) -> None:
    page = (await site.client.get(site.link(stream="sales"))).text
    assert "Wilt u de mailing ‘sales’" in page, "the stream's language when the reader has none"
    assert page.count('<form method="post"') == 2
    assert page.count('name="scope" value="marketing"') == 1


# -- posting acts --------------------------------------------------------------------------------


async def test_one_click_urlencoded_is_recorded_before_200(site: Site) -> None:
    answer = await site.client.post(site.link(), data=ONE_CLICK)
    assert answer.status_code == 200
    (event,) = await site.events()
    assert event.detail == Objection(scope=Scope.MARKETING, stream=None, via=Via.ONE_CLICK)
    assert (event.at, event.recorded_at) == (START, START)
    assert event.evidence == "token:REF1.1"
    assert event.exact
    assert site.metric('sluis_optouts_total{stream="newsletter",via="one-click"}') == 1
    assert site.metric("sluis_optout_effect_seconds_count") == 1


async def test_one_click_multipart(site: Site) -> None:
    answer = await site.client.post(site.link(), files={"List-Unsubscribe": (None, "One-Click")})
    assert answer.status_code == 200
    assert [o.via for o in await site.objections()] == [Via.ONE_CLICK]


async def test_whatever_the_body_a_post_acts_as_one_click(site: Site) -> None:
    cases: list[tuple[bytes, dict[str, str]]] = [
        (b"", {}),
        (b"", FORM),
        (b"List-Unsubscribe=One-Click", {}),
        (b"List-Unsubscribe=One-Click", {"content-type": "text/plain"}),
        (b"list-unsubscribe=one-click", FORM),
        (b"List-Unsubscribe=No", FORM),
        (b"\xff\x00%zz&&&==", FORM),
        (b"a=1&" * 1000, FORM),
        (b'{"a": 1}', {"content-type": "application/json"}),
        (b"--x\r\nbroken", {"content-type": "multipart/form-data; boundary=x"}),
        (b"nothing", {"content-type": "multipart/form-data"}),
        (b"via=page", {"content-type": "text/plain"}),
        (b"x" * 200_000, FORM),
    ]
    for n, (body, headers) in enumerate(cases):
        person = f"p{n}@example.nl"
        answer = await site.client.post(site.link(person), content=body, headers=headers)
        assert answer.status_code == 200
        assert [o.via for o in await site.objections(person)] == [Via.ONE_CLICK], body[:40]


async def test_a_body_that_does_not_end_acts_after_a_while(sites: Sites) -> None:
    site = await sites.start(body_seconds=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(
        f"POST {site.link()} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nLi".encode()
    )
    answer = await reader.read()  # to the end: the connection is closed after the answer
    assert answer.startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert [o.via for o in await site.objections()] == [Via.ONE_CLICK]


async def test_a_body_without_end_is_not_read_but_acts(site: Site) -> None:
    """The client may lose the answer while it goes on sending; the person does not."""
    with contextlib.suppress(httpx2.HTTPError):
        answer = await site.client.post(site.link(), content=b"x" * 20_000_000)
        assert answer.status_code == 200
    assert [o.via for o in await site.objections()] == [Via.ONE_CLICK]


async def test_a_client_that_leaves_in_the_middle_is_heard(site: Site) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(
        f"POST {site.link()} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nLi".encode()
    )
    writer.write_eof()
    writer.close()
    async with asyncio.timeout(20):
        while not await site.objections():
            pass


async def test_the_form_of_the_page_counts_as_page(site: Site) -> None:
    answer = await site.client.post(site.link(), data=PAGE)
    assert answer.status_code == 200
    assert [o.via for o in await site.objections()] == [Via.PAGE]
    assert (
        "All marketing mail from Acme Schoenen &amp; Zn. B.V. to you has been stopped."
        in answer.text
    )
    assert (
        '<time datetime="2026-11-24T09:13:00+00:00">24 November 2026, 09:13 UTC</time>'
        in answer.text
    )
    assert "You keep receiving mail that is not marketing" in answer.text
    assert "<form" not in answer.text


async def test_no_answer_redirects_or_sets_a_cookie(site: Site) -> None:
    link = site.link()
    for answer in (
        await site.client.get(link),
        await site.client.post(link, data=ONE_CLICK),
        await site.client.get(link + "/"),
        await site.client.get("/u/"),
        await site.client.get("/u"),
        await site.client.get("/"),
    ):
        assert answer.status_code in (200, 404)
        assert "location" not in answer.headers
        assert "set-cookie" not in answer.headers


# -- how far it reaches --------------------------------------------------------------------------


async def test_a_narrow_stream_stops_itself_unless_more_is_asked(site: Site) -> None:
    link = site.link(stream="sales")
    narrow = await site.client.post(link, data=ONE_CLICK)
    site.clock.forward(minutes=1)
    assert "De mailing ‘sales’" in narrow.text
    wide = await site.client.post(link, data={**PAGE, "scope": "marketing"})
    assert "Alle reclamemail" in wide.text
    assert await site.objections() == [
        Objection(scope=Scope.STREAM, stream="sales", via=Via.ONE_CLICK),
        Objection(scope=Scope.MARKETING, via=Via.PAGE),
    ]


async def test_a_form_can_neither_narrow_nor_give_consent(site: Site) -> None:
    for n, more in enumerate(
        (
            {"scope": "stream"},
            {"scope": "topic"},
            {"scope": "everything"},
            {"scope": ""},
            {"type": "opt-in", "consent": "yes"},
        )
    ):
        person = f"p{n}@example.nl"
        await site.client.post(site.link(person) + "?type=opt-in", data={**PAGE, **more})
        (event,) = await site.events(person)
        assert event.detail == Objection(scope=Scope.MARKETING, via=Via.PAGE)


async def test_links_of_streams_and_senders_no_longer_configured_work(site: Site) -> None:
    for stream, sender in (("gone", "acme"), ("gone", "gone"), ("newsletter", "globex")):
        link = site.link(stream=stream, sender=sender)
        page = await site.client.get(link)
        assert page.status_code == 200
        assert "all marketing mail from" in page.text
        assert (await site.client.post(link, data=ONE_CLICK)).status_code == 200
        assert [o.scope for o in await site.objections(sender=sender)][-1] is Scope.MARKETING
    assert site.metric('sluis_optouts_total{stream="other",via="one-click"}') == 2
    assert site.metric('sluis_optouts_total{stream="newsletter",via="one-click"}') == 1


async def test_every_address_that_can_be_mailed_can_opt_out(site: Site) -> None:
    for address in (
        "Anna+Tag@example.nl",
        '"a b"@example.nl',
        "jürgen@exämple.de",
    ):
        exact = parse(address, smtputf8=True).exact
        assert (await site.client.post(site.link(exact))).status_code == 200
        subject = site.keys.subject("acme", parse(address, smtputf8=True))
        known = (await site.store.lookup([subject])).known[subject]
        assert [event.exact for event in known.events] == [True]
    assert [e.exact for e in await site.events("anna@example.nl")] == [False], "blocks by wide key"


# -- again and again -----------------------------------------------------------------------------


async def test_repeated_and_concurrent_clicks_are_one_event_with_one_answer(site: Site) -> None:
    link = site.link()
    answers = await asyncio.gather(
        *(site.client.post(link, data=PAGE if n % 2 else ONE_CLICK) for n in range(50))
    )
    site.clock.forward(days=3)
    answers.append(await site.client.post(site.link(), data=ONE_CLICK))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1, "the time is that of the first"
    assert len(await site.events()) == 1
    counted = sum(
        site.metric(f'sluis_optouts_total{{stream="newsletter",via="{via}"}}')
        for via in ("one-click", "page")
    )
    assert counted == 1


async def test_a_click_after_a_new_opt_in_counts(site: Site) -> None:
    link = site.link()
    await site.client.post(link, data=ONE_CLICK)
    site.clock.forward(hours=1)
    await opt_in(site)
    site.clock.forward(hours=1)
    answer = await site.client.post(link, data=ONE_CLICK)
    assert "11:13 UTC" in answer.text
    assert [type(e.detail).__name__ for e in await site.events()] == [
        "Objection",
        "OptIn",
        "Objection",
    ]


async def test_a_link_works_ten_years_and_three_keys_later(site: Site) -> None:
    link = site.link()
    for _ in range(3):
        rotate(site.path / "keys")
    site.clock.forward(days=3653)
    assert (await site.client.post(link, data=ONE_CLICK)).status_code == 200
    assert (await site.events())[0].at == START + timedelta(days=3653)


async def test_one_persons_link_stops_no_one_else(site: Site) -> None:
    await site.client.post(site.link("anna@example.nl"), data=ONE_CLICK)
    assert await site.events("bram@example.nl") == []
    elsewhere = await site.events("anna@example.nl", "globex")
    assert {event.sender for event in elsewhere} == {"acme"}, "known, but of the other sender"


# -- bad tokens ----------------------------------------------------------------------------------


async def test_all_bad_tokens_get_the_same_answer(site: Site) -> None:
    good = site.link()[3:]
    other = seal(site.keys, OptOut("acme", "newsletter", "anna@example.nl", "X.1"))
    confirm = site.keys.seal("confirm", b"\x01\x01a\x01b\x01c\x01d")
    bad = [
        good[:-1],
        good[:-1] + ("A" if good[-1] != "A" else "B"),
        good[:20] + ("A" if good[20] != "A" else "B") + good[21:],
        "k2" + good[2:],
        "k999999" + good[2:],
        good.swapcase(),
        good[:30] + other[30:],
        confirm,
        "x" * 4000,
        "%00",
        "%2e%2e",
        "%0d%0aSet-Cookie:a=b",
        "a/b",
        "",
        "<script>alert(1)</script>",
        "\N{EURO SIGN}",
    ]
    seen = set()
    for token in bad:
        for answer in (
            await site.client.get(f"/u/{token}"),
            await site.client.post(f"/u/{token}", data=ONE_CLICK),
        ):
            headers = {k: v for k, v in answer.headers.items() if k != "date"}
            seen.add((answer.status_code, answer.text, orjson.dumps(headers)))
    assert len(seen) == 1
    ((status, text, _),) = seen
    assert status == 404
    assert "This link does not work" in text
    assert "alert" not in text
    assert await site.events() == []


async def test_what_a_linkifier_adds_does_no_harm(site: Site) -> None:
    for n, tail in enumerate((".", ")", ">", "%20", "...", "%22", ",", "]", "_", "%E2%80%9D")):
        link = site.link(f"p{n}@example.nl") + tail
        assert (await site.client.post(link, data=ONE_CLICK)).status_code == 200
        assert len(await site.events(f"p{n}@example.nl")) == 1


# -- language and headers ------------------------------------------------------------------------


async def test_the_readers_language(site: Site) -> None:
    async def lang(accept: str | None, link: str) -> str:
        headers = {} if accept is None else {"accept-language": accept}
        answer = await site.client.get(link, headers=headers)
        found = re.search('<html lang="(..)">', answer.text)
        assert found
        assert answer.headers["content-language"] == found[1]
        return found[1]

    english, dutch = site.link(), site.link(stream="sales")
    assert await lang("nl-NL,nl;q=0.9,en;q=0.8", english) == "nl"
    assert await lang("en;q=0.3, nl;q=0.4", english) == "nl"
    assert await lang("nl;q=0, en", english) == "en"
    assert await lang("fr-FR, de;q=0.9", english) == "en"
    assert await lang("fr-FR, de;q=0.9", dutch) == "nl"
    assert await lang("*", dutch) == "nl"
    assert await lang("EN-us", dutch) == "en"
    assert await lang("nl;q=9;x, -, ;;,", english) == "en"
    assert await lang("nl," * 3000, english) == "nl"
    assert await lang("nl", "/u/nope") == "nl"


async def test_every_answer_has_the_safety_headers(site: Site) -> None:
    for answer in (
        await site.client.get(site.link()),
        await site.client.post(site.link(), data=ONE_CLICK),
        await site.client.get("/u/nope"),
        await site.client.get("/other"),
        await site.client.put(site.link()),
    ):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        for part in ("default-src 'none'", "form-action 'self'", "frame-ancestors 'none'"):
            assert part in policy
        assert "unsafe" not in policy
        assert "server" not in answer.headers


async def test_names_from_the_configuration_are_escaped(sites: Sites) -> None:
    evil = '"><svg onload=alert(1)>{{7*7}}'
    site = await sites.start(
        change=lambda text: text.replace("Acme Schoenen & Zn. B.V.", evil.replace('"', '\\"'))
    )
    page = (await site.client.get(site.link())).text
    assert "<svg" not in page
    assert "{{7*7}}" in page
    await site.client.post(site.link(), data=ONE_CLICK)
    assert len(await site.events()) == 1


# -- trouble -------------------------------------------------------------------------------------


async def test_200_comes_only_after_the_commit(site: Site) -> None:
    """While another process holds the write lock the answer waits, whatever else is answered."""
    link = site.link()
    other = sqlite3.connect(site.path / "sluis.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    asking = asyncio.create_task(site.client.post(link, data=ONE_CLICK))
    for _ in range(20):
        assert (await site.client.get(link)).status_code == 200
    assert not asking.done()
    assert await site.events() == []
    other.rollback()
    other.close()
    assert (await asking).status_code == 200
    assert len(await site.events()) == 1


async def test_503_when_the_store_cannot_write_and_200_when_it_can(sites: Sites) -> None:
    site = await sites.start()
    link = site.link()
    other = sqlite3.connect(site.path / "sluis.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # held for longer than the store waits
    answer = await site.client.post(link, data=ONE_CLICK, headers={"accept-language": "nl"})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "Nog niet vastgelegd" in answer.text
    assert '<form method="post">' in answer.text, "the reader can try again"
    assert answer.headers["cache-control"] == "no-store"
    assert site.metric('sluis_optouts_total{stream="newsletter",via="one-click"}') == 0
    assert (await site.client.get(link)).status_code == 200, "the page needs no store"
    other.rollback()
    other.close()
    assert await site.events() == []
    assert (await site.client.post(link, data=ONE_CLICK)).status_code == 200
    assert len(await site.events()) == 1


async def test_a_damaged_key_file_is_our_trouble_not_the_readers(site: Site) -> None:
    link = site.link()
    (site.path / "keys").write_text("damaged")
    newer = "/u/k7." + link[6:]
    for answer in (await site.client.get(newer), await site.client.post(newer)):
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
    assert (await site.client.post(link)).status_code == 200, "the keys in memory still work"


# -- privacy -------------------------------------------------------------------------------------


async def test_nothing_on_disk_or_in_the_log_names_the_person(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    link = site.link("canary.person@example.nl")
    await site.client.get(link)
    await site.client.post(link, data=ONE_CLICK)
    await site.client.post(link[:-2], data=ONE_CLICK)
    out, err = capfd.readouterr()
    assert "canary" not in out + err
    assert link[3:] not in out + err, "whoever has the token could use it"
    assert "optout.recorded" in out + err
    for file in site.path.iterdir():
        if file.is_file():
            assert b"canary" not in file.read_bytes()


# -- by mail -------------------------------------------------------------------------------------


async def test_a_token_from_a_mail_is_recorded_the_same_way(site: Site) -> None:
    async def record(token: str) -> bool:
        return await record_token(
            token,
            via=Via.MAILTO,
            keys=site.keys,
            store=site.store,
            settings=site.settings,
            telemetry=site.telemetry,
            clock=site.clock,
        )

    token = site.link()[3:]
    assert await record(token)
    assert await record(token)
    assert not await record(token[:-1])
    assert [o.via for o in await site.objections()] == [Via.MAILTO]
    await site.store.close()
    with pytest.raises(StoreUnavailable):
        await record(site.link("bram@example.nl")[3:])


# -- many at once --------------------------------------------------------------------------------


async def test_the_answer_is_the_same_bytes_however_the_request_came(sites: Sites) -> None:
    """The short way of the usual one-click, and pages rendered before, against all other ways."""
    bodies = [
        (b"application/x-www-form-urlencoded", [b"List-Unsubscribe=One-Click"]),
        (b"application/x-www-form-urlencoded", [b"List-Unsub", b"scribe=One-Click"]),
        (b"application/x-www-form-urlencoded", [b"List-Unsubscribe=One-Click&x=1"]),
        (b"multipart/form-data; boundary=b", [b"--b\r\n\r\nOne-Click\r\n", b"--b--\r\n"]),
    ]
    site = await sites.start()
    for stream, accept in (("newsletter", b"en"), ("newsletter", b"nl, en;q=0.1"), ("sales", b"")):
        answers = set()
        for n, (kind, parts) in enumerate(bodies):
            link = site.link(f"{stream}{n}@example.nl", stream=stream)
            head = (
                b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept-Language: %b\r\n"
                b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n"
                % (link.encode(), accept, kind, sum(map(len, parts)))
            )
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            for part in (head, *parts):
                writer.write(part)
                await writer.drain()
                await site.client.get("/")  # the server has read what came before this
            answers.add(re.sub(rb"\r\ndate: [^\r]*", b"", await reader.read()))
            writer.close()
            assert [o.via for o in await site.objections(f"{stream}{n}@example.nl")] == [
                Via.ONE_CLICK
            ]
        assert len(answers) == 1
        assert answers.pop().startswith(b"HTTP/1.1 200 OK\r\ncache-control: no-store\r\n")


async def test_a_page_rendered_before_is_not_shown_to_the_wrong_reader(site: Site) -> None:
    """Language, sender, stream, reach and time each make another page; the fresh one is right."""
    seen: dict[str, tuple[object, ...]] = {}
    ways = [("newsletter", "acme"), ("sales", "acme"), ("globex-news", "globex"), ("gone", "acme")]
    person = 0
    for _ in range(2):
        for lang in ("en", "nl"):
            for stream, sender in ways:
                for form in (ONE_CLICK, {**PAGE, "scope": "marketing"}):
                    person += 1
                    link = site.link(f"p{person}@example.nl", stream=stream, sender=sender)
                    headers = {"accept-language": lang}
                    page = (await site.client.post(link, data=form, headers=headers)).text
                    scope = (await site.objections(f"p{person}@example.nl", sender))[0].scope
                    at = site.clock().isoformat(timespec="seconds")
                    assert f'datetime="{at}"' in page
                    assert f'<html lang="{lang}">' in page
                    assert ("Globex" in page) == (sender == "globex")
                    assert ("sales" in page) == (scope is Scope.STREAM)
                    what = (lang, sender, scope, at)
                    assert seen.setdefault(page, what) == what
        site.clock.forward(seconds=1)
    assert len(seen) == 2 * 2 * 3, "two seconds, two languages, three senders and reaches"


@given(st.one_of(st.binary(max_size=60), st.sampled_from([b"via=page", b"scope=marketing"])))
@example(b"List-Unsubscribe=One-Click")
@example(b"vi%61=page&scope=marketing")
def test_only_the_form_says_page(body: bytes) -> None:
    """The short way decides as the parser does, which it spares."""
    kind = "application/x-www-form-urlencoded"
    http = {"headers": [(b"content-type", kind.encode())]}
    try:
        form = parse_qs(body.decode("latin-1"), max_num_fields=20)
    except ValueError:
        form = {}
    page = form.get("via") == ["page"]
    wide = page and form.get("scope") == ["marketing"]
    expected = (Via.PAGE if page else Via.ONE_CLICK, Scope.MARKETING if wide else None)
    assert public._meant(http, body) == expected
