"""Many rows in one statement are the rows that one statement each would have written."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import contract_path  # noqa: F401
import pytest
from store_values import after, event, intake, outcome, person, row

from proxy.store import several
from proxy.store.model import Fate, IntakeResult, NewRow, Result, State
from proxy.store.sqlite import open_sqlite

TABLES = ("submission", "delivery", "decision", "attempt", "outcome", "address", "sqlite_sequence")
STATES = (State.ATTEMPTING, State.BLOCKED, State.ATTEMPTING, State.RETURNED)


def _rows(count: int, first: int = 0) -> list[NewRow]:
    """Distinct copies in all states; every third person comes twice, as another copy."""
    return [
        row(
            f"copy-{number}",
            person(f"p{number - number % 3}"),
            n=n,
            state=STATES[number % 4],
            reply="" if number % 4 in (0, 2) else f"550 5.7.1 {number}",
            marketing=number % 5 > 0,
        )
        for n, number in enumerate(range(first, first + count), start=1)
    ]


async def _written(path: Path, count: int) -> tuple[list[IntakeResult], dict[str, list[Any]]]:
    def clock() -> object:
        return after(60)

    store = await open_sqlite(path, instance="a", owner=True, create=True, clock=clock)  # type: ignore[arg-type]
    results = []
    try:
        await store.append([event("e", person("p0"))])
        results.append(await store.claim(intake("first", _rows(count), high=1)))
        # Some of it ends, some unknown, so that the next claim answers, marks and makes anew.
        ends = (Result.ACCEPTED, Result.UNKNOWN, Result.TEMPORARY)
        claimed = [fate for fate in results[0].fates if fate.fate is Fate.CLAIMED]
        for at, fate in enumerate(claimed):
            await store.record([outcome(fate, ends[at % 3])])
        again = _rows(count + 3, first=count // 2)
        results.append(await store.claim(intake("second", again, high=1, at=after(30))))
        results.append(await store.claim(intake("third", _rows(count, 1000), high=0)))
        results.append(await store.claim(intake("last", _rows(2, 2000), high=1)))
    finally:
        await store.close()
    db = sqlite3.connect(path)
    tables = {name: db.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in TABLES}
    db.close()
    return results, tables


@pytest.mark.parametrize("count", [1, 2, 4, 7, 65, 150])
def test_in_one_statement_as_in_one_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    together = asyncio.run(_written(tmp_path / "together.db", count))
    monkeypatch.setattr(several, "_SIZES", (1,))
    alone = asyncio.run(_written(tmp_path / "alone.db", count))
    assert together == alone
    results, tables = together
    fates = [fate for result in results for fate in result.fates]
    assert len({fate.row for fate in fates if fate.row}) == len(tables["delivery"])
    by_id = {found[0]: found for found in tables["delivery"]}
    for result, first in zip(results, (0, count // 2, 1000, 2000), strict=True):
        for fate in result.fates:
            if fate.row:  # the row that it names is its own: number and copy
                found = by_id[fate.row]
                assert (found[2], found[7]) == (fate.n, f"copy-{first + fate.n - 1}")


def test_only_an_insert_of_one_row_is_repeated() -> None:
    with pytest.raises(ValueError, match="one row"):
        several._several("UPDATE t SET a = ?", 2)
