"""Text and links of HTML, compared with a tree-building parser, and bounded work."""

from __future__ import annotations

import re
import tracemalloc

import pytest
from growth import assert_linear
from hypothesis import given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from proxy.message.markup import Link, footer_at, read


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


def test_a_tag_with_too_many_attributes_hides_what_follows() -> None:
    def page(attributes: int) -> str:
        return "a<a " + "x " * attributes + "href=https://x.example>b</a></body>"

    assert read(page(900)).links == (Link("https://x.example", "b"),)
    assert footer_at(page(900)) is not None
    assert read(page(2_000)).links == ()
    assert read(page(2_000)).text == "a"
    assert footer_at(page(2_000)) is None


@pytest.mark.parametrize(
    "cut", ["<a href='x>", '<a href="x> more >', "<p x='</body>", "<b title='>"]
)
def test_nothing_is_added_inside_a_value_that_is_never_closed(cut: str) -> None:
    assert footer_at(f"<p>Hello{cut}") is None
    assert footer_at(f"<p>Hello</p></body>{cut}") == len("<p>Hello</p>")
