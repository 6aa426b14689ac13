"""Which signatures on a mail an edit would break (RFC 6376 section 5.4.2); none is verified here.

For a signature S whose `h=` lists a name k times, in a mail with m fields of that name: removing
them breaks S if k and m are both at least 1; adding one on top breaks S only if k > m (oversigned).
The canonicalisation plays no part, since no other byte changes; `l=` is read as covering all, and a
signature that has expired counts as valid. One that is malformed counts as broken by any edit,
and so does one of which is known that it does not verify (`proxy.message.verify`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from enum import StrEnum

from proxy.message.header import Field, Header

DKIM = b"dkim-signature"
ARC = b"arc-message-signature"
#: All fields of a chain (RFC 8617): they go together, or the chain is a failed one.
ARC_FIELDS = (b"arc-seal", ARC, b"arc-authentication-results")

_ONE_CLICK = (b"list-unsubscribe", b"list-unsubscribe-post")

_LABEL = rb"[A-Za-z0-9_\x80-\xff](?:[A-Za-z0-9_\x80-\xff-]{0,61}[A-Za-z0-9_\x80-\xff])?"
_DOMAIN = re.compile(rb"(?=.{1,253}\Z)" + _LABEL + rb"(?:\." + _LABEL + rb")+")
_TAG = re.compile(rb"[A-Za-z][A-Za-z0-9_]*")
_NAME = re.compile(rb"[!-9<-~]+")
_SPACE = re.compile(rb"[ \t\r\n]+")
_MAX_TAGS = 100
_MAX_NAMES = 2_000


class How(StrEnum):
    """What of an edit breaks a signature."""

    REMOVES = "removes"
    OVERSIGNED = "oversigned"
    BODY = "body"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Broken:
    """A signature that would break: its `d=` ("" where none can be read), the field edited, how."""

    d: str
    field: str
    how: How


@dataclass(frozen=True, slots=True)
class Signature:
    """What a signature covers: `names` maps each lower-case name of `h=` to how often it is listed.

    `names` is None where the signature is malformed; `s` is its selector.
    """

    field: Field
    d: str
    names: Counter[bytes] | None
    s: str = ""


def signatures(
    header: Header, name: bytes = DKIM, failed: Collection[Field] = ()
) -> list[Signature]:
    """All signatures of the mail in fields of this name, from the top.

    Those in `failed` do not verify, and count as malformed.
    """
    found = [_read(header, field) for field in header.named(name)]
    return [replace(s, names=None) if s.field in failed else s for s in found]


def broken_by(
    header: Header,
    *,
    removed: Collection[bytes] = (),
    added: Collection[bytes] = (),
    body_edited: bool = False,
    name: bytes = DKIM,
    failed: Collection[Field] = (),
) -> list[Broken]:
    """The signatures that break when all fields named in `removed` go and one each of `added`
    comes.

    Names are lower case; a name in both is replaced. Signatures are judged as they stand: none of
    them counts as removed. Those that `failed` are not looked at.
    """
    among = [s for s in signatures(header, name) if s.field not in failed]
    found = _broken_among(header, among, removed, added, body_edited)
    return [_named(signature, verdict) for signature, verdict in found]


def tags(header: Header, field: Field) -> dict[str, str]:
    """The tags of a signature, white space removed; empty where it is no tag list."""
    found = _tags(header.value(field))
    return {n.decode("ascii"): text.decode("ascii", "replace") for n, text in found.items()}


def oversigned(header: Header, name: bytes, failed: Collection[Field] = ()) -> bool:
    """Whether a well-formed signature forbids adding a field of this lower-case name."""
    if DKIM not in header.by_name:
        return False
    return any(
        signature.names is not None and signature.names[name] > _present(header, signature, name)
        for signature in signatures(header, failed=failed)
    )


@dataclass(frozen=True, slots=True)
class Aligned:
    """Keys that may sign a mail: d= is its From domain or the organisational one.

    `own` are the (d=, s=) of all signatures that this sender's keys make or made; `holds` verifies
    one that says so.
    """

    domain: str
    own: Collection[tuple[str, str]]
    holds: Callable[[Signature], bool]


@dataclass(frozen=True, slots=True)
class Settled:
    """What becomes of the signatures on a mail that is edited, and of ours.

    `broken` would break and cannot be made again: the edit must not be done. Else the fields `gone`
    go, `sign` tells that the copy must be signed, `kept` that our own signature of an earlier pass
    stays and covers all. `resigned` has the d= of foreign signatures that went, in order, `failed`
    that of those which went and did not verify.
    """

    gone: tuple[Field, ...] = ()
    arc_removed: bool = False
    broken: tuple[Broken, ...] = ()
    sign: bool = False
    kept: bool = False
    resigned: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


#: What becomes of a mail that nobody signed: it is signed, or left as it is.
_SIGN, LEFT = Settled(sign=True), Settled()


def settle(
    header: Header,
    *,
    removed: Collection[bytes],
    added: Collection[bytes],
    body_edited: bool,
    trace: Collection[bytes],
    aligned: Aligned | None,
    wanted: bool,
    failed: Collection[Field] = (),
) -> Settled:
    """Section 4 of the rules (docs/dkim.md). `added` without the `trace` fields, which every copy
    gets; `wanted` tells that the mail is signed even where nothing breaks; `failed` are signatures
    that do not verify: no edit is left undone for them.
    """
    if DKIM not in header.by_name and ARC not in header.by_name:
        return _SIGN if wanted and aligned is not None else LEFT
    edit = _Edit(header, removed, added, body_edited, failed)
    if aligned is None:
        return _settle_unsigned(edit)
    return _settle_signed(edit, trace, aligned, wanted=wanted)


def _settle_signed(
    edit: _Edit, trace: Collection[bytes], aligned: Aligned, *, wanted: bool
) -> Settled:
    """Where we hold a key: what breaks goes, and the copy is signed."""
    header, removed, added, failed = edit.header, edit.removed, edit.added, edit.failed
    there = signatures(header, failed=failed)
    ours = [s for s in there if (s.d, s.s) in aligned.own]
    kept = (
        not added
        and any(s.names and all(s.names[name] for name in _ONE_CLICK) for s in ours)
        and not _broken_among(header, ours, removed, trace, edit.body_edited)
        and all(aligned.holds(s) for s in ours)
    )
    everything = replace(edit, added=(*added, *trace, *([] if kept else [DKIM])))
    ours = [] if kept else ours
    gone = [s.field for s in ours]
    while True:
        arc, broken = _consequences(everything, gone)
        if not broken:
            break
        # One that goes may be covered by another: look again.
        gone += [signature.field for signature, _ in broken]
    if not wanted and not gone:
        return Settled(_arc_fields(header) if arc else (), arc)
    own_fields = {s.field for s in ours}
    foreign = [s for s in there if s.field in gone and s.field not in own_fields]
    fields = (*gone, *(_arc_fields(header) if arc else ()))
    return Settled(
        fields,
        arc,
        sign=not kept,
        kept=kept,
        resigned=tuple(s.d for s in foreign if s.field not in failed),
        failed=tuple(s.d for s in foreign if s.field in failed),
    )


def _settle_unsigned(edit: _Edit) -> Settled:
    """Where we hold no key: what is valid must stay so."""
    header, failed = edit.header, edit.failed
    arc, broken = _consequences(edit, ())
    found = [(s, verdict) for s, verdict in broken if s.field not in failed]
    gone = [s for s, _ in broken if s.field in failed]
    if gone and not found:
        arc_after, after = _consequences(edit, [s.field for s in gone])
        if after or arc_after is not arc:
            gone = []  # a valid one covers it, or the chain does: it stays, and fails as before
    fields = (*(s.field for s in gone), *(_arc_fields(header) if arc else ()))
    held = tuple(_named(signature, verdict) for signature, verdict in found)
    return Settled(fields, arc, held, failed=tuple(s.d for s in gone))


@dataclass(frozen=True, slots=True)
class _Edit:
    """What happens to a mail, and which signatures on it do not verify."""

    header: Header
    removed: Collection[bytes]
    added: Collection[bytes]
    body_edited: bool
    failed: Collection[Field]


def _consequences(
    edit: _Edit, gone: Collection[Field]
) -> tuple[bool, list[tuple[Signature, tuple[bytes, How]]]]:
    """Whether the ARC chain breaks, and which signatures do that are not `gone`."""
    header, added, body_edited = edit.header, edit.added, edit.body_edited
    removed = sorted({*edit.removed, *([DKIM] if gone else [])})
    chain = signatures(header, ARC)
    arc = bool(_broken_among(header, chain, removed, added, body_edited))
    if arc:
        # One link that fails makes the chain a failed one; it proves nothing about the author.
        removed = sorted({*removed, *ARC_FIELDS})
    left = [s for s in signatures(header, failed=edit.failed) if s.field not in gone]
    return arc, _broken_among(header, left, removed, added, body_edited)


def _broken_among(
    header: Header,
    among: Collection[Signature],
    removed: Collection[bytes],
    added: Collection[bytes],
    body_edited: bool,
) -> list[tuple[Signature, tuple[bytes, How]]]:
    found = []
    for signature in among:
        verdict = _verdict(header, signature, removed, added, body_edited)
        if verdict is not None:
            found.append((signature, verdict))
    return found


def _arc_fields(header: Header) -> tuple[Field, ...]:
    return tuple(field for name in ARC_FIELDS for field in header.named(name))


def _named(signature: Signature, verdict: tuple[bytes, How]) -> Broken:
    field, how = verdict
    return Broken(signature.d, field.decode("ascii", "replace"), how)


def _verdict(
    header: Header,
    signature: Signature,
    removed: Collection[bytes],
    added: Collection[bytes],
    body_edited: bool,
) -> tuple[bytes, How] | None:
    removals = [name for name in removed if _present(header, signature, name)]
    if signature.names is None:
        edited = [*removals, *added, *([b"body"] if body_edited else [])]
        return (edited[0], How.MALFORMED) if edited else None
    for name in removals:
        if signature.names[name]:
            return name, How.REMOVES
    for name in added:
        if signature.names[name] > _present(header, signature, name):
            return name, How.OVERSIGNED
    return (b"body", How.BODY) if body_edited else None


def _present(header: Header, signature: Signature, name: bytes) -> int:
    """How many fields of this name the signature can cover: never itself."""
    return len(header.named(name)) - (name == signature.field.name)


def _read(header: Header, field: Field) -> Signature:
    tags = _tags(header.value(field))
    d = tags.get(b"d", b"")
    shown = d.decode("ascii", "replace").lower()[:253]
    selector = tags.get(b"s", b"").decode("ascii", "replace").lower()[:253]
    names = [_SPACE.sub(b"", name).lower() for name in tags.get(b"h", b"").split(b":")]
    if (
        not tags.get(b"b")
        or not _DOMAIN.fullmatch(d)
        or len(names) > _MAX_NAMES
        or not all(_NAME.fullmatch(name) for name in names)
    ):
        return Signature(field, shown, None, selector)
    return Signature(field, shown, Counter(names), selector)


def _tags(value: bytes) -> dict[bytes, bytes]:
    """A tag list (RFC 6376 section 3.2); empty where it is none: a repeated tag voids all of it."""
    found: dict[bytes, bytes] = {}
    specs = value.split(b";")
    if specs and not specs[-1].strip():
        specs.pop()
    if len(specs) > _MAX_TAGS:
        return {}
    for spec in specs:
        name, equals, text = spec.partition(b"=")
        name = name.strip(b" \t\r\n")
        if not equals or not _TAG.fullmatch(name) or name in found:
            return {}
        found[name] = _SPACE.sub(b"", text)
    return found
