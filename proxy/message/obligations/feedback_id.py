"""Feedback-ID: by which Gmail groups complaints; counted there on signed mail only."""

from __future__ import annotations

import re
from functools import lru_cache

from proxy.message.fold import fold

NAME = b"feedback-id"
_OUTSIDE = re.compile(r"[^A-Za-z0-9_-]")
_MIN, _MAX = 5, 15


@lru_cache(maxsize=256)
def field(*, campaign: str, stream: str, sender: str, feedback_id: str) -> bytes:
    """`campaign:stream:sender:SenderId`; `-` stands for none, nothing in it is personal.

    SenderId is `feedback_id`, or made of the sender's id: 5 to 15 characters, stable.
    """
    own = feedback_id or f"{sender}-mail"
    parts = [_part(campaign), _part(stream), _part(sender), _part(own)[:_MAX].ljust(_MIN, "-")]
    return fold("Feedback-ID", [":".join(parts)])


def _part(text: str) -> str:
    return _OUTSIDE.sub("-", text)[:64] or "-"
