"""Text and links of HTML, compared with a tree-building parser, and bounded work."""

from __future__ import annotations

import re
import tracemalloc

import html_states
import pytest
from growth import assert_linear
from hypothesis import given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from proxy.message import markup
from proxy.message.markup import MOST_TOKENS, Link, Page, footer_at, read


@pytest.mark.parametrize(
    ("source", "text", "links"),
    [
        ("plain", "plain", []),
        ("a<b>c</b>d<br>e", "acd e", []),
        ("<p>a<p>b", "a b", []),
        ("a &amp; b &euro;1 &#233; &#xE9; &nosuch;", "a & b €1 é é &nosuch;", []),
        ("a<!-- x <a href='q'>y</a> -->b", "ab", []),
        ("a<!--> b <!---> c <!-- d --!> e", "a b c e", []),
        ("a<!-- never closed", "a", []),
        ("<title>t</title>x<script>s<a href=1></script>y<style>z</style>", "x y", []),
        ("x<SCRIPT>s</script/>y<style>never closed", "x y", []),
        ("x<template>a<template>b</template>c</template>y</template>z", "x y z", []),
        ("<template><script></template></script>a</template>b", "b", []),
        ("1 < 2 <3 > 4", "1 < 2 <3 > 4", []),
        ("a<!doctype html><?xml x?></3>b", "ab", []),
        (
            '<a href="https://x/?a=1&amp;b=2">l <b>m</b></a> n',
            "l m n",
            [("https://x/?a=1&b=2", "l m")],
        ),
        ("<a title='>' HREF = u >x</a>", "x", [("u", "x")]),
        ("<a href=u/v>x</a>", "x", [("u/v", "x")]),
        ("<a href='a' href='b'>x</a>", "x", [("a", "x")]),
        ("<a href>x</a>", "x", [("", "x")]),
        ("<a name=n>x</a>", "x", []),
        ("<a = href=u>x</a>", "x", [("u", "x")]),
        ("<a title=it's href=u>x</a>", "x", [("u", "x")]),
        ("<a/href=u/>x", "x", [("u/", "x")]),
        ("<a href=1>x<a href=2>y</a>z", "xyz", [("1", "x"), ("2", "y")]),
        ("<a href=u><img alt='Opt out'></a>", "", [("u", "Opt out")]),
        ("<map><area href=u alt=w></map>", "", [("u", "w")]),
        ("<a href='never closed>x</a>", "", []),
        ("x<a href=u", "x", []),
        ("&#" + "1" * 5_000 + ";x", "x", []),
    ],
)
def test_read(source: str, text: str, links: list[tuple[str, str]]) -> None:
    page = read(source)
    assert " ".join(page.text.split()) == text
    found = [Link(link.href, " ".join(link.text.split())) for link in page.links]
    assert found == [Link(*pair) for pair in links]


_PIECES = st.sampled_from(
    [
        *("word", " ", "&amp;", "&eacute;", "<", ">", "it's", '"', "=", "/"),
        *("<p>", "</p>", "<div>", "</div>", "<b>", "</b>", "<br>", "<i class='x y'>", "</i>"),
        *("<a href=u>", '<a href="v w">', "<a name=q>", "</a>", "<img alt='i'>", "<span a=b c>"),
        *("<!-- c -->", "<!-- <b> -->", "<!>", "<script>a<b</script>", "<style>x</style>"),
        *("<font color='>'>", "</font>", "<a\nhref='x'>", "<hr/>", "<x", "<x y='"),
    ]
)


@given(st.lists(_PIECES, max_size=25))
def test_same_text_and_links_as_a_tree(pieces: list[str]) -> None:
    source = "<body>" + "".join(pieces)
    tree = LexborHTMLParser(source)
    for node in tree.css("script, style, template, title"):
        node.decompose()
    page = read(source)
    body = tree.body
    assert body is not None
    squeeze = re.compile(r"\s+")
    assert squeeze.sub("", page.text) == squeeze.sub("", body.text())
    # A tree may split one link over several blocks; the targets and their order are the same.
    expected = [node.attributes["href"] or "" for node in tree.css("a[href]")]
    assert _runs([link.href for link in page.links]) == _runs(expected)


def _runs(values: list[str]) -> list[str]:
    return [v for i, v in enumerate(values) if i == 0 or v != values[i - 1]]


@pytest.mark.parametrize(
    "unit",
    [
        *("<div>", "<b><p>", "<a b=", "<", "</", "<!--", "<!", "<a href='", "<a ", "&#1", "&amp"),
        *("<template>", "<script>", "<a href=x>", "<x y=z ", "=", '"', "<table><td>", "</a>"),
        *("<b a=''>", "a='' ", "<", "<s>", "</b>", "<!x>", "<!---->", "<?>", "</>", "<>", "<st>"),
        *("<script></script>", "</body>", "<img alt=''>", "<b a='<", "<i\n", "<sc", "<!-- -"),
    ],
)
def test_work_is_linear(unit: str) -> None:
    source = "<a " * ("<" not in unit) + unit * (500_000 // len(unit))
    assert_linear(read, source)
    assert_linear(footer_at, source)


@pytest.mark.parametrize(
    "unit",
    [
        *("<!--\n", "<", "< ", "</", "<!-- -", "a=b ", "x", "<script><", "<p>\n", "<b>", "=", "/"),
        *("<a href=x>", "<template>", "-", "<a b='", "<title></titlex "),
    ],
)
@pytest.mark.parametrize("start", ["", "<a ", "<!--", "<script>"])
def test_memory_is_a_small_multiple_of_the_text(start: str, unit: str) -> None:
    source = start + unit * (200_000 // len(unit))
    for work in (read, footer_at):
        tracemalloc.start()
        try:
            work(source)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # A group that repeats for each character takes 80 times the text.
        assert peak < 16 * len(source)


@pytest.mark.parametrize("value", ["", "=1", "='>'", '="</body>"', " = '' "])
@pytest.mark.parametrize("count", [0, 1, 49, 50, 51, 1_999, 2_000, 2_001, 5_000])
def test_a_tag_may_have_any_number_of_attributes(count: int, value: str) -> None:
    tag = "<{} " + f"x{value} " * count
    page = f"a{tag.format('a')}href=https://x.example>b</a>c{tag.format('i')}>d{tag.format('p')}>e"
    assert read(page) == Page("abcd\ne", (Link("https://x.example", "b"),))
    assert footer_at(page) == len(page)
    assert footer_at(f"{page}{tag.format('/body')}>f") == len(page)
    assert footer_at(page + tag.format("b")) is None


@pytest.mark.parametrize("count", [1, 1_999, 2_000, 2_001, 9_000])
@pytest.mark.parametrize("unit", ["<p>a", "<b>a</b>", "<!---->a", "a<>", "<b x=''>a", "</p>a"])
def test_runs_of_any_length(unit: str, count: int) -> None:
    page = unit * count + "<a href=u>x</a></body>z"
    text = "a<>" * count if unit == "a<>" else "a" * count
    assert "".join(read(page).text.split()) == f"{text}xz"
    assert read(page).links == (Link("u", "x"),)
    assert footer_at(page) == page.index("</body>")


def test_what_follows_too_many_tokens_is_not_seen() -> None:
    links = "<a href=u>x</a>" * (MOST_TOKENS // 2)
    assert len(read(f"{links}<p>y").links) == MOST_TOKENS // 2
    assert read(f"{links}<p>y").text.endswith("y")
    assert not read(f"{links}<a href=v>y</a>").text.endswith("y")
    scripts = "<script></script>" * MOST_TOKENS
    assert footer_at(scripts) == len(scripts)
    assert footer_at(f"{scripts}<script></script>") is None


_DOCUMENTS = st.lists(
    st.sampled_from(
        [
            *("word", " ", "\n", "<", "</", "<<", ">", "it's", '"', "'", "=", "/", "!", "-", "--"),
            *("<p>", "</p>", "<b>", "</B>", "<i class='x y'>", "<a href=u>", "</a>"),
            *('<a href="v">', "<img alt='</body>'>", "<!-- c -->", "<!--", "-->", "--!>"),
            *("<!>", "<!x>", "</>", "</3>", "<?x", "<script>", "</script>", "</script "),
            *("<style>x</style>", "<sc", "<st>", "<title>", "</title", "<template>"),
            *("</template>", "<template ", "</template x='>'>"),
            *("</body>", "</BODY >", "</html>", "</html x=</body>", "<x", "<x y='", "<x y="),
            *("<x y =", "<table", "<te", "</te>", "</bod>", "</b", "<xmp>", "</xmp>"),
            *("<x/=", "</template"),
            *("\u00e9", "<\u00e9>", "\x85", "</xm>", "<noembed>", "<I>"),
        ]
    ),
    max_size=20,
).map("".join)


@settings(max_examples=1_000, deadline=None)
@given(_DOCUMENTS)
def test_the_cut_is_where_the_standard_has_it(source: str) -> None:
    assert footer_at(source) == html_states.footer_at(source)


@settings(max_examples=1_000, deadline=None)
@given(_DOCUMENTS)
def test_a_page_says_what_its_tokens_say(source: str) -> None:
    """Text outside templates, and nothing of tags, comments and raw elements."""
    depth = 0
    said = []
    for token in html_states.tokens(source):
        if token.kind == "tag" and token.name.lstrip("/") == "template":
            depth = max(0, depth + (-1 if token.name[0] == "/" else 1))
        elif token.kind == "text" and not depth:
            said.append(source[token.start : token.end])
    assert "".join(read(source).text.split()) == "".join("".join(said).split())


_TAGS = st.sampled_from(
    [
        *('<a href="https://x.example/?m=1&amp;n=2" style="color:red">', '<a class=c href="v w">'),
        *("<a title=' href=\"x\" '>", "<a href='' title=' href=\"x\" '>", '<a href= href="x">'),
        *('<a href="u>v">', '<a x href="a" href="b">', "<a title='it\"s' href=\"u\">"),
        "<A HREF=u>",
        *('<a name="n" href="', '"', '" >', "'", '<a\nhref="x">', '<a  href="&#65;&lt">', "<a/>"),
        *('<area href="u" alt="w">', "<img alt='i &amp; j'>", "<img>", "</img>", "</area>"),
        *("<!--[if mso]>", "<![endif]-->", "<!doctype html>", "<!-->", "<!--->", "<!-- --!>"),
        *("<p " + "x " * 51 + ">", "<a " + "x=1 " * 51 + "href=u>", "<b title='>'>", "<0", "</0>"),
        *("&am", "&amp", "&#1", "p;", "&notit;", "&lt;", "\0", "</style", "</style >", "<style>"),
    ]
)


@settings(max_examples=1_500, deadline=None)
@given(
    st.lists(st.one_of(_TAGS, _PIECES, st.sampled_from(["</a>", "<script>", "</script>", "&"])))
    .map("".join)
    .filter(lambda source: "<template" not in source)
)
def test_the_short_way_reads_what_the_long_way_does(source: str) -> None:
    least, markup._LEAST = markup._LEAST, 1
    try:
        for _ in range(2):  # with tags that were met, too
            short = markup._read_tags(source.replace("\0", "\ufffd"))
            assert short is None or short == markup._read_tokens(source.replace("\0", "\ufffd"))
            assert read(source) == markup._read_tokens(source.replace("\0", "\ufffd"))
    finally:
        markup._LEAST = least


def test_real_pages_take_the_short_way() -> None:
    row = '<td class="x"><a href="https://x.example/?m={0}&amp;l=1" style="c">A shoe</a>, soft</td>'
    style = "<style>td { color: red }</style><!-- what is <b>said</b> -->"
    page = f"<html><head>{style}</head><body>" + row.format(1) * 200 + "</body></html>"
    assert markup._read_tags(page) == markup._read_tokens(page)
    known = set(markup._known)
    other = page.replace("m=1", "m=2")
    assert markup._read_tags(other) == markup._read_tokens(other) != markup._read_tokens(page)
    assert set(markup._known) == known  # a link is remembered without what it leads to


def test_tags_that_were_met_are_bounded() -> None:
    for n in range(markup._MOST + 10):
        read(f"<p class=x{n}>hello, hello</p>")
    read(f"<p class={'y' * markup._LONGEST}>" + "hello, hello " * 50)
    assert len(markup._known) <= markup._MOST
    assert max(map(len, markup._known)) <= markup._LONGEST


@pytest.mark.parametrize(
    "cut", ["<a href='x>", '<a href="x> more >', "<p x='</body>", "<b title='>"]
)
def test_nothing_is_added_inside_a_value_that_is_never_closed(cut: str) -> None:
    assert footer_at(f"<p>Hello{cut}") is None
    assert footer_at(f"<p>Hello</p></body>{cut}") == len("<p>Hello</p>")
