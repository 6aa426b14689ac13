"""Tokens of the API: 32 random bytes, of which the configuration keeps a digest."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from proxy.config import ApiToken

#: Begins every token, so that a leaked one is known for what it is.
PREFIX = "sluis_"

_LONGEST = 200


def new_token() -> str:
    """A token: `sluis_` and 43 characters of base64url."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """SHA-256 in hex. No salt and no stretching: 256 random bits cannot be guessed."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def find(tokens: Sequence[ApiToken], presented: str) -> ApiToken | None:
    """Whose token it is; compared with each, in time that does not tell how alike they are."""
    if len(presented) > _LONGEST:
        return None
    given = digest(presented)
    found = None
    for token in tokens:
        if hmac.compare_digest(token.token_hash, given):
            found = token
    return found
