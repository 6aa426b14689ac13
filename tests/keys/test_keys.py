"""The key file and what is made with it."""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import keys as module
from proxy.errors import KeysError, TokenError
from proxy.keys import load_keys, rotate

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
GOOD = f'version = 1\npseudonym = "{"a" * 64}"\n[tokens]\nk1 = "{"b" * 128}"\n'


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_first_start_makes_a_private_file_and_the_second_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    first = load_keys(path, create=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["keys"], "no draft is left behind"
    again = load_keys(path, create=True)
    assert (first.created, again.created) == (True, False)
    assert again.pseudonym("anna@example.nl") == first.pseudonym("anna@example.nl")
    assert again.open("u", first.seal("u", b"payload")) == b"payload"


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_keys(tmp_path / "keys", create=True)
    finally:
        os.umask(before)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    # Each opens the fifo for reading, and all are let go by one writer that closes it.
    script = (
        "import sys; from pathlib import Path; from proxy.keys import load_keys\n"
        "print('here', flush=True); open(sys.argv[2]).read()\n"
        "print(load_keys(Path(sys.argv[1]), create=True).fingerprint)\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path), str(gate)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(6)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "here\n"
    with gate.open("w"):
        pass
    # A late reader of the fifo would block: keep opening it until all are through.
    answers = set()
    for racer in racers:
        while racer.poll() is None:
            try:
                os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # nobody reads just now
                os.sched_yield()
        assert racer.stdout is not None
        answers.add(racer.stdout.read())
        assert racer.returncode == 0
    assert answers == {load_keys(path, create=False).fingerprint + "\n"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gate", "keys"]


def test_one_that_loses_the_race_uses_the_winners_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    real = os.link

    def second(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", real)
        write(path, GOOD)  # the winner's file appears between our look and our link
        real(source, target)

    monkeypatch.setattr(os, "link", second)
    ours = load_keys(path, create=True)
    assert path.read_text() == GOOD
    assert not ours.created
    assert ours.fingerprint == load_keys(path, create=False).fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["keys"]


def test_file_and_directory_are_fsynced_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real_sync, real_link = os.fsync, os.link

    def sync(handle: int) -> None:
        target = Path(f"/proc/self/fd/{handle}").readlink()
        order.append("directory" if target.is_dir() else "file")
        real_sync(handle)

    def link(source: Path, target: Path) -> None:
        order.append("link")
        real_link(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", link)
    load_keys(tmp_path / "keys", create=True)
    assert order == ["file", "link", "directory"]


def test_a_disk_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(KeysError, match="No space left"):
        load_keys(tmp_path / "keys", create=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "version"),
        ("\x00\x01\x02", "not a key file"),
        ("version = 1\n", "pseudonym"),
        (GOOD.replace("version = 1", "version = 2"), "version is not 1"),
        (GOOD.replace("version = 1", "version = '1'"), "version is not 1"),
        (GOOD.replace("a" * 64, "a" * 62), "pseudonym is not 64 hex digits"),
        (GOOD.replace("a" * 64, "A" * 64), "pseudonym is not 64 hex digits"),
        (GOOD.replace("b" * 128, "b" * 64), "k1 is not 128 hex digits"),
        (GOOD.replace("k1", "first"), "not like k1"),
        (GOOD.replace("k1", "k0"), "not like k1"),
        (GOOD.replace('k1 = "' + "b" * 128 + '"\n', ""), r"\[tokens\]"),
        (GOOD + "other = 1\n", "not like k1"),
        ("extra = 1\n" + GOOD, "nothing else"),
        (GOOD[:-40], "not a key file"),
        ("#" * (1 << 20) + "\n" + GOOD, "too large"),
    ],
)
def test_a_malformed_file_is_named_with_a_remedy_and_no_secret(
    tmp_path: Path, text: str, words: str
) -> None:
    path = write(tmp_path / "keys", text)
    with pytest.raises(KeysError, match=words) as caught:
        load_keys(path, create=True)
    assert str(path) in str(caught.value)
    assert "put back the copy" in str(caught.value)
    assert "aaaa" not in str(caught.value)
    assert "bbbb" not in str(caught.value)
    assert path.read_text() == text, "a file that is there is never replaced"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o602, 0o610])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "keys", GOOD, mode)
    with pytest.raises(KeysError, match="chmod 600"):
        load_keys(path, create=True)


def test_a_group_may_read(tmp_path: Path) -> None:
    load_keys(write(tmp_path / "keys", GOOD, 0o440), create=False)


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="put back the copy"):
        load_keys(tmp_path / "keys", create=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeysError, match="make the directory"):
        load_keys(tmp_path / "none" / "keys", create=True)
    with pytest.raises(KeysError):
        load_keys(tmp_path, create=False)


def test_nothing_secret_in_the_repr(tmp_path: Path) -> None:
    shown = repr(load_keys(write(tmp_path / "keys", GOOD), create=False))
    assert "aaaa" not in shown
    assert "bbbb" not in shown
    assert "k1" in shown


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_pseudonym_is_hmac_sha256_cut_to_16_bytes(text: str) -> None:
    keys = module.Keys(Path("none"), module._File(b"\xaa" * 32, {1: b"\xbb" * 64}, (0, 0, 0)))
    whole = hmac.new(b"\xaa" * 32, text.encode(), hashlib.sha256).hexdigest()
    assert keys.pseudonym(text) == whole[:32]


def test_rotation_adds_a_key_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    old = load_keys(path, create=True)
    token = old.seal("u", b"payload")
    before = tomllib.loads(path.read_text())
    assert rotate(path) == "k2"
    after = tomllib.loads(path.read_text())
    assert after["pseudonym"] == before["pseudonym"]
    assert after["tokens"]["k1"] == before["tokens"]["k1"]
    assert path.stat().st_mode & 0o777 == 0o600
    new = load_keys(path, create=False)
    assert new.fingerprint == old.fingerprint
    assert new.open("u", token) == b"payload"
    assert new.seal("u", b"payload").startswith("k2.")
    assert old.open("u", new.seal("u", b"later")) == b"later", "a running process learns the key"
    assert [p.name for p in tmp_path.iterdir()] == ["keys"]


def test_the_newest_key_is_the_highest_number_wherever_it_stands(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", GOOD)
    for _ in range(10):
        rotate(path)
    lines = path.read_text().splitlines()
    where = lines.index("[tokens]") + 1
    write(path, "\n".join(lines[:where] + lines[where:][::-1]))
    assert load_keys(path, create=False).seal("u", b"x").startswith("k11.")


def test_rotations_at_once_lose_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    load_keys(path, create=True)
    script = (
        "import sys; from pathlib import Path; from proxy.keys import rotate\n"
        "[rotate(Path(sys.argv[1])) for _ in range(5)]"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", script, str(path)], cwd=Path(__file__).parents[2])
        for _ in range(4)
    ]
    assert [racer.wait(60) for racer in racers] == [0] * 4
    assert len(tomllib.loads(path.read_text())["tokens"]) == 21


def test_a_file_replaced_by_other_keys_is_not_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys = load_keys(path, create=True)
    with pytest.raises(TokenError):
        keys.open("u", "k2." + "A" * 40)
    path.unlink()
    load_keys(path, create=True)
    with pytest.raises(KeysError, match="pseudonym key changed"):
        keys.open("u", "k2." + "A" * 40)
    path.unlink()
    with pytest.raises(KeysError):
        keys.open("u", "k2." + "A" * 40)
    assert keys.open("u", keys.seal("u", b"x")) == b"x"


@given(st.binary(min_size=1, max_size=400), st.sampled_from(["u", "c"]))
def test_sealing_is_deterministic_and_opens(payload: bytes, purpose: str) -> None:
    keys = module.Keys(Path("none"), module._File(b"\xaa" * 32, {1: b"\xbb" * 64}, (0, 0, 0)))
    token = keys.seal(purpose, payload)
    assert token == keys.seal(purpose, payload)
    assert set(token[3:]) <= set(ALPHABET)
    if len(token) <= 600:
        assert keys.open(purpose, token) == payload
    with pytest.raises(TokenError):
        keys.open(purpose + "x", token)


def test_a_token_does_not_open_under_another_id_or_key(tmp_path: Path) -> None:
    one = load_keys(write(tmp_path / "one", GOOD), create=False)
    token = one.seal("u", b"payload")
    # The same key material under another id, and another key under the same id.
    two = load_keys(write(tmp_path / "two", GOOD.replace("k1", "k2")), create=False)
    with pytest.raises(TokenError):
        two.open("u", "k2" + token[2:])
    three = load_keys(write(tmp_path / "three", GOOD.replace("b", "c")), create=False)
    with pytest.raises(TokenError):
        three.open("u", token)
