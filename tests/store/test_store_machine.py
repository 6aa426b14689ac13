"""The ledger and the journal against small models: any order of calls, reopened at any moment."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import contract_path  # noqa: F401
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_values import ANNA, WINDOW, after, event, intake, only, outcome, person, row

from policy.model import Bounce, Contact, Objection, OptIn, Scope, Via
from proxy.store.model import Fate, NewEvent, Result, RowFate, State, Subject
from proxy.store.sqlite import SqliteStore, open_sqlite

T = TypeVar("T")


class Machine(RuleBasedStateMachine):
    """One store on a file of its own, driven from outside its loop."""

    template: bytes | None = None
    store: SqliteStore

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "store.db"

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def open(self) -> None:
        self.store = self.do(open_sqlite(self.path, instance="a", owner=True, create=True))

    @initialize()
    def begin(self) -> None:
        if Machine.template is not None:
            self.path.write_bytes(Machine.template)
        self.open()
        if Machine.template is None:
            self.do(self.store.close())
            Machine.template = self.path.read_bytes()
            self.open()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.do(self.store.close())
        self.runner.close()
        self.directory.cleanup()


PEOPLE = [
    person(name, sender=sender, tag=tag)
    for name in ("anna", "bram")
    for sender in ("acme", "other")
    for tag in ("", "x")
]
DETAILS = st.sampled_from(
    [
        OptIn(topics=("news",)),
        Objection(via=Via.PAGE),
        Objection(via=Via.ONE_CLICK),
        Objection(scope=Scope.TOPIC, topics=("news",)),
        Contact(),
        Bounce(),
    ]
)
NEW = st.builds(
    lambda uid, who, detail, second, once: event(
        f"u{uid}", who, detail, at=after(second), unless_in_force=once
    ),
    st.integers(0, 30),
    st.sampled_from(PEOPLE),
    DETAILS,
    st.integers(0, 5),
    st.booleans(),
)


@dataclass
class Ledger:
    """The ledger as a list."""

    events: list[NewEvent] = field(default_factory=list)

    def add(self, new: NewEvent) -> bool:
        if new.unless_in_force and isinstance(new.detail, Objection) and self._in_force(new):
            return False
        if any(e.uid == new.uid for e in self.events):
            return False
        self.events.append(new)
        return True

    def _in_force(self, new: NewEvent) -> bool:
        assert isinstance(new.detail, Objection)
        for i, old in enumerate(self.events):
            if (
                isinstance(old.detail, Objection)
                and old.subject == new.subject
                and (old.detail.scope, old.detail.topics) == (new.detail.scope, new.detail.topics)
                and not any(
                    isinstance(e.detail, OptIn)
                    and (e.subject.sender, e.subject.wide) == (old.subject.sender, old.subject.wide)
                    and (j > i or e.at > old.at)
                    for j, e in enumerate(self.events)
                )
            ):
                return True
        return False

    def seen_by(self, who: Subject) -> list[tuple[str, datetime, str, object, bool]]:
        return [
            (e.uid, e.at, e.subject.sender, e.detail, e.subject.exact == who.exact)
            for e in self.events
            if e.subject.wide == who.wide
        ]


class LedgerMachine(Machine):
    """Order, idempotency, `unless_in_force`, staleness, and reopening."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.high = 0
        self.length = 0
        self.mails = 0

    @rule(new=st.lists(NEW, min_size=1, max_size=4))
    def append(self, new: list[NewEvent]) -> None:
        assert self.do(self.store.append(new)) == [self.ledger.add(e) for e in new]

    @rule(new=st.lists(NEW, min_size=2, max_size=4))
    def append_at_once(self, new: list[NewEvent]) -> None:
        async def both() -> list[list[bool]]:
            return await asyncio.gather(*(self.store.append([e]) for e in new))

        assert self.do(both()) == [[self.ledger.add(e)] for e in new]

    @rule()
    def look(self) -> None:
        self.high = self.do(self.store.lookup([])).high
        self.length = len(self.ledger.events)

    @rule(who=st.sampled_from(PEOPLE))
    def claim(self, who: Subject) -> None:
        self.mails += 1
        mail = intake(f"r{self.mails}", row(f"k{self.mails}", who), high=self.high)
        newer = self.ledger.events[self.length :]
        touched = any(e.subject.wide == who.wide for e in newer)
        assert self.do(self.store.claim(mail)).stale is touched

    @rule()
    def reopen(self) -> None:
        self.do(self.store.close())
        self.open()

    @invariant()
    def equal(self) -> None:
        if not hasattr(self, "store"):
            return
        snapshot = self.do(self.store.lookup(PEOPLE))
        for who in PEOPLE:
            found = [(e.uid, e.at, e.sender, e.detail, e.exact) for e in snapshot.known[who].events]
            assert found == self.ledger.seen_by(who)


@dataclass
class Row:
    """A row of the journal as the model knows it."""

    copy_key: str
    fate: RowFate
    state: State = State.ATTEMPTING
    at: int = 0
    maybe_sent: bool = False


class JournalMachine(Machine):
    """The dedupe table, the ends of rows, late results, and recovery."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self.maybe_sent: set[str] = set()
        self.clock = 0
        self.refs = 0

    def live(self, copy_key: str) -> Row | None:
        return next(
            (r for r in self.rows if (r.copy_key, r.state) == (copy_key, State.ATTEMPTING)), None
        )

    @rule(
        copy_key=st.sampled_from(["k1", "k2", "k3"]),
        state=st.sampled_from([State.ATTEMPTING, State.BLOCKED, State.RETURNED]),
        days=st.sampled_from([0, 0, 1, 6]),
    )
    def claim(self, copy_key: str, state: State, days: int) -> None:
        self.clock += days * 86400
        self.refs += 1
        mail = intake(f"r{self.refs}", row(copy_key, state=state), at=after(self.clock))
        fate = only(self.do(self.store.claim(mail)))
        relayed = [
            r
            for r in self.rows
            if (r.copy_key, r.state) == (copy_key, State.RELAYED)
            and self.clock - r.at <= WINDOW.total_seconds()
        ]
        live = self.live(copy_key)
        if relayed:
            assert (fate.fate, fate.ref) == (Fate.ANSWERED, relayed[0].fate.ref)
        elif live is not None:
            assert (fate.fate, fate.row) == (Fate.IN_FLIGHT, live.fate.row)
        elif state is not State.ATTEMPTING:
            assert fate.fate is Fate.RECORDED
        else:
            assert fate.fate is Fate.CLAIMED
            assert fate.ambiguous_retry is (copy_key in self.maybe_sent)
            maybe = copy_key in self.maybe_sent
            self.rows.append(Row(copy_key, fate, at=self.clock, maybe_sent=maybe))

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), result=st.sampled_from(list(Result)), later=st.booleans())
    def record(self, data: st.DataObject, result: Result, later: bool) -> None:
        done = data.draw(st.sampled_from(self.rows))
        end = outcome(done.fate, result, at=after(self.clock))

        async def hand_in() -> None:
            if later:
                self.store.record_later([end])
                await self.store.ping()
            else:
                await self.store.record([end])

        self.do(hand_in())
        if done.state is State.ATTEMPTING:
            done.state = {
                Result.ACCEPTED: State.RELAYED,
                Result.PERMANENT: State.FAILED,
                Result.UNKNOWN: State.UNKNOWN,
            }.get(result, State.RETURNED)
            if result is Result.UNKNOWN:
                self.maybe_sent.add(done.copy_key)
                done.maybe_sent = True
        elif result is Result.ACCEPTED and done.state in (State.UNKNOWN, State.RETURNED):
            done.state = State.RELAYED

    @rule()
    def restart(self) -> None:
        self.do(self.store.close())
        self.open()
        open_rows = [r for r in self.rows if r.state is State.ATTEMPTING]
        assert self.do(self.store.recover()) == len(open_rows)
        for lost in open_rows:
            lost.state = State.UNKNOWN
            lost.maybe_sent = True
            self.maybe_sent.add(lost.copy_key)

    def counted(self) -> list[tuple[int, str, bool]]:
        """The mails that Anna had: each relayed one, and the last open try of each copy."""
        relayed = [(r.at, r.copy_key, True) for r in self.rows if r.state is State.RELAYED]
        tries: dict[str, int] = {}
        for r in self.rows:
            if r.state is State.ATTEMPTING or (r.maybe_sent and r.state is not State.RELAYED):
                tries[r.copy_key] = max(r.at, tries.get(r.copy_key, 0))
        open_ = [
            (at, copy_key, False)
            for copy_key, at in tries.items()
            if not any(c == copy_key and later >= at for later, c, _ in relayed)
        ]
        return sorted(relayed + open_)

    @invariant()
    def equal(self) -> None:
        if not hasattr(self, "store"):
            return
        states = {e.ref: e.state for e in self.do(self.store.journal(exact=ANNA.exact))}
        assert [states[r.fate.ref] for r in self.rows] == [r.state for r in self.rows]
        snapshot = self.do(self.store.lookup([ANNA], mails_since=after(-1)))
        mails = snapshot.known[ANNA].mails
        assert sorted((m.at, m.copy_key, m.relayed) for m in mails) == [
            (after(at), copy_key, relayed) for at, copy_key, relayed in self.counted()
        ]


_SETTINGS = settings(max_examples=12, stateful_step_count=25, deadline=None)
TestLedger = LedgerMachine.TestCase
TestLedger.settings = _SETTINGS
TestJournal = JournalMachine.TestCase
TestJournal.settings = _SETTINGS
