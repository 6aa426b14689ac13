"""Control headers: what an application says about a mail in `Sluis-*` fields, which no copy keeps.

A value that cannot be read is refused for every class of mail: a typing error must never choose
another stream.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass

from proxy.message.header import Field, Header
from proxy.replies import Reply

PREFIX = b"sluis-"
#: Ours; one that comes in is dropped without a word (a mail that passes Sluis twice has one).
REFERENCE = b"sluis-ref"

_SINGLE = (b"stream", b"campaign", b"variant", b"template")
_LISTS = (b"products", b"topics")
_VALUE = re.compile(r"[a-z0-9][a-z0-9/_.-]{0,63}")
_MAX_OCTETS = 1_000
#: Names that a wrong one is compared with at most, and its characters: 0.1 ms each at worst.
_MOST_NAMES = 100
_LONGEST_NAME = 64
_CLOSE = 0.75


class ControlError(ValueError):
    """A control header that is unknown, repeated or unreadable. `reply` names it."""

    def __init__(self, name: str, why: str) -> None:
        self.reply = Reply(554, "5.6.0", f"control header {name}: {why}")
        super().__init__(str(self.reply))


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The values, "" or empty where a header is absent."""

    stream: str = ""
    products: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    campaign: str = ""
    variant: str = ""
    template: str = ""


_NOTHING = Control()


def control_fields(header: Header) -> list[Field]:
    """All `Sluis-*` fields; every copy goes without them."""
    if b"\n" + PREFIX not in header.names:
        return []
    return [field for field in header.fields if field.name.startswith(PREFIX)]


def control(header: Header) -> Control:
    """Read the control headers. Raises `ControlError`."""
    found: dict[str, tuple[str, ...]] = {}
    fields = control_fields(header)
    if not fields:
        return _NOTHING
    for field in fields:
        key = field.name.removeprefix(PREFIX)
        shown = _shown(field.name)
        if field.name == REFERENCE:
            continue
        if key not in _SINGLE and key not in _LISTS:
            near = meant(shown, [_shown(PREFIX + known) for known in (*_SINGLE, *_LISTS)])
            raise ControlError(shown, f"unknown{near}")
        if key.decode() in found:
            raise ControlError(shown, "more than once")
        found[key.decode()] = _read(header.value(field), shown, several=key in _LISTS)
    return Control(
        stream=_one(found, "stream"),
        products=found.get("products", ()),
        topics=found.get("topics", ()),
        campaign=_one(found, "campaign"),
        variant=_one(found, "variant"),
        template=_one(found, "template"),
    )


def meant(name: str, known: Collection[str]) -> str:
    """`, did you mean x?` where one of `known` is close to `name`, else ""; bounded work."""
    if len(known) > _MOST_NAMES:
        return ""
    near = difflib.get_close_matches(name[:_LONGEST_NAME], known, n=1, cutoff=_CLOSE)
    return f", did you mean {near[0]}?" if near else ""


def _read(value: bytes, shown: str, *, several: bool) -> tuple[str, ...]:
    if not value:
        raise ControlError(shown, "empty")
    if len(value) > _MAX_OCTETS:
        raise ControlError(shown, "over 1000 octets")
    if not value.isascii():
        raise ControlError(shown, "not ASCII")
    text = value.decode("ascii")
    items = tuple(item.strip(" \t") for item in text.split(",")) if several else (text,)
    if not all(_VALUE.fullmatch(item) for item in items):
        raise ControlError(shown, "not a-z 0-9 / _ . - up to 64 characters")
    return items


def _one(found: dict[str, tuple[str, ...]], key: str) -> str:
    return found[key][0] if key in found else ""


def _shown(name: bytes) -> str:
    return name.decode("ascii").title()[:64]
