"""The MIME scan: delimiters, what is opaque, and bounds."""

from __future__ import annotations

import pytest
from growth import assert_linear

from proxy.message.header import index
from proxy.message.mime import OpaqueError, Part, scan


def _scan(content: bytes) -> tuple[bytes, Part]:
    return content, scan(content, index(content))


def _mail(body: bytes, boundary: str = "b", kind: str = "mixed") -> bytes:
    head = f'From: a@acme.example\r\nContent-Type: multipart/{kind}; boundary="{boundary}"\r\n\r\n'
    return head.encode() + body


def _bodies(content: bytes, part: Part) -> list[bytes]:
    return [content[p.start : max(p.start, p.end)] for p in part.children]


@pytest.mark.parametrize(
    ("body", "bodies"),
    [
        (b"--b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--\r\n", [b"one", b"two"]),
        (b"preamble\r\n--b\r\n\r\none\r\n--b--\r\nepilogue\r\n--b\r\n\r\nno\r\n", [b"one"]),
        (b"--b \t\r\n\r\none\r\n--b-- \r\n", [b"one"]),
        (
            b"--b\r\n\r\n--bb\r\n--b-\r\n--B\r\n- --b\r\n--b--\r\n",
            [b"--bb\r\n--b-\r\n--B\r\n- --b"],
        ),
        (b"--b\r\nX-Y: z\r\n\r\n\r\none\r\n\r\n--b--", [b"\r\none\r\n"]),
        (b"--b\r\n\r\n--b--\r\n", [b""]),
        (b"--b\r\n--b--\r\n", [b""]),
        (b"--b\r\nX-Y: z\r\n--b--\r\n", [b""]),
        (b"--b\r\nnot a field\r\n--b--\r\n", [b"not a field"]),
        (b"--b\r\n\r\nnever closed\r\n", [b"never closed\r\n"]),
        (b"--b", [b""]),
    ],
)
def test_parts(body: bytes, bodies: list[bytes]) -> None:
    content, root = _scan(_mail(body))
    assert _bodies(content, root) == bodies
    assert root.closed == (b"--b--" in body)


def test_a_delimiter_that_looks_like_a_field_ends_a_part_header() -> None:
    content, root = _scan(_mail(b"--b:c\r\nX-Y: z\r\n--b:c--\r\n", "b:c"))
    assert _bodies(content, root) == [b""]


def test_an_outer_boundary_ends_inner_parts() -> None:
    inner = b'Content-Type: multipart/alternative; boundary="i"\r\n\r\n--i\r\n\r\none\r\n'
    content, root = _scan(_mail(b"--b\r\n" + inner + b"--b\r\n\r\ntwo\r\n--i\r\n--b--\r\n"))
    first, second = root.children
    assert (first.closed, root.closed) == (False, True)
    assert _bodies(content, first) == [b"one"]
    assert content[second.start : second.end] == b"two\r\n--i"


def test_a_boundary_that_is_another_with_two_hyphens() -> None:
    inner = b'Content-Type: multipart/mixed; boundary="b--"\r\n\r\n--b--\r\n\r\none\r\n--b----\r\n'
    content, root = _scan(_mail(b"--b\r\n" + inner + b"--b--\r\n"))
    assert _bodies(content, root.children[0]) == [b"one"]
    assert root.closed


@pytest.mark.parametrize(
    ("value", "sound"),
    [
        (b"text/plain", True),
        (b" TEXT / Plain ; charset = us-ascii ;", True),
        (b'text/plain; charset="u\\tf-8"; x=""', True),
        (b"text/plain; charset=a; CHARSET=a", False),
        (b"text/plain; charset=a b", False),
        (b'text/plain; charset="a', False),
        (b"text/plain (comment)", False),
        (b"text", False),
        (b"", False),
        (b"text/plain\r\nContent-Type: text/plain", False),
        (b"text/plain" + b";a=b" * 200, False),
    ],
)
def test_structured_values(value: bytes, sound: bool) -> None:
    _, root = _scan(b"Content-Type: " + value + b"\r\n\r\nbody\r\n")
    assert (root.type.word, root.type.sound) == ("text/plain", sound)


def _nested(depth: int) -> bytes:
    content = b""
    for n in range(depth):
        content += b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n)
    return content + b"\r\nx\r\n" + b"".join(b"--%d--\r\n" % n for n in reversed(range(depth)))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (_mail(b"--b\r\n\r\nx\r\n" * 501 + b"--b--\r\n"), "too many parts"),
        (_nested(21), "parts nested too deep"),
        (_nested(1_000), "parts nested too deep"),
        (_mail(b"--x\r\n" * 20_001), "too many lines that look like boundaries"),
        (_mail(b"--\r\n" * 2_500_000), "too many lines that look like boundaries"),
        (_mail(b"--b\r\nX: " + b"y" * 70_000 + b"\r\n\r\n--b--\r\n"), "part header too large"),
        (_mail(b"--b\r\n" + b"X: y\r\n" * 1_001 + b"\r\n--b--\r\n"), "part header too large"),
        (_mail(b"", "b" * 201), "boundary too long"),
        (_mail(b"", "b" * 100_000), "boundary too long"),
        (_mail(b"", ""), "multipart without a clear boundary"),
        (b"Content-Type: multipart/mixed\r\n\r\n", "multipart without a clear boundary"),
        (
            b"Content-Type: multipart/mixed; boundary=a; boundary=b\r\n\r\n",
            "multipart without a clear boundary",
        ),
        (_mail(b"--b\r\n" + _mail(b"--b\r\n")), "boundary used again inside itself"),
    ],
)
def test_opaque(content: bytes, why: str) -> None:
    with pytest.raises(OpaqueError) as caught:
        _scan(content)
    assert str(caught.value) == why


def test_at_the_bounds() -> None:
    _, root = _scan(_mail(b"--b\r\n\r\nx\r\n" * 500 + b"--b--\r\n"))
    assert (len(root.children), root.closed) == (500, True)
    assert _scan(_nested(20))[1].closed


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n" * 5_000_000,
        b"-" * 10_000_000,
        b"--b\r\n\r\n" + b"\r\n--" * 19_000 + b"x" * 10_000_000,
        b"--b\r\n\r\n" + b"From: x\r\n" * 1_000_000 + b"\r\n--b--\r\n",
    ],
)
def test_large_bodies_cost_one_pass(body: bytes) -> None:
    assert_linear(lambda text: _scan(_mail(text)), body)
