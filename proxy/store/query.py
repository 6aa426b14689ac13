"""A statement as the store runs it: its text was written down before (`proxy/store/statements`)."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter

_NONE: Mapping[str, object] = {}


class Query:
    """A statement compiled once: SQL with `?`, its parameters in that order, its constants."""

    __slots__ = ("_pick", "constants", "names", "sql")

    def __init__(
        self, sql: str, names: tuple[str, ...] = (), constants: Mapping[str, object] = _NONE
    ) -> None:
        self.sql = sql
        self.names = names
        self.constants = constants
        self._pick = itemgetter(*names) if len(names) > 1 and not constants else None

    def __call__(self, **values: object) -> tuple[str, tuple[object, ...]]:
        """SQL and arguments for `sqlite3.Connection.execute`."""
        if self._pick is not None:
            return self.sql, self._pick(values)
        constants = self.constants
        return self.sql, tuple([
            constants[name] if name in constants else values[name] for name in self.names
        ])
