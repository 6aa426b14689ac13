"""Mail addresses: one parser, one serialiser, two keys.

`exact` is the text that is looked up for permission *and* the text that is written to the wire,
so what was checked is what is sent. `wide` is the key on which blocking rests: as many spellings
of one mailbox as can be known share it. Permit only on `exact`; block on any `wide`.
`docs/addresses.md` is the whole policy.

Syntax is RFC 5321 section 4.1.2 (Mailbox) with RFC 6531 for non-ASCII; nothing of RFC 5322
(comments, folding, white space, display names) is accepted, because every reader of such text may
see another mailbox.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import idna

BAD_MAILBOX = "5.1.3"
BAD_DOMAIN = "5.1.2"
NEEDS_SMTPUTF8 = "5.6.7"

_NO_SUBADDRESS: Mapping[str, str] = MappingProxyType({})
_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_PLAIN = re.compile(rf"([{_ATEXT}]+(?:\.[{_ATEXT}]+)*)@((?:{_LABEL}\.)+{_LABEL})")
_DOT_STRING = re.compile(rf"[{_ATEXT}\x80-\U0010ffff]+(?:\.[{_ATEXT}\x80-\U0010ffff]+)*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"@(.*)', re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_LDH = re.compile(_LABEL)
# RFC 5321 appendix C: a source route is read past, never followed.
_ROUTE = re.compile(rf"@(?:{_LABEL}\.)*{_LABEL}(?:,@(?:{_LABEL}\.)*{_LABEL})*:")

# One mailbox, many dots: only where the operator of the domain says so.
_DOTLESS = frozenset({"gmail.com", "googlemail.com"})

# Categories nobody can see or type: control, format (bidi, ZWJ, soft hyphen, BOM), surrogate,
# private, unassigned, and separators.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
# Default_Ignorable_Code_Point (Unicode 15) outside those categories, and the blank braille.
_BLANK = frozenset((
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
    *range(0xE0100, 0xE01F0),
))
# Characters that separate something in mail; none may appear out of a compatibility character.
_SPECIAL = frozenset('@"\\,;:<>()[] ')

_INPUT_MAX = 2048  # characters looked at before anything else; a path has 256 octets
_LOCAL_MAX = 64    # RFC 5321 section 4.5.3.1.1, octets
_PATH_MAX = 256    # RFC 5321 section 4.5.3.1.3, octets, with "<" and ">"


class AddressError(ValueError):
    """This text is no address that can be looked up and sent as the same bytes.

    `enhanced` is the status code (RFC 3463) for the reply: "5.1.3" the mailbox syntax, "5.1.2" the
    domain, "5.6.7" non-ASCII without SMTPUTF8 (RFC 6531). `str()` is a short ASCII phrase without
    the address.
    """

    def __init__(self, words: str, enhanced: str = BAD_MAILBOX) -> None:
        super().__init__(words)
        self.enhanced = enhanced


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox.

    `local` is the local part with all quoting removed, `domain` the lower-case A-label form.
    `exact` is the consent key and the wire text, `wide` the blocking key. `utf8`: the wire text
    needs SMTPUTF8.
    """

    local: str
    domain: str
    exact: str
    wide: str
    utf8: bool

    @property
    def wire(self) -> bytes:
        """The very bytes between `<` and `>` of RCPT TO."""
        return self.exact.encode("utf-8")


def parse(
    text: str | bytes, *, smtputf8: bool = False, subaddress: Mapping[str, str] = _NO_SUBADDRESS
) -> Address:
    """Read one mailbox, without its angle brackets.

    `smtputf8`: non-ASCII is allowed (the client said SMTPUTF8, or a person typed it). `subaddress`
    maps a domain to further characters that separate a tag from the mailbox there; "+" does so
    everywhere.
    Raises `AddressError`.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError:
            raise AddressError("address is not UTF-8") from None
    if (plain := _PLAIN.fullmatch(text)) and len(text) <= _INPUT_MAX:
        local, domain = plain.groups()
        domain = domain.lower()
        # Two hyphens may be an A-label, a digit at the end an IP address: look closer.
        if "--" in domain or domain[-1].isdigit():
            domain = _domain(domain)
        exact = f"{local}@{domain}"
        if len(local) > _LOCAL_MAX:
            raise AddressError("local part longer than 64 octets")
        if len(exact) > _PATH_MAX - 2:
            raise AddressError("path longer than 256 octets")
        return Address(local, domain, exact, _wide(local.lower(), domain, subaddress), False)
    return _parse_any(text, smtputf8, subaddress)


def _parse_any(text: str, smtputf8: bool, subaddress: Mapping[str, str]) -> Address:
    if not text:
        raise AddressError("empty address")
    if len(text) > _INPUT_MAX:
        raise AddressError("path longer than 256 octets")
    for char in text:
        code = ord(char)
        if code < 0x20 or code == 0x7F:
            raise AddressError("control character in address")
        if code >= 0x80 and (unicodedata.category(char) in _UNSEEN or code in _BLANK):
            raise AddressError("invisible or unassigned character in address")
    ascii_only = text.isascii()
    if not ascii_only and not smtputf8:
        raise AddressError("non-ASCII address without SMTPUTF8", NEEDS_SMTPUTF8)
    if text[0] == "@":
        route = _ROUTE.match(text)
        if route is None:
            raise AddressError("malformed source route")
        text = text[route.end() :]
    local, domain_text = _split(text)
    domain = _domain(domain_text)
    bare = _DOT_STRING.fullmatch(local) is not None
    written = local if bare else '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
    utf8 = not local.isascii()
    if utf8:
        compatible = unicodedata.normalize("NFKC", local)
        if not _SPECIAL.isdisjoint(set(compatible) - set(local)):
            raise AddressError("character that others may read as a separator")
    exact = f"{written}@{domain}"
    if len(written.encode()) > _LOCAL_MAX:
        raise AddressError("local part longer than 64 octets")
    if len(exact.encode()) > _PATH_MAX - 2:
        raise AddressError("path longer than 256 octets")
    return Address(local, domain, exact, _wide(_fold(local), domain, subaddress), utf8)


def _split(text: str) -> tuple[str, str]:
    """Local part without quoting, and the domain as written."""
    if text.startswith('"'):
        quoted = _QUOTED.fullmatch(text)
        if quoted is None:
            raise AddressError("unbalanced or misplaced quote in local part")
        local = _QUOTED_PAIR.sub(r"\1", quoted[1])
        if not local:
            raise AddressError("empty local part")
        return local, quoted[2]
    local, at, domain = text.partition("@")
    if not at:
        raise AddressError("address without a domain")
    if not local:
        raise AddressError("empty local part")
    if "@" in domain:
        raise AddressError("more than one @ in address")
    if _DOT_STRING.fullmatch(local) is None:
        raise AddressError("malformed local part")
    return local, domain


@lru_cache(maxsize=4096)
def _domain(text: str) -> str:
    """The lower-case A-label form (UTS 46 non-transitional, IDNA 2008) of a domain as written."""
    if text.startswith("["):
        raise AddressError("address literal is not accepted", BAD_DOMAIN)
    try:
        mapped = text.lower() if text.isascii() else idna.uts46_remap(text, std3_rules=True)
        labels = mapped.removesuffix(".").split(".")
        encoded = ".".join([_label(label) for label in labels])
    except UnicodeError:  # idna.IDNAError and the codec's own
        raise AddressError("malformed domain", BAD_DOMAIN) from None
    if len(labels) < 2:
        raise AddressError("domain of a single label", BAD_DOMAIN)
    last = encoded.rpartition(".")[2]
    if last.isdigit():
        raise AddressError("IP address as a domain", BAD_DOMAIN)
    if len(encoded) > 255:
        raise AddressError("domain longer than 255 octets", BAD_DOMAIN)
    return encoded


def _label(label: str) -> str:
    if not label:
        raise AddressError("empty label in domain", BAD_DOMAIN)
    if not label.isascii():
        return idna.alabel(label).decode("ascii")
    if _LDH.fullmatch(label) is None:
        raise AddressError("malformed domain", BAD_DOMAIN)
    if label.startswith("xn--"):  # there and back: only what decodes is an A-label
        return idna.alabel(idna.ulabel(label)).decode("ascii")
    return label


def _fold(local: str) -> str:
    """NFKC casefold (Unicode 3.13, D147); the second round catches what the first lets appear."""
    if local.isascii():
        return local.lower()
    once = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", local).casefold())
    return unicodedata.normalize("NFKC", once.casefold())


def _wide(folded: str, domain: str, subaddress: Mapping[str, str]) -> str:
    cut = folded.find("+", 1)  # from 1: "+x" has no base, so it is literal and never matches all
    if subaddress:
        for mark in subaddress.get(domain, ""):
            at = folded.find(mark, 1)
            if at > 0 and (cut < 0 or at < cut):
                cut = at
    base = folded[:cut] if cut > 0 else folded
    if domain in _DOTLESS:
        base = base.replace(".", "") or base
        domain = "gmail.com"
    return f"{base}@{domain}"
