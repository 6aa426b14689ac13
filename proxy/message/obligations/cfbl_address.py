"""CFBL-Address (RFC 9477): where mailbox providers may report complaints.

Valid only with a signature of the From domain or its parent, and an address in that From domain or
below it; anything else would need a second signature by the address's domain, so it is not added.
"""

from __future__ import annotations

from proxy.message.fold import fold

NAME = b"cfbl-address"
FEEDBACK_ID = b"cfbl-feedback-id"


def allowed(*, from_domain: str, mailbox: str, signed_by: str) -> bool:
    """Whether the rules of RFC 9477 section 3.1 let a mail of `from_domain`, signed with
    d=`signed_by`, name this mailbox.
    """
    return _below(mailbox.rpartition("@")[2], from_domain) and _below(from_domain, signed_by)


def field(mailbox: str) -> bytes:
    """The field, asking for reports in ARF. Raises `FoldError`."""
    return fold("CFBL-Address", [f"{mailbox};", "report=arf"])


def feedback_id(token: str) -> bytes:
    """CFBL-Feedback-ID: our token for this copy, which every report must repeat (section 3.2), also
    one that returns nothing else. A dot is no character of it. Raises `FoldError`.
    """
    return fold("CFBL-Feedback-ID", [token.replace(".", ":")])


def _below(name: str, parent: str) -> bool:
    return name == parent or name.endswith(f".{parent}")
