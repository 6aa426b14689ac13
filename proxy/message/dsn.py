"""A delivery status notification as bytes (RFC 3461 section 6, RFC 3464, RFC 6522): pure.

Three parts: words in the sender's language, the report for programs, and the header of the mail as
it came. The body is never returned, and neither is who else got the mail.
"""

from __future__ import annotations

import binascii
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from policy.address import AddressError, parse
from proxy.message import mailboxes
from proxy.message.control import control_fields
from proxy.message.dates import rfc5322
from proxy.message.header import VISIBLE, Header
from proxy.message.transfer import quoted
from proxy.replies import printable

#: The returned header is cut after the field that ends before this many octets.
MAX_HEADER = 65_536

_BLIND = (b"bcc", b"resent-bcc")
_XTEXT = re.compile(r"\+([0-9A-F]{2})")
_UTF8_XTEXT = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_MSG_ID = re.compile(r"<[!-;=?-~]+@[!-;=?-~]+>")
_BOUNDARY = re.compile(r"[0-9A-Za-z]{16,60}")
_ENHANCED = re.compile(r"[45]\d\d[ -]([245]\.\d{1,3}\.\d{1,3})\b")

#: Subjects are ASCII, so that nothing of a notice's top needs encoding.
_WORDS = {
    "en": {
        "subject": "Undelivered mail returned to sender",
        "intro": "Your mail of {at} was not delivered to everybody. Nothing more is tried for:",
        "said": "Answer",
        "ref": "Reference",
        "end": "This notice was made by the mail relay {host}. Do not reply to it.",
    },
    "nl": {
        "subject": "Niet bezorgde e-mail terug naar afzender",
        "intro": "Uw e-mail van {at} is niet bij iedereen bezorgd. Er wordt niets meer geprobeerd"
        " voor:",
        "said": "Antwoord",
        "ref": "Kenmerk",
        "end": "Dit bericht is gemaakt door de mailrelay {host}. Beantwoord het niet.",
    },
    "de": {
        "subject": "Nicht zustellbare E-Mail",
        "intro": "Ihre E-Mail vom {at} wurde nicht an alle zugestellt. Es wird nichts mehr versucht"
        " f\u00fcr:",
        "said": "Antwort",
        "ref": "Vorgang",
        "end": "Diese Nachricht stammt vom Mail-Relay {host}. Bitte nicht darauf antworten.",
    },
    "fr": {
        "subject": "Message non remis",
        "intro": "Votre message du {at} n'a pas \u00e9t\u00e9 remis \u00e0 tous. Aucun nouvel essai"
        " pour\u00a0:",
        "said": "R\u00e9ponse",
        "ref": "R\u00e9f\u00e9rence",
        "end": "Cet avis a \u00e9t\u00e9 \u00e9tabli par le relais {host}. N'y r\u00e9pondez pas.",
    },
    "es": {
        "subject": "Correo no entregado",
        "intro": "Su correo del {at} no se entreg\u00f3 a todos. No se volver\u00e1 a intentar"
        " para:",
        "said": "Respuesta",
        "ref": "Referencia",
        "end": "Este aviso lo gener\u00f3 el servidor de correo {host}. No responda a \u00e9l.",
    },
    "it": {
        "subject": "Messaggio non recapitato",
        "intro": "Il suo messaggio del {at} non \u00e8 stato recapitato a tutti. Non si ritenta"
        " per:",
        "said": "Risposta",
        "ref": "Riferimento",
        "end": "Questo avviso \u00e8 stato generato dal relay {host}. Non rispondere.",
    },
}
#: The languages of a notice; what explains a decision is in those of `policy.explain`.
LANGUAGES = tuple(_WORDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """One recipient that gets nothing any more.

    `address` is the exact address; `orcpt` the original recipient as the client typed it (xtext) or
    "". `reply` is the SMTP line of the upstream, or the one that we would have answered; `remote`
    the upstream's host name, "" where it was not asked. `words` explains, in several lines; `ref`
    is what journal and support know it by.
    """

    address: str
    reply: str
    ref: str
    words: str = ""
    orcpt: str = ""
    remote: str = ""
    last_attempt: datetime | None = None

    @property
    def status(self) -> str:
        """The enhanced status code of the line, as one of a permanent failure (RFC 3463)."""
        found = _ENHANCED.match(self.reply)
        return f"5{found[1][1:]}" if found else "5.0.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """The mail that is reported on. `envid` is as the client typed it (xtext) or ""; `utf8` tells
    that the client announced an internationalised header (SMTPUTF8).
    """

    mail_from: str
    header: Header
    arrived: datetime
    envid: str = ""
    utf8: bool = False


def is_automatic(header: Header) -> bool:
    """Whether no notice is sent about the mail: it says that no person wrote it (RFC 3834), or it
    is a report itself (RFC 6522), such as a bounce that somebody passes on.
    """
    kind = (header.first(b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind == b"multipart/report":
        return True
    auto = (header.first(b"auto-submitted") or b"").partition(b";")[0].strip().lower()
    return bool(auto) and auto != b"no"


def dsn(
    mail: Returned,
    failed: Sequence[Failed],
    *,
    hostname: str,
    message_id: str,
    boundary: str,
    at: datetime,
    language: str = "en",
) -> bytes:
    """The notice, with CRLF lines. `boundary` is random, at least 16 letters and digits.

    Raises `ValueError` for a boundary that is none or occurs in what is reported, and for an empty
    list or the null sender: nobody is to be told.
    """
    if not failed or not mail.mail_from:
        raise ValueError("a notice needs a recipient that failed, and a sender")
    if not _BOUNDARY.fullmatch(boundary):
        raise ValueError("a boundary is 16 to 60 letters and digits")
    words = _WORDS.get(language, _WORDS["en"])
    kind, returned = _returned(mail, failed)
    parts = [
        (
            "Content-Type: text/plain; charset=utf-8\r\n"
            "Content-Transfer-Encoding: quoted-printable",
            _text(mail, failed, words, hostname),
        ),
        ("Content-Type: message/delivery-status", _report(mail, failed, hostname)),
        (kind, returned),
    ]
    if any(boundary.encode() in content for _, content in parts):
        raise ValueError("the boundary occurs in the mail")
    top = [
        f"Date: {rfc5322(at)}",
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>",
        f"To: <{mail.mail_from}>",
        f"Subject: {words['subject']}",
        f"Message-ID: {message_id}",
        *_references(mail.header),
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        f' boundary="{boundary}"',
    ]
    if not returned.isascii():
        top.append("Content-Transfer-Encoding: 8bit")
    made = "\r\n".join(top).encode() + b"\r\n\r\n"
    for head, content in parts:
        made += f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n"
    return made + f"--{boundary}--\r\n".encode()


def _text(
    mail: Returned, failed: Sequence[Failed], words: dict[str, str], hostname: str
) -> bytes:
    lines = [words["intro"].format(at=rfc5322(mail.arrived)), ""]
    for one in failed:
        lines += [f"<{one.address}>", ""]
        lines += [f"    {line}" for line in one.words.splitlines()]
        lines += [f"    {words['said']}: {printable(one.reply)}"]
        lines += [f"    {words['ref']}: {one.ref}", ""]
    lines.append(words["end"].format(host=hostname))
    return binascii.b2a_qp("\r\n".join([*lines, ""]).encode(), istext=True)


def _report(mail: Returned, failed: Sequence[Failed], hostname: str) -> bytes:
    lines = [f"Reporting-MTA: dns; {hostname}"]
    if envid := _decoded(mail.envid):
        lines.insert(0, f"Original-Envelope-Id: {envid}")
    lines.append(f"Arrival-Date: {rfc5322(mail.arrived)}")
    for one in failed:
        lines.append("")
        if original := _original(one.orcpt):
            lines.append(f"Original-Recipient: {original}")
        lines += [
            f"Final-Recipient: {_recipient(one.address)}",
            "Action: failed",
            f"Status: {one.status}",
        ]
        if one.remote:
            lines.append(f"Remote-MTA: dns; {_mta(one.remote)}")
        lines.append(f"Diagnostic-Code: smtp; {printable(one.reply)}")
        if one.last_attempt is not None:
            lines.append(f"Last-Attempt-Date: {rfc5322(one.last_attempt)}")
    return "\r\n".join([*lines, ""]).encode("ascii")


def _original(orcpt: str) -> str:
    """The address that the client was first given, with its type, if it is one: programs believe
    it. RFC 6533 section 3 has the type utf-8.
    """
    kind, _, typed = orcpt.partition(";")
    try:
        if kind.lower() == "rfc822":
            return f"rfc822; {parse(_decoded(typed)).exact}"
        if kind.lower() == "utf-8":
            plain = _UTF8_XTEXT.sub(lambda match: _point(match[1]), typed)
            return f"utf-8; {_spelt(parse(plain, smtputf8=True).exact)}"
    except AddressError:
        pass
    return ""


def _point(digits: str) -> str:
    """A character by its number; none for what is no character."""
    number = int(digits, 16)
    return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else ""


def _recipient(address: str) -> str:
    """The address with its type; one beyond ASCII in the spelling of RFC 6533 section 3."""
    if address.isascii():
        return f"rfc822; {address}"
    return f"utf-8; {_spelt(address)}"


def _spelt(address: str) -> str:
    return "".join(
        c if "!" <= c <= "~" and c not in "\\+=" else f"\\x{{{ord(c):X}}}" for c in address
    )


def _mta(host: str) -> str:
    """A host as the type `dns` has it (RFC 3464 section 2.1.2): a name, or an address literal."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return printable(host)
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"


def _decoded(xtext: str) -> str:
    """RFC 3461 section 4, undone; "" where it is not one line of printable ASCII."""
    plain = _XTEXT.sub(lambda match: chr(int(match[1], 16)), xtext)
    return plain if plain.isascii() and plain.isprintable() else ""


def _references(header: Header) -> list[str]:
    value = (header.first(b"message-id") or b"").decode("ascii", "replace")
    return [f"References: {value}"] if _MSG_ID.fullmatch(value) and len(value) < 900 else []


def _returned(mail: Returned, failed: Sequence[Failed]) -> tuple[str, bytes]:
    """The third part: its fields, and what it returns.

    One beyond ASCII is `message/global-headers` where the client announced such a header, which is
    then UTF-8 (RFC 6533 section 6.3). Any other 8-bit octets are a header that is broken, and so it
    is sent in quoted-printable (RFC 6522 section 4): no upstream can refuse the notice for them.
    """
    header = _returned_header(mail.header, failed)
    if header.isascii():
        return "Content-Type: text/rfc822-headers", header
    if mail.utf8 and _is_utf8(header):
        kind = "Content-Type: message/global-headers\r\nContent-Transfer-Encoding: 8bit"
        return kind, header
    kind = "Content-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: quoted-printable"
    return kind, quoted(header)


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _returned_header(header: Header, failed: Sequence[Failed]) -> bytes:
    """The fields as they came, without blind copies, control fields, and the addresses of
    others."""
    dropped = {field.start for field in control_fields(header)}
    only = failed[0].address if len(failed) == 1 else ""
    kept = bytearray()
    for field in header.fields:
        if field.name in _BLIND or field.start in dropped:
            continue
        if field.name in VISIBLE and not _names_only(header.value(field), only):
            continue
        raw = header.raw[field.start : field.end]
        if len(kept) + len(raw) > MAX_HEADER:
            break
        kept += raw
    return bytes(kept) if kept.endswith(b"\r\n") or not kept else bytes(kept) + b"\r\n"


def _names_only(value: bytes, address: str) -> bool:
    try:
        mailbox = mailboxes.single(value)
    except mailboxes.AmbiguousError:
        return False
    return mailbox is not None and mailbox.address.exact == address
