"""What the tests of body edits share: a sender, and a mail with its plan."""

from __future__ import annotations

import binascii
from collections.abc import Collection
from typing import Any

from proxy.message.body import BodyPlan, plan_body
from proxy.message.footer import Brand
from proxy.message.header import index
from proxy.message.inspect import Shown, Wanted, inspect

SENDER = "Café Zürich & Zöhne B.V."
ADDRESS = "Straße 1, 1015 AA Amsterdam"
OWN = "https://mail.acme.example/u/"
URL = f"{OWN}k1.{'A' * 107}"
WANTED = Wanted(names=(SENDER,), postal_address=ADDRESS, own_url=OWN)
BRAND = Brand(SENDER, ADDRESS)
DUTIES = frozenset({"identity", "postal_address", "unsubscribe"})
HEAD = b"From: news@acme.example\r\nMIME-Version: 1.0\r\n"


def look(content: bytes, **options: Any) -> tuple[Shown, BodyPlan]:
    """What the mail shows, and the plan of its body."""
    header = index(content)
    shown = inspect(
        content, header, WANTED, every_alternative=options.get("every_alternative", False)
    )
    options.setdefault("longest_url", len(URL))
    return shown, plan_body(content, header, shown, brand=BRAND, **options)


def whole(
    content: bytes, plan: BodyPlan, duties: Collection[str] = DUTIES, **options: Any
) -> bytes:
    """The mail with the body of one copy."""
    options.setdefault("url", URL)
    pieces = plan.pieces(duties=frozenset(duties), **options)
    return content[: plan.start] + b"".join(map(bytes, pieces))


def encode(octets: bytes, encoding: str, width: int = 76) -> bytes:
    """Octets in a transfer encoding, lines ended by CRLF; written without the code under test."""
    if encoding == "base64":
        lines = binascii.b2a_base64(octets, newline=False)
        return b"\r\n".join(lines[i : i + width] for i in range(0, len(lines), width))
    if encoding != "quoted-printable":
        return octets
    out = []
    for line in octets.split(b"\r\n"):
        col = b""
        for byte in line:
            step = bytes([byte]) if 32 <= byte < 127 and byte != 61 else b"=%02X" % byte
            if len(col) + len(step) > width - 1:
                out.append(col + b"=\r\n")
                col = b""
            col += step
        col = col[:-1] + b"=20" if col.endswith(b" ") and len(col) < width - 3 else col
        out.append(col + b"\r\n")
    return b"".join(out)[:-2]
