"""The header block of a mail, indexed in one pass over its bytes and edited by cutting and joining.

Nothing is decoded and nothing is serialised again: a field that stays keeps its bytes, folding
included, and the body is never touched. Input is the content of DATA after dot-unstuffing, with
CRLF line ends; the front door has refused bare CR, bare LF, NUL and lines over 998 octets.
`docs/message.md` is the user's page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, cast

from proxy.content import Content, Spooled, stretch
from proxy.message import mailboxes
from proxy.replies import Reply

#: Bounds of the block; over them every mail is refused with 552 (octets, fields).
MAX_BYTES = 262_144
MAX_FIELDS = 1_000

# RFC 5322 section 2.2: 33-126 without the colon; white space before the colon is obsolete (4.5) but
# read.
_NAME = re.compile(rb"([!-9;-~]++)[ \t]*+:")
# A whole field: what nearly all are, without a bare CR and of some lines only.
_FIELD = re.compile(
    rb"([!-9;-~]++)[ \t]*+:((?>[^\r]*(?:\r\n[ \t][^\r]*){0,100})\r\n)(?![ \t])"
)
# Where a field ends: a line end that no white space follows.
_FIELD_END = re.compile(rb"\r\n(?![ \t])")
_BLANK_CONTINUATION = re.compile(rb"\r\n[ \t]++(?:\r\n|\Z)")
_MBOX = (b"From ", b">From ")

#: Fields that a mail has once (RFC 5322 section 3.6, RFC 2045 section 3); verifiers differ on a
#: second one.
SINGLETONS = (
    *("From", "To", "Cc", "Subject", "Date", "Message-ID", "Sender", "Reply-To"),
    *("MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
)
#: Fields that show recipients to every reader.
VISIBLE = (b"to", b"cc", b"resent-to", b"resent-cc")

_MESSAGE_ID_MAX = 998
# Octets behind the bound that are looked at: a line end, and one to know that it goes on.
_AHEAD = 3


class HeaderRefused(ValueError):
    """This header block is refused whatever the class of the mail; `reply` says so."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class HeaderTooLarge(HeaderRefused):
    """Over 256 KiB or 1,000 fields."""

    def __init__(self) -> None:
        super().__init__(Reply(552, "5.3.4", "header-too-large"))


class HeaderMalformed(HeaderRefused):
    """No header at all, or several From fields. `line` is 1-based, 0 where a name says it."""

    def __init__(self, line: int, reply: Reply | None = None) -> None:
        super().__init__(reply or _malformed(line))
        self.line = line


class Fault(StrEnum):
    """What is wrong with a block that still can be relayed unchanged."""

    NOT_A_FIELD = "not-a-field"
    BLANK_CONTINUATION = "blank-continuation"


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault and its line (1-based, counted from the first octet of the content)."""

    line: int
    fault: Fault


class Field(NamedTuple):
    """One field: `name` in lower case; offsets into the content.

    The field with all its lines is `[start, end)`, final CRLF included; its value begins at
    `value_start`.
    """

    name: bytes
    start: int
    end: int
    value_start: int


# `Field` without the call that names its values: each mail makes a dozen.
_field = cast(Callable[[type[Field], tuple[bytes, int, int, int]], Field], tuple.__new__)


class Header(NamedTuple):
    """The index of one block. `raw` is the content up to the body, so every offset holds in both.

    `start` is 0, or after a dropped mbox line; the fields lie in `[start, fields_end)`; the body
    begins at `end`. `complete` tells that a blank line ends the block; where it is False and there
    is no problem, the content has no body at all. `names` has each name of `by_name` after an LF.
    """

    raw: bytes
    fields: tuple[Field, ...]
    by_name: Mapping[bytes, tuple[Field, ...]]
    start: int
    fields_end: int
    end: int
    problems: tuple[Problem, ...]
    complete: bool
    names: bytes

    @property
    def mbox_line(self) -> bool:
        """Whether the first line was an mbox separator, which no copy keeps."""
        return self.start > 0

    @property
    def ascii(self) -> bool:
        """Whether the block has no 8-bit octet."""
        return self.raw.isascii()

    def named(self, name: bytes) -> tuple[Field, ...]:
        """All fields of this lower-case name, from the top."""
        return self.by_name.get(name, ())

    def value(self, field: Field) -> bytes:
        """The value unfolded (RFC 5322 2.2.3: only the CRLF goes) and stripped."""
        return self.raw[field.value_start : field.end].replace(b"\r\n", b"").strip(b" \t")

    def values(self, name: bytes) -> list[bytes]:
        """Unfolded values of all fields of this lower-case name, from the top."""
        return [self.value(field) for field in self.named(name)]

    def first(self, name: bytes) -> bytes | None:
        """The unfolded value of the topmost field of this lower-case name."""
        fields = self.named(name)
        return self.value(fields[0]) if fields else None


def index(
    content: Content, *, max_bytes: int = MAX_BYTES, max_fields: int = MAX_FIELDS
) -> Header:
    """Find the fields of `content` in one linear pass.

    Raises `HeaderTooLarge` and `HeaderMalformed` for what is refused for all mail; the rest is in
    `problems` and is refused for marketing by `check_marketing`.
    """
    start = 0
    head = content if isinstance(content, bytes) else content[: max_bytes + _AHEAD]
    if head.startswith(_MBOX) and not _NAME.match(head, 0, max_bytes):
        cut = content.find(b"\r\n")
        start = len(content) if cut < 0 else cut + 2
        if not isinstance(content, bytes):
            head = content[: start + max_bytes + _AHEAD]
    fields, fields_end, over = scan_fields(
        head, start, max_bytes=max_bytes, max_fields=max_fields
    )
    if over:
        raise HeaderTooLarge
    if not fields:
        raise HeaderMalformed(_line(head, start))
    complete = head.startswith(b"\r\n", fields_end)
    end = fields_end + 2 if complete else fields_end
    problems = []
    blank = None
    if head.find(b"\r\n ", start, fields_end) >= 0 or b"\t" in head[start:fields_end]:
        blank = _BLANK_CONTINUATION.search(head, start, fields_end)
    if blank:
        problems.append(Problem(_line(head, blank.start() + 2), Fault.BLANK_CONTINUATION))
    if not complete and fields_end < len(head):
        problems.append(Problem(_line(head, fields_end), Fault.NOT_A_FIELD))
    by_name: dict[bytes, tuple[Field, ...]] = {field.name: (field,) for field in fields}
    if len(by_name) < len(fields):
        by_name = _by_name(fields)
    if len(by_name.get(b"from", ())) > 1:
        raise HeaderMalformed(0, Reply(554, "5.6.0", "header-duplicate From"))
    return Header(
        raw=head[:end],
        fields=tuple(fields),
        by_name=by_name,
        start=start,
        fields_end=fields_end,
        end=end,
        problems=tuple(problems),
        complete=complete,
        names=b"\n".join((b"", *by_name)),
    )


def _by_name(fields: Sequence[Field]) -> dict[bytes, tuple[Field, ...]]:
    found: dict[bytes, list[Field]] = {}
    for field in fields:
        found.setdefault(field.name, []).append(field)
    return {name: tuple(of_it) for name, of_it in found.items()}


def scan_fields(
    content: Content, start: int, *, max_bytes: int, max_fields: int
) -> tuple[list[Field], int, bool]:
    """Fields from `start` up to the first line that is none; where that line begins; whether over a
    bound.

    Also reads the header of a MIME part. Looks at no more than `max_bytes` after `start`.
    """
    if not isinstance(content, bytes):
        block = content[start : start + max_bytes + _AHEAD]
        found, end, over = scan_fields(block, 0, max_bytes=max_bytes, max_fields=max_fields)
        return [_moved(f, start) for f in found], end + start, over
    fields: list[Field] = []
    at = start
    limit = start + max_bytes
    while len(fields) < max_fields and (match := _FIELD.match(content, at, limit)) is not None:
        end = match.end()
        fields.append(_field(Field, (match[1].lower(), at, end, match.start(2))))
        at = end
    while (match := _NAME.match(content, at, limit)) is not None:
        stop = _FIELD_END.search(content, match.end(), limit)
        if stop is None and limit < len(content):
            return fields, at, True
        end = len(content) if stop is None else stop.end()
        if len(fields) == max_fields:
            return fields, at, True
        fields.append(Field(match[1].lower(), at, end, match.end()))
        at = end
    # Over the bound only if the block goes on there: neither its blank line nor the end.
    ended = at == len(content) or content.startswith(b"\r\n", at)
    cut = limit < len(content) and content.find(b"\r\n", at, limit) < 0
    return fields, at, not ended and (at >= limit or cut)


def _moved(field: Field, by: int) -> Field:
    return Field(field.name, field.start + by, field.end + by, field.value_start + by)


def splice(
    header: Header, *, remove: Collection[Field] = (), add: Sequence[bytes] = ()
) -> list[bytes]:
    """The head of a copy in pieces: `add` on top, then what stays, in its order and bytes.

    Joined with the body (`body_of`) they are the whole mail. Added fields go above all that was
    there, since DKIM counts from the bottom. An mbox line is dropped always.
    """
    pieces = list(add)
    at = header.start
    for field in sorted(remove, key=lambda f: f.start):
        if field.start > at:
            pieces.append(header.raw[at : field.start])
        at = field.end
    pieces.append(header.raw[at:])
    return pieces


def body_of(content: Content, header: Header) -> memoryview | Spooled:
    """The body, not copied."""
    return stretch(content, header.end)


def check_marketing(header: Header, *, refuse_8bit: bool = False) -> Reply | None:
    """Refuse a block that receivers read in different ways; for marketing mail of an enforced
    stream.

    `refuse_8bit` is the setting `headers_8bit = "refuse"` for mail without SMTPUTF8. None accepts.
    """
    if header.problems:
        return _malformed(min(problem.line for problem in header.problems))
    repeated = len(header.by_name) < len(header.fields)
    for name in SINGLETONS if repeated else ():
        if len(header.named(name.lower().encode())) > 1:
            return Reply(554, "5.6.0", f"header-duplicate {name}")
    try:
        mailboxes.single(header.first(b"from") or b"")
    except mailboxes.AmbiguousError as error:
        return Reply(554, "5.6.0", f"header-from {error}")
    for name_ in VISIBLE:
        for value in header.values(name_) if name_ in header.by_name else ():
            try:
                mailboxes.count(value)
            except mailboxes.AmbiguousError as error:
                title = name_.decode().title()
                return Reply(554, "5.6.0", f"header-malformed {title}: {error}")
    if refuse_8bit and not header.ascii:
        return Reply(554, "5.6.7", "non-ASCII header field without SMTPUTF8")
    return None


def check_utf8(header: Header) -> Reply | None:
    """With SMTPUTF8 the fields are UTF-8 (RFC 6532 section 3.2), in every class. None accepts."""
    try:
        header.raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = _line(header.raw, error.start)
        return Reply(554, "5.6.0", f"header-malformed line {line}: not UTF-8")
    return None


def from_mailbox(header: Header) -> mailboxes.Mailbox | None:
    """The one author, or None where From is missing or not unambiguous."""
    try:
        return mailboxes.single(header.first(b"from") or b"")
    except mailboxes.AmbiguousError:
        return None


def from_domain(header: Header) -> str | None:
    """The author's domain (lower-case A-labels), None where it cannot be told."""
    mailbox = from_mailbox(header)
    return mailbox.address.domain if mailbox else None


def message_id(header: Header) -> str:
    """The Message-ID as written, at most 998 characters; "" when absent: such mail is never a
    duplicate.
    """
    value = header.first(b"message-id") or b""
    return value[:_MESSAGE_ID_MAX].decode("ascii", "backslashreplace")


def _malformed(line: int) -> Reply:
    return Reply(554, "5.6.0", f"header-malformed line {line}")


def _line(content: bytes, at: int) -> int:
    return content.count(b"\r\n", 0, at) + 1
