"""The secrets of one installation: what names people without naming them, and what seals tokens.

Two kinds, with opposite lives. The *pseudonym key* is fixed for life: every opt-out is kept as a
keyed hash of an address, and under another key no old opt-out would be found again. *Token keys*
rotate: the newest seals, all open, for ever, because a link in an old mail must still work. TOML::

    version = 1
    pseudonym = "<64 hex digits>"
    [tokens]
    k1 = "<128 hex digits>"
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from policy.address import Address
from proxy.errors import KeysError, TokenError
from proxy.store.model import Subject

_VERSION = 1
_ID = re.compile(r"k([1-9][0-9]{0,5})")
_PSEUDONYM_BYTES = 32
_TOKEN_BYTES = 64  # AES-256-SIV takes two 256-bit keys (RFC 5297)
_MAX_FILE = 1 << 20

#: Characters of a token at most: with its URL it must fit in one header line (998, RFC 5322 2.1.1).
LONGEST_TOKEN = 600
#: Octets by which the sealed payload is longer than the plain one (RFC 5297).
TAG_BYTES = 16

_NOT_OURS = "not one of our tokens"
_URLSAFE = bytes.maketrans(b"+/", b"-_")

_HEAD = """\
# The keys of this Sluis. Whoever has this file can make opt-out links and trace pseudonyms.
# Keep a copy in a safe place: without `pseudonym` no recorded opt-out is found again, without the
# keys under [tokens] links in mail already sent stop working. Change it by `sluis key rotate` only.
"""


class _File(NamedTuple):
    pseudonym: bytes
    tokens: dict[int, bytes]
    seen: tuple[int, int, int]  # inode, time, size: whether the file is still the one that was read


class Keys:
    """The loaded keys. Immutable save that `open` looks at the file again on an unknown key id.

    So a process that runs since before a rotation opens tokens that others sealed after it.
    """

    def __init__(self, path: Path, file: _File, *, created: bool = False) -> None:
        self._path = path
        #: Whether this process made the file, which somebody should then copy to a safe place.
        self.created = created
        self._pseudonym = file.pseudonym
        # RFC 2104, both hashes begun with the key: `hmac.HMAC` takes three calls in Python for one.
        key = file.pseudonym.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes([octet ^ 0x36 for octet in key]))
        self._outer = hashlib.sha256(bytes([octet ^ 0x5C for octet in key]))
        self._take(file)

    def __repr__(self) -> str:  # never a secret, not even in a traceback's locals
        return f"Keys({str(self._path)!r}, newest={self._newest})"

    def _take(self, file: _File) -> None:
        self._boxes = {f"k{n}": AESSIV(key) for n, key in file.tokens.items()}
        self._newest = f"k{max(file.tokens)}"
        self._seen = file.seen

    @property
    def fingerprint(self) -> str:
        """32 hex digits that change with the pseudonym key: under another, no opt-out is found.

        The text hashed has no `@`, so it is nobody's pseudonym.
        """
        return self.pseudonym("sluis keys fingerprint")

    def pseudonym(self, text: str) -> str:
        """HMAC-SHA256 of `text`, cut to 16 bytes, as 32 hex digits."""
        inner = self._inner.copy()
        inner.update(text.encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest()[:32]

    def subject(self, sender: str, address: Address) -> Subject:
        """The (sender, address) pair under which consent and opt-outs of `address` are kept."""
        exact = self.pseudonym(address.exact)
        wide = exact if address.wide == address.exact else self.pseudonym(address.wide)
        return Subject(sender, exact, wide)

    def seal(self, purpose: str, payload: bytes) -> str:
        """`payload` as a token: key id, `.`, base64url without padding. Equal input, equal token.

        AES-SIV (RFC 5297) with `purpose` and key id as associated data: nothing can be read or
        changed, and a token for one purpose does not open for another. `payload` may not be empty.
        """
        key_id = self._newest
        sealed = self._boxes[key_id].encrypt(payload, [purpose.encode(), key_id.encode()])
        text = binascii.b2a_base64(sealed, newline=False).translate(_URLSAFE)
        return f"{key_id}.{text.rstrip(b'=').decode()}"

    def sealed_length(self, octets: int) -> int:
        """The characters of a token of a payload of so many octets."""
        return len(self._newest) + 1 + ((octets + TAG_BYTES) * 4 + 2) // 3

    def open(self, purpose: str, token: str) -> bytes:
        """The payload of `token`. Raises `TokenError`, the same for every fault.

        Raises `KeysError` when the token names an unknown key and the key file is unusable.
        """
        key_id, dot, text = token.partition(".")
        if not dot or len(token) > LONGEST_TOKEN or not _ID.fullmatch(key_id):
            raise TokenError(_NOT_OURS)
        box = self._boxes.get(key_id)
        if box is None:
            self._look_again()
            box = self._boxes.get(key_id)
        if box is None:
            raise TokenError(_NOT_OURS)
        try:
            sealed = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            # The last character has unused bits: of all spellings of the bytes only one counts.
            if base64.urlsafe_b64encode(sealed).rstrip(b"=") != text.encode():
                raise TokenError(_NOT_OURS)
            return box.decrypt(sealed, [purpose.encode(), key_id.encode()])
        except (InvalidTag, ValueError) as fault:
            raise TokenError(_NOT_OURS) from fault

    def _look_again(self) -> None:
        try:
            if _identity(self._path.stat()) == self._seen:
                return
            file = _read(self._path)
        except OSError as fault:
            raise _unusable(self._path, fault) from fault
        if not hmac.compare_digest(file.pseudonym, self._pseudonym):
            raise KeysError(f"{self._path}: the pseudonym key changed; put the old file back")
        self._take(file)


def load_keys(path: Path, *, create: bool) -> Keys:
    """The keys in `path`; with `create`, made first when the file does not exist (mode 0600).

    Two processes that start at once end with the same keys, and the file survives a power cut once
    this returned. Raises `KeysError` naming file and remedy.
    """
    created = False
    try:
        if create:
            if not path.exists():
                created = _create(path)
            _sync_directory(path)  # whoever lost the race too: the winner may not have done it yet
        return Keys(path, _read(path), created=created)
    except OSError as fault:
        raise _unusable(path, fault) from fault


def rotate(path: Path) -> str:
    """Add a token key, which seals from now on; older ones still open. Returns its id, like "k2".

    The pseudonym key stays. A process that runs seals with it when restarted, but opens its tokens
    at once. Raises `KeysError`.
    """
    try:
        with _locked(path):
            pseudonym, tokens, _ = _read(path)
            newest = max(tokens) + 1
            tokens[newest] = secrets.token_bytes(_TOKEN_BYTES)
            draft = _draft(path, _text(pseudonym, tokens))
            try:
                draft.replace(path)
            except OSError:
                draft.unlink(missing_ok=True)
                raise
            _sync_directory(path)
    except OSError as fault:
        raise _unusable(path, fault) from fault
    return f"k{newest}"


def _create(path: Path) -> bool:
    """A whole file appears under its name, or none: fsynced aside, then linked, never replacing."""
    fresh = {1: secrets.token_bytes(_TOKEN_BYTES)}
    draft = _draft(path, _text(secrets.token_bytes(_PSEUDONYM_BYTES), fresh))
    try:
        os.link(draft, path)
    except FileExistsError:  # another process was first: its keys count
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _draft(path: Path, text: str) -> Path:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return draft


def _text(pseudonym: bytes, tokens: dict[int, bytes]) -> str:
    lines = [f'version = {_VERSION}\npseudonym = "{pseudonym.hex()}"\n\n[tokens]\n']
    lines += [f'k{n} = "{key.hex()}"\n' for n, key in sorted(tokens.items())]
    return _HEAD + "".join(lines)


def _read(path: Path) -> _File:
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        mode = stat.st_mode & 0o777
        if mode & 0o037:  # a group may read: so a Kubernetes secret reaches a user that is not root
            raise KeysError(f"{path}: others may read or change it (mode {mode:04o}); chmod 600 it")
        raw = file.read(_MAX_FILE + 1)
    try:
        if len(raw) > _MAX_FILE:
            raise ValueError("too large")
        table = tomllib.loads(raw.decode("ascii"))
        if table.pop("version", None) != _VERSION:
            raise ValueError(f"version is not {_VERSION}")
        pseudonym = _secret(table.pop("pseudonym", None), _PSEUDONYM_BYTES, "pseudonym")
        named = table.pop("tokens", None)
        if table or not isinstance(named, dict) or not named:
            raise ValueError("it has version, pseudonym and [tokens] with a key, and nothing else")
        tokens: dict[int, bytes] = {}
        for name, value in named.items():
            if not (number := _ID.fullmatch(name)):
                raise ValueError("a key id under [tokens] is not like k1, k2")
            tokens[int(number[1])] = _secret(value, _TOKEN_BYTES, name)
    except ValueError as fault:  # tomllib's and the decoder's too; neither quotes a value
        words = f"{path}: not a key file of ours: {fault}; put back the copy you kept"
        raise KeysError(words) from None
    return _File(pseudonym, tokens, _identity(stat))


def _secret(value: object, size: int, name: str) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", value):
        raise ValueError(f"{name} is not {2 * size} hex digits")
    return bytes.fromhex(value)


def _identity(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file that `path` names now: a rotation replaces the inode."""
    while True:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                yield
                return


def _sync_directory(path: Path) -> None:
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unusable(path: Path, fault: OSError) -> KeysError:
    words = fault.strerror or type(fault).__name__
    if fault.errno == errno.ENOENT:
        remedy = (
            "put back the copy you kept; where nothing was recorded yet, `sluis serve` makes it"
            if path.parent.is_dir()
            else f"make the directory {path.parent} first"
        )
    elif fault.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "let the user that runs Sluis own the file (mode 600) and its directory"
    else:
        remedy = "check the disk, and put back the copy you kept if the file is damaged"
    return KeysError(f"{path}: {words}; {remedy}")
