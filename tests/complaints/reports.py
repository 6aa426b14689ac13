"""Feedback reports as mailbox providers write them (RFC 5965 appendix B, RFC 9477 section 3.2)."""

from __future__ import annotations

import base64
import quopri


def report(
    returned: bytes,
    *,
    kind: str = "abuse",
    part: str = "message/rfc822",
    encoding: str = "",
    fields: str = "",
    boundary: str = "part0001",
) -> bytes:
    """A report on a mail of which `returned` comes back."""
    body = returned
    if encoding == "base64":
        body = base64.encodebytes(returned)
    elif encoding:
        body = quopri.encodestring(returned)
    body = body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    cte = f"Content-Transfer-Encoding: {encoding}\r\n" if encoding else ""
    return (
        "From: <abusedesk@provider.example>\r\n"
        "Date: Tue, 24 Nov 2026 09:00:00 +0000\r\n"
        "Subject: FW: News\r\n"
        "To: <fbl@fb.news.acme.example>\r\n"
        "MIME-Version: 1.0\r\n"
        "Content-Type: multipart/report; report-type=feedback-report;\r\n"
        f'     boundary="{boundary}"\r\n'
        "\r\n"
        f"--{boundary}\r\n"
        "Content-Type: text/plain; charset=\"US-ASCII\"\r\n"
        "\r\n"
        "This is an email abuse report.\r\n"
        f"--{boundary}\r\n"
        "Content-Type: message/feedback-report\r\n"
        "\r\n"
        f"Feedback-Type: {kind}\r\n"
        "User-Agent: SomeGenerator/1.0\r\n"
        "Version: 1\r\n"
        f"{fields}"
        "\r\n"
        f"--{boundary}\r\n"
        f"Content-Type: {part}\r\n"
        f"{cte}"
        "\r\n"
    ).encode() + body + f"\r\n--{boundary}--\r\n".encode()
