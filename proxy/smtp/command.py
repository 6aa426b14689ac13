"""What a client may type, read from the raw octets of one command line (RFC 5321 section 4.1.2).

Pure: octets in, a value or a refusal out. A mailbox is read by `policy.address` alone, from the
very octets between the angle brackets, so that no second parser can see another mailbox.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from policy.address import Address, AddressError, parse
from proxy.envelope import Notices
from proxy.replies import Reply, bad_address
from proxy.smtp import replies

# Between the brackets anything but an unquoted ">": the address parser judges it.
_PATH = re.compile(rb'<((?:"(?:[^"\\]|\\.)*"|[^">])*)>', re.DOTALL)
_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?")
_PARAMETER_8BIT = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\x80-\xff]+))?")
_SIZE = re.compile(rb"[0-9]{1,20}")  # RFC 1870 section 4
_NAME = re.compile(
    r"(?=.{1,255}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*\.?"
)
_BODIES = {b"7BIT": False, b"8BITMIME": True}

# RFC 3461 section 4: an xtext, and `addr-type ";" xtext`. An ENVID is at most 100 octets, an ORCPT
# 500, as typed.
_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")
_ORCPT = re.compile(rb"[A-Za-z0-9-]{1,64};(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")
_ORCPT_UTF8 = re.compile(
    r"utf-8;(?:[^\x00- =+\x7f-\x9f\\]|\\x\{[0-9A-Fa-f]{2,6}\})+", re.IGNORECASE
)
# RFC 3865 section 2.2: classes of solicitation, as `net.example:ADV,org.example:ADV:ADLT`.
_SOLICIT = re.compile(rb"(?=.{1,1000}\Z)[A-Za-z][A-Za-z0-9._:-]*(?:,[A-Za-z][A-Za-z0-9._:-]*)*")
_ENVID_MAX = 100
_ORCPT_MAX = 500
#: The client said nothing of what it wants to hear about a recipient.
NO_NOTICES = Notices()
_NOTIFY = (b"SUCCESS", b"FAILURE", b"DELAY")


@dataclass(frozen=True, slots=True)
class Mail:
    """MAIL FROM. `sender` is None for the null reverse-path; `size` 0 when not declared.

    `ret`, `envid` and `solicitation` are as in `proxy.envelope.Envelope`.
    """

    sender: Address | None
    size: int = 0
    body_8bit: bool = False
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    solicitation: bool = False


@dataclass(frozen=True, slots=True)
class Rcpt:
    """RCPT TO."""

    recipient: Address
    notices: Notices


def split(line: bytes) -> tuple[bytes, bytes]:
    """Verb in capitals, and its argument; space at the end is tolerated (RFC 5321 4.1.1)."""
    verb, _, argument = line.rstrip(b" \t").partition(b" ")
    return verb.upper(), argument


def read_mail(
    argument: bytes,
    *,
    extended: bool,
    notices: bool,
    size_limit: int,
    subaddress: Mapping[str, str],
) -> Mail | Reply:
    """`FROM:<reverse-path>` with SIZE, BODY, SMTPUTF8, AUTH and SOLICIT (RFC 1870, 6152, 6531,
    4954, 3865), with `notices` also RET and ENVID (RFC 3461)."""
    found = _path(argument, b"FROM:", replies.MAIL_SYNTAX)
    if isinstance(found, Reply):
        return found
    path, rest = found
    parameters = _parameters(rest)
    if parameters is None:
        return replies.PARAMETER_SYNTAX
    if parameters and not extended:
        return replies.UNKNOWN_PARAMETER
    for key in parameters:
        if key not in _MAIL_PARAMETERS or (key in _DSN_PARAMETERS and not notices):
            return replies.UNKNOWN_PARAMETER
    if not all(_MAIL_PARAMETERS[key](value) for key, value in parameters.items()):
        return replies.PARAMETER_SYNTAX
    size = int(parameters.get(b"SIZE") or b"0")
    smtputf8 = b"SMTPUTF8" in parameters
    if size > size_limit:
        return replies.DECLARED_TOO_BIG
    sender = _mailbox(path, smtputf8=smtputf8, subaddress=subaddress) if path else None
    if isinstance(sender, Reply):
        return sender
    if not parameters:
        return Mail(sender)
    return Mail(
        sender,
        size=size,
        body_8bit=_BODIES[(parameters.get(b"BODY") or b"7BIT").upper()],
        smtputf8=smtputf8,
        ret=(parameters.get(b"RET") or b"").upper().decode("ascii"),
        envid=(parameters.get(b"ENVID") or b"").decode("ascii"),
        solicitation=b"SOLICIT" in parameters,
    )


def read_rcpt(
    argument: bytes, *, notices: bool, smtputf8: bool, subaddress: Mapping[str, str]
) -> Rcpt | Reply:
    """`TO:<forward-path>`; with `notices` also NOTIFY and ORCPT (RFC 3461)."""
    found = _path(argument, b"TO:", replies.RCPT_SYNTAX)
    if isinstance(found, Reply):
        return found
    path, rest = found
    parameters = _parameters(rest, octets_8bit=smtputf8)
    if parameters is None:
        return replies.PARAMETER_SYNTAX
    if (not notices and parameters) or not parameters.keys() <= _RCPT_PARAMETERS:
        return replies.UNKNOWN_PARAMETER
    notify = _notify(parameters[b"NOTIFY"]) if b"NOTIFY" in parameters else ""
    orcpt = _orcpt(parameters[b"ORCPT"], smtputf8=smtputf8) if b"ORCPT" in parameters else ""
    if notify is None or orcpt is None:
        return replies.PARAMETER_SYNTAX
    if not path:
        return replies.NULL_RECIPIENT
    recipient = _mailbox(path, smtputf8=smtputf8, subaddress=subaddress)
    if isinstance(recipient, Reply):
        return recipient
    return Rcpt(recipient, Notices(notify, orcpt) if notify or orcpt else NO_NOTICES)


def client_name(argument: bytes) -> str:
    """What EHLO said, if it is a domain name or an address literal; else `unknown`."""
    text = argument.strip(b" ").decode("ascii", "replace")
    if _NAME.fullmatch(text):
        return text
    if text.startswith("[") and text.endswith("]"):
        inner = text[1:-1]
        tagged = inner[5:] if inner[:5].lower() == "ipv6:" else ""
        try:
            found = ipaddress.IPv6Address(tagged) if tagged else ipaddress.IPv4Address(inner)
        except ValueError:
            return "unknown"
        return f"[IPv6:{found.compressed}]" if tagged else f"[{found}]"
    return "unknown"


def _path(argument: bytes, keyword: bytes, syntax: Reply) -> tuple[bytes, bytes] | Reply:
    """Octets between the brackets, and what follows. Space before `<` is common and harmless."""
    if argument[: len(keyword)].upper() != keyword:
        return syntax
    text = argument[len(keyword) :].lstrip(b" ")
    if not text.startswith(b"<"):
        return syntax
    found = _PATH.match(text)
    if found is None:
        return bad_address("unbalanced quote or bracket")
    rest = text[found.end() :]
    if rest and not rest.startswith(b" "):
        return syntax
    return found[1], rest


def _mailbox(path: bytes, *, smtputf8: bool, subaddress: Mapping[str, str]) -> Address | Reply:
    try:
        return parse(path, smtputf8=smtputf8, subaddress=subaddress)
    except AddressError as error:
        return bad_address(str(error), error.enhanced)


def _parameters(rest: bytes, *, octets_8bit: bool = False) -> dict[bytes, bytes | None] | None:
    """Keywords in capitals with their values as typed; None if malformed or given twice."""
    result: dict[bytes, bytes | None] = {}
    if not rest:
        return result
    for word in rest.split(b" "):
        if not word:
            continue
        found = (_PARAMETER_8BIT if octets_8bit else _PARAMETER).fullmatch(word)
        if found is None:
            return None
        key = found[1].upper()
        if key in result:
            return None
        result[key] = found[2]
    return result


def _is_size(value: bytes | None) -> bool:
    return value is not None and _SIZE.fullmatch(value) is not None


def _is_envid(value: bytes | None) -> bool:
    return value is not None and len(value) <= _ENVID_MAX and _XTEXT.fullmatch(value) is not None


# What a parameter of MAIL may be. Who submitted a mail elsewhere (AUTH=, RFC 4954 section 5) is no
# fact of ours: accepted, not used. SOLICIT is heard, but NO-SOLICITING is not offered: we refuse no
# class for all recipients, and who offers it is to pass SOLICIT on (RFC 3865 section 2.7).
_MAIL_PARAMETERS: Mapping[bytes, Callable[[bytes | None], bool]] = {
    b"SIZE": _is_size,
    b"BODY": lambda value: value is not None and value.upper() in _BODIES,
    b"SMTPUTF8": lambda value: value is None,
    b"AUTH": lambda value: value is not None,
    b"RET": lambda value: value is not None and value.upper() in (b"FULL", b"HDRS"),
    b"ENVID": _is_envid,
    b"SOLICIT": lambda value: value is not None and _SOLICIT.fullmatch(value) is not None,
}
_DSN_PARAMETERS = frozenset({b"RET", b"ENVID"})
_RCPT_PARAMETERS = frozenset({b"NOTIFY", b"ORCPT"})


def _notify(value: bytes | None) -> str | None:
    """`NEVER`, or a list of events; None for anything else (RFC 3461 section 4.1)."""
    words = (value or b"").upper().split(b",")
    events = [word for word in _NOTIFY if word in words]
    if words != [b"NEVER"] and (len(events) != len(words) or not events):
        return None
    return b",".join(words).decode("ascii")


def _orcpt(value: bytes | None, *, smtputf8: bool) -> str | None:
    """The original recipient as typed (RFC 3461 section 4.2; with SMTPUTF8 RFC 6533 section 3)."""
    if value is None or len(value) > _ORCPT_MAX:
        return None
    if _ORCPT.fullmatch(value) is not None:
        return value.decode("ascii")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if smtputf8 and _ORCPT_UTF8.fullmatch(text) is not None else None
