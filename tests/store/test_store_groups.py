"""What a group writes together is what its operations write one after the other."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import contract_path  # noqa: F401
from hypothesis import example, given, settings
from hypothesis import strategies as st
from store_values import after, event, intake, person, row

from proxy.errors import StoreError
from proxy.store import own
from proxy.store.attempt import Record
from proxy.store.claim import Claim
from proxy.store.connection import configure
from proxy.store.group import Operation, commit
from proxy.store.lease import Holding, Owner
from proxy.store.ledger import Append
from proxy.store.model import Body, Intake, Outcome, Result, Room, State
from proxy.store.sql.tables import TABLES

OWNER = Owner("a", 1, timedelta(minutes=30), lambda: after(3600))
#: Each with the ids of its rows: those of outcomes follow the order in which they were written.
TABLES_WRITTEN = {
    "submission": "*", "delivery": "*", "decision": "*", "attempt": "*", "address": "*",
    "last_marketing": "*", "body": "*", "outcome": "delivery, attempt, result, reply, at, note",
}  # fmt: skip


def database() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    for table in TABLES:
        db.execute(table)
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA recursive_triggers = ON")
    assert own.new_epoch(db, instance="a", at=0) == 1
    return db


def written(db: sqlite3.Connection) -> dict[str, list[Any]]:
    return {
        table: sorted(db.execute(f"SELECT {columns} FROM {table}").fetchall(), key=repr)
        for table, columns in TABLES_WRITTEN.items()
    }


STATES = st.sampled_from([State.ATTEMPTING] * 4 + [State.BLOCKED, State.RETURNED, State.WAITING])
#: A mail's recipients: who, of which copy, and what was decided.
MAIL = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 2), STATES, st.booleans()),
    min_size=1, max_size=2, unique_by=lambda one: one[:2],
)  # fmt: skip
CLAIMS = st.lists(st.tuples(MAIL, st.booleans()), max_size=6)
RESULTS = st.lists(
    st.tuples(st.integers(1, 8), st.integers(1, 2), st.sampled_from(list(Result))), max_size=6
)


def claims(group: int, given_: Sequence[Any]) -> list[Intake]:
    made = []
    for number, (mail, capped) in enumerate(given_):
        rows = [
            replace(
                row(
                    f"{who}.{copy}", person(f"p{who}"), n=n, state=state, marketing=marketing,
                    room=(Room("", after(-9), 1),) if capped and state is State.ATTEMPTING else (),
                ),
                next_try=after(5) if state is State.WAITING else None,
            )
            for n, (who, copy, state, marketing) in enumerate(mail, 1)
        ]  # fmt: skip
        waits = any(r.state is State.WAITING for r in rows)
        at = after(group * 10 + number)
        one = intake(f"{group}-{number}", rows, at=at)
        made.append(replace(one, body=Body("e", b"mail") if waits else None))
    return made


def operations(group: int, given_: Sequence[Any], results: Sequence[Any]) -> list[Operation]:
    records = [
        Record(
            [Outcome(row=id_, attempt=no, result=result, reply=f"r{id_}", at=after(group * 10))],
            Holding(),
        )
        for id_, no, result in results
    ]
    return [*records, *(Claim(one, OWNER) for one in claims(group, given_))]


#: One who finds no room beside another of the same group; results of those who are owed; late ones.
TRIES = State.ATTEMPTING
CAPPED = [([(0, 0, TRIES, True)], False), ([(0, 1, TRIES, True)], True)]
OPEN = [([(0, n, TRIES, True)], False) for n in range(3)]
REFUSED = [(n, 1, Result.TEMPORARY) for n in (1, 2, 3)]
LATE = [(1, 1, Result.ACCEPTED), (2, 1, Result.PERMANENT)]


@settings(max_examples=150, deadline=None)
@example([(CAPPED, [])])
@example([(OPEN, []), ([], REFUSED), ([], LATE)])
@given(st.lists(st.tuples(CLAIMS, RESULTS), min_size=1, max_size=4))
def test_together_is_as_one_after_the_other(groups: list[Any]) -> None:
    with closing(database()) as one, closing(database()) as other:
        for number, (given_, results) in enumerate(groups):
            group = operations(number, given_, results)
            together, commits = commit(one, group)
            alone = [commit(other, [operation])[0][0] for operation in group]
            # Not by the way out, each on its own after a rollback.
            assert commits <= 1 or any(isinstance(r, StoreError) for r in alone)
            assert [repr(r) for r in together] == [repr(r) for r in alone]
            assert written(one) == written(other)
            for db in (one, other):  # as those who hear 250 before the upstream's reply
                db.execute("UPDATE delivery SET owed = 1 WHERE state = 'attempting' AND id % 2")


def test_a_newer_event_makes_only_its_peoples_claims_stale() -> None:
    with closing(database()) as db:
        group: list[Operation] = [
            Append([event("o", person("p0"))], ()),
            *(Claim(intake(f"r{n}", row(f"{n}.0", person(f"p{n}"))), OWNER) for n in range(3)),
        ]
        results, commits = commit(db, group)
        assert commits == 1
        assert [r.stale for r in results[1:]] == [True, False, False]


def test_a_group_of_claims_and_of_results_is_a_statement_a_table() -> None:
    with closing(database()) as db:
        said: list[str] = []
        db.set_trace_callback(said.append)
        made, _ = commit(
            db, [Claim(intake(f"r{n}", row(f"{n}.0", person(f"p{n}"))), OWNER) for n in range(8)]
        )
        first = [s for s in said if s.startswith(("INSERT", "SELECT"))]
        # Earlier copies, the epoch, the newest event; a delivery each, the rest together.
        assert len(first) == 3 + 8 + 4
        said.clear()
        outcomes = [
            Outcome(
                row=one.fates[0].row, attempt=1, result=Result.ACCEPTED, reply="250 Ok", at=after(2)
            )
            for one in made
        ]
        commit(db, [Record([outcome], Holding()) for outcome in outcomes])
        assert len([s for s in said if s.startswith("SELECT")]) == 1
        assert len([s for s in said if s.startswith("INSERT INTO outcome")]) == 1
        assert not [s for s in said if s.startswith("DELETE") or "copy_key" in s]


def test_a_connection_keeps_its_pages_in_memory(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as db:
        configure(db)
        assert db.execute("PRAGMA temp_store").fetchone() == (2,)
