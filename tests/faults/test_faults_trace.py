"""Attempt on disk before the dot, result on disk before the 250: read from system calls."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fault_site import make_template
from fault_trace import Sent, disorder, read_trace, run_trace

pytestmark = pytest.mark.timeout(300)

KEY = "ab" * 32
MAIL = "<t1@orders.acme.example>"
REF = "06H0000000000001"
LINES = {
    "attempt": f'7 pwrite64(5</d/sluis.db-wal>, "..{KEY}attempting..", 4096, 32) = 4096',
    "sync": "7 fdatasync(5</d/sluis.db-wal>) = 0",
    "other sync": "7 fdatasync(6</d/sluis.db>) = 0",
    "dot": f'6 writev(9<socket:[1]>, [{{iov_base="Message-ID: {MAIL}\\r\\n\\r\\nx", iov_len=9}},'
    ' {iov_base=".\\r\\n", iov_len=3}], 2) = 12',
    "result": f'7 pwrite64(5</d/sluis.db-wal>, "..{KEY}relayed..", 4096, 99) = 4096',
    "begun": "7 fdatasync(5</d/sluis.db-wal> <unfinished ...>",
    "ended": "7 <... fdatasync resumed>) = 0",
    "reply": f'6 write(8<socket:[2]>, "250 2.0.0 taken (ref {REF})\\r\\n", 40) = 40',
}


@pytest.mark.parametrize(
    ("order", "wrong"),
    [
        ("attempt sync dot result sync reply", ""),
        ("attempt begun ended dot result begun ended reply", ""),
        ("attempt dot sync result sync reply", "dot at 1, its attempt on disk at 2"),
        ("attempt begun dot ended result sync reply", "dot at 2, its attempt on disk at 3"),
        ("attempt other_sync dot sync result sync reply", "its attempt on disk at 3"),
        ("attempt sync dot result reply sync", "what it rests on on disk at 5"),
        ("attempt sync dot result begun reply ended", "what it rests on on disk at 6"),
        ("attempt sync dot result reply", "not whole"),
    ],
)
def test_the_reader_sees_what_comes_too_early(order: str, wrong: str) -> None:
    lines = [LINES[name.replace("_", " ")] for name in order.split()]
    found = disorder(read_trace(lines), [Sent(MAIL, REF, KEY)], queued=False)
    assert bool(found) == bool(wrong)
    assert wrong in "".join(found)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with everybody's opt-in."""
    return asyncio.run(make_template(tmp_path_factory.mktemp("trace") / "template"))


@pytest.mark.parametrize(("queued", "count"), [(False, 150), (True, 50)])
async def test_syncs_come_before_dot_and_reply(
    template: Path, tmp_path: Path, queued: bool, count: int
) -> None:
    verdict, trace = await run_trace(
        template, tmp_path / "site", f"127.78.{1 + queued}.1", count, queued=queued
    )
    assert verdict.violations == []
    assert len(trace.dots) == len(trace.replies) == count
    assert 0 < len(trace.synced) < 3 * count, "syncs are shared: this was a load"
