"""The mail that passes an opt-out on to a `mailto` (RFC 2369 section 3.2, RFC 6068): pure.

Of the URI only the one address, `subject` and `body` are taken. Other header fields that it names
are not written: a URI out of a mail must not write the header of a mail of ours.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote

from policy.address import Address, AddressError, parse
from proxy.message.dates import rfc5322
from proxy.message.encoded import phrase
from proxy.message.fold import MAX_LINE, fold

#: What is asked where the URI does not say.
ASKED = "unsubscribe"

_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Asked:
    """To whom, with which subject and text."""

    address: Address
    subject: str
    body: str


def asked_by(uri: str) -> Asked | None:
    """What a `mailto:` URI asks to be sent; None for one that cannot be sent as it says."""
    scheme, _, rest = uri.partition(":")
    to, _, fields = rest.partition("?")
    if scheme.lower() != "mailto":
        return None
    found: dict[str, str] = {}
    try:
        # RFC 6068 section 2: a comma within an address is percent-encoded, others part addresses.
        address = parse(_decoded(to), smtputf8=False) if "," not in to else None
        for field in fields.partition("#")[0].split("&"):
            name, _, value = field.partition("=")
            if (key := _decoded(name).lower()) in ("subject", "body"):
                found.setdefault(key, _decoded(value))
    except (ValueError, AddressError):
        return None
    subject, body = found.get("subject", "").strip(), found.get("body", "")
    lines = body.replace("\r\n", "\n").split("\n")
    if address is None or any(map(_CONTROL.search, (subject, *lines))):
        return None
    return Asked(address, subject or ASKED, "\r\n".join(lines) or ASKED)


def leave(asked: Asked, *, hostname: str, message_id: str, at: datetime) -> bytes:
    """The mail, with CRLF lines and ASCII only. Raises `FoldError` for a word over 998 octets."""
    subject = asked.subject.split() if asked.subject.isascii() else phrase(asked.subject)
    body = f"{asked.body}\r\n"
    plain = body.isascii() and all(len(line) <= MAX_LINE for line in body.split("\r\n"))
    encoding = "7bit" if plain else "base64"
    text = body.encode() if plain else _base64(body.encode())
    head = [
        fold("Date", [rfc5322(at)]),
        fold("From", [f"<postmaster@{hostname}>"]),
        fold("To", [f"<{asked.address.exact}>"]),
        fold("Subject", subject),
        fold("Message-ID", [message_id]),
        fold("Auto-Submitted", ["auto-generated"]),
        fold("MIME-Version", ["1.0"]),
        fold("Content-Type", ["text/plain;", "charset=utf-8"]),
        fold("Content-Transfer-Encoding", [encoding]),
    ]
    return b"".join(head) + b"\r\n" + text


def _decoded(text: str) -> str:
    """Raises `ValueError` for what is no percent-encoded UTF-8."""
    if _PERCENT.search(text):
        raise ValueError("a % that encodes nothing")
    return unquote(text, encoding="utf-8", errors="strict")


def _base64(octets: bytes) -> bytes:
    return base64.encodebytes(octets).replace(b"\n", b"\r\n")
