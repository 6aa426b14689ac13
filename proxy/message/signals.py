"""What the header block of a mail says about its kind, for `classify`."""

from __future__ import annotations

from proxy.message import header as headers
from proxy.message.classify import Signals
from proxy.message.header import Header

_BULK = frozenset({b"bulk", b"list", b"junk"})


def signals(header: Header, *, solicitation: bool) -> Signals:
    """`solicitation` tells that the envelope calls the mail one (RFC 3865)."""
    list_id = header.first(b"list-id") or b""
    precedence = (header.first(b"precedence") or b"").lower()
    auto = (header.first(b"auto-submitted") or b"").lower()
    root = (header.first(b"content-type") or b"").lower()
    return Signals(
        from_domain=headers.from_domain(header) or "",
        list_id=_list_label(list_id),
        list_fields=any(name.startswith(b"list-") for name in header.by_name),
        bulk=precedence in _BULK,
        report=root.startswith(b"multipart/report"),
        solicitation=solicitation or declared(header),
        auto_submitted=bool(auto) and auto.partition(b";")[0].strip() != b"no",
    )


def declared(header: Header) -> bool:
    """Whether a field declares the mail to be a solicitation (RFC 3865 section 2.4)."""
    return bool(header.named(b"solicitation"))


def _list_label(value: bytes) -> str:
    """The identifier of a List-Id (RFC 2919), lower case; "" where there is none."""
    inner = value[value.rfind(b"<") + 1 : value.rfind(b">")] if b"<" in value else b""
    return inner.strip().lower().decode("ascii", "replace")
