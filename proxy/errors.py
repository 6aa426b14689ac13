"""What can go wrong on our side, as a small tree.

::

    SluisError
    |- ConfigError          the configuration cannot be used: names file, key and remedy
    |- StoreError           the store cannot answer
    |  |- StoreUnavailable  for now (locked, full, closed): answered 451, the client keeps the mail
    |  |  '- StoreRefused   this one operation cannot be done; trying again is of no use
    |  '- StoreDown         until restart (I/O error, failed fsync): never tried a second time
    |     |- StoreMissing   no database, or none of ours: nothing may be served without it
    |     '- StoreTaken     another run of this instance has begun: send no more
    |- UpstreamUnavailable  no upstream connection could be had
    |- TokenError           a token that is not ours, or damaged
    '- KeysError            the key file is missing, unreadable or malformed

A *block* is a value (`policy.model.Decision`), never an exception. What the peer hears and what is
logged are different things: `str(error)` is for the log.
"""

from __future__ import annotations


class SluisError(Exception):
    """Could not do it; the fault is ours or our surroundings', never the recipient's."""


class ConfigError(SluisError):
    """The configuration cannot be used. `problems` has one line each: file, key, what, remedy."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StoreError(SluisError):
    """The store could not answer."""


class StoreUnavailable(StoreError):
    """The store cannot answer now; a later try may succeed."""


class StoreRefused(StoreUnavailable):
    """The store is well, but this one operation cannot be done: trying again is of no use."""


class StoreDown(StoreError):
    """The store lost data or may have: nothing until restart (fsync is never retried)."""


class StoreMissing(StoreDown):
    """No database, or not the one that belongs here: serving would forget every opt-out."""


class StoreTaken(StoreDown):
    """A later run of this instance has begun: whatever this one sends, that one may send, too."""


class UpstreamUnavailable(SluisError):
    """No upstream gave a connection."""


class TokenError(SluisError):
    """A token that was not sealed by our keys for this use, or was damaged on the way."""


class KeysError(SluisError):
    """The key file is missing, unreadable or malformed."""
