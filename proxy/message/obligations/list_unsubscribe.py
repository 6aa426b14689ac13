"""List-Unsubscribe (RFC 2369) and one-click (RFC 8058): what is there, what becomes of it, ours.

Ours replaces what a client or an ESP put there, and the target of theirs is kept so that an opt-out
can be passed on; a stream may keep theirs, merge its mailto, or refuse it (`Mode`). A link of ours
that is not for this recipient is never kept and never passed on: it would unsubscribe somebody
else.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from proxy.message.fold import fold
from proxy.message.header import Header
from proxy.replies import Reply

NAME = b"list-unsubscribe"
POST = b"list-unsubscribe-post"
NAMES = (NAME, POST)

_ONE_CLICK = b"list-unsubscribe=one-click"
_MAX_URIS = 10
_MAX_URI = 2_000
_MAX_TOKENS = 1_000

_PART = re.compile(
    rb"""(?P<skip>[ \t\r\n,]++)
       | (?P<comment>\((?>(?:[^()\\]|\\.)*)\))
       | <(?P<uri>[^<>]*+)>""",
    re.VERBOSE | re.DOTALL,
)
_SPACE = re.compile(rb"[ \t\r\n]+")
# Printable ASCII, and no encoded line end that a mailto could carry into a header.
_SOUND = re.compile(r"(?!.*%0[ad])(?:https?://[^\s/?#@]|mailto:)[!-~]+", re.IGNORECASE)
_CHARS = re.compile(rb"[!-~]+")
# A host that every reader of URIs finds: no user name, no backslash.
_HOST = re.compile(r"https://([a-z0-9.-]+)(?::[0-9]{1,5})?(?:[/?#]|\Z)", re.IGNORECASE)
# A mailto of others that fits beside ours in lines of 998 octets.
_MAX_MERGED = 900
_POST_FIELD = fold("List-Unsubscribe-Post", ["List-Unsubscribe=One-Click"])


class Mode(StrEnum):
    """What a stream does with a foreign List-Unsubscribe."""

    REPLACE = "replace"
    KEEP = "keep"
    MERGE = "merge"
    REFUSE = "refuse"


class Post(StrEnum):
    """The state of List-Unsubscribe-Post."""

    ABSENT = "absent"
    VALID = "valid"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Existing:
    """What a mail arrived with: the number of fields, whether all could be read, their URIs in
    order.
    """

    fields: int
    readable: bool
    uris: tuple[str, ...]
    post: Post


@dataclass(frozen=True, slots=True)
class Forward:
    """Where an opt-out can be passed on to; `one_click`: by an RFC 8058 POST."""

    uri: str
    one_click: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Where our links lead: `url` is the prefix before a token, `mailbox` for mailto or ""."""

    url: str
    mailbox: str = ""

    def own_https(self, uri: str) -> bool:
        """Whether this is a link of this instance, for whomever; scheme and host in any case."""
        return uri[: len(self.url)].lower() == self.url.lower()

    def mailto(self, token: str) -> str:
        """Our mailto for this token, which is in its subject: a local part has 64 octets, a token
        has more.
        """
        return f"mailto:{self.mailbox}?subject=unsubscribe%20{token}"

    def own(self, uri: str) -> bool:
        """Whether this URI is of this instance, for whomever, in every spelling that leads here."""
        found = _spelt(uri)
        if found.startswith("mailto:"):
            return bool(self.mailbox) and found == _spelt(f"mailto:{self.mailbox}")
        return found.startswith(_spelt(self.url))


def existing(header: Header) -> Existing:
    """Read the fields that are there; work bounded by 10 URIs of 2,000 octets a field."""
    uris: list[str] = []
    readable = True
    for value in header.values(NAME):
        found = _uris(value)
        readable = readable and bool(found)
        uris += found or []
    posts = header.values(POST)
    if not posts:
        post = Post.ABSENT
    elif len(posts) == 1 and _SPACE.sub(b"", posts[0]).lower() == _ONE_CLICK:
        post = Post.VALID
    else:
        post = Post.INVALID
    return Existing(len(header.named(NAME)), readable, tuple(uris), post)


def own_token(there: Existing, links: Links) -> str:
    """The token of a mail whose pair of fields is ours in form, else "".

    One field, valid -Post, one https URI and that ours, no mailto but ours with the same token.
    """
    if there.fields != 1 or not there.readable or there.post is not Post.VALID:
        return ""
    https = [uri for uri in there.uris if not uri.lower().startswith("mailto:")]
    if len(https) != 1 or not links.own_https(https[0]):
        return ""
    token = https[0][len(links.url) :]
    others = [uri for uri in there.uris if uri != https[0]]
    # To the letter: behind another subject may be the token of somebody else.
    if not all(links.mailbox and uri.lower() == links.mailto(token).lower() for uri in others):
        return ""
    return token


def forward(there: Existing, links: Links) -> Forward | None:
    """The foreign target to keep: https that takes a POST, else the first mailto, else https."""
    foreign = [uri for uri in there.uris if not links.own(uri) and _SOUND.fullmatch(uri)]
    https = next((uri for uri in foreign if uri.lower().startswith("https:")), None)
    mailto = next((uri for uri in foreign if uri.lower().startswith("mailto:")), None)
    if https is not None and there.post is Post.VALID:
        return Forward(https, True)
    uri = mailto or https
    return Forward(uri, False) if uri is not None else None


def kept(there: Existing, links: Links, hosts: Collection[str]) -> bool:
    """Whether foreign fields may stay as they are: one-click (RFC 8058 3.1) of an allowed host.

    `hosts` are lower-case names, compared whole.
    """
    web = [uri for uri in there.uris if not uri.lower().startswith("mailto:")]
    if not _sound_pair(there) or len(web) != 1 or any(links.own(uri) for uri in there.uris):
        return False
    host = _HOST.match(web[0])
    return host is not None and host[1].lower() in hosts


def merged(there: Existing, links: Links) -> str:
    """The foreign mailto to add to ours, "" for none. Their https never: RFC 8058 allows one."""
    if there.fields != 1 or not there.readable or there.post is Post.INVALID:
        return ""
    for uri in there.uris:
        mailto = uri.lower().startswith("mailto:") and not links.own(uri)
        if mailto and len(uri) <= _MAX_MERGED and _SOUND.fullmatch(uri):
            return uri
    return ""


def refusal(there: Existing) -> Reply | None:
    """The reply of a stream that refuses foreign fields; None where there are none."""
    if there.fields == 0 and there.post is Post.ABSENT:
        return None
    if there.fields != 1 or not there.readable or there.post is Post.INVALID:
        return Reply(554, "5.6.0", "header-malformed List-Unsubscribe")
    return Reply(550, "5.7.1", "no-unsubscribe: List-Unsubscribe of others is refused here")


def fields(links: Links, token: str, mailto: str = "") -> bytes:
    """Both fields for one recipient: the https URI first, and the mailto where there is a mailbox.

    `mailto` is a foreign URI to add. Raises `FoldError` for a line over 998 octets.
    """
    uris = [f"<{links.url}{token}>"]
    if links.mailbox:
        uris.append(f"<{links.mailto(token)}>")
    if mailto:
        uris.append(f"<{mailto}>")
    return fold("List-Unsubscribe", [*(f"{uri}," for uri in uris[:-1]), uris[-1]]) + _POST_FIELD


def _spelt(uri: str) -> str:
    """Host, port and path of a URI, or mailbox, in one of the spellings that mean the same (RFC
    3986 section 6.2); as it is where it cannot be read.
    """
    plain = unquote(uri.partition("?")[0]).lower()
    if plain.startswith("mailto:"):
        return plain.rstrip(".")
    try:
        parts = urlsplit(plain)
        port = parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return plain
    return f"{(parts.hostname or '').rstrip('.')}:{port}{parts.path}"


def _sound_pair(there: Existing) -> bool:
    return there.fields == 1 and there.readable and there.post is Post.VALID


def _uris(value: bytes) -> list[str] | None:
    """The https, http and mailto URIs of one field; None where it is not a list of `<...>`."""
    uris: list[str] = []
    at = 0
    for _ in range(_MAX_TOKENS):
        if at == len(value):
            return uris
        match = _PART.match(value, at)
        if match is None:
            return None
        at = match.end()
        if match["uri"] is None:
            continue
        raw = _SPACE.sub(b"", match["uri"])
        scheme = raw.partition(b":")[0].lower()
        if (
            len(uris) < _MAX_URIS
            and len(raw) <= _MAX_URI
            and scheme in (b"https", b"http", b"mailto")
            and _CHARS.fullmatch(raw)
        ):
            uris.append(raw.decode("ascii"))
    return None
