"""People written in bulk are those that `sluis import` writes; and what verify lets through."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bench.race import people, verify
from bench.race.process import BenchError
from bench.race.sluis import CONFIG
from policy.address import parse
from proxy.cli.importing import run
from proxy.keys import load_keys

COUNT = 300
TABLES = {
    "event": "uid, sender, exact, wide, type, at, evidence, fields",
    "address": "exact, address",
    "recipient": "exact, sender, attributes",
    "meta": "key, value",
}


def rows(data: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(data / "sluis.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = {
            table: sorted(db.execute(f"SELECT {columns} FROM {table}"))
            for table, columns in TABLES.items()
        }
        # The order of the columns is kept by position: nothing was left out or mixed up.
        found["sqlite_master"] = sorted(
            db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql <> ''")
        )
    return found


def test_bulk_and_import_write_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The second block is a partial one.
    monkeypatch.setattr(people, "BLOCK", COUNT // 2 + 50)
    bulk = tmp_path / "bulk" / "data"
    bulk.parent.mkdir()
    keys = people.fill(bulk, COUNT)
    imported = tmp_path / "data"
    imported.mkdir(mode=0o700)
    (imported / "keys").write_bytes((bulk / "keys").read_bytes())
    (imported / "keys").chmod(0o600)
    config = tmp_path / "sluis.toml"
    config.write_text(
        CONFIG.format(folder=tmp_path, port=0, public=0, admin=0, upstream=25, more="")
    )
    file = tmp_path / "consents.csv"
    names = [f"{n}{people.person(0)}" for n in range(1, 201)]
    names += [f"{n}{people.person(1)}" for n in range(1, 101)]
    file.write_text(
        "sender,address,type,at,evidence,country,kind,box\n"
        + "".join(
            f"shop,{name},opt-in,2026-03-01T12:00:00Z,form:v3,NL,consumer,unticked\n"
            for name in names
        )
    )
    nothing = {"columns": (), "preset": (), "timezone": None, "dry_run": False, "json": False}
    assert run(file, config=config, sender=None, **nothing) == 0  # type: ignore[arg-type]
    assert rows(bulk) == rows(imported)
    assert load_keys(bulk / "keys", create=False).fingerprint == keys.fingerprint


def test_a_run_reaches_people_all_over_the_table(tmp_path: Path) -> None:
    keys = people.fill(tmp_path / "data", 2 * people.BLOCK)
    exacts = [keys.subject("shop", parse(f"{n}{people.person(1)}")).exact for n in range(1, 101)]
    with closing(sqlite3.connect(tmp_path / "data" / "sluis.db")) as db:
        marks = ", ".join("?" * len(exacts))
        ids = sorted(
            id_ for (id_,) in db.execute(f"SELECT id FROM event WHERE exact IN ({marks})", exacts)
        )
    tenths = {id_ * 10 // (2 * people.BLOCK + 1) for id_ in ids}
    assert len(ids) == len(exacts)
    assert tenths == set(range(10))


SENT = b"Subject: s\r\n\r\nbody\r\n"


def copy(link: str, body: str = "body\r\n") -> bytes:
    return f"List-Unsubscribe:\r\n <{link}>\r\nSubject: s\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("got", "complaint"),
    [
        ([copy("a")], "delivered 1 mails for 2"),
        ([copy("a"), copy("b", "other\r\n")], "changed the body"),
        ([copy("a"), SENT], "added no List-Unsubscribe"),
        ([copy("a"), b"List-Unsubscribe: <x>\r\n" + copy("b")], "or more than one"),
        ([copy("a"), copy("a")], "gave two copies the same link"),
    ],
    ids=["lost", "body", "none", "twice", "same-link"],
)
def test_what_is_delivered_is_compared(got: list[bytes], complaint: str) -> None:
    with pytest.raises(BenchError, match=re.escape(complaint)):
        verify.check(SENT, got, "sluis", 2, own_links=True)


def test_what_is_right_passes() -> None:
    verify.check(SENT, [copy("a"), copy("b")], "sluis", 2, own_links=True)
    verify.check(SENT, [copy("a"), copy("a")], "queue", 2, own_links=False)


def test_a_large_ledger_is_written_once_and_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(people, "_KEPT_FROM", 10)
    people.stored(tmp_path / "first", 10)
    monkeypatch.setattr(people, "fill", None)
    people.stored(tmp_path / "second", 10)
    assert rows(tmp_path / "first") == rows(tmp_path / "second")
    assert (tmp_path / "second" / "keys").stat().st_mode & 0o777 == 0o600
