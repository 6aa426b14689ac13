"""`data_dir/suppressions`: who gets no mail at all, for decisions that are taken without the store.

A head in JSON on the first line; then one line a key, sorted: 32 hex digits and the entries of that
person; then the SHA-256 of all that. It is read by bisection from a mapped file, so it costs no
memory. People appear under their keyed pseudonyms; no address and no evidence is in it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path

import orjson

from policy.events import FieldError, detail_from
from policy.model import Event
from proxy.errors import StoreUnavailable
from proxy.store.codec import instant
from proxy.store.instance import sync_directory
from proxy.store.model import Known, Subject
from proxy.store.suppressed import Entry, Stopped, Suppressed

NAME = "suppressions"

_VERSION = 1
_KEY = 32
_END = 65  # the digest, and the end of its line

#: Stands for evidence, which is the ledger's to show; that there is some is a fact of the decision.
_EVIDENCE = "(in the ledger)"

_Line = tuple[bytes, list[Entry]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One file: when the ledger said so, up to which id, and when it was last read whole."""

    data: mmap.mmap
    begin: int
    end: int
    made_at: datetime
    whole_at: datetime
    high: int

    def known(self, subjects: Sequence[Subject]) -> Mapping[Subject, Known]:
        """What it knows of them. Raises `StoreUnavailable`."""
        try:
            return {s: Known(events=tuple(self._events(s))) for s in subjects}
        except (ValueError, TypeError, FieldError) as error:
            raise StoreUnavailable(f"the snapshot cannot be read: {error}") from error

    def usable(self, seen_at: datetime, now: datetime, most: timedelta) -> bool:
        """Whether it is not too old: `seen_at` is when the ledger was known to say the same.

        The clock may have jumped either way.
        """
        return abs(now - max(self.made_at, seen_at)) <= most

    def lines(self, but: set[str]) -> Iterator[_Line]:
        """Each key and its entries, without those of these people (widened keys)."""
        at = self.begin
        while at < self.end:
            end = self.data.find(b"\n", at)
            entries = orjson.loads(self.data[at + _KEY : end])
            kept = [entry for entry in entries if entry[1] not in but]
            if kept:
                yield self.data[at : at + _KEY], kept
            at = end + 1

    def _events(self, subject: Subject) -> Iterator[Event]:
        seen: set[str] = set()
        for key in (subject.wide, subject.exact):
            for uid, _, exact, sender, type_, at, recorded_at, proven, fields in self._find(key):
                if uid in seen:
                    continue
                seen.add(uid)
                yield Event(
                    at=instant(at),
                    recorded_at=instant(recorded_at),
                    sender=sender,
                    detail=detail_from(type_, orjson.loads(fields)),
                    evidence=_EVIDENCE if proven else "",
                    uid=uid,
                    exact=exact == subject.exact,
                )

    def _find(self, text: str) -> list[Entry]:
        data, key = self.data, text.encode()
        low, high = self.begin, self.end
        while low < high:
            at = data.rfind(b"\n", self.begin - 1, (low + high) // 2) + 1
            end = data.find(b"\n", at)
            found = data[at : at + _KEY]
            if found == key:
                entries: list[Entry] = orjson.loads(data[at + _KEY : end])
                return entries
            if found < key:
                low = end + 1
            else:
                high = at
        return []


def read(directory: Path) -> Snapshot | None:
    """What lies there; None where nothing does, or not what was written. Reads all of it."""
    try:
        with (directory / NAME).open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None
    try:
        begin, end = data.find(b"\n") + 1, len(data) - _END
        digest = hashlib.sha256()
        for at in range(0, end, 1 << 20):
            digest.update(data[at : min(at + (1 << 20), end)])
        head = orjson.loads(data[:begin])
        if head["v"] != _VERSION or data[end:] != digest.hexdigest().encode() + b"\n":
            return None
        made_at, whole_at = (
            datetime.fromisoformat(head[name]).astimezone(UTC) for name in ("made_at", "whole_at")
        )
        return Snapshot(data, begin, end, made_at, whole_at, int(head["high"]))
    except (ValueError, KeyError, TypeError):
        return None


def write(directory: Path, before: Snapshot | None, seen: Suppressed, at: datetime) -> None:
    """Put a file there that says what the ledger said at `at`; durable. Raises `OSError`.

    `before` is the newest that was read; needed where `seen` is not whole.
    """
    new: defaultdict[bytes, list[Entry]] = defaultdict(list)
    for stopped in seen.people:
        for key, entries in _by_key(stopped):
            new[key] += entries
    sources: list[Iterator[_Line]] = [iter(sorted(new.items()))]
    whole_at = at
    if not seen.whole:
        if before is None:
            raise ValueError("a part of the ledger makes no snapshot")
        whole_at = before.whole_at
        sources.append(before.lines({stopped.wide for stopped in seen.people}))
    head = {
        "v": _VERSION,
        "made_at": at.isoformat(),
        "whole_at": whole_at.isoformat(),
        "high": seen.high,
    }
    path = directory / NAME
    temporary = directory / f".{NAME}.{secrets.token_hex(4)}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            digest = hashlib.sha256()
            for line in chain([orjson.dumps(head) + b"\n"], _written(sources)):
                digest.update(line)
                file.write(line)
            file.write(digest.hexdigest().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(directory)
    finally:
        temporary.unlink(missing_ok=True)


def _by_key(stopped: Stopped) -> Iterator[_Line]:
    """Blocking reaches over the widened key, and the exact one once its widening has changed."""
    if stopped.entries:
        yield stopped.wide.encode(), list(stopped.entries)
    for exact in {entry[2] for entry in stopped.entries} - {stopped.wide}:
        yield exact.encode(), [entry for entry in stopped.entries if entry[2] == exact]


def _written(sources: Sequence[Iterator[_Line]]) -> Iterator[bytes]:
    for key, lines in groupby(merge(*sources, key=itemgetter(0)), key=itemgetter(0)):
        entries = [entry for _, some in lines for entry in some]
        yield key + orjson.dumps(entries) + b"\n"
