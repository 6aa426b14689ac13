"""Opt-outs committed together: the same ledger as one after the other, in few statements."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import contract_path  # noqa: F401
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from store_values import after, event, high, intake, opt_in, person, row

from policy.model import Complaint, Detail, Objection, Scope, Via
from proxy.store import connection, ledger
from proxy.store.group import Operation, commit
from proxy.store.model import NewEvent
from proxy.store.sqlite import open_sqlite

WHO = [person("anna"), person("anna", tag="list"), person("bram"), person("bram", sender="globex")]
SAID: list[Detail] = [
    Objection(via=Via.ONE_CLICK),
    Objection(via=Via.PAGE),
    Objection(scope=Scope.STREAM, stream="sales", via=Via.ONE_CLICK),
    Complaint(),
]

clicks = st.builds(
    lambda uid, who, said, ref, evidence, at: replace(
        event(uid, who, said, at=after(at), evidence=evidence, unless_in_force=True), forward=ref
    ),
    st.sampled_from([f"u{n}" for n in range(12)]),
    st.sampled_from(WHO),
    st.sampled_from(SAID),
    st.sampled_from(["", "REF.1", "REF.2", "OLD.1", "NONE.1", "REF", "REF.x"]),
    st.sampled_from(["token:REF.1", "", "a\x00b", "\\u0000", '"é\u20ac'] * 3),
    st.integers(0, 9),
)
others = st.builds(
    lambda uid, who, at: opt_in(f"in{uid}", who, at=after(at)),
    st.integers(0, 5),
    st.sampled_from(WHO),
    st.integers(0, 9),
)
appends = st.one_of(
    clicks.map(lambda one: [one]),
    clicks.map(lambda one: [one]),
    others.map(lambda one: [one]),
    clicks.map(lambda one: [replace(one, address="anna@example.nl")]),
    st.lists(st.one_of(clicks, others), min_size=2, max_size=3),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two mails whose opt-outs can be passed on, and one where it cannot."""
    path = tmp_path_factory.mktemp("clicks") / "store.db"

    async def write() -> None:
        store = await open_sqlite(path, instance="a", owner=True, create=True)
        for ref, by in (("REF", "post"), ("REF", "mail"), ("OLD", "")):
            rows = [row(f"{ref}{by}-{n}", who, n=n) for n, who in enumerate(WHO[:3], 1)]
            made = intake(ref, rows, high=await high(store))
            told = replace(made.submission, forward="https://esp.example/u", forward_by=by)
            assert not (await store.claim(replace(made, submission=told))).stale
        await store.close()

    asyncio.run(write())
    return path


@contextmanager
def opened(template: Path) -> Iterator[sqlite3.Connection]:
    """A copy of that store."""
    with TemporaryDirectory() as folder:
        path = shutil.copy(template, Path(folder) / "store.db")
        db = sqlite3.connect(path, isolation_level=None)
        connection.configure(db)
        try:
            yield db
        finally:
            db.close()


def contents(db: sqlite3.Connection) -> dict[str, object]:
    """All that an opt-out writes; ids only as an order, which of strangers may be any."""

    def by_uid(table: str) -> dict[str, object]:
        rows = db.execute(f"SELECT * FROM {table} ORDER BY id")
        names = [column[0] for column in rows.description]
        found = [dict(zip(names, values, strict=True)) for values in rows]
        return {entry["uid"]: {k: v for k, v in entry.items() if k != "id"} for entry in found}

    order = defaultdict(list)
    for uid, wide in db.execute("SELECT uid, wide FROM event ORDER BY id"):
        order[wide].append(uid)
    apart = "SELECT count(*) FROM suppression s JOIN event e ON e.id = s.id WHERE e.uid <> s.uid"
    return {
        "events": by_uid("event"),
        "suppressions": by_uid("suppression"),
        "order": dict(order),
        "apart": db.execute(apart).fetchone(),
        "forwards": db.execute(
            "SELECT submission, copy, asked_at, state, next_try FROM forward ORDER BY 1, 2"
        ).fetchall(),
    }


def together(
    db: sqlite3.Connection, groups: Sequence[Sequence[Sequence[NewEvent]]]
) -> list[object]:
    results: list[object] = []
    for group in groups:
        operations: list[Operation] = [ledger.Append(events, ()) for events in group]
        results += commit(db, operations)[0]
    return results


def click(n: int, who: int | None = None, **more: str) -> NewEvent:
    subject = person(f"p{n}") if who is None else WHO[who]
    return replace(event(f"u{n}", subject, unless_in_force=True), **more)  # type: ignore[arg-type]


@given(groups=st.lists(st.lists(appends, max_size=8), max_size=3))
@example(groups=[[[click(1, 0)], [click(2, 0)], [click(3, 2)], [click(3, 1)]]])
@example(
    groups=[[[click(1, 0)], [click(2, 2)]], [[opt_in("i", WHO[0])], [click(3, 0)], [click(4, 1)]]]
)
@example(groups=[[[click(1, 0)], [click(2, 0)], [click(3, 1)]]])
@example(groups=[[[click(1, 0, forward="REF.1")], [click(2, 2, forward="REF.3")]]])
@example(groups=[[[click(1, 0, evidence="a\x00b")], [click(2, 2)]]])
def test_a_group_does_what_its_appends_do_one_by_one(
    written: Path, groups: list[list[list[NewEvent]]]
) -> None:
    with opened(written) as joint, opened(written) as single:
        alone = [[[events]] for group in groups for events in group]
        got = together(joint, groups)
        want = [result for each in alone for result in together(single, each)]
        assert got == want
        assert contents(joint) == contents(single)


def test_many_clicks_take_few_statements(written: Path) -> None:
    with opened(written) as db:
        statements: list[str] = []
        db.set_trace_callback(statements.append)
        group = [[click(n, evidence=f"token:NONE.{n}", forward=f"NONE.{n}")] for n in range(100)]
        assert together(db, [group]) == [[True]] * 100
        assert len(statements) == 5  # BEGIN, what is known, events, suppressions, COMMIT
        assert len(contents(db)["suppressions"]) == 100  # type: ignore[arg-type]


def test_a_click_that_cannot_be_written_hurts_only_itself(written: Path) -> None:
    bad = click(7, evidence="\ud800")  # no UTF-8: what no program of ours makes
    with opened(written) as db:
        first, second, third = together(db, [[[click(1)], [bad], [click(2)]]])
        assert (first, third) == ([True], [True])
        assert isinstance(second, Exception)
        assert set(contents(db)["events"]) == {"u1", "u2"}  # type: ignore[call-overload]
