"""What a killed start leaves half made goes at a later one; nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxy.data_dir import clear_drafts

HOUR = 3600
DRAFTS = (
    ".sluis.db.0123abcd.new",
    ".sluis.db.0123abcd.new-wal",
    ".sluis.db.0123abcd.new-shm",
    ".instance.89abcdef.new",
    ".suppressions.89abcdef.new",
    ".keys.0123456789abcdef",
)
OTHERS = (
    *("sluis.db", "sluis.db-wal", "keys", "instance", "suppressions", "fallback", "lock"),
    *(".keys", ".keys.backup", ".sluis.db.backup.new", "sluis.db.0123abcd.new", ".writable"),
    *(".sluis.db.0123ABCD.new", ".keys.0123456789abcde"),
)


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_old_drafts_go_and_nothing_else(tmp_path: Path) -> None:
    for name in (*DRAFTS, *OTHERS):
        (tmp_path / name).write_bytes(b"x")
        age(tmp_path / name, HOUR)
    assert clear_drafts(tmp_path) == len(DRAFTS)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(OTHERS)


def test_what_may_be_at_work_stays(tmp_path: Path) -> None:
    for name in DRAFTS:
        (tmp_path / name).write_bytes(b"x")
        age(tmp_path / name, 60)
    assert clear_drafts(tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == len(DRAFTS)


@pytest.mark.parametrize("made", ["database", "keys"])
def test_what_a_real_process_leaves_is_known_by_its_name(tmp_path: Path, made: str) -> None:
    """Killed where the finished draft would get its name."""
    work = (
        "from proxy.store.migrate import prepare; prepare(data / 'sluis.db', create=True)"
        if made == "database"
        else "from proxy.keys import load_keys; load_keys(data / 'keys', create=True)"
    )
    program = (
        "import os, signal, sys, pathlib\n"
        "data = pathlib.Path(sys.argv[1])\n"
        "os.link = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{work}\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    left = list(tmp_path.iterdir())
    assert left
    for path in left:
        age(path, HOUR)
    assert clear_drafts(tmp_path) == len(left)
    assert list(tmp_path.iterdir()) == []
