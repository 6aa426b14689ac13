"""Files that break while the relay runs: what a command does without them, and what it says."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from test_import import ANNA, CONFIG, EVENTS, HEADER, sluis, write

from proxy.config import load
from proxy.errors import ConfigError
from proxy.store import connection

__all__ = ["sluis"]  # the fixture

Run = Callable[..., tuple[int, str, str]]
OBJECT = ("consent", "object", "anna@example.nl", "--sender", "acme")

TLS = """
[[listeners]]
address = "127.0.0.1:4650"
tls = "implicit"
certificate = "tls.pem"
key = "tls.key"
trusted_networks = ["127.0.0.0/8"]
[[upstreams]]
address = "relay.example:465"
tls = "implicit"
ca_file = "ca.pem"
username = "sluis"
password_file = "no-password"
[[upstreams]]
address = "spare.example:465"
tls = "implicit"
username = "sluis"
password_file = "no-password"
[[credentials]]
username = "shop"
password_file = "no-password-either"
[policy]
packs_dir = "no-packs"
[dkim]
records_dir = "records"
[[dkim.keys]]
domain = "acme.example"
selector = "s1"
key_file = "s1.pem"
"""


@pytest.fixture
def broken(tmp_path: Path, sluis: Run) -> Path:
    path = tmp_path / "sluis.toml"
    path.write_text(path.read_text() + TLS)
    (tmp_path / "tls.pem").write_text("half a renewal")
    return path


def test_only_who_serves_needs_certificates_and_signing_keys(
    sluis: Run, broken: Path, tmp_path: Path
) -> None:
    code, _, err = sluis("check")
    assert code == os.EX_CONFIG
    keys = (
        *("listeners.1.key", "upstreams.1.ca_file", "dkim.records_dir", "dkim.keys.0.key_file"),
        *("upstreams.1.password_file", "credentials.0.password_file", "policy.packs_dir"),
    )
    assert all(f": {key}: " in err for key in keys)
    assert sluis("serve")[0] == os.EX_CONFIG
    assert not (tmp_path / "data").exists()
    assert sluis(*OBJECT)[:2] == (0, "recorded\n")
    code, _, err = sluis("explain", "anna@example.nl", "--stream", "newsletter")
    assert (code, err.count("policy.packs_dir: ")) == (os.EX_CONFIG, 1), "this one decides"
    path = tmp_path / "sluis.toml"
    path.write_text(path.read_text().replace('[policy]\npacks_dir = "no-packs"\n', ""))
    assert sluis("explain", "anna@example.nl", "--stream", "newsletter")[0] == 1
    assert sluis("import", str(write(tmp_path, HEADER, ANNA)))[0] == 0
    assert sluis("key", "rotate")[0] == 0
    code, _, err = sluis("healthcheck")
    assert (code, "is `sluis serve` running there?" in err) == (os.EX_UNAVAILABLE, True)
    code, out, _ = sluis("doctor")
    assert code == 1
    assert "upstream relay.example:465: " in out
    assert re.search(r"upstream spare.example:465: password_file \S+ cannot be used", out)


@pytest.mark.parametrize(
    ("line", "other", "key"),
    [
        ('key = "tls.key"', "", "listeners.1.key"),
        ('tls = "implicit"\nca_file', 'tls = "maybe"\nca_file', "upstreams.1.tls"),
        ('ca_file = "ca.pem"', 'dkim_keys = ["rsa"]', "upstreams.1.dkim_keys"),
        ('domain = "acme.example"', 'domain = "nl"', "dkim.keys.0.domain"),
    ],
    ids=["key", "tls", "kinds", "suffix"],
)
def test_what_is_wrong_in_the_text_is_refused_without_the_files(
    broken: Path, line: str, other: str, key: str
) -> None:
    load(broken, {}, files=False)
    text = broken.read_text()
    assert line in text
    kind = 's1.pem"\nalgorithm = "ed25519"'
    broken.write_text(text.replace(line, other).replace('s1.pem"', kind))
    with pytest.raises(ConfigError) as refused:
        load(broken, {}, files=False)
    assert len(refused.value.problems) == 1 + (key.endswith("domain"))
    assert any(f": {key}: " in problem for problem in refused.value.problems)


# -- The key file --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [OBJECT, ("key", "rotate"), ("consent", "show", "a@b.example")])
@pytest.mark.parametrize("left", ["sluis.db", "instance"])
def test_lost_keys_are_never_to_be_made_anew(
    sluis: Run, tmp_path: Path, command: tuple[str, ...], left: str
) -> None:
    data = tmp_path / "data"
    assert sluis(*OBJECT)[0] == 0
    (data / "keys").unlink()
    if left == "instance":
        (data / "instance").write_text("0" * 32)
        (data / "sluis.db").unlink()
    code, _, err = sluis(*command)
    assert code == os.EX_UNAVAILABLE
    assert err.startswith(f"sluis: {data / 'keys'}: there is none, and under new keys no opt-out")
    assert "put back the copy you kept, or name the file" in err
    assert "http.keys_file" in err
    assert "serve" not in err
    assert not (data / "keys").exists()


def test_a_named_key_file_that_is_lost(sluis: Run, tmp_path: Path) -> None:
    path = tmp_path / "sluis.toml"
    assert sluis(*OBJECT)[0] == 0
    text = CONFIG.format(data=tmp_path / "data")
    path.write_text(text.replace("[http]", '[http]\nkeys_file = "gone"'))
    code, _, err = sluis(*OBJECT)
    assert code == os.EX_CONFIG
    assert err.endswith("put back the copy you kept\n")


# -- The store -----------------------------------------------------------------------------------


@pytest.fixture
def locked(sluis: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    monkeypatch.setattr(connection, "BUSY_TIMEOUT", 50)
    assert sluis(*OBJECT)[0] == 0

    def lock() -> sqlite3.Connection:
        other = sqlite3.connect(tmp_path / "data" / "sluis.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        return other

    return lock


def test_what_a_locked_store_did_not_take_is_said_to_be_lost(
    sluis: Run, tmp_path: Path, locked: Callable[[], sqlite3.Connection]
) -> None:
    file = write(tmp_path, EVENTS, "acme,b@example.nl,objection,2026-03-01T12:00:00Z,ticket:1")
    with closing(locked()) as other:
        for command in (OBJECT, ("import", str(file))):
            code, out, err = sluis(*command)
            assert (code, out) == (os.EX_UNAVAILABLE, "")
            assert err.startswith("sluis: NOT recorded: database is locked")
            assert "; repeat it" in err
        other.execute("ROLLBACK")
    assert sluis(*OBJECT)[:2] == (0, "recorded\n")


def test_an_import_that_is_cut_off_tells_how_far_it_came(
    sluis: Run, tmp_path: Path, locked: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store fills up between two commits."""
    from proxy.store.sqlite import SqliteStore

    rows = [f"acme,p{n}@example.nl,objection,2026-03-01T12:00:00Z,t:{n}" for n in range(1500)]
    file = write(tmp_path, EVENTS, *rows)
    append, calls = SqliteStore.append, []

    async def second_fails(self: SqliteStore, *given: object) -> list[bool]:
        calls.append(1)
        if len(calls) == 2:
            pages = await self._writer.run(lambda db: db.execute("PRAGMA page_count").fetchone())
            await self._writer.run(lambda db: db.execute(f"PRAGMA max_page_count = {pages[0]}"))
        return await append(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(SqliteStore, "append", second_fails)
    code, _, err = sluis("import", str(file))
    assert code == os.EX_UNAVAILABLE
    assert err.startswith("sluis: NOT all recorded (only 1000 rows are): database or disk is full")
    code, out, _ = sluis("import", str(file))
    assert (code, out) == (0, "500 events recorded, 1000 were known, 0 rows in error\n")


def test_a_broken_pack_of_ones_own_is_told_by_file_and_line(sluis: Run, tmp_path: Path) -> None:
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs" / "xx.toml").write_text('id = "xx"\nversion = \n')
    path = tmp_path / "sluis.toml"
    path.write_text(path.read_text() + '[policy]\npacks_dir = "packs"\n')
    assert sluis("import", str(write(tmp_path, HEADER, ANNA)))[0] == 0
    explain = ("explain", "anna@example.nl", "--stream", "newsletter")
    for command in (("check",), ("serve",), explain):
        code, _, err = sluis(*command)
        assert code == os.EX_CONFIG, command
        assert re.search(r": policy\.packs_dir: \S+/packs/xx\.toml:2", err), err
        assert "Traceback" not in err
    assert sluis(*OBJECT)[:2] == (0, "recorded\n")
