"""Placeholders in every position and encoding, and the bounds of body edits."""

from __future__ import annotations

import itertools

import pytest
from body_tools import DUTIES, HEAD, OWN, SENDER, URL, encode, look, whole
from growth import assert_linear
from hypothesis import given
from hypothesis import strategies as st
from test_footer_matrix import decoded, multi

from policy.model import Unsubscribe
from proxy.message import placeholders, transfer
from proxy.message.header import index
from proxy.message.inspect import ANYONE
from proxy.message.mime import scan
from proxy.message.placeholders import Found, find

PLAIN = b"{{sluis.unsubscribe_url}}"
SPELLINGS = [
    PLAIN,
    b"{{ sluis.unsubscribe_url }}",
    b"{{sluis.unsubscribe_url }}",
    b"[[sluis.unsubscribe_url]]",
    b"[[ sluis.unsubscribe_url ]]",
    b"%7B%7Bsluis.unsubscribe_url%7D%7D",
    b"%7b%7B%20sluis.unsubscribe_url%20%7d%7D",
]
ENCODINGS = ("7bit", "8bit", "quoted-printable", "base64")


def part(body: bytes, encoding: str = "7bit", kind: str = "plain; charset=utf-8") -> bytes:
    fields = f"Content-Type: text/{kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return HEAD + fields.encode() + body


def body(content: bytes) -> bytes:
    return decoded(content, scan(content, index(content)))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_ninety_alignments(encoding: str) -> None:
    """Wherever the lines break, in the middle of the placeholder too."""
    for n in range(90):
        octets = b"x" * n + PLAIN + b" and more of it" * 9 + b"\r\nend\r\n"
        content = part(encode(octets, encoding), encoding)
        shown, plan = look(content)
        assert plan.placeholders == 1, n
        assert ANYONE in shown.own_tokens, n
        copy = whole(content, plan, ())
        assert body(copy).startswith(octets.replace(PLAIN, URL.encode())), n
        if encoding in ("quoted-printable", "base64"):
            assert max(map(len, copy.split(b"\r\n"))) <= 76, n
        # Nothing is added where nothing is missing but what the stream leaves alone.
        bare = whole(content, plan, (), footer=False)
        assert body(bare) == octets.replace(PLAIN, URL.encode()), n


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling: bytes) -> None:
    content = part(b"a " + spelling + b" b\r\n")
    _, plan = look(content)
    assert body(whole(content, plan, (), footer=False)) == b"a " + URL.encode() + b" b\r\n"


@pytest.mark.parametrize(
    "text",
    [
        b"{{sluis.}}",
        b"{{sluis.unsubscribe}}",
        b"{{  sluis.unsubscribe_url}}"[:2] + b" sluis.unsubscribe_url",
        b"{{sluis.unsubscribe_url]]",
        b"{{sluis.unsubscribe_url  }}",
        b"{{sluis.Unsubscribe_url}}",
        b"[[sluis.name]]",
        b"%7B%7Bsluis.name%7D%7D",
    ],
)
def test_any_other_is_named(text: bytes) -> None:
    _, plan = look(part(b"x " + text))
    assert plan.refused is not None
    assert plan.refused.code == 554
    assert plan.refused.text.startswith("placeholder sluis.")
    assert whole(part(b"x " + text), plan, ()) == part(b"x " + text)


@pytest.mark.parametrize(
    "text", [b"sluis.unsubscribe_url", b"{{name}}", b"{sluis.x}", b"{{ name }} sluis."]
)
def test_what_is_none_of_ours_stays(text: bytes) -> None:
    content = part(text)
    _, plan = look(content)
    assert (plan.refused, plan.placeholders) == (None, 0)
    assert whole(content, plan, ()) == content


def test_at_most_twenty_in_a_part() -> None:
    _, plan = look(part(b"\r\n".join([PLAIN] * 20)))
    assert plan.placeholders == 20
    _, plan = look(part(b"\r\n".join([PLAIN] * 21)))
    assert plan.refused is not None
    assert plan.refused.text == "placeholder sluis.unsubscribe_url: more than 20 in a part"


@pytest.mark.parametrize(
    ("codec", "lead"), [("shift_jis", 0x81), ("big5", 0xA4), ("gbk", 0x81), ("gb2312", 0x81)]
)
def test_a_match_begins_at_a_character(codec: str, lead: int) -> None:
    double = bytes([lead])
    assert find(double + PLAIN, codec) == Found()  # its first brace belongs to a character
    assert find(double + b"{" + PLAIN, codec).spans == ((2, 27),)
    assert find(double + b"\x41" + PLAIN, codec).spans == ((2, 27),)
    assert find(bytes([0xE9]) + PLAIN, "iso-8859-1").spans == ((1, 26),)


def test_in_html_the_url_is_escaped_and_counts_as_a_link_only() -> None:
    url = OWN.replace("/u/", "/a&b/u/") + "k1.x"
    content = part(b'<a href="{{sluis.unsubscribe_url}}">x</a>', kind="html")
    shown, plan = look(content)
    assert ANYONE in shown.own_tokens
    assert b"/a&amp;b/u/k1.x" in whole(content, plan, (), url=url, footer=False)
    shown, _ = look(part(b"<p>{{sluis.unsubscribe_url}}</p>", kind="html"))
    assert shown.unsubscribe is Unsubscribe.NONE
    assert shown.own_tokens == frozenset()


def test_a_link_with_the_words_of_a_placeholder_is_none() -> None:
    shown, _ = look(part(f"stop: {OWN}~0123456789abcdef0123456789abcdef\r\n".encode()))
    assert ANYONE not in shown.own_tokens


def test_one_that_cannot_be_replaced_is_refused() -> None:
    cases = {
        part(b"x" * 880 + PLAIN + b"\r\n"): "a line would be over 998 octets",
        part(PLAIN, "7bit", "plain; charset=iso-2022-jp"): "charset iso-2022-jp",
    }
    for content, why in cases.items():
        _, plan = look(content)
        assert plan.refused is not None, why
        assert plan.refused.code == 550
        assert plan.refused.text.endswith(f"cannot be replaced: {why}")
        assert whole(content, plan, ()) == content
    _, plan = look(part(PLAIN), signed_by="esp.example")
    assert plan.refused is not None
    assert "d=esp.example signs the body" in plan.refused.text


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
@pytest.mark.parametrize("charset", ["utf-16", "utf-16le", "utf-16be", "UTF-16", "utf-32"])
@pytest.mark.parametrize("marked", [True, False])
def test_one_in_wide_characters_is_refused(charset: str, encoding: str, marked: bool) -> None:
    """Its octets are no ASCII, so it cannot be replaced: nobody may see it as it is."""
    codec = charset if marked or charset[-2:].lower() in ("le", "be") else f"{charset}be"
    for spelling in SPELLINGS:
        octets = f"\u20ac 5 \u4e16 {spelling.decode()}\r\n".encode(codec)
        content = part(encode(octets, encoding), encoding, f"plain; charset={charset}")
        shown, plan = look(content)
        assert plan.refused is not None, spelling
        assert str(plan.refused).startswith("550 5.7.1 no-unsubscribe: placeholder")
        assert plan.refused.text.endswith(f"cannot be replaced: charset {charset}")
        assert shown.own_tokens == frozenset()
        other = octets.decode(codec).replace("unsubscribe_url", "unsubscribe")
        content = part(encode(other.encode(codec), encoding), encoding, f"plain; charset={charset}")
        _, plan = look(content)
        assert str(plan.refused) == "554 5.6.0 placeholder sluis.unsubscribe: unknown"
        plain = part(encode("x".encode(codec), encoding), encoding, f"plain; charset={charset}")
        assert look(plain)[1].refused is None


@pytest.mark.parametrize(
    "text",
    [
        "&#123;&#123;sluis.unsubscribe_url}}",
        "{{<b>sluis</b>.unsubscribe_url}}",
        "[[sluis&#46;unsubscribe_url]]",
        "&lcub;{sluis.unsubscribe&lowbar;url}}",
        "<a href='&#123;{sluis.unsubscribe_url}}'>stop</a>",
    ],
)
def test_one_that_only_a_reader_sees_is_refused(text: str) -> None:
    for before in ("", "{{sluis.unsubscribe_url}} "):
        _, plan = look(part(f"<p>{before}{text}</p>".encode(), kind="html; charset=utf-8"))
        assert plan.refused is not None
        assert plan.refused.text.endswith("cannot be replaced: it is not written as such")


def test_one_cut_where_looking_ends_is_replaced() -> None:
    for n in range(30):
        content = part(b"x\r\n" * 174_750 + b"x" * n + PLAIN + b"\r\n")
        _, plan = look(content)
        assert (plan.placeholders, plan.refused) == (1, None)


def test_one_in_an_amp_part_is_refused() -> None:
    amp = b"Content-Type: text/x-amp-html\r\n\r\n<a href='" + PLAIN + b"'>x</a>"
    html = b"Content-Type: text/html\r\n\r\n<a href='" + PLAIN + b"'>x</a>"
    _, plan = look(HEAD + multi("alternative", "a", amp, html))
    assert plan.refused is not None
    assert "AMP" in plan.refused.text


# -- where the law and the structure meet ---------------------------------------------------------


def alternative(text: bytes, html: bytes) -> bytes:
    return HEAD + multi(
        "alternative",
        "a",
        b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + text,
        b"Content-Type: text/html; charset=utf-8\r\n\r\n" + html,
    )


FULL_HTML = f"<p>{SENDER.replace('&', '&amp;')}</p><a href='https://x.example/'>unsubscribe</a>"


def test_the_richest_decides_unless_every_alternative_must() -> None:
    content = alternative(b"Hi", FULL_HTML.encode())
    shown, plan = look(content)
    assert (shown.sender_identity, shown.unsubscribe) == (True, Unsubscribe.LINK)
    assert shown.marks == ("partial_alternative",)
    assert whole(content, plan, ()) == content
    shown, plan = look(content, every_alternative=True)
    assert (shown.sender_identity, shown.unsubscribe) == (False, Unsubscribe.NONE)
    copy = whole(content, plan, {"identity", "unsubscribe"})
    assert copy.count(URL.encode()) == 1, "the HTML has one"
    again, _ = look(copy, every_alternative=True)
    assert again.sender_identity
    assert again.own_tokens == {URL.rpartition("/")[2]}


def test_a_poorer_alternative_gets_the_footer_when_the_body_is_edited_anyway() -> None:
    content = alternative(b"Hi", FULL_HTML.encode())
    _, plan = look(content)
    copy = whole(content, plan, {"postal_address"})
    assert copy.count(URL.encode()) == 1
    assert b"Cafe Zurich" in copy.partition(b"text/html")[0], "a 7bit part stays one"


def test_a_poorer_alternative_that_cannot_carry_it_is_left() -> None:
    text = (
        b"Content-Type: text/plain; charset=utf-16\r\nContent-Transfer-Encoding: base64\r\n\r\nSABp"
    )
    html = b"Content-Type: text/html\r\n\r\n<p>Hi</p>"
    content = HEAD + multi("alternative", "a", text, html)
    _, plan = look(content)
    assert plan.can_inject == DUTIES
    assert text in whole(content, plan)
    _, plan = look(content, every_alternative=True)
    assert plan.can_inject == frozenset()
    assert plan.stopped == "charset utf-16"


def test_an_amp_part_without_an_opt_out_stops_it() -> None:
    amp = b"Content-Type: text/x-amp-html\r\n\r\n<p>Hi</p>"
    content = HEAD + multi("alternative", "a", amp, b"Content-Type: text/html\r\n\r\n<p>Hi</p>")
    _, plan = look(content)
    assert plan.can_inject == {"identity", "postal_address"}
    assert "AMP" in plan.stopped


@pytest.mark.parametrize(
    ("html", "before"),
    [
        ("<p>Hi</p></BODY ></HTML>", "</BODY"),
        ("<p>Hi</p></html>", "</html"),
        ("<p>Hi</p>", ""),
        ("<p>a</body>b</p></body>", "</body>"),
        ("<p>Hi</p></body><!-- </body> --><script>'</body>'</script>", "</body><!--"),
        ('<p title="</body>">Hi</p>', ""),
        ("<p>Hi</p><style></body></style>", ""),
        ("<!-- open --></body>", "</body>"),
    ],
)
def test_where_the_footer_stands_in_html(html: str, before: str) -> None:
    content = part(html.encode(), kind="html")
    _, plan = look(content)
    copy = body(whole(content, plan)).decode()
    at = html.index(before) if before != "</body>" else html.rindex(before)
    at = at if before else len(html)
    assert copy.startswith(f"{html[:at]}\r\n<div style="), copy
    rest = f"\r\n{html[at:]}" if html[at:] else ""
    assert copy.endswith(f"</div>{rest}"), copy


@pytest.mark.parametrize(
    "html", ["<p>Hi</p><!-- open", "<p>x<script>1", "<p>x<template>y", '<p>x<a href="', "<p>x</bo"]
)
def test_html_that_ends_inside_something_takes_none(html: str) -> None:
    _, plan = look(part(html.encode(), kind="html"))
    assert plan.can_inject == frozenset()
    assert plan.stopped == "the HTML ends inside a comment, script or tag"


def test_flowed_text_is_stuffed_and_its_paragraph_ended() -> None:
    content = part(b"a paragraph that goes on \r\n", kind="plain; format=flowed; charset=utf-8")
    _, plan = look(content)
    lines = body(whole(content, plan)).split(b"\r\n")
    assert lines[:2] == [b"a paragraph that goes on ", b""]
    assert not any(line.endswith(b" ") for line in lines[1:])


@pytest.mark.parametrize("footer", [True, False])
def test_a_footer_that_is_off_injects_nothing(footer: bool) -> None:
    _, plan = look(part(b"Hi"), footer=footer)
    assert plan.can_inject == (DUTIES if footer else frozenset())
    assert plan.stopped == ("" if footer else "the stream has footer off")


# -- laws ----------------------------------------------------------------------------------------

OCTETS = st.binary(max_size=300).map(
    lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"\r\n").replace(b"\0", b"0")
)


@given(OCTETS, st.sampled_from(["quoted-printable", "base64"]), st.integers(4, 76), st.data())
def test_an_edit_changes_its_span_and_nothing_else(
    octets: bytes, encoding: str, width: int, data: st.DataObject
) -> None:
    content = part(encode(octets, encoding, width // 4 * 4), encoding)
    root = scan(content, index(content))
    read = transfer.read(content, root)
    assert read.octets == octets
    start = data.draw(st.integers(0, len(octets)))
    end = data.draw(st.integers(start, min(len(octets), start + 40)))
    new = data.draw(OCTETS)
    try:
        places = read.places([(start, end)])
    except transfer.ImpossibleError:
        assert encoding == "quoted-printable"
        return
    [change] = read.replace([(places[0], new)])
    copy = content[: change.start] + change.new + content[change.end :]
    assert body(copy) == octets[:start] + new + octets[end:]
    assert max(map(len, copy.split(b"\r\n"))) <= 78


@given(OCTETS)
def test_quoted_is_read_back(octets: bytes) -> None:
    text = transfer.quoted(octets)
    assert all(len(line) <= 76 for line in text.split(b"\r\n"))
    assert body(part(text, "quoted-printable")) == octets


@given(st.lists(st.sampled_from([PLAIN, b"x", b"{{", b"\xe9", b"sluis.", b"}}", b"\r\n"])))
def test_all_placeholders_go_and_no_other_octet(pieces: list[bytes]) -> None:
    octets = b"".join(pieces)
    found = find(octets, "utf-8")
    if not found.unknown and len(found.spans) <= placeholders.MOST:
        assert placeholders.put(octets, found.spans, b"U") == octets.replace(PLAIN, b"U")


# -- hostile -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"{{sluis." * 100_000,
        b"\x81{{sluis.x" * 60_000,
        b"\x81" * 700_000 + PLAIN,
        b"<!--" * 200_000,
        b"</body" * 150_000,
        b"<p>" * 200_000,
    ],
    ids=["open", "doubles", "look-back", "comments", "bodies", "tags"],
)
@pytest.mark.parametrize("encoding", ["8bit", "base64", "quoted-printable"])
def test_work_is_bounded(text: bytes, encoding: str) -> None:
    def work(text: bytes) -> None:
        octets = b"\r\n".join(text[i : i + 900] for i in range(0, len(text), 900))
        kind = "html; charset=shift_jis"
        look(part(octets if encoding == "8bit" else encode(octets, encoding), encoding, kind))

    assert_linear(work, text)


def test_one_and_twenty_in_text_and_html() -> None:
    for n, kind in itertools.product((1, 20), ("plain", "html")):
        text = b"\r\n".join([b"y" * 60 + b" " + PLAIN] * n)
        content = part(text, "7bit", f"{kind}; charset=us-ascii")
        _, plan = look(content)
        copy = whole(content, plan, (), footer=False)
        assert copy.count(URL.encode()) == n
