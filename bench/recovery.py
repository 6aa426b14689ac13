"""How long a start takes that finds much unfinished, beside one that finds nothing.

    python -m bench.recovery [--rows 20000] [--size 4096] [--rounds 3] [--directory DIR]

Half of the rows wait; the other half were being attempted by a run that died, so that the start has
to end them. Each has a body of its own. Measured is what lies between opening the store and the
first listener (open, migrate if need be, recover), and the first look of the outbox.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from proxy.store.sqlite import open_sqlite


def fill(path: Path, rows: int, size: int) -> None:
    """So many submissions of one recipient each: every second one under way in a dead run."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO instance (id, epoch, opened_at) VALUES ('dead', 1, 0)")
        numbers = (
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
        )
        db.execute(
            f"{numbers} INSERT INTO submission (id, ref, received_at, submitter, listener,"
            " mail_from, message_id, content_hash, size, stream, sender, category, mode,"
            " class_source, campaign, variant, template, forward, marks, forward_by) SELECT i,"
            " printf('R%015d', i), 1, 'net:x', 'l', 'b@acme.example', '<m>', 'h', 1, 's', 'acme',"
            " 'transactional', 'enforce', 'domain', '', '', '', '', '[]', '' FROM n"
        )
        db.execute(
            f"{numbers} INSERT INTO delivery (id, submission, n, copy, sender, exact, wide,"
            " copy_key, marketing, state, owed, maybe_sent, attempts, instance, epoch,"
            " last_attempt_at, next_try, reply, lease) SELECT i, i, 1, 1, 'acme', 'e' || i,"
            " 'w' || i, 'k' || i, 0, iif(i % 2, 'attempting', 'waiting'), 1, 0, 1, 'dead', 1, 1,"
            " iif(i % 2, NULL, 1), '', 1 FROM n"
        )
        db.execute(
            f"{numbers} INSERT INTO decision (id, delivery, at, verdict, reason, cite, pack, rule,"
            " jurisdiction, basis, event, obligations, expires_at, needs_review, facts) SELECT i,"
            " i, 1, 'allow', 'not-marketing', '', '', '', '', '', '', '[]', '', 0, '{}' FROM n"
        )
        db.execute(
            f"{numbers} INSERT INTO attempt (delivery, no, decision, instance, epoch,"
            " committed_at, ambiguous_retry) SELECT i, 1, i, 'dead', 1, 1, 0 FROM n"
        )
        db.execute(
            f"{numbers} INSERT INTO body (submission, envelope, content) SELECT i, '{{}}',"
            f" randomblob({size}) FROM n"
        )


async def start(path: Path) -> tuple[float, float, int, int]:
    """Seconds until it could listen, seconds of the outbox's first look, ended, due."""
    began = time.perf_counter()
    store = await open_sqlite(path, instance="dead", owner=True)
    ended = await store.recover()
    ready = time.perf_counter()
    due = await store.due(datetime.now(UTC), 1000)
    await store.unfinished()
    looked = time.perf_counter()
    await store.close()
    return ready - began, looked - ready, ended, len(due)


async def main() -> None:
    """Print a line for nothing, and one for `--rows`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=4096, help="octets of each body")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    print(f"{'rows':>8} {'ended':>8} {'start s':>9} {'look s':>9}   median of {options.rounds}")
    for rows in (0, options.rows):
        starts, looks, ended = [], [], 0
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory(dir=options.directory) as directory:
                path = Path(directory) / "store.db"
                await (await open_sqlite(path, instance="a", owner=True, create=True)).close()
                if rows:
                    fill(path, rows, options.size)
                ready, looked, ended, _ = await start(path)
                starts.append(ready)
                looks.append(looked)
        median = statistics.median(starts), statistics.median(looks)
        print(f"{rows:8} {ended:8} {median[0]:9.3f} {median[1]:9.3f}")


if __name__ == "__main__":
    asyncio.run(main())
