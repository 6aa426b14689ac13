"""What a campaign to a list would come to: every address asked about, in one pass.

The verdicts are those of `inquiry.py`, so those of the gate. Memory does not grow with the list: it
is read and written row by row, a thousand addresses to a query, and the keys of the addresses seen
are on disk.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Self

from policy.address import Address, AddressError, parse
from policy.explain import remedy
from policy.model import Decision, Reason, Verdict
from proxy.inquiry import Inquiry, as_known_at
from proxy.keys import Keys
from proxy.lists import Line, ListFile
from proxy.sheets import Sheet, harmless, harmless_address
from proxy.store.model import Known, Store, Subject

#: Addresses to a query.
BATCH = 1000

#: The columns that the written files have after those of the list.
COLUMNS = (
    *("sluis_verdict", "sluis_reason", "sluis_cite", "sluis_remedy", "sluis_pack"),
    *("sluis_expires_at", "sluis_until"),
)

_DUPLICATE = "duplicate"


@dataclass(slots=True)
class Tally:
    """What a list comes to: `rows` is the sum of the five that follow.

    `expiring` are those of the blocked that might be mailed today, but not at the time of sending.
    `bases` counts the allowed by reason, `stopped` the others by (reason, article).
    """

    rows: int = 0
    allowed: int = 0
    blocked: int = 0
    deferred: int = 0
    duplicates: int = 0
    invalid: int = 0
    expiring: int = 0
    needs_review: int = 0
    bases: Counter[str] = field(default_factory=Counter)
    stopped: Counter[tuple[str, str]] = field(default_factory=Counter)


class Seen:
    """The exact keys of addresses and the line where each first stood, in a temporary file."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # on disk, removed when closed
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("PRAGMA cache_size = -8192")
        self._db.execute("CREATE TABLE seen (key BLOB PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def first(self, key: str, line: int) -> int:
        """0 when `key` (hex) is new, else the line where it stood first."""
        args = (bytes.fromhex(key), line)
        added = self._db.execute("INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING", args)
        if added.rowcount:
            return 0
        found = self._db.execute("SELECT line FROM seen WHERE key = ?", args[:1]).fetchone()
        return int(found[0])


class Files:
    """`allowed.csv` and `blocked.csv`: every row of the list is in one of them."""

    def __init__(self, directory: Path, list_: ListFile) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        # A list that was written here before gets its verdicts anew.
        self._kept = [n for n, name in enumerate(list_.columns) if name not in COLUMNS]
        self._address = list_.address
        header = [*(list_.columns[n] for n in self._kept), *COLUMNS]
        self._allowed = Sheet(directory / "allowed.csv", header)
        self._blocked = Sheet(directory / "blocked.csv", header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for sheet in (self._allowed, self._blocked):
            if kind is None:
                sheet.finish()
            else:
                sheet.abandon()

    def write(self, line: Line, address: Address | None, result: Sequence[str]) -> None:
        """One row with its verdict (`COLUMNS`)."""
        cells = [
            harmless_address(line.cells[n], address)
            if n == self._address
            else harmless(line.cells[n])
            for n in self._kept
        ]
        sheet = self._allowed if result[0] == Verdict.ALLOW else self._blocked
        sheet.write([*cells, *result])


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """One list, one kind of mail. `at` is when it goes; `now` when it is asked."""

    inquiry: Inquiry
    keys: Keys
    store: Store
    now: datetime
    at: datetime
    language: str = "en"

    async def run(
        self,
        list_: ListFile,
        files: Files | None = None,
        progress: Callable[[Tally], None] = lambda _: None,
    ) -> Tally:
        """Ask about every row. Raises `StoreError` and, for a file cut short, `OSError`."""
        tally = Tally()
        remedies = {r.value: remedy(r, self.language) for r in Reason}
        with Seen() as seen:
            rows = iter(list_)
            while lines := list(islice(rows, BATCH)):
                await self._batch(lines, seen, tally, files, remedies)
                progress(tally)
        return tally

    async def _batch(
        self,
        lines: Sequence[Line],
        seen: Seen,
        tally: Tally,
        files: Files | None,
        remedies: Mapping[str, str],
    ) -> None:
        asked: list[tuple[Line, Address]] = []
        subjects: list[Subject] = []
        for line in lines:
            tally.rows += 1
            try:
                address = self._address(line)
            except AddressError as error:
                tally.invalid += 1
                words = f"{str(error)[:1].upper()}{str(error)[1:]} (line {line.number})."
                if files is not None:
                    reason = Reason.INVALID_ADDRESS.value
                    files.write(line, None, ("block", reason, "RFC 5321", words, "", "", ""))
                continue
            subject = self.keys.subject(self.inquiry.stream.sender, address)
            first = seen.first(subject.exact, line.number)
            if first:
                tally.duplicates += 1
                if files is not None:
                    words = f"Leave it out: the same address stands on line {first}."
                    files.write(line, address, ("block", _DUPLICATE, "", words, "", "", ""))
                continue
            asked.append((line, address))
            subjects.append(subject)
        addresses = [address for _, address in asked]
        known = await self.inquiry.known(self.store, subjects, self.at)
        if self.at < self.now:
            known = [as_known_at(one, self.at) for one in known]
        decisions = await self.inquiry.answer(addresses, known, self.at)
        for (line, address), one, decision in zip(asked, known, decisions, strict=True):
            ends_at = self._count(tally, address, one, decision)
            if files is not None:
                reason = decision.reason.value
                files.write(
                    line,
                    address,
                    (
                        decision.verdict.value,
                        reason,
                        decision.cite,
                        "" if decision.allowed else remedies[reason],
                        decision.pack,
                        ends_at,
                        _text(decision.until),
                    ),
                )

    def _address(self, line: Line) -> Address:
        if line.problem:
            raise AddressError(line.problem)
        subaddress = self.inquiry.settings.policy.subaddress
        return parse(line.address, smtputf8=True, subaddress=subaddress)

    def _count(self, tally: Tally, address: Address, known: Known, decision: Decision) -> str:
        """Count one decision; when its basis ends, as text."""
        tally.needs_review += decision.needs_review
        ends_at = decision.expires_at
        if decision.allowed:
            tally.allowed += 1
            tally.bases[decision.reason.value] += 1
        else:
            tally.stopped[decision.reason.value, decision.cite] += 1
            if decision.verdict is Verdict.DEFER:
                tally.deferred += 1
            else:
                tally.blocked += 1
                if self.at > self.now and decision.reason is not Reason.SUPPRESSED:
                    today = self.inquiry.basis(address, known, self.now)
                    if today.allowed:
                        tally.expiring += 1
                        ends_at = today.expires_at
        return _text(ends_at)


def _text(moment: datetime | date | None) -> str:
    if isinstance(moment, datetime):
        moment = moment.astimezone(UTC)
    return moment.isoformat().replace("+00:00", "Z") if moment is not None else ""
