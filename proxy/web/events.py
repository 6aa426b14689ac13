"""Consents, relationships and opt-outs that an application reports: read, checked, recorded.

The columns are those of an import, and are read by the same code. All events of a request are
sound, or none is recorded. Opt-outs go first and one by one, so that each binds although the store
cannot be written (`Store.oppose`); whatever else there is follows in one commit.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import orjson

from policy.events import fields_of, type_of
from policy.model import Complaint, Objection, Scope
from proxy.config import ApiToken, Settings
from proxy.errors import StoreError
from proxy.imports import Entry, Options, RowError, entry_of
from proxy.keys import Keys
from proxy.store.model import Added, NewEvent, Store

#: Events read before other sessions have their turn.
_BREATH = 20


class NotYoursError(Exception):
    """The token is not for the sender of an event."""


class HalfRecordedError(Exception):
    """The store cannot be written now: some opt-outs hold already, and nothing else that came with
    them does."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """What is wrong with an event, and where: its number from 0 and the column, "" for all of it.

    No value that was sent is repeated in `reason`.
    """

    n: int
    column: str
    reason: str

    @property
    def place(self) -> str:
        """As the API names it."""
        return f"events.{self.n}.{self.column}".rstrip(".")


class Recorder:
    """Reads and records under one configuration."""

    def __init__(
        self, settings: Settings, keys: Keys, *, clock: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._clock = clock

    async def read(
        self, rows: Sequence[Mapping[str, object]], token: ApiToken, key: str
    ) -> list[Entry] | list[Wrong]:
        """All of them, or what is wrong. `key` is the client's Idempotency-Key, "" for none.

        Raises `NotYoursError`.
        """
        configured = [s.id for s in self._settings.senders]
        senders = [id_ for id_ in configured if not token.senders or id_ in token.senders]
        options = Options(
            senders=frozenset(configured),
            sender=senders[0] if len(senders) == 1 else None,
            imported=False,
            subaddress=self._settings.policy.subaddress,
        )
        entries: list[Entry] = []
        wrong: list[Wrong] = []
        for n, row in enumerate(rows):
            if n % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)
            made = self._entry(n, row, options, token, key)
            if isinstance(made, Wrong):
                wrong.append(made)
            elif made.event.subject.sender not in senders:
                raise NotYoursError
            else:
                entries.append(made)
        return wrong or entries

    def _entry(
        self, n: int, row: Mapping[str, object], options: Options, token: ApiToken, key: str
    ) -> Entry | Wrong:
        try:
            orjson.dumps(row)
        except TypeError:
            return Wrong(n, "", "holds what is no Unicode text, or a number that is too large")
        timed = {"at": self._clock().isoformat(), **{k: v for k, v in row.items() if v is not None}}
        made = entry_of(n, timed, options, self._keys, self._clock)
        if isinstance(made, RowError):
            return _wrong(n, made, row)
        event = made.event
        detail = event.detail
        if isinstance(detail, Objection):
            if (detail.scope is Scope.STREAM) != (detail.stream is not None):
                return Wrong(n, "stream", "belongs to the scope stream, and that to it")
            if (detail.scope is Scope.TOPIC) != bool(detail.topics):
                return Wrong(n, "topics", "belong to the scope topic, and that to them")
            if detail.stream is not None and not self._has(event.subject.sender, detail.stream):
                return Wrong(n, "stream", "the sender has no such stream")
        if key and row.get("at") is None:
            made = replace(made, event=replace(event, uid=_uid(event, token, key)))
        return made

    def _has(self, sender: str, stream: str) -> bool:
        found = self._settings.find_stream(stream)
        return found is not None and found.sender == sender


async def record(entries: Sequence[Entry], store: Store) -> list[Added]:
    """What became of each; durable when this returns.

    Raises `StoreError` where nothing was recorded, or `HalfRecordedError`.
    """
    opposing = [e for e in entries if _opposes(e)]
    others = [e for e in entries if not _opposes(e)]
    opposed: list[Added] = []
    failed: BaseException | None = None
    for one in await asyncio.gather(
        *(store.oppose(e.event) for e in opposing), return_exceptions=True
    ):
        if isinstance(one, Added):
            opposed.append(one)
        else:
            failed = one
    attributes = [e.attributes for e in entries if e.attributes is not None]
    new: list[bool] = []
    try:
        if failed is not None:
            raise failed
        if others or attributes:
            new = await store.append([e.event for e in others], attributes)
    except StoreError as error:
        if opposed:
            raise HalfRecordedError from error
        raise
    told = {
        id(e): added
        for e, added in [
            *zip(opposing, opposed, strict=True),
            *zip(others, (Added.NEW if one else Added.KNOWN for one in new), strict=True),
        ]
    }
    return [told[id(e)] for e in entries]


def _uid(event: NewEvent, token: ApiToken, key: str) -> str:
    """The identity of an event without a time of its own: a client that asks again with its key
    means the same, as long as it says the same."""
    detail = orjson.dumps(fields_of(event.detail), option=orjson.OPT_SORT_KEYS).decode()
    who = event.subject
    same = (token.name, key, who.sender, who.exact, type_of(event.detail), event.evidence, detail)
    return hashlib.sha256("\0".join(same).encode()).hexdigest()[:32]


def _opposes(entry: Entry) -> bool:
    return isinstance(entry.event.detail, Objection | Complaint)


def _wrong(n: int, error: RowError, row: Mapping[str, object]) -> Wrong:
    """What an import says of a cell, without the cell."""
    value = row.get(error.column)
    reason = error.reason.replace(repr(value), "the value")
    if error.column == "address" and isinstance(value, str) and value:
        reason = "not an address that can be sent to"
    return Wrong(n, error.column, reason)
