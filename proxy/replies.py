"""SMTP replies as values, and the table of those that the product gives.

One reply is one ASCII line with an enhanced status code (RFC 3463, RFC 2034). Text that came from a
client or an upstream passes `printable`, so that nothing can inject a second reply.
"""

from __future__ import annotations

from dataclasses import dataclass

_KEEP = frozenset(range(32, 127))
#: Characters of a reply's text before its reference, so that the reference is never cut off.
_SAID = 360


def printable(text: str, limit: int = 400) -> str:
    """`text` as one line of printable ASCII, at most `limit` characters; others become `?`."""
    text = text[:limit]
    if text.isascii() and text.isprintable():  # as nearly all text is
        return text
    return "".join(c if ord(c) in _KEEP else "?" for c in text)


@dataclass(frozen=True, slots=True)
class Reply:
    """One SMTP reply. `enhanced` is "" only where an upstream's own reply had none."""

    code: int
    enhanced: str
    text: str

    def __str__(self) -> str:
        middle = f"{self.enhanced} " if self.enhanced else ""
        return f"{self.code} {middle}{printable(self.text)}"

    @property
    def positive(self) -> bool:
        """2xx: the mail is ours, or upstream's."""
        return 200 <= self.code < 300

    @property
    def temporary(self) -> bool:
        """4xx: the client keeps the mail and may try again."""
        return 400 <= self.code < 500


def with_ref(reply: Reply, ref: str) -> Reply:
    """`reply` with the reference under which the log has it; one that names one is as it was."""
    if "(ref " in reply.text:
        return reply
    return Reply(reply.code, reply.enhanced, f"{reply.text[:_SAID]} (ref {ref})")


def our_fault(ref: str = "") -> Reply:
    """Our own trouble: temporary always, without details (promise 6)."""
    return Reply(451, "4.3.0", f"temporary local problem{f' (ref {ref})' if ref else ''}")


def bad_address(why: str, enhanced: str = "5.1.3") -> Reply:
    """An address that cannot be sent exactly as it was looked up."""
    return Reply(553, enhanced, f"invalid-address {why}")
