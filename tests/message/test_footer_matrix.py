"""576 mails: structure x charset x transfer encoding x ending. The decoded part is the original and
the footer, every other octet is where it was; or nothing can be injected."""

from __future__ import annotations

import binascii
import itertools
import re

import pytest
from body_tools import ADDRESS, DUTIES, HEAD, SENDER, URL, encode, look, whole

from proxy.message import encoded
from proxy.message.displayed import targets
from proxy.message.header import index
from proxy.message.mime import Part, scan

STRUCTURES = ("plain", "html", "alternative", "related", "mixed", "nested")
CHARSETS = (
    *("us-ascii", "utf-8", "iso-8859-1", "windows-1252", "koi8-r", "gb18030", "big5", "shift_jis"),
    *("utf-16", "utf-7", "iso-2022-jp", "x-unknown"),
)
ENCODINGS = ("7bit", "8bit", "quoted-printable", "base64")
ENDINGS = ("closed", "open")
REFUSED = CHARSETS[8:]

TEXTS = {
    "us-ascii": "Hello, news from the canal",
    "koi8-r": "\u041f\u0440\u0438\u0432\u0435\u0442",
    "gb18030": "\u4f60\u597d \u65b0\u95fb",
    "big5": "\u4f60\u597d \u65b0\u805e",
    "shift_jis": "\u3053\u3093\u306b\u3061\u306f \u8868\u793a",
    "iso-2022-jp": "\u3053\u3093\u306b\u3061\u306f",
}


def entity(kind: str, charset: str, encoding: str, ending: str) -> bytes:
    text = TEXTS.get(charset, "Caf\u00e9, nieuws")
    if encoding == "7bit":
        text = "Hello, news from the canal"
    codec = charset if charset not in ("x-unknown",) else "latin-1"
    close = {"plain": "", "html": "</body></html>"}[kind]
    begin = {"plain": "", "html": "<html><body><p>"}[kind]
    end = "\r\n" if ending == "closed" else ""
    octets = f"{begin}{text}\r\nmore of it, and {'a long line of words ' * 5}{close}{end}"
    body = encode(octets.encode(codec), encoding)
    fields = (
        f"Content-Type: text/{kind}; charset={charset}\r\nContent-Transfer-Encoding: {encoding}"
    )
    return fields.encode() + b"\r\n\r\n" + body


def multi(kind: str, boundary: str, *parts: bytes) -> bytes:
    head = f'Content-Type: multipart/{kind}; boundary="{boundary}"\r\n\r\npreamble\r\n'.encode()
    line = b"--" + boundary.encode()
    return (
        head + b"".join(line + b"\r\n" + p + b"\r\n" for p in parts) + line + b"--\r\nepilogue\r\n"
    )


IMAGE = b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo="
PDF = b"Content-Type: application/pdf\r\nContent-Disposition: attachment\r\n\r\n%PDF </body>"


def mail(structure: str, charset: str, encoding: str, ending: str) -> bytes:
    plain, html = (entity(kind, charset, encoding, ending) for kind in ("plain", "html"))
    body = {
        "plain": plain,
        "html": html,
        "alternative": multi("alternative", "a", plain, html),
        "related": multi("related", "r", html, IMAGE),
        "mixed": multi("mixed", "m", plain, PDF),
        "nested": multi(
            "mixed", "m", multi("alternative", "a", plain, multi("related", "r", html, IMAGE)), PDF
        ),
    }[structure]
    return HEAD + body


def decoded(content: bytes, part: Part) -> bytes:
    raw = content[part.start : part.end]
    if part.encoding.word == "quoted-printable":
        return binascii.a2b_qp(raw)
    if part.encoding.word == "base64":
        return binascii.a2b_base64(raw)
    return raw


def tree(part: Part) -> object:
    return part.type, part.encoding, part.closed, [tree(child) for child in part.children]


def leaves(part: Part) -> list[Part]:
    return [leaf for child in part.children for leaf in leaves(child)] or [part]


def check_footer(added: bytes, kind: str, charset: str, ascii_only: bool) -> None:
    codec = encoded.codec(charset) or ""
    text = added.decode(codec)
    if kind == "text/html":
        assert added.isascii()
        assert re.fullmatch(r"\s*<div style=\"[^\"]*\">.*</div>\s*", text, re.DOTALL)
        assert "Caf&#233; Z&#252;rich &amp; Z&#246;hne B.V.<br>" in text
        assert f'<a href="{URL}"' in text
        return
    lines = text.strip("\r\n").split("\r\n")
    assert len(lines) == 3
    assert lines[2] == f"Unsubscribe: {URL}"
    carries = not ascii_only and charset in ("utf-8", "iso-8859-1", "windows-1252", "gb18030")
    assert lines[0] == (SENDER if carries else "Cafe Zurich & Zohne B.V.")
    ascii_address = "Strasse 1, 1015 AA Amsterdam"
    assert lines[1] == (ADDRESS if carries and charset != "gb18030" else ascii_address) or (
        charset == "gb18030" and lines[1] == ADDRESS
    )


CASES = list(itertools.product(STRUCTURES, CHARSETS, ENCODINGS, ENDINGS))


def test_there_are_576() -> None:
    assert len(CASES) == 576


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("charset", CHARSETS)
def test_original_and_footer_or_nothing(structure: str, charset: str) -> None:
    for encoding, ending in itertools.product(ENCODINGS, ENDINGS):
        case = f"{structure} {charset} {encoding} {ending}"
        content = mail(structure, charset, encoding, ending)
        shown, plan = look(content)
        if charset in REFUSED:
            assert not plan.can_inject, case
            assert charset in plan.stopped or shown.opaque == "unknown charset", case
            continue
        assert plan.can_inject == DUTIES, (case, plan.stopped)
        copy = whole(content, plan)
        before, after = (scan(c, index(c)) for c in (content, copy))
        assert tree(before) == tree(after), case
        edited = {target.part.start for target in targets(before)}
        assert edited
        for old, new in zip(leaves(before), leaves(after), strict=True):
            was, is_ = decoded(content, old), decoded(copy, new)
            if old.start not in edited:
                assert was == is_, case
                continue
            at = was.rfind(b"</body>") if old.type.word == "text/html" else len(was)
            assert is_.startswith(was[:at]), case
            assert is_.endswith(was[at:]), case
            added = is_[at : len(is_) - (len(was) - at)]
            check_footer(added, old.type.word, charset, encoding == "7bit")
            if old.type.word == "text/plain":
                assert is_.endswith(b"\r\n") == was.endswith(b"\r\n"), case
        outside = [b"preamble", b"epilogue", PDF.partition(b"\r\n\r\n")[2]]
        assert all(copy.count(piece) == content.count(piece) for piece in outside), case
        if encoding in ("quoted-printable", "base64", "7bit"):
            assert copy.isascii(), case
        if encoding in ("quoted-printable", "base64"):
            assert max(map(len, copy.split(b"\r\n"))) <= 78, case
        # The second pass finds all of it and has nothing to add.
        token = URL.rpartition("/")[2]
        again, second = look(copy)
        assert again.own_tokens == {token}, case
        assert whole(copy, second, (), own_tokens=[token]) == copy, case
        assert again.sender_identity, case
        assert again.postal_address, case
