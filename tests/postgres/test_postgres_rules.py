"""What a store on PostgreSQL must do, and what is not enough, by two sessions on a real server.

Each attempt reads the person's events, decides, and commits; each opt-out commits its event and is
then answered 200. No attempt may commit after an answered opt-out that it has not seen. SQLite has
this by its one write lock; here it rests on advisory locks (stripes) and the order of statements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from two_sessions import Server, Session, find_binaries, server

_TABLES = (
    "CREATE TABLE subject (key text PRIMARY KEY, version int NOT NULL DEFAULT 0)",
    "CREATE TABLE event (id bigserial PRIMARY KEY, key text NOT NULL)",
    "CREATE TABLE attempt (id bigserial PRIMARY KEY, key text NOT NULL)",
    "CREATE TABLE delivery (id bigserial PRIMARY KEY, copy_key text NOT NULL, state text NOT NULL)",
    "CREATE UNIQUE INDEX live ON delivery (copy_key) WHERE state IN ('attempting', 'waiting')",
    "INSERT INTO subject (key) VALUES ('anna'), ('bram')",
)
_SHARED = "SELECT pg_advisory_xact_lock_shared({})"
_ALONE = "SELECT pg_advisory_xact_lock({})"
_LOOKUP = "SELECT count(*) FROM event WHERE key = 'anna'"
_OPT_OUT = "INSERT INTO event (key) VALUES ('anna')"
_ATTEMPT = "INSERT INTO attempt (key) VALUES ('anna')"
_ON_LIVE = "ON CONFLICT (copy_key) WHERE state IN ('attempting', 'waiting') DO NOTHING"

#: Of anna's stripe, of bram's, and of events that concern a whole domain.
STRIPE, OTHER, EVERYBODY = 17, 41, 256


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    """A server of our own."""
    binaries = find_binaries()
    if binaries is None:
        pytest.fail("PostgreSQL is missing: `apt-get install postgresql` as root, then test again")
    with server(binaries) as made:
        yield made


@dataclass(frozen=True, slots=True)
class Scene:
    """Two sessions on empty tables: one attempts, one takes an opt-out."""

    server: Server
    attempt: Session
    optout: Session


@pytest.fixture
def scene(running: Server) -> Iterator[Scene]:
    running.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public;")
    for statement in _TABLES:
        assert running.run(f"{statement};") == []
    yield Scene(running, running.session(), running.session())
    running.forget()


def said_no(scene: Scene, *, before: str = "") -> None:
    """The opt-out commits: from here on it is answered."""
    assert scene.optout.run(f"{before}{_OPT_OUT}; COMMIT;") == []


# -- what is not enough ------------------------------------------------------------------------


def test_serializable_alone_lets_an_attempt_commit_after_the_answer(scene: Scene) -> None:
    """One edge between two transactions is no cycle, so nothing is refused."""
    assert scene.attempt.run(f"BEGIN ISOLATION LEVEL SERIALIZABLE; {_LOOKUP};") == ["0"]
    scene.optout.run("BEGIN ISOLATION LEVEL SERIALIZABLE;")
    said_no(scene)
    assert scene.attempt.run(f"{_ATTEMPT}; COMMIT;") == []
    assert scene.server.run("SELECT count(*) FROM attempt;") == ["1"], "sent after the 200"


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_lock_under_one_snapshot_reads_what_was_before_the_lock(
    scene: Scene, level: str
) -> None:
    scene.optout.run(f"BEGIN; {_ALONE.format(STRIPE)};")
    scene.attempt.send(f"BEGIN ISOLATION LEVEL {level}; {_SHARED.format(STRIPE)};")
    assert scene.server.waits(scene.attempt)
    said_no(scene)
    scene.attempt.result()
    assert scene.attempt.run(f"{_LOOKUP};") == ["0"], "the snapshot is older than the lock"
    assert scene.attempt.run(f"{_ATTEMPT}; COMMIT;") == []


def test_lock_and_read_in_one_statement_reads_what_was_before_the_lock(scene: Scene) -> None:
    scene.optout.run(f"BEGIN; {_ALONE.format(STRIPE)};")
    scene.attempt.send(f"BEGIN; {_SHARED.format(STRIPE)}, ({_LOOKUP});")
    assert scene.server.waits(scene.attempt)
    said_no(scene)
    assert scene.attempt.result() == ["|0"]


def test_a_lower_event_id_can_commit_later(scene: Scene) -> None:
    """So the highest id of a lookup says nothing about what came after it."""
    first = scene.optout.run(f"BEGIN; {_OPT_OUT} RETURNING id;")
    second = scene.attempt.run("INSERT INTO event (key) VALUES ('bram') RETURNING id;")
    high = scene.attempt.run("SELECT max(id) FROM event;")
    assert high == second
    assert scene.optout.run("COMMIT;") == []
    newer = scene.attempt.run(f"SELECT count(*) FROM event WHERE key = 'anna' AND id > {high[0]};")
    assert newer == ["0"], "the opt-out came after the lookup and is not above its highest id"
    assert int(first[0]) < int(high[0])


# -- what is right -----------------------------------------------------------------------------


def test_a_lock_in_an_earlier_statement_then_the_read_sees_the_opt_out(scene: Scene) -> None:
    scene.optout.run(f"BEGIN; {_ALONE.format(STRIPE)};")
    scene.attempt.send(f"BEGIN ISOLATION LEVEL READ COMMITTED; {_SHARED.format(STRIPE)};")
    assert scene.server.waits(scene.attempt)
    said_no(scene)
    scene.attempt.result()
    assert scene.attempt.run(f"{_LOOKUP};") == ["1"]
    assert scene.attempt.run("ROLLBACK;") == []


@pytest.mark.parametrize("begin", ["BEGIN\\; ", ""], ids=["explicit", "implicit"])
def test_lock_then_read_in_one_simple_query_sees_the_opt_out(scene: Scene, begin: str) -> None:
    """One round trip: each statement of the string has its own snapshot."""
    scene.optout.run(f"BEGIN; {_ALONE.format(STRIPE)};")
    scene.attempt.send(f"{begin}{_SHARED.format(STRIPE)}\\; {_LOOKUP};")
    assert scene.server.waits(scene.attempt)
    said_no(scene)
    assert scene.attempt.result()[-1] == "1"


def test_an_opt_out_is_not_answered_while_an_attempt_holds_its_stripe(scene: Scene) -> None:
    scene.attempt.run(f"BEGIN; {_SHARED.format(STRIPE)};")
    assert scene.attempt.run(f"{_LOOKUP};") == ["0"]
    scene.optout.send(f"BEGIN; {_ALONE.format(STRIPE)}; {_OPT_OUT}; COMMIT;")
    assert scene.server.waits(scene.optout)
    assert scene.attempt.run(f"{_ATTEMPT}; COMMIT;") == []
    scene.optout.result()
    assert scene.server.run("SELECT count(*) FROM event;") == ["1"], "after the attempt, as told"


def test_attempts_do_not_wait_for_each_other(scene: Scene) -> None:
    other = scene.server.session()
    for session in (scene.attempt, other):
        session.run(f"BEGIN; {_SHARED.format(STRIPE)}; {_SHARED.format(EVERYBODY)};")
        assert session.run(f"{_LOOKUP};") == ["0"]


def test_an_event_about_a_whole_domain_waits_for_every_attempt(scene: Scene) -> None:
    scene.attempt.run(f"BEGIN; {_SHARED.format(STRIPE)}; {_SHARED.format(EVERYBODY)};")
    scene.optout.send(f"BEGIN; {_ALONE.format(EVERYBODY)}; {_OPT_OUT}; COMMIT;")
    assert scene.server.waits(scene.optout)
    assert scene.attempt.run("COMMIT;") == []
    scene.optout.result()


_CLAIM = (
    "BEGIN\\; {lock}\\; INSERT INTO attempt (key) SELECT key FROM subject"
    " WHERE key = 'anna' AND version = {version} RETURNING 'claimed'\\; COMMIT;"
)


def test_a_version_that_every_blocking_event_raises_allows_one_round_trip(scene: Scene) -> None:
    """Decided on an earlier lookup: the claim inserts only where nothing blocking came since."""
    [version] = scene.attempt.run("SELECT version FROM subject WHERE key = 'anna';")
    claim = _CLAIM.format(lock=_SHARED.format(STRIPE), version=version)
    assert scene.attempt.run(claim) == ["claimed"]
    raised = "UPDATE subject SET version = version + 1 WHERE key = 'anna'; "
    scene.optout.run(f"BEGIN; {_ALONE.format(STRIPE)};")
    scene.attempt.send(claim)
    assert scene.server.waits(scene.attempt)
    said_no(scene, before=raised)
    assert scene.attempt.result() == [], "decide again"
    assert scene.server.run("SELECT count(*) FROM attempt;") == ["1"]


def test_of_two_claims_of_one_copy_the_loser_reads_the_winners_row(scene: Scene) -> None:
    winner, loser = scene.attempt, scene.optout
    insert = f"INSERT INTO delivery (copy_key, state) VALUES ('k', 'attempting') {_ON_LIVE}"
    [won] = winner.run(f"BEGIN; {insert} RETURNING id;")
    loser.send(f"BEGIN; {insert} RETURNING id;")
    assert scene.server.waits(loser)
    assert winner.run("COMMIT;") == []
    assert loser.result() == []
    found = loser.run("SELECT id, state FROM delivery WHERE copy_key = 'k';")
    assert found == [f"{won}|attempting"]


def test_the_winners_row_is_read_by_a_statement_of_its_own(scene: Scene) -> None:
    """In one statement the snapshot is older than the winner: neither inserted nor found."""
    winner, loser = scene.attempt, scene.optout
    insert = f"INSERT INTO delivery (copy_key, state) VALUES ('k', 'attempting') {_ON_LIVE}"
    winner.run(f"BEGIN; {insert};")
    loser.send(
        f"BEGIN; WITH mine AS ({insert} RETURNING id) SELECT id FROM mine"
        " UNION ALL SELECT id FROM delivery WHERE copy_key = 'k';"
    )
    assert scene.server.waits(loser)
    assert winner.run("COMMIT;") == []
    assert loser.result() == []


def test_a_claim_that_is_rolled_back_leaves_the_copy_to_the_next(scene: Scene) -> None:
    insert = f"INSERT INTO delivery (copy_key, state) VALUES ('k', 'attempting') {_ON_LIVE}"
    scene.attempt.run(f"BEGIN; {insert};")
    scene.optout.send(f"{insert} RETURNING 'claimed';")
    assert scene.server.waits(scene.optout)
    assert scene.attempt.run("ROLLBACK;") == []
    assert scene.optout.result() == ["claimed"]


def test_an_ended_copy_may_be_claimed_again(scene: Scene) -> None:
    """The index holds live rows only; what ended is answered by the dedupe, not by it."""
    scene.server.run("INSERT INTO delivery (copy_key, state) VALUES ('k', 'unknown');")
    insert = f"INSERT INTO delivery (copy_key, state) VALUES ('k', 'attempting') {_ON_LIVE}"
    assert scene.attempt.run(f"{insert} RETURNING 'claimed';") == ["claimed"]


_PICK = "SELECT id FROM delivery WHERE state = 'waiting' ORDER BY id"


def test_two_workers_take_different_rows_and_wait_for_none(scene: Scene) -> None:
    scene.server.run("INSERT INTO delivery (copy_key, state) VALUES ('a', 'waiting');")
    scene.server.run("INSERT INTO delivery (copy_key, state) VALUES ('b', 'waiting');")
    first = scene.attempt.run(f"BEGIN; {_PICK} LIMIT 1 FOR UPDATE SKIP LOCKED;")
    second = scene.optout.run(f"BEGIN; {_PICK} LIMIT 1 FOR UPDATE SKIP LOCKED;")
    assert (first, second) == (["1"], ["2"])


def test_a_candidate_that_moved_on_is_not_claimed(scene: Scene) -> None:
    """Candidates come from a plain read, so their state is tested again under the row's lock."""
    scene.server.run("INSERT INTO delivery (copy_key, state) VALUES ('a', 'waiting');")
    [candidate] = scene.optout.run(f"{_PICK};")
    assert scene.attempt.run("UPDATE delivery SET state = 'attempting' WHERE id = 1;") == []
    by_id = f"SELECT id FROM delivery WHERE id IN ({candidate})"
    assert scene.optout.run(f"{by_id} AND state = 'waiting' FOR UPDATE SKIP LOCKED;") == []
    assert scene.optout.run(f"{by_id} FOR UPDATE SKIP LOCKED;") == [candidate], "and without: taken"


def test_a_late_result_of_a_fenced_owner_changes_nothing(scene: Scene) -> None:
    """`WHERE attempt = mine AND state = attempting`, here by the row's state."""
    scene.server.run("INSERT INTO delivery (copy_key, state) VALUES ('a', 'relayed');")
    late = "UPDATE delivery SET state = 'failed' WHERE id = 1 AND state = 'attempting'"
    assert scene.attempt.run(f"{late} RETURNING id;") == []
    assert scene.server.run("SELECT state FROM delivery;") == ["relayed"]


@pytest.mark.parametrize("ascending", [False, True])
def test_stripes_are_taken_in_ascending_order(scene: Scene, ascending: bool) -> None:
    """Two imports that need the same two stripes: in two orders one of them fails."""
    one, two = scene.attempt, scene.optout
    order = (STRIPE, OTHER) if ascending else (OTHER, STRIPE)
    one.run(f"BEGIN; {_ALONE.format(STRIPE)};")
    two.send(f"BEGIN; {_ALONE.format(order[0])};")
    if ascending:
        assert scene.server.waits(two)
    else:
        two.result()
        two.send(f"{_ALONE.format(order[1])};")
        assert scene.server.waits(two)
    one.send(f"{_ALONE.format(OTHER)};")
    if ascending:
        said = one.result()
        one.run("COMMIT;")
        said += [*two.result(), *two.run(f"{_ALONE.format(order[1])}; COMMIT;")]
    else:
        freed = scene.server.freed(one, two)
        said = freed.result()
        freed.run("ROLLBACK;")
        other = two if freed is one else one
        said += other.result()
    assert any("deadlock detected" in line for line in said) != ascending


def test_a_cycle_behind_waiting_opt_outs_costs_the_servers_patience(scene: Scene) -> None:
    """Two attempts share stripes in two orders, an opt-out waits at each: no error, but nobody
    moves until `deadlock_timeout` lets one attempt pass the opt-out before it."""
    first, second = scene.attempt, scene.server.session()
    no_one, no_two = scene.optout, scene.server.session()
    first.run(f"BEGIN; {_SHARED.format(STRIPE)};")
    second.run(f"BEGIN; {_SHARED.format(OTHER)};")
    for session, stripe in ((no_one, STRIPE), (no_two, OTHER)):
        session.send(f"BEGIN; {_ALONE.format(stripe)}; COMMIT;")
        assert scene.server.waits(session)
    first.send(f"{_SHARED.format(OTHER)};")
    second.send(f"{_SHARED.format(STRIPE)};")
    freed = scene.server.freed(first, second)
    other = second if freed is first else first
    assert not any("ERROR" in line for line in freed.result())
    freed.run("COMMIT;")
    assert not any("ERROR" in line for line in other.result())
    other.run("COMMIT;")
    for session in (no_one, no_two):
        assert not any("ERROR" in line for line in session.result())
