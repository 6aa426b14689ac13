"""What stands beside the store and binds its writer: opt-outs that were answered and are not in it.

A decision that did not see one of them is taken again, as for a newer event of the ledger.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

from proxy.store.group import Operation
from proxy.store.model import IntakeResult, Subject


class Beside(Protocol):
    """A lock for a transaction from its checks to the end of its COMMIT, and the check."""

    def __enter__(self) -> object:
        """Held by the writer."""
        ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Let what was put in meanwhile be acknowledged."""
        ...

    def touched(self, since: int, subjects: Sequence[Subject]) -> bool:
        """Whether something newer than `since` is about one of these."""
        ...


class Nothing(nullcontext[None]):
    """Nothing stands beside it."""

    def touched(self, since: int, subjects: Sequence[Subject]) -> bool:
        """Never."""
        return False


#: Beside most stores.
NOTHING = Nothing()


class Validated:
    """An operation that is stale where `beside` has something newer about its people."""

    def __init__(
        self, operation: Operation, beside: Beside, since: int, subjects: Sequence[Subject]
    ) -> None:
        self.name = operation.name
        self.rank = operation.rank
        self.rows = operation.rows
        self._operation = operation
        self._beside = beside
        self._since = since
        self._subjects = subjects

    def run(self, db: sqlite3.Connection) -> IntakeResult:
        """In the transaction of the operation, under the lock."""
        if self._beside.touched(self._since, self._subjects):
            return IntakeResult(stale=True)
        made: IntakeResult = self._operation.run(db)
        return made
