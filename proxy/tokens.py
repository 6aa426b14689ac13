"""The token of an opt-out link: who stops which mail, sealed.

The token alone identifies recipient and list (RFC 8058 3.1), shows no address to whoever reads the
URL, needs no look-up to verify, and never expires.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from proxy.errors import TokenError
from proxy.keys import LONGEST_TOKEN, TAG_BYTES, Keys

_PURPOSE = "unsubscribe"
_FORM = 1  # first byte of the payload; then four parts, each after its length in one byte
_PAD = b"\x00"
_TOO_LONG = "an id or address of a token is over 255 octets"


@dataclass(frozen=True, slots=True)
class OptOut:
    """One copy of one mail: `address` is `Address.exact`, `ref` is "submission ref.copy"."""

    sender: str
    stream: str
    address: str
    ref: str


def seal(keys: Keys, optout: OptOut) -> str:
    """The token of `optout`, of `[A-Za-z0-9._-]`; about 110 characters for a usual address.

    Equal input gives an equal token under the same key. Raises `ValueError` when it would exceed
    600 characters: any legal address (254 octets) fits, with up to 170 octets for the other three.
    """
    return keys.seal(_PURPOSE, _payload(keys, optout))


def length(keys: Keys, sender: str, stream: str, *, address: int, ref: int) -> int:
    """The characters of a token of this stream whose address and ref have so many octets.

    Raises `ValueError` as `seal`.
    """
    if ref > 255 or address > 255:
        raise ValueError(_TOO_LONG)
    return _sealed(keys, len(_begun(sender, stream)) + 2 + ref + address)


def _sealed(keys: Keys, payload: int) -> int:
    """The characters of a token of so many octets, its pad included."""
    length = keys.sealed_length(payload + len(_pad(payload)))
    if length > LONGEST_TOKEN:
        raise ValueError(f"a token over {LONGEST_TOKEN} characters: shorten the stream's id")
    return length


def _pad(payload: int) -> bytes:
    # Whole base64 groups may end in "-" or "_", which what turns text into links may leave out.
    return b"" if (payload + TAG_BYTES) % 3 else _PAD


@lru_cache(maxsize=256)
def _begun(sender: str, stream: str) -> bytes:
    """What the payloads of a stream begin with. Raises `ValueError`."""
    return bytes([_FORM]) + _part(sender) + _part(stream)


def _part(text: str) -> bytes:
    octets = text.encode()
    if len(octets) > 255:
        raise ValueError(_TOO_LONG)
    return b"%c%b" % (len(octets), octets)


def _payload(keys: Keys, optout: OptOut) -> bytes:
    begun = _begun(optout.sender, optout.stream)
    ref, address = optout.ref.encode(), optout.address.encode()
    if len(ref) > 255 or len(address) > 255:
        raise ValueError(_TOO_LONG)
    payload = b"%b%c%b%c%b" % (begun, len(ref), ref, len(address), address)
    _sealed(keys, len(payload))
    return payload + _pad(len(payload))


def open_(keys: Keys, token: str) -> OptOut:
    """What `token` says. Raises `TokenError`, one for all faults; `KeysError` as `Keys.open`."""
    payload = keys.open(_PURPOSE, token)
    parts: list[bytes] = []
    at = 1
    while at < len(payload):
        end = at + 1 + payload[at]
        parts.append(payload[at + 1 : end])
        at = end
    if parts[4:] == [b""]:
        parts.pop()  # the pad
    # Sealed by us, so anything else than four whole parts is a token of a later version.
    if payload[0] != _FORM or at != len(payload) or len(parts) != 4:
        raise TokenError("not one of our tokens")
    try:
        sender, stream, ref, address = (part.decode() for part in parts)
    except UnicodeDecodeError:
        raise TokenError("not one of our tokens") from None
    return OptOut(sender, stream, address, ref)
