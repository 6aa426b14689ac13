"""Who is behind a proxy: the PROXY protocol, versions 1 and 2, and Postfix's XCLIENT.

Pure: octets in, an address or a `ValueError` out. Whether a peer may speak for others is decided
elsewhere; what it does not say is unknown, never the peer itself, because the peer may be trusted.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.smtp.limits import Address

# The PROXY protocol, sections 2.1 and 2.2 of its specification (haproxy.org).
_V1_START = b"PROXY "
_V1_MAX = 107  # octets, CRLF included
_V2_START = b"\r\n\r\n\0\r\nQUIT\n"
_V2_MAX = 1024  # octets of addresses and TLVs that anybody has reason to send
_V2_ADDRESSES = {0x11: 4, 0x12: 4, 0x21: 16, 0x22: 16}  # family and transport: octets of one

# XCLIENT, of Postfix's XCLIENT_README.
XCLIENT_NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
_ATTRIBUTE = re.compile(rb"([A-Za-z]{1,20})=((?:[!-*,-<>-~]|\+[0-9A-Fa-f]{2}){1,255})")
_UNKNOWN = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})


@dataclass(frozen=True, slots=True)
class Announced:
    """The client that a proxy speaks for, None for one it does not know; `size` octets told it."""

    client: Address | None
    size: int


def read_header(octets: bytes) -> Announced | None:
    """The PROXY header at the start of `octets`; None while it is not complete.

    Raises `ValueError` as soon as it cannot become one.
    """
    if octets[: len(_V2_START)] == _V2_START[: len(octets)]:
        return _version_2(octets)
    if octets[: len(_V1_START)] == _V1_START[: len(octets)]:
        return _version_1(octets)
    raise ValueError("no PROXY header")


def _version_1(octets: bytes) -> Announced | None:
    end = octets.find(b"\r\n", 0, _V1_MAX)
    if end < 0:
        if len(octets) >= _V1_MAX:
            raise ValueError("PROXY header too long")
        return None
    words = octets[:end].decode("ascii").split(" ")
    if words[1] == "UNKNOWN":
        return Announced(None, end + 2)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ValueError("malformed PROXY header")
    source, target = map(ipaddress.ip_address, words[2:4])
    version = int(words[1][3])
    if source.version != version or target.version != version:
        raise ValueError("PROXY header contradicts itself")
    if not all(port.isdigit() and int(port) < 65536 for port in words[4:]):
        raise ValueError("malformed PROXY header")
    return Announced(_plain(source), end + 2)


def _version_2(octets: bytes) -> Announced | None:
    if len(octets) < 16:
        return None
    version_command, family, length = struct.unpack_from("!BBH", octets, 12)
    if version_command not in (0x20, 0x21) or length > _V2_MAX:
        raise ValueError("malformed PROXY header")
    size = 16 + length
    if len(octets) < size:
        return None
    width = _V2_ADDRESSES.get(family, 0)
    if version_command == 0x20 or not width:  # LOCAL: the proxy's own, a health check
        return Announced(None, size)
    if length < 2 * width + 4:
        raise ValueError("PROXY header too short for its addresses")
    return Announced(_plain(ipaddress.ip_address(octets[16 : 16 + width])), size)


def _plain(address: Address) -> Address:
    return getattr(address, "ipv4_mapped", None) or address


@dataclass(frozen=True, slots=True)
class Attributes:
    """What one XCLIENT command said: None where it said nothing, "" for "not known"."""

    address: str | None
    login: str | None

    @property
    def client(self) -> Address | None:
        """The address as a value; None for unknown."""
        return _plain(ipaddress.ip_address(self.address)) if self.address else None


def read_xclient(argument: bytes) -> Attributes:
    """`NAME=value ...`, values in xtext. Raises `ValueError`."""
    said: dict[str, str] = {}
    for word in argument.split():
        found = _ATTRIBUTE.fullmatch(word)
        name = found[1].decode("ascii").upper() if found else ""
        if found is None or name not in XCLIENT_NAMES or name in said:
            raise ValueError("malformed or unknown attribute")
        said[name] = _text(found[2])
    if not said:
        raise ValueError("no attribute")
    return Attributes(_address(said), _known(said, "LOGIN"))


def _address(said: Mapping[str, str]) -> str | None:
    text = _known(said, "ADDR")
    if not text:
        return text
    tagged = text[:5].upper() == "IPV6:"
    found = ipaddress.ip_address(text[5:] if tagged else text)
    if found.version == 6 and not tagged:
        raise ValueError("an IPv6 address needs its prefix")
    return str(found)


def _known(said: Mapping[str, str], name: str) -> str | None:
    text = said.get(name)
    return "" if text is not None and text.upper() in _UNKNOWN else text


def _text(xtext: bytes) -> str:
    """RFC 3461 section 4 undone. Raises `ValueError` for what is no UTF-8, or a control."""
    octets = re.sub(rb"\+([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), xtext)
    text = octets.decode("utf-8")
    if not text.isprintable():
        raise ValueError("control character in an attribute")
    return text
