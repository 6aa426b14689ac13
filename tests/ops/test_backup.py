"""The runbook's backup and restore, done for real: what was refused before is refused after."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.acme import ACME, NEWSLETTER, relay_toml

ROOT = Path(__file__).resolve().parents[2]
SLUIS = Path(sys.executable).with_name("sluis")
RUNBOOK = (ROOT / "docs/operations.md").read_text()

LEDGER = """\
sender,address,type,at,evidence,country,kind,box,topics
acme,anna@example.nl,opt-in,2026-03-01T12:00:00Z,form:signup-v3,NL,consumer,unticked,newsletter
acme,cees@example.nl,opt-in,2026-03-01T12:00:00Z,form:signup-v3,NL,consumer,unticked,newsletter
acme,cees@example.nl,objection,2026-06-01T08:00:00Z,ticket:77,NL,consumer,,
"""


class Site:
    """One data directory with its configuration."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.config = folder / "sluis.toml"
        folder.mkdir()
        base = relay_toml(self.data, listener="127.0.0.1:0", upstream="127.0.0.1:1", serves=True)
        self.config.write_text(base + ACME + NEWSLETTER)

    def sluis(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [SLUIS, *arguments, "--config", self.config]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def verdict(self, address: str) -> str:
        done = self.sluis("explain", address, "--stream", "newsletter", "--json")
        assert done.returncode in (0, 1), done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return f"{answer['verdict']} {answer['reason']}"

    @contextmanager
    def serving(self) -> Iterator[None]:
        command: list[str | Path] = [SLUIS, "serve", "--config", self.config]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            try:
                assert any('"server.started"' in line for line in process.stderr)
                yield
            finally:
                process.terminate()
                process.stderr.read()
            assert process.wait(60) == 0

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.data / "sluis.db")) as db:
            return db.execute(f"SELECT * FROM {table}").fetchall()


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Site]:
    """A site that was backed up while it served, and the one restored from that."""
    top = tmp_path_factory.mktemp("backup")
    site = Site(top / "old")
    ledger = top / "ledger.csv"
    ledger.write_text(LEDGER)
    snapshot = top / "snapshot.db"
    with site.serving():
        assert site.sluis("import", ledger).returncode == 0
        (sql,) = set(re.findall(r"(VACUUM INTO) '", RUNBOOK))
        with closing(sqlite3.connect(site.data / "sluis.db")) as db:
            db.execute(f"{sql} '{snapshot}'")

    restored = Site(top / "new")
    restored.data.mkdir(mode=0o700)
    shutil.copy(snapshot, restored.data / "sluis.db")
    shutil.copy(site.data / "keys", restored.data / "keys")
    return site, restored


def test_files_of_the_runbook_are_all_that_matters(sites: tuple[Site, Site]) -> None:
    names = {path.name for path in sites[0].data.iterdir()}
    for name in names & {"sluis.db", "keys", "instance", "suppressions"}:
        assert f"`{name}`" in RUNBOOK.partition("## Backup")[2].partition("## Restore")[0], name
    assert names <= {"sluis.db", "sluis.db-wal", "sluis.db-shm", "keys", "instance", "lock"} | {
        "suppressions"
    }


def test_restored_ledger_gives_the_same_answers(sites: tuple[Site, Site]) -> None:
    for site in sites:
        assert site.verdict("anna@example.nl") == "allow consent"
        assert site.verdict("cees@example.nl") == "block suppressed"
        assert site.verdict("dora@example.nl") == "block no-basis"


def test_snapshot_keeps_every_row_with_its_number(sites: tuple[Site, Site]) -> None:
    """Ids are in commit order, and commits are validated against them."""
    site, restored = sites
    with closing(sqlite3.connect(site.data / "sluis.db")) as db:
        tables = [
            name
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if not name.startswith("sqlite_")
        ]
    assert tables
    for table in tables:
        if table != "instance":
            assert sorted(map(repr, restored.rows(table))) == sorted(map(repr, site.rows(table)))


def test_restored_site_serves(sites: tuple[Site, Site]) -> None:
    with sites[1].serving():
        assert sites[1].verdict("cees@example.nl") == "block suppressed"


def test_lost_database_is_never_replaced_by_an_empty_one(
    sites: tuple[Site, Site], tmp_path: Path
) -> None:
    """Runbook, Restore: a directory that was in use has a ledger, or nothing starts."""
    site = Site(tmp_path / "lost")
    shutil.copytree(sites[0].data, site.data)
    (site.data / "sluis.db").unlink()
    done = site.sluis("serve")
    assert done.returncode == 69
    assert "sluis.db does not exist" in done.stderr
    assert not (site.data / "sluis.db").exists()
