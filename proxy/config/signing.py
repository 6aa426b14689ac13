"""The `[dkim]` table: which private keys sign for which domains, and what their files must hold.

A key is read anew when its file changes (`proxy.dkim_keys`); here it is checked before anything
starts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Literal, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from publicsuffixlist import PublicSuffixList
from pydantic import AfterValidator, BeforeValidator, StrictStr

from proxy.config.values import wrong
from proxy.errors import KeysError

Algorithm = Literal["rsa", "ed25519"]
ALGORITHMS: tuple[Algorithm, ...] = ("ed25519", "rsa")
PrivateKey = RSAPrivateKey | Ed25519PrivateKey

#: RFC 8301 section 3.2: signers use at least 2048 bits; verifiers need not take more than 4096.
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 4096
_MAX_FILE = 65_536
# RFC 6376 section 3.1: sub-domains, so that the record's name is one.
_LABEL = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_SELECTOR = re.compile(rf"(?=.{{1,63}}\Z){_LABEL}(?:\.{_LABEL})*")


def _selector(value: str) -> str:
    if not _SELECTOR.fullmatch(value):
        raise wrong("is no selector", 'write lower-case letters, digits and "-": "s2026a"')
    return value


def _instant(value: object) -> object:
    at = value
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            at = None
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise wrong("is no instant", "write date, time and zone: 2026-12-01T00:00:00Z")
    return at.astimezone(UTC)


Selector = Annotated[StrictStr, AfterValidator(_selector)]
Instant = Annotated[datetime, BeforeValidator(_instant)]

Covered = Literal[
    "to",
    "cc",
    "subject",
    "date",
    "message-id",
    "reply-to",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "list-id",
    "sender",
    "in-reply-to",
    "references",
    "feedback-id",
    "cfbl-address",
    "cfbl-feedback-id",
    "list-help",
    "list-subscribe",
    "list-post",
    "list-owner",
    "list-archive",
]
"""Fields that a signature of ours may leave out; From and one-click are always covered."""


def read_private_key(path: Path) -> PrivateKey:
    """The key of a PEM file (PKCS #8 or PKCS #1, unencrypted). Raises `KeysError`: why not."""
    try:
        with path.open("rb") as file:
            key = load_pem_private_key(file.read(_MAX_FILE), password=None)
    except OSError as error:
        raise KeysError(f"cannot be read ({error.strerror or type(error).__name__})") from error
    except TypeError as error:
        raise KeysError("is encrypted") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeysError("holds no private key in PEM form") from error
    if isinstance(key, RSAPrivateKey):
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            raise KeysError(f"holds an RSA key of {key.key_size} bits")
    elif not isinstance(key, Ed25519PrivateKey):
        raise KeysError("holds a key that is neither RSA nor Ed25519")
    return key


def algorithm_of(key: PrivateKey) -> Algorithm:
    """What a key signs with."""
    return "rsa" if isinstance(key, RSAPrivateKey) else "ed25519"


class _Key(Protocol):
    @property
    def domain(self) -> str: ...
    @property
    def sender(self) -> str | None: ...


class _Stream(Protocol):
    @property
    def sender(self) -> str: ...
    @property
    def from_domains(self) -> tuple[str, ...]: ...


def owners(key: _Key, streams: Iterable[_Stream], senders: Collection[str]) -> set[str]:
    """The senders that may sign with a key: the one it names, else those of streams that send from
    its domain or below it, else the only sender there is.
    """
    if key.sender is not None:
        return {key.sender}
    found = {
        stream.sender
        for stream in streams
        if any(d == key.domain or d.endswith(f".{key.domain}") for d in stream.from_domains)
    }
    return found or (set(senders) if len(senders) == 1 else set())


@cache
def _suffixes() -> PublicSuffixList:
    """Read once, and only where there are keys: the list takes a tenth of a second."""
    return PublicSuffixList()


@lru_cache(maxsize=1024)
def organisational(name: str) -> str:
    """The organisational domain (one label below a public suffix); "" for a suffix itself."""
    return _suffixes().privatesuffix(name) or ""
