"""Which signatures of others on a mail do not verify (RFC 6376 section 6.1), by records at hand.

Only what surely fails counts: a signature whose record is not at hand, or whose algorithm we do not
know, may be valid elsewhere. `x=` is not looked at: what has expired was valid once.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from enum import Enum, auto

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from proxy.content import Piece
from proxy.message import dkim, dkim_record
from proxy.message.canonical import relaxed, relaxed_field, simple
from proxy.message.header import Field, Header
from proxy.message.sign import without_value

#: Signatures of one mail that are verified, from the top; the others count as valid.
MOST = 10

#: Fields of one signature that are hashed; one that lists more counts as valid.
_MOST_FIELDS = 200

Record = Callable[[str, str], str | None]
"""The published text of a selector and a domain; None where it is not at hand."""


class Verdict(Enum):
    """Whether a signature verifies."""

    HOLDS = auto()
    FAILS = auto()
    UNKNOWN = auto()


def failed(header: Header, body: Piece, record: Record) -> frozenset[Field]:
    """The DKIM-Signature fields that do not verify."""
    bodies = _Bodies(body)
    there = dkim.signatures(header)[:MOST]
    return frozenset(s.field for s in there if _verdict(header, s, bodies, record) is Verdict.FAILS)


def verdict(header: Header, signature: dkim.Signature, body: Piece, record: Record) -> Verdict:
    """That on one signature of the mail."""
    return _verdict(header, signature, _Bodies(body), record)


class _Bodies:
    """Hashes of the canonical forms of one body, each made once."""

    def __init__(self, body: Piece) -> None:
        self._body = body
        self._made: dict[tuple[str, int | None], _Counted] = {}

    def digest(self, form: str, length: str | None) -> bytes | None:
        """SHA-256 of it; None where `l=` is no number, or exceeds the body."""
        if length is None:
            return self._hash(form, None).sha.digest()
        if not (length.isascii() and length.isdigit() and len(length) <= 20):
            return None
        found = self._hash(form, int(length))
        return found.sha.digest() if found.left == 0 else None

    def _hash(self, form: str, length: int | None) -> _Counted:
        found = self._made.get((form, length))
        if found is None:
            found = self._made[form, length] = _Counted(length)
            (relaxed if form == "relaxed" else simple)(self._body, found)
        return found


class _Counted:
    """The hash of the first octets of what it is fed with; of all for None. `left` are missing."""

    def __init__(self, left: int | None) -> None:
        self.left = left
        self.sha = hashlib.sha256()

    def update(self, octets: bytes, /) -> None:
        if self.left is not None:
            octets = octets[: self.left]
            self.left -= len(octets)
        self.sha.update(octets)


def _verdict(header: Header, signature: dkim.Signature, bodies: _Bodies, record: Record) -> Verdict:
    tags = dkim.tags(header, signature.field)
    names = [name.lower().encode() for name in tags.get("h", "").split(":")]
    forms = tags.get("c", "simple").lower().split("/")
    made, body_hash = _octets(tags.get("b", "")), _octets(tags.get("bh", ""))
    if (
        signature.names is None
        or tags.get("v") != "1"
        or b"from" not in names
        or not {*forms} <= {"simple", "relaxed"}
        or len(forms) > 2
        or made is None
        or body_hash is None
    ):
        return Verdict.FAILS
    if tags.get("a", "").lower() == "rsa-sha1":  # RFC 8301 section 3.1
        return Verdict.FAILS
    kind, _, hash_ = tags.get("a", "").lower().partition("-")
    if kind not in ("rsa", "ed25519") or hash_ != "sha256" or len(names) > _MOST_FIELDS:
        return Verdict.UNKNOWN
    published = record(signature.s, signature.d)
    if published is None:
        return Verdict.UNKNOWN
    try:
        public = dkim_record.public_key(published, kind)
    except ValueError:
        return Verdict.UNKNOWN
    identity = tags.get("i", f"@{signature.d}").rpartition("@")[2].lower()
    within = identity == signature.d or identity.endswith(f".{signature.d}")
    digest = bodies.digest(forms[1] if len(forms) == 2 else "simple", tags.get("l"))
    if public is None or not within or digest != body_hash:
        return Verdict.FAILS
    data = _data(header, signature.field, names, relaxed=forms[0] == "relaxed")
    try:
        if isinstance(public, RSAPublicKey):
            public.verify(made, data, PKCS1v15(), SHA256())
        else:
            public.verify(made, hashlib.sha256(data).digest())  # RFC 8463 section 3
    except InvalidSignature:
        return Verdict.FAILS
    return Verdict.HOLDS


def _data(header: Header, own: Field, names: Sequence[bytes], *, relaxed: bool) -> bytes:
    """What was hashed of the header block (section 3.7): fields from the bottom, then `own`."""
    left = {name: [f for f in header.named(name) if f != own] for name in set(names)}
    pieces = []
    for name in names:
        if left[name]:
            one = left[name].pop()
            if relaxed:
                value = header.raw[one.value_start : one.end]
                pieces.append(relaxed_field(name, value) + b"\r\n")
            else:
                pieces.append(header.raw[one.start : one.end])
    value = without_value(header.raw[own.value_start : own.end])
    if relaxed:
        pieces.append(relaxed_field(own.name, value))
    else:
        pieces.append(header.raw[own.start : own.value_start] + value.removesuffix(b"\r\n"))
    return b"".join(pieces)


def _octets(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None
