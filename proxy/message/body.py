"""The edits of a mail's body: its footer and its placeholders, planned once, applied per copy.

A copy's body is a list of pieces: the client's own bytes, shared by all copies, and between them
what differs. Where nothing is edited it is one piece. What cannot be edited with certainty is left
as it is; `BodyPlan.stopped` says why, and the duty stays unmet.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from proxy.content import Content, Piece, stretch
from proxy.message import encoded, footer, placeholders, transfer
from proxy.message.displayed import Kind, charset_of
from proxy.message.footer import DUTIES, IDENTITY, POSTAL_ADDRESS, UNSUBSCRIBE, Brand, Paper
from proxy.message.header import Header
from proxy.message.inspect import ANYONE, Seen, Shown, richest_of
from proxy.message.transfer import ImpossibleError, Place, Replacement, Transfer
from proxy.replies import Reply, printable

_MAX_LINE = 998
_NAME = "sluis.unsubscribe_url"
_NOBODY = Brand("", "")


@dataclass(frozen=True, slots=True)
class _Page:
    """One displayed part that can be edited: its placeholders, and where and what a footer may be.

    `possible` are the duties that a footer here can meet.
    """

    seen: Seen
    transfer: Transfer
    paper: Paper
    spans: tuple[Place, ...] = ()
    footer_at: Place | None = None
    possible: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyPlan:
    """What may be done to the body of a mail.

    `can_inject` are duties that a footer can meet, `stopped` why some cannot ("" where all can);
    `placeholders` how many are replaced in each copy; `refused` the reply to a mail with
    placeholders that are unknown or cannot be replaced; `room` how much longer a copy may become,
    in octets.
    """

    content: Content = field(repr=False)
    start: int
    brand: Brand = _NOBODY
    pages: tuple[_Page, ...] = field(default=(), repr=False)
    can_inject: frozenset[str] = frozenset()
    stopped: str = ""
    placeholders: int = 0
    refused: Reply | None = None
    room: int = 0
    marks: tuple[str, ...] = ()

    @property
    def held(self) -> int:
        """Decoded octets that it keeps in memory."""
        return sum(len(page.transfer.octets) for page in self.pages)

    def edits(self, duties: AbstractSet[str]) -> bool:
        """Whether a copy that must be given these duties gets another body than it came with."""
        return bool(self.placeholders or duties)

    def over(self, content: Content) -> BodyPlan:
        """The plan for the same octets in another place."""
        pages = [replace(p, transfer=replace(p.transfer, content=content)) for p in self.pages]
        return replace(self, content=content, pages=tuple(pages))

    def pieces(
        self,
        *,
        url: str = "",
        duties: AbstractSet[str] = frozenset(),
        language: str = "en",
        footer: bool = True,
        own_tokens: Collection[str] = (),
    ) -> list[Piece]:
        """The body of one copy.

        `url` is the recipient's own opt-out, `duties` what the mail must be given (of
        `can_inject`), `own_tokens` the tokens in the mail that are this recipient's. With `footer`,
        a body that is edited anyway gets what its poorer alternatives lack, too.
        """
        pieces: list[Piece] = []
        at = self.start
        for change in self._changes(url, duties, language, footer, own_tokens):
            pieces += [stretch(self.content, at, change.start), change.new]
            at = change.end
        return [*pieces, stretch(self.content, at)]

    def _changes(
        self,
        url: str,
        duties: AbstractSet[str],
        language: str,
        with_footer: bool,
        own_tokens: Collection[str],
    ) -> Iterable[Replacement]:
        if not self.pages or not self.edits(duties):
            return
        wanted = set(duties)
        if with_footer:
            wanted |= _met(richest_of([page.seen for page in self.pages]), own_tokens)
        for page in self.pages:
            link = html.escape(url) if page.seen.kind is Kind.HTML else url
            edits = [(place, link.encode("ascii")) for place in page.spans]
            missing = (wanted - _met(page.seen, own_tokens)) & page.possible
            if with_footer and missing and page.footer_at is not None:
                new = _footer(page, self.brand, missing, url=url, language=language)
                edits.append((page.footer_at, new))
                edits.sort(key=lambda edit: edit[0].start)
            yield from page.transfer.replace(edits)


def untouched(content: Content, header: Header) -> BodyPlan:
    """The plan of a mail whose body is nobody's business."""
    return BodyPlan(content=content, start=header.end)


def plan_body(
    content: Content,
    header: Header,
    shown: Shown,
    *,
    brand: Brand,
    longest_url: int,
    footer: bool = True,
    every_alternative: bool = False,
    signed_by: str = "",
    start: int | None = None,
) -> BodyPlan:
    """Plan the edits of a marketing mail's body; `content` and `start` are as `inspect` had them.

    `longest_url` is how long an opt-out link may be in this mail, in characters; `footer` whether
    the stream wants one where something is missing; `signed_by` the d= of a signature that an edit
    would break and that cannot be made again, "" for none. Bounded work, for a thread when large.
    """
    start = header.end if start is None else start
    if shown.opaque:
        return BodyPlan(content=content, start=start, stopped=printable(shown.opaque))
    rich = [seen for seen in shown.seen if seen.kind is not Kind.AMP]
    pages: list[_Page] = []
    why = ""
    found = edited = 0
    problem: Reply | None = None
    owed = set(DUTIES) - ({IDENTITY} if shown.named else set())
    wants = footer and not all(_met(seen) >= owed for seen in rich)
    for seen in () if not wants and _nothing_in(shown.seen) else shown.seen:
        try:
            edited += max(0, seen.target.part.end - seen.target.part.start)
            page, here = _page(content, seen, signed_by, longest_url, edited > transfer.MAX_EDITED)
        except _RefusedError as error:
            problem = problem or error.reply
            continue
        except ImpossibleError as error:
            why = why or str(error)
            if problem is None and _count(content, seen):
                problem = _irreplaceable(str(error))
            continue
        if page is None:
            continue
        if seen.left and problem is None:
            problem = _irreplaceable("it is not written as such")
        found += here
        try:
            pages.append(_with_footer(page, brand, longest_url) if wants else page)
        except ImpossibleError as error:
            why = why or str(error)
            pages.append(page)
    possible, kept_from = _injectable(shown, pages, rich, every_alternative)
    if signed_by:
        possible, why = frozenset(), f"d={signed_by} signs the body"
    elif not footer:
        why = "the stream has footer off"
    growth = found * longest_url + sum(_growth(page) for page in pages)
    spelled = any(page.possible and _spells(page, brand) for page in pages)
    return BodyPlan(
        content=content,
        start=start,
        brand=brand,
        pages=tuple(pages) if problem is None else (),
        can_inject=possible,
        stopped=printable(why or kept_from),
        placeholders=found if problem is None else 0,
        refused=problem,
        room=2 * growth,
        marks=("footer_ascii",) if spelled else (),
    )


def _nothing_in(seen: Collection[Seen]) -> bool:
    """Whether all parts could be edited, and none has anything to replace."""
    size = 0
    for one in seen:
        part = one.target.part
        size += max(0, part.end - part.start)
        if not one.clear or one.left or not footer.editable_charset(charset_of(part)):
            return False
    return size <= transfer.MAX_EDITED


class _RefusedError(ValueError):
    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


def _page(
    content: Content, seen: Seen, signed_by: str, longest_url: int, too_large: bool
) -> tuple[_Page | None, int]:
    """The part, and its number of placeholders; None where it is never edited."""
    part = seen.target.part
    charset = charset_of(part)
    codec = encoded.codec(charset) or "us-ascii"
    if too_large:
        read, found = None, placeholders.Found()
        number, unknown = placeholders.count(transfer.decoded(content, part), codec)
    else:
        read = transfer.read(content, part)
        found = placeholders.find(read.octets, codec)
        number, unknown = len(found.spans) + found.fixed, found.unknown
    _check(number, unknown, seen, signed_by)
    if seen.kind is Kind.AMP:
        return None, 0
    if not footer.editable_charset(charset):
        raise ImpossibleError(f"charset {charset[:40]}")
    if read is None:
        raise ImpossibleError("the text is too large")
    if found.spans and part.encoding.word in transfer.IDENTITY:
        _check_lines(read.octets, found.spans, longest_url)
    seven = part.encoding.word == "7bit"
    # What came as a 7-bit message stays one, whatever its parts say.
    plain = seven or (part.encoding.word in transfer.IDENTITY and content.isascii())
    flowed = part.type.parameters.get("format", b"").lower() == b"flowed"
    paper = Paper(codec, plain, read.newline, flowed)
    return _Page(seen, read, paper, tuple(read.places(found.spans))), len(found.spans)


def _check(number: int, unknown: str, seen: Seen, signed_by: str) -> None:
    """Raise where a part has placeholders that cannot be what they should."""
    if unknown:
        raise _RefusedError(Reply(554, "5.6.0", f"placeholder {unknown}: unknown"))
    if number > placeholders.MOST:
        most = f"more than {placeholders.MOST} in a part"
        raise _RefusedError(Reply(554, "5.6.0", f"placeholder {_NAME}: {most}"))
    if number and seen.kind is Kind.AMP:
        raise _RefusedError(_irreplaceable("an AMP part is never edited"))
    if number and signed_by:
        raise _RefusedError(_irreplaceable(f"d={signed_by} signs the body"))


def _with_footer(page: _Page, brand: Brand, longest_url: int) -> _Page:
    """The part with the place of a footer, and the duties that it can meet there."""
    octets = page.transfer.octets
    at = footer.html_cut(octets) if page.seen.kind is Kind.HTML else len(octets)
    spans = sorted([*((p.start, p.end) for p in page.spans), (at, at)])
    places = page.transfer.places(spans)
    where = places[spans.index((at, at))]
    possible = set()
    url = "x" * longest_url
    for duty in DUTIES:
        try:
            _footer(page, brand, {duty}, url=url, language="en", place=where)
        except ImpossibleError:
            continue
        possible.add(duty)
    return _Page(page.seen, page.transfer, page.paper, page.spans, where, frozenset(possible))


def _footer(
    page: _Page,
    brand: Brand,
    duties: AbstractSet[str],
    *,
    url: str,
    language: str,
    place: Place | None = None,
) -> bytes:
    """What is put into the part's decoded octets, line ends around it included."""
    octets, newline = page.transfer.octets, page.transfer.newline
    place = place or page.footer_at
    if place is None:
        raise ImpossibleError("no place for a footer")
    if page.seen.kind is Kind.HTML:
        text = footer.of_html(brand, duties, url=url, language=language, newline=newline)
        at = place.start
        before = b"" if at == 0 or octets[at - 1 : at] == b"\n" else newline
        closed = at < len(octets) or not before
        return before + text + (newline if closed else b"")
    text = footer.of_text(brand, duties, url=url, language=language, paper=page.paper)
    before, after = footer.text_end(octets, newline)
    return before + text + after


def _injectable(
    shown: Shown, pages: Iterable[_Page], rich: list[Seen], every_alternative: bool
) -> tuple[frozenset[str], str]:
    by_part = {page.seen.target.part.start: page for page in pages}
    deciding = rich if every_alternative else [richest_of(rich)]
    possible = set()
    met = [(seen, _met(seen)) for seen in deciding]
    for duty in DUTIES:
        lacking = [seen for seen, duties in met if duty not in duties]
        pages_of = [by_part.get(seen.target.part.start) for seen in lacking]
        if all(page is not None and duty in page.possible for page in pages_of):
            possible.add(duty)
    amp = [seen for seen in shown.seen if seen.kind is Kind.AMP]
    if not all(UNSUBSCRIBE in _met(seen) for seen in amp):
        return frozenset(possible - {UNSUBSCRIBE}), "an AMP part has no opt-out and is never edited"
    return frozenset(possible), ""


def _met(seen: Seen, own_tokens: Collection[str] = ()) -> set[str]:
    own = ANYONE in seen.own_tokens or not seen.own_tokens.isdisjoint(own_tokens)
    met = set()
    if seen.identity:
        met.add(IDENTITY)
    if seen.address:
        met.add(POSTAL_ADDRESS)
    if seen.opt_out or own:
        met.add(UNSUBSCRIBE)
    return met


def _check_lines(octets: bytes, spans: Collection[tuple[int, int]], longest_url: int) -> None:
    """In text that is sent as it is, a line with links in it must stay within RFC 5322 2.1.1."""
    lengths: dict[int, int] = {}
    for start, end in spans:
        begin = octets.rfind(b"\n", 0, start) + 1
        stop = octets.find(b"\r\n", end)
        whole = (len(octets) if stop < 0 else stop) - begin
        lengths[begin] = lengths.get(begin, whole) + longest_url - (end - start)
    if any(length > _MAX_LINE for length in lengths.values()):
        raise ImpossibleError(f"a line would be over {_MAX_LINE} octets")


def _count(content: Content, seen: Seen) -> int:
    """Placeholders of a part that cannot be edited; 0 where it cannot even be read."""
    part = seen.target.part
    codec = encoded.codec(charset_of(part)) or "us-ascii"
    try:
        return placeholders.count(transfer.decoded(content, part), codec)[0] + seen.left
    except ImpossibleError:
        return int(seen.left)


def _growth(page: _Page) -> int:
    if not page.spans and not page.possible:
        return 0
    part = page.transfer.part
    lines = (part.end - part.start) // 30 if part.encoding.word == "base64" else 0
    return lines + (footer.MAX_FOOTER if page.possible else 0)


def _spells(page: _Page, brand: Brand) -> bool:
    return page.seen.kind is not Kind.HTML and footer.needs_spelling(
        brand.name + brand.postal_address, page.paper
    )


def _irreplaceable(why: str) -> Reply:
    return Reply(550, "5.7.1", f"no-unsubscribe: placeholder {_NAME} cannot be replaced: {why}")
