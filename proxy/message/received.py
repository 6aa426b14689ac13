"""Our trace field (RFC 5321 section 4.4), and loops."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache

from proxy.message.dates import rfc5322
from proxy.message.fold import MAX_LINE, WIDTH, FoldError, filled, finished
from proxy.message.header import Header
from proxy.replies import Reply

#: Received fields a mail may arrive with (Postfix has the same limit).
MAX_HOPS = 50
#: How often a mail may pass this instance.
_MAX_OWN = 2

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HELO = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?|\[(?:IPv6:)?[0-9A-Fa-f:.]{{2,45}}\]")
_TRACE = re.compile(rb"received[ \t]*:.*\r\n(?:[ \t].*\r\n)*", re.IGNORECASE)
_SPACE = re.compile(rb"[ \t]+")


def received(
    *,
    helo: str,
    hostname: str,
    instance: str,
    protocol: str,
    ref: str,
    at: datetime,
    client_ip: str = "",
) -> bytes:
    """The Received field of one transaction, the same for all its copies.

    No `for`, since one copy must not show who else got the mail. The client's IP address only where
    given: where an authenticated person sits is nobody's business.
    """
    begun, used = _opening(helo[:256], hostname, instance, protocol, client_ip)
    if not (ref.isascii() and ref.isalnum()) or len(ref) > MAX_LINE - len("id ;"):
        raise FoldError("field Received cannot be written")
    id_, date = f"id {ref};", rfc5322(at)
    after = used + 1 + len(id_)
    if after > WIDTH:
        begun, after = f"{begun}\r\n", 1 + len(id_)
    ends = "\r\n" if after + 1 + len(date) > WIDTH else ""
    return f"{begun} {id_}{ends} {date}\r\n".encode("ascii")


@lru_cache(maxsize=256)
def _opening(
    helo: str, hostname: str, instance: str, protocol: str, client_ip: str
) -> tuple[str, int]:
    """What all mails of a session have in common, and the characters of its last line."""
    name = helo if len(helo) <= 255 and _HELO.fullmatch(helo) else "unknown"
    words = [
        f"from {name}",
        *([f"([{client_ip}])"] if client_ip else []),
        f"by {hostname}",
        f"(sluis {instance})",
        f"with {protocol}",
    ]
    lines = filled(("Received:",), words)
    return finished("Received", lines).decode("ascii").removesuffix("\r\n"), len(lines[-1])


def check_loop(header: Header, *, hostname: str, instance: str) -> Reply | None:
    """554 5.4.6 for over 50 hops, or a mail that has passed this instance twice. None accepts."""
    trace = header.named(b"received")
    if not trace:
        return None
    if len(trace) > MAX_HOPS:
        return Reply(554, "5.4.6", f"mail loop: {len(trace)} Received fields")
    ours = f"by {hostname} (sluis {instance})".lower().encode()
    passes = sum(ours in _SPACE.sub(b" ", header.value(field)).lower() for field in trace)
    if passes >= _MAX_OWN:
        return Reply(554, "5.4.6", "mail loop: has passed here twice")
    return None


def trace_end(head: bytes | memoryview) -> int:
    """Where `after_trace` will be, from the first octets of a mail: a guess, wrong for few."""
    at = 0
    while (match := _TRACE.match(head, at)) is not None:
        at = match.end()
    return at


def after_trace(header: Header) -> int:
    """Where the leading Received fields end: a retry that came by another hop is the same from here
    on.
    """
    at = header.start
    for field in header.fields:
        if field.name != b"received":
            break
        at = field.end
    return at
