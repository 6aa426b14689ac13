"""List-Id (RFC 2919): one stable name of the stream, by which readers filter and mute."""

from __future__ import annotations

import re
from functools import lru_cache

from proxy.message import encoded
from proxy.message.fold import fold
from proxy.message.header import Header

NAME = b"list-id"
_MAX_OCTETS = 255
_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ID = re.compile(
    rb'(?>(?:"(?>(?:[^"\\]|\\.)*)"|[^<>"])*)<' + _ATOM + rb"(?:\." + _ATOM + rb")+>", re.DOTALL
)
_NOT_ATEXT = re.compile(r"[^A-Za-z0-9_-]")


def kept(header: Header) -> bool:
    """Whether the mail has one valid List-Id, which stays."""
    values = header.values(NAME)
    return (
        len(values) == 1 and len(values[0]) <= _MAX_OCTETS and _ID.fullmatch(values[0]) is not None
    )


@lru_cache(maxsize=256)
def field(*, stream: str, namespace: str, title: str) -> bytes:
    """`title <stream.namespace>` with an identifier of at most 255 octets; `title` goes if too
    long.
    """
    label = _NOT_ATEXT.sub("-", stream)[:63]
    # A namespace that is cut keeps its end, which is the registered domain.
    identifier = f"<{label}.{namespace[-(_MAX_OCTETS - len(label) - 3) :].lstrip('.')}>"
    words = [*encoded.phrase(title), identifier] if title else [identifier]
    if len(" ".join(words)) > _MAX_OCTETS:
        words = [identifier]
    return fold("List-Id", words)
