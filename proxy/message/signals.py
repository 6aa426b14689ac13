"""What the header block of a mail says about its kind, for `classify`."""

from __future__ import annotations

from proxy.message import header as headers
from proxy.message.classify import Signals
from proxy.message.header import Header

_BULK = frozenset({b"bulk", b"list", b"junk"})


def signals(header: Header, *, solicitation: bool) -> Signals:
    """`solicitation` tells that the envelope calls the mail one (RFC 3865)."""
    there = header.by_name
    auto = _lower(header, b"auto-submitted")
    return Signals(
        from_domain=headers.from_domain(header) or "",
        list_id=_list_label(header.first(b"list-id") or b"") if b"list-id" in there else "",
        list_fields=b"\nlist-" in header.names,
        bulk=_lower(header, b"precedence") in _BULK,
        report=_lower(header, b"content-type").startswith(b"multipart/report"),
        solicitation=solicitation or declared(header),
        auto_submitted=bool(auto) and auto.partition(b";")[0].strip() != b"no",
    )


def _lower(header: Header, name: bytes) -> bytes:
    return (header.first(name) or b"").lower() if name in header.by_name else b""


def declared(header: Header) -> bool:
    """Whether a field declares the mail to be a solicitation (RFC 3865 section 2.4)."""
    return b"solicitation" in header.by_name


def _list_label(value: bytes) -> str:
    """The identifier of a List-Id (RFC 2919), lower case; "" where there is none."""
    inner = value[value.rfind(b"<") + 1 : value.rfind(b">")] if b"<" in value else b""
    return inner.strip().lower().decode("ascii", "replace")
