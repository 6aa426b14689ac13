"""Fields that Sluis writes itself: folded once, at creation, and checked before they leave."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.errors import SluisError

#: Lines are filled up to this; a single word (a URI) may make a longer one.
WIDTH = 78
#: RFC 5322 section 2.1.1, without the CRLF.
MAX_LINE = 998


class FoldError(SluisError):
    """A field of our own would be no valid field: over 998 octets in a line, or not printable
    ASCII.

    Our fault, so the client hears 451 and keeps the mail.
    """


def fold(name: str, words: Sequence[str]) -> bytes:
    """`name: words`, joined by single spaces and folded between words only, with the final CRLF.

    Raises `FoldError`.
    """
    if len(words) == 1:  # most have one
        word = words[0]
        if word.isascii() and word.isprintable() and name.isascii() and name.isprintable():
            if len(name) + 2 + len(word) <= WIDTH:
                return f"{name}: {word}\r\n".encode("ascii")
            if len(word) < MAX_LINE and len(name) < MAX_LINE:
                return f"{name}:\r\n {word}\r\n".encode("ascii")
    return finished(name, filled((f"{name}:",), words))


def filled(begun: Sequence[str], words: Sequence[str]) -> list[str]:
    """The lines of a field that is `begun`, with `words` after what is there."""
    lines = list(begun)
    for word in words:
        if len(lines[-1]) + 1 + len(word) > WIDTH:
            lines.append("")
        lines[-1] += f" {word}"
    return lines


def finished(name: str, lines: Sequence[str]) -> bytes:
    """Its octets, with the final CRLF. Raises `FoldError`."""
    text = "\r\n".join(lines)
    if not text.isascii() or any(len(line) > MAX_LINE or not line.isprintable() for line in lines):
        raise FoldError(f"field {name} cannot be written")
    return text.encode("ascii") + b"\r\n"
