"""A ledger of many people, written in bulk into a store that the relay made.

`sluis import` reads, checks and decides about each row: ten million would take most of a day.
Here the same rows are written by SQL, sorted, so that an index is filled from left to right; a
test holds both equal. Only the pages are fuller than those of a ledger that grew. People stand in
the tables in the order of hashes, so those of a block are spread over all of them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from policy.address import parse
from policy.events import fields_of
from policy.model import Box, OptIn
from proxy.imports import event_uid
from proxy.keys import Keys, load_keys
from proxy.store.codec import micros, to_json
from proxy.store.sql.tables import REVISION
from proxy.store.sqlite import make_sqlite

#: smtp-source counts from 1 in front of one name: a run reaches one block of people.
BLOCK = 20_000
DOMAIN = "people.example"
SENDER = "shop"
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVIDENCE = "form:v3"
#: Where ledgers of so many stay for the next run; `make clean` takes them away.
KEPT = Path(__file__).parents[2] / "build" / "bench"
_KEPT_FROM = 1_000_000
_ATTRIBUTES = {"country": "NL", "kind": "consumer"}


def person(block: int) -> str:
    """The address of a block's people, after their number."""
    return f"person{block or ''}@{DOMAIN}"


def stored(data: Path, people: int) -> None:
    """`fill`, where many are written once and then copied: ten million take minutes."""
    if people < _KEPT_FROM:
        fill(data, people)
        return
    made = sha256(Path(__file__).read_bytes() + REVISION.encode()).hexdigest()[:8]
    kept = KEPT / f"people-{people}-{made}"
    if not kept.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        for old in KEPT.glob(f"people-{people}-*"):
            shutil.rmtree(old)
        draft = kept.with_name(f"{kept.name}.{os.getpid()}")
        fill(draft, people)
        draft.rename(kept)
    data.mkdir(mode=0o700)
    for file in kept.iterdir():
        shutil.copy(file, data)


def fill(data: Path, people: int) -> Keys:
    """Make keys and store in the folder `data`, where each of `people` gave an opt-in."""
    data.mkdir(mode=0o700)
    keys = load_keys(data / "keys", create=True)
    path = data / "sluis.db"
    asyncio.run(make_sqlite(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for pragma in (
            "journal_mode = OFF",
            "synchronous = OFF",
            "cache_size = -262144",
            "temp_store = FILE",
        ):
            db.execute(f"PRAGMA {pragma}").fetchall()
        db.execute("INSERT INTO meta (key, value) VALUES ('keys', ?)", (keys.fingerprint,))
        _insert(db, keys, people)
    return keys


def _insert(db: sqlite3.Connection, keys: Keys, people: int) -> None:
    indexes = db.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'event'"
        " AND sql IS NOT NULL"
    ).fetchall()
    db.execute("ATTACH '' AS staging")
    db.execute("CREATE TABLE staging.person (address TEXT, exact TEXT, uid TEXT)")
    db.execute("BEGIN")
    for name, _ in indexes:
        db.execute(f"DROP INDEX {name}")
    db.executemany("INSERT INTO staging.person VALUES (?, ?, ?)", _people(keys, people))
    at = micros(AT)
    detail = to_json(fields_of(OptIn(box=Box.UNTICKED, source="import")))
    db.execute(
        "INSERT INTO event (uid, sender, exact, wide, type, at, recorded_at, evidence, fields)"
        " SELECT uid, ?, exact, exact, 'opt-in', ?, ?, ?, ? FROM staging.person ORDER BY uid",
        (SENDER, at, at, EVIDENCE, detail),
    )
    for _, sql in indexes:
        db.execute(sql)
    db.execute("INSERT INTO address SELECT exact, address FROM staging.person ORDER BY exact")
    attributes = to_json({name: [value, at] for name, value in _ATTRIBUTES.items()})
    db.execute(
        "INSERT INTO recipient SELECT exact, ?, ? FROM staging.person ORDER BY exact",
        (SENDER, attributes),
    )
    db.execute("COMMIT")


def _people(keys: Keys, people: int) -> Iterator[tuple[str, str, str]]:
    pseudonym = keys.pseudonym
    end = f"\0opt-in\0{AT.isoformat()}\0{EVIDENCE}"
    for block in range(-(-people // BLOCK)):
        name = person(block)
        first = parse(f"1{name}")
        # The relay's own parser and identity, once a block: for each they would take minutes.
        assert first.wide == first.exact == f"1{name}"
        for n in range(1, min(BLOCK, people - block * BLOCK) + 1):
            address = f"{n}{name}"
            uid = sha256(f"{SENDER}\0{address}{end}".encode()).hexdigest()[:32]
            assert n > 1 or uid == event_uid(SENDER, address, "opt-in", AT, EVIDENCE)
            yield address, pseudonym(address), uid
