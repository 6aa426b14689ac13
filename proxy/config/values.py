"""The value shapes of the configuration: how each text becomes a typed value.

A validator raises `wrong(what, remedy)`; `proxy.config` puts file and key before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import urlsplit

import idna
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StrictBool,
    StrictInt,
    StrictStr,
)
from pydantic_core import PydanticCustomError

from proxy.config.countries import CODES, USER_ASSIGNED

Network = IPv4Network | IPv6Network

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6}
_MAPPED = IPv6Network("::ffff:0:0/96")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def wrong(what: str, remedy: str) -> PydanticCustomError:
    """A problem with one value. `what` completes "this value ..."; `remedy` is an instruction."""
    return PydanticCustomError("sluis", "{what}; {remedy}", {"what": what, "remedy": remedy})


def control_character(text: str) -> str:
    """Name of the first character that could start a second line or header field, "" for none."""
    found = _CONTROL.search(text)
    return f"U+{ord(found.group()):04X}" if found else ""


def duration(value: object) -> timedelta:
    """`"90s"` and the like. Raises `wrong`, a `ValueError`."""
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"(\d{1,9})(ms|s|m|h|d)", value) if isinstance(value, str) else None
    if match is None:
        raise wrong(
            "is no duration",
            'write a number and a unit in quotes: "500ms", "60s", "5m", "24h", "5d"',
        )
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise wrong("is zero", "write a duration longer than nothing")
    return value


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d{1,15}) ?([A-Za-z]*)", value) if isinstance(value, str) else None
    if match is None or match[2] not in _SIZES:
        raise wrong("is no size", 'write bytes as a number, or a unit in quotes: "256KiB", "25MiB"')
    return int(match[1]) * _SIZES[match[2]]


def _network(value: object) -> Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    example = 'write CIDR in quotes: "10.0.0.0/8", "::1/128"'
    if not isinstance(value, str):
        raise wrong("is no network", example)
    try:
        network = ip_network(value)
    except ValueError:
        try:
            loose = ip_network(value, strict=False)
        except ValueError:
            raise wrong("is no network", example) from None
        raise wrong(
            "is an address inside a network", f'write the network "{loose}", or that host alone'
        ) from None
    _refuse_open(network)
    return network


def _refuse_open(network: Network) -> None:
    """A trusted network may relay without a password: one that holds strangers is an open relay."""
    if isinstance(network, IPv6Network):
        if network.overlaps(_MAPPED) and network.prefixlen > 0:
            raise wrong("covers IPv4 addresses in IPv6 form", "write that network in IPv4 form")
        wide = network.prefixlen < (7 if network.is_private else 32)
    else:
        wide = network.prefixlen < 8
    if wide:
        raise wrong(
            "would make this an open relay",
            "list only your own networks, and let others authenticate (auth) over TLS",
        )


def split_address(text: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as (host, port). Raises `ValueError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(text)
    if host.startswith("["):
        if not host.endswith("]"):
            raise ValueError(text)
        return str(IPv6Address(host[1:-1])), int(port)
    if not host or ":" in host:
        raise ValueError(text)
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine by its form alone (no look-up)."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _address(value: object) -> str:
    example = 'write host and port in quotes: "127.0.0.1:2525", "[::1]:2525"'
    if not isinstance(value, str):
        raise wrong("is no host:port", example)
    try:
        host, _ = split_address(value)
    except ValueError:
        raise wrong("is no host:port", example) from None
    try:
        ip_address(host)
    except ValueError:
        domain(host)
    return value


def domain(value: object) -> str:
    """A domain name as lower-case A-labels (RFC 5890)."""
    example = "write a domain name as in an address after the @, without a final dot"
    if not isinstance(value, str):
        raise wrong("is no domain name", example)
    try:
        ascii_form = idna.encode(value, uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        raise wrong("is no domain name", example) from None
    if ascii_form.endswith(".") or not re.fullmatch(r"[a-z0-9.-]{1,253}", ascii_form):
        raise wrong("is no domain name", example)
    return ascii_form


def _country(value: str) -> str:
    if value in ("UK", "EL"):
        raise wrong("is no ISO 3166-1 code", f'write "{"GB" if value == "UK" else "GR"}"')
    if value in USER_ASSIGNED:
        remedy = "write the assigned code of the country whose law is meant"
        raise wrong("is no country: ISO 3166-1 leaves this code to its users", remedy)
    if value not in CODES:
        raise wrong("is no ISO 3166-1 code", 'write two capital letters, such as "NL"')
    return value


def _id(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", value):
        raise wrong(
            "is no id",
            "use at most 64 of a-z, 0-9, - and _, starting with a letter or digit"
            " (it appears in List-Id, Feedback-ID and metrics)",
        )
    return value


def slug(value: str) -> str:
    """A product or topic as the control headers carry it (`message.md` 8)."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9/_.-]{0,63}", value):
        raise wrong(
            "is no slug",
            'use at most 64 of a-z, 0-9, / _ . and -, as the Sluis-* headers do: "shoes/running"',
        )
    return value


def _mailbox(value: str) -> str:
    if value == "u":
        raise wrong("is where opt-outs go", 'choose another name, such as "fbl"')
    if value and not re.fullmatch(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", value):
        remedy = 'write what stands before the @ in lower case, such as "fbl", or "" for none'
        raise wrong("is no name of a mailbox", remedy)
    return value


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    bad = (
        parts.scheme not in ("https", "http")
        or not parts.hostname
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
        or not value.isascii()
        or " " in value
    )
    if bad:
        raise wrong("is no base URL", 'write scheme and host only: "https://mail.acme.example"')
    return value.rstrip("/")


def _web_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("https", "http") or not parts.hostname or re.search(r'[\s<>"]', value):
        raise wrong("is no web address", 'write it whole: "https://www.acme.example/privacy"')
    return value


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise wrong("is no path", "write a file or directory name in quotes")
    return Path(value)


def _not_empty(value: str) -> str:
    if not value.strip():
        raise wrong("is empty", "write it, or leave the key out")
    return value


def _freeze(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(value))


Bool = StrictBool
Count = Annotated[StrictInt, Field(ge=1)]
Text = Annotated[StrictStr, AfterValidator(_not_empty)]
Duration = Annotated[timedelta, BeforeValidator(duration), AfterValidator(_positive)]
Size = Annotated[int, BeforeValidator(_size), Field(ge=1)]
Trusted = Annotated[Network, BeforeValidator(_network)]
HostPort = Annotated[str, BeforeValidator(_address)]
Domain = Annotated[str, BeforeValidator(domain)]
Country = Annotated[StrictStr, AfterValidator(_country)]
Id = Annotated[StrictStr, AfterValidator(_id)]
Slug = Annotated[StrictStr, AfterValidator(slug)]
Mailbox = Annotated[StrictStr, AfterValidator(_mailbox)]
BaseUrl = Annotated[StrictStr, AfterValidator(_base_url)]
WebUrl = Annotated[StrictStr, AfterValidator(_web_url)]
FilePath = Annotated[Path, BeforeValidator(_path)]
FrozenCounts = Annotated[Mapping[Slug, Count], AfterValidator(_freeze), PlainSerializer(dict)]
FrozenTexts = Annotated[Mapping[Domain, Text], AfterValidator(_freeze), PlainSerializer(dict)]
