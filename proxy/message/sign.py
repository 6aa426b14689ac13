"""Our DKIM signatures (RFC 6376, RFC 8463): relaxed/relaxed, over the header block that leaves.

`docs/dkim.md` says which fields they cover. A signature counts fields from the bottom and lists
what must not be added once more than it is there ("oversigned").
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from proxy.config.signing import ALGORITHMS, Algorithm, PrivateKey, algorithm_of
from proxy.content import Piece
from proxy.errors import SluisError
from proxy.message import dkim
from proxy.message.canonical import BodyHash, relaxed_field, unfolded
from proxy.message.fold import MAX_LINE, WIDTH
from proxy.message.header import Field, Header

#: Covered, and one more of them would break the signature: what readers see, and our one-click.
OVERSIGNED = (
    *(b"from", b"to", b"cc", b"subject", b"date", b"message-id", b"reply-to", b"mime-version"),
    *(b"content-type", b"content-transfer-encoding"),
    *(b"list-id", b"list-unsubscribe", b"list-unsubscribe-post"),
)
#: Covered as often as there: a relay may add its own (Amazon SES adds a Feedback-ID).
SIGNED = (
    *(b"sender", b"in-reply-to", b"references", b"feedback-id"),
    *(b"cfbl-address", b"cfbl-feedback-id"),
    *(b"list-help", b"list-subscribe", b"list-post", b"list-owner", b"list-archive"),
)
COVERED = frozenset((*OVERSIGNED, *SIGNED))

#: Body octets above which even the hash is made off the event loop.
_LARGE = 1 << 18
_B_WIDTH = 72
_DIGEST = b"*" * 44  # in the place of a SHA-256 in base64
_B_VALUE = re.compile(rb"((?:^|;)[ \t\r\n]*b[ \t\r\n]*=)[^;]*")
_NAME = re.compile(rb"[!-9;-~]+")
_USUAL = 60  # fields covered, up to which what was found out about them is kept
_PADDING, _PREHASHED = PKCS1v15(), Prehashed(SHA256())


class SigningError(SluisError):
    """This mail cannot be signed now; it never leaves unsigned, so the client hears 451."""


@dataclass(frozen=True, slots=True)
class Key:
    """A private key and the name of its record: `selector._domainkey.domain`."""

    domain: str
    selector: str
    private: PrivateKey
    algorithm: Algorithm = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "algorithm", algorithm_of(self.private))


@dataclass(frozen=True, slots=True)
class Signing:
    """What the copies of one mail are signed with, and when (`t=`); `body` is their hash.

    `keys` has at most one key of each algorithm, and at least one.
    """

    keys: tuple[Key, ...]
    at: datetime
    body: BodyHash = field(default_factory=BodyHash)


class Helper(Protocol):
    """Who makes signatures elsewhere (`proxy.signers`)."""

    def begin(
        self, digests: Sequence[tuple[PrivateKey, bytes]]
    ) -> asyncio.Future[list[bytes]] | None:
        """A signature of each SHA-256, or None where it cannot now."""
        ...


class Signer:
    """Signs copies: by its helper if it can, else in the event loop.

    In no thread: cryptography lets the interpreter go while it signs, but to get it back beside a
    busy loop costs more than the signature.
    """

    def __init__(self, helper: Helper | None = None) -> None:
        self._helper = helper

    async def sign(
        self,
        signing: Signing,
        head: bytes,
        body: Sequence[Piece],
        *,
        algorithms: Collection[str] = ALGORITHMS,
        omit: Collection[str] = (),
    ) -> bytes:
        """The DKIM-Signature fields for one copy, Ed25519 above RSA; they go on top of `head`.

        `head` is its final header block with the blank line. `algorithms` and `omit` (lower-case
        field names) are the upstream's `dkim_keys` and `dkim_omit`. Raises `SigningError`.
        """
        keys = [key for name in ALGORITHMS for key in signing.keys if key.algorithm == name]
        keys = [key for key in keys if key.algorithm in algorithms]
        if not keys:
            raise SigningError(f"no key of {signing.keys[0].domain} may be used for this upstream")
        try:
            if sum(map(len, body)) > _LARGE:
                digest = await asyncio.to_thread(signing.body.digest, body)
            else:
                digest = signing.body.digest(body)
        except OSError as error:
            raise SigningError(f"the message cannot be read: {error.strerror}") from error
        text = base64.b64encode(digest)
        covered = cover(head, omit)
        sha = hashlib.sha256(covered.data)
        at = int(signing.at.timestamp())
        starts: list[bytes] = []
        digests: list[tuple[PrivateKey, bytes]] = []
        for key in keys:
            frame = _frame(key.algorithm, key.domain, key.selector, covered.names, at)
            own = sha.copy()
            own.update(frame.hashed_before + text + frame.hashed_after)
            starts.append(frame.before + text + frame.after)
            digests.append((key.private, own.digest()))
        begun = self._helper.begin(digests) if self._helper is not None else None
        made = values(digests) if begun is None else await begun
        return b"".join(map(_finished, starts, made))


@dataclass(frozen=True, slots=True)
class Covered:
    """`names` for `h=`, and what is hashed of the fields they stand for."""

    names: tuple[bytes, ...]
    data: bytes


def cover(head: bytes, omit: Collection[str] = ()) -> Covered:
    """What a signature of ours covers of a header block; nothing from a line on that is no field.

    As `hashed` of its index, in one pass over the whole block.
    """
    found: dict[bytes, list[bytes]] = {}
    order: list[bytes] = []
    for line in unfolded(head).split(b"\r\n"):
        name, colon, value = line.partition(b":")
        name = name.lower().rstrip(b" ")
        if name in COVERED and colon:
            found.setdefault(name, []).append(name + b":" + value.strip(b" ") + b"\r\n")
            order.append(name)
        elif not (colon and _NAME.fullmatch(name)):
            break
    listed = _listed if len(order) <= _USUAL else _listed.__wrapped__
    names, present = listed(tuple(order), tuple(omit))
    # A signature takes the bottom-most first.
    return Covered(names, b"".join([line for name in present for line in found[name][::-1]]))


@lru_cache(maxsize=256)
def _listed(
    there: tuple[bytes, ...], omit: tuple[str, ...]
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """The names for `h=` where these fields are there, and which of them are there at all."""
    names: list[bytes] = []
    present = []
    for name in (*OVERSIGNED, *SIGNED):
        if name.decode() not in omit:
            count = there.count(name)
            names += [name] * (count + (name in _OVERSIGNED))
            present += [name] if count else []
    return tuple(names), tuple(present)


_OVERSIGNED = frozenset(OVERSIGNED)


def hashed(header: Header, names: Sequence[bytes]) -> bytes:
    """The fields of `h=` in canonical form (RFC 6376 section 5.4.2): bottom-most first, absent ones
    as nothing.
    """
    taken: dict[bytes, int] = {}
    pieces = []
    for name in names:
        there = header.named(name)
        used = taken.get(name, 0)
        if used < len(there):
            one = there[-1 - used]
            value = header.raw[one.value_start : one.end]
            pieces.append(relaxed_field(name, value) + b"\r\n")
        taken[name] = used + 1
    return b"".join(pieces)


def holds(header: Header, field: Field, key: Key, digest: bytes) -> bool:
    """Whether a signature that says to be of this key is one that we made and that is sound.

    `digest` is the relaxed hash of the body. Others than ours (another canonical form, `l=`) do not
    count.
    """
    found = dkim.tags(header, field)
    try:
        made = base64.b64decode(found.get("b", ""), validate=True)
        body = base64.b64decode(found.get("bh", ""), validate=True)
    except ValueError:
        return False
    names = [name.lower().encode() for name in found.get("h", "").split(":")]
    if (
        "l" in found
        or found.get("a") != f"{key.algorithm}-sha256"
        or found.get("c") != "relaxed/relaxed"
        or body != digest
        or b"from" not in names
    ):
        return False
    value = without_value(header.raw[field.value_start : field.end])
    data = hashed(header, names) + relaxed_field(field.name, value)
    public = key.private.public_key()
    try:
        if isinstance(public, RSAPublicKey):
            public.verify(made, data, PKCS1v15(), SHA256())
        else:
            public.verify(made, hashlib.sha256(data).digest())
    except InvalidSignature:
        return False
    return True


def without_value(signature: bytes) -> bytes:
    """The value of a DKIM-Signature with `b=` empty, as it is hashed (RFC 6376 section 3.7)."""
    return _B_VALUE.sub(rb"\1", signature)


def values(digests: Sequence[tuple[PrivateKey, bytes]]) -> list[bytes]:
    """A signature of each SHA-256."""
    return [
        # RFC 8463 section 3: what Ed25519 signs is the hash.
        key.sign(d) if isinstance(key, Ed25519PrivateKey) else key.sign(d, _PADDING, _PREHASHED)
        for key, d in digests
    ]


@dataclass(frozen=True, slots=True)
class _Frame:
    """The field up to and with `b=`, around the body hash; and the same as it is hashed."""

    before: bytes
    after: bytes
    hashed_before: bytes
    hashed_after: bytes


@lru_cache(maxsize=256)
def _frame(
    algorithm: str, domain: str, selector: str, names: tuple[bytes, ...], at: int
) -> _Frame:
    """What copies of a mail have in common."""
    lines = [f"DKIM-Signature: v=1; a={algorithm}-sha256; c=relaxed/relaxed;"]
    words = [
        *(f"d={domain};", f"s={selector};", f"t={at};"),
        # A fold may follow each colon; the names themselves stay whole.
        *_glued("h=", [name.decode() for name in names]),
        *(f" bh={_DIGEST.decode()};", " b="),
    ]
    for word in words[:3]:
        _append(lines, f" {word}")
    for word in words[3:]:
        _append(lines, word)
    # The last line must have room for the value's first part.
    if len(lines[-1]) > len(" b="):
        lines[-1] = lines[-1].removesuffix(" b=")
        lines.append(" b=")
    if any(len(line) > MAX_LINE for line in lines):
        raise SigningError("a line of DKIM-Signature would be too long")
    start = "\r\n".join(lines).encode("ascii")
    before, after = start.split(_DIGEST)
    hashed_before, hashed_after = relaxed_field(dkim.DKIM, start[15:]).split(_DIGEST)
    return _Frame(before, after, hashed_before, hashed_after)


def _glued(tag: str, names: Sequence[str]) -> list[str]:
    first, *rest = [f"{name}:" for name in names[:-1]] + [f"{names[-1]};"]
    return [f" {tag}{first}", *rest]


def _append(lines: list[str], word: str) -> None:
    if len(lines[-1]) + len(word) > WIDTH:
        lines.append(" ")
        word = word.lstrip(" ")
    lines[-1] += word


def _finished(start: bytes, value: bytes) -> bytes:
    text = base64.b64encode(value)
    parts = [text[at : at + _B_WIDTH] for at in range(0, len(text), _B_WIDTH)]
    return start + b"\r\n ".join(parts) + b"\r\n"
