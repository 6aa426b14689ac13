"""What a client may type, read from the raw octets of one command line (RFC 5321 section 4.1.2).

Pure: octets in, a value or a refusal out. A mailbox is read by `policy.address` alone, from the
very octets between the angle brackets, so that no second parser can see another mailbox.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from policy.address import Address, AddressError, parse
from proxy.replies import Reply, bad_address
from proxy.smtp import replies

# Between the brackets anything but an unquoted ">": the address parser judges it.
_PATH = re.compile(rb'<((?:"(?:[^"\\]|\\.)*"|[^">])*)>', re.DOTALL)
_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?")
_SIZE = re.compile(rb"[0-9]{1,20}")  # RFC 1870 section 4
_NAME = re.compile(
    r"(?=.{1,255}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*\.?"
)
_BODIES = {b"7BIT": False, b"8BITMIME": True}


@dataclass(frozen=True, slots=True)
class Mail:
    """MAIL FROM. `sender` is None for the null reverse-path; `size` 0 when not declared."""

    sender: Address | None
    size: int
    body_8bit: bool
    smtputf8: bool


def split(line: bytes) -> tuple[bytes, bytes]:
    """Verb in capitals, and its argument; space at the end is tolerated (RFC 5321 4.1.1)."""
    verb, _, argument = line.rstrip(b" \t").partition(b" ")
    return verb.upper(), argument


def read_mail(
    argument: bytes, *, extended: bool, size_limit: int, subaddress: Mapping[str, str]
) -> Mail | Reply:
    """`FROM:<reverse-path>` with SIZE, BODY, SMTPUTF8 and AUTH (RFC 1870, 6152, 6531, 4954)."""
    found = _path(argument, b"FROM:", replies.MAIL_SYNTAX)
    if isinstance(found, Reply):
        return found
    path, rest = found
    parameters = _parameters(rest)
    if parameters is None:
        return replies.PARAMETER_SYNTAX
    if parameters and not extended:
        return replies.UNKNOWN_PARAMETER
    size, body_8bit, smtputf8 = 0, False, False
    for key, value in parameters.items():
        if key == b"SIZE":
            if value is None or _SIZE.fullmatch(value) is None:
                return replies.PARAMETER_SYNTAX
            size = int(value)
        elif key == b"BODY":
            if value is None or value.upper() not in _BODIES:
                return replies.PARAMETER_SYNTAX
            body_8bit = _BODIES[value.upper()]
        elif key == b"SMTPUTF8":
            if value is not None:
                return replies.PARAMETER_SYNTAX
            smtputf8 = True
        elif key == b"AUTH":
            # Who submitted it elsewhere (RFC 4954 section 5) is no fact of ours: accepted, not
            # used.
            if value is None:
                return replies.PARAMETER_SYNTAX
        else:
            return replies.UNKNOWN_PARAMETER
    if size > size_limit:
        return replies.DECLARED_TOO_BIG
    if not path:
        return Mail(None, size, body_8bit, smtputf8)
    try:
        sender = parse(path, smtputf8=smtputf8, subaddress=subaddress)
    except AddressError as error:
        return bad_address(str(error), error.enhanced)
    return Mail(sender, size, body_8bit, smtputf8)


def read_rcpt(argument: bytes, *, smtputf8: bool, subaddress: Mapping[str, str]) -> Address | Reply:
    """`TO:<forward-path>`; no parameter is offered (no DSN)."""
    found = _path(argument, b"TO:", replies.RCPT_SYNTAX)
    if isinstance(found, Reply):
        return found
    path, rest = found
    parameters = _parameters(rest)
    if parameters is None:
        return replies.PARAMETER_SYNTAX
    if parameters:
        return replies.UNKNOWN_PARAMETER
    if not path:
        return replies.NULL_RECIPIENT
    try:
        return parse(path, smtputf8=smtputf8, subaddress=subaddress)
    except AddressError as error:
        return bad_address(str(error), error.enhanced)


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


def _parameters(rest: bytes) -> dict[bytes, bytes | None] | None:
    """Keywords in capitals with their values as typed; None if malformed or given twice."""
    result: dict[bytes, bytes | None] = {}
    for word in rest.split(b" "):
        if not word:
            continue
        found = _PARAMETER.fullmatch(word)
        if found is None:
            return None
        key = found[1].upper()
        if key in result:
            return None
        result[key] = found[2]
    return result
