"""Many mails at once, upstreams that fail at random: each result agrees with what arrived."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import Any

import pytest
from upstream_peers import STEPWISE, copy_of, pool_to, sink

from proxy.delivery import endpoint
from proxy.delivery.upstream import Given, Pool
from proxy.errors import UpstreamUnavailable
from proxy.sink import EXTENSIONS, Scripted, Sink, Step
from proxy.store.model import Result

MAILS = 300

FAULTS: dict[str, list[Scripted]] = {
    "CONNECT": ["421 4.3.2 busy", "554 5.3.2 no", Step.CLOSE],
    "EHLO": ["421 4.3.2 busy", Step.CLOSE, b"250 ok\n"],
    "MAIL": ["451 4.3.0 no", "550 5.7.1 no", "421 4.3.2 bye", Step.CLOSE, b"250 \r ok\r\n"],
    "RCPT": ["450 4.2.0 no", "550 5.1.1 no", "421 4.3.2 bye", Step.CLOSE],
    "DATA": [
        "451 4.3.0 no",
        "554 5.5.1 no",
        "421 4.3.2 bye",
        Step.CLOSE,
        b"354 go\r\n250 early\r\n",
        b"354 go\r\n552 5.3.4 early\r\n",
    ],
    ".": [
        "451 4.3.0 no",
        "554 5.7.1 no",
        "421 4.3.2 bye",
        Step.CLOSE,
        Step.LOSE,
        b"250 ok\r\n250 and one more\r\n",
        b"nonsense\r\n",
    ],
}


def fail_at_random(server: Sink, rng: random.Random) -> None:
    for verb, faults in FAULTS.items():
        for _ in range(4 * MAILS):
            server.once(verb, rng.choice(faults) if rng.random() < 0.06 else None)


@pytest.mark.parametrize("extensions", [EXTENSIONS, STEPWISE], ids=["pipelined", "stepwise"])
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_results_agree_with_what_arrived(
    seed: int, extensions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(endpoint, "_LAST_PAUSE", 0.002)
    rng = random.Random(seed)
    outcome: dict[bytes, Given | None] = {}

    async def send(pool: Pool, n: int) -> None:
        names = [b"n%d.%d@example.nl" % (n, k) for k in range(rng.randint(1, 3))]
        outcome.update(dict.fromkeys(names))
        while True:
            try:
                async with pool.connection() as connection:
                    connection.begin(copy_of(*names))
                    if n % 7 == 0:
                        await connection.abandon()
                        return
                    given = await connection.finish([b"n%d\r\n" % n])
            except UpstreamUnavailable:
                await asyncio.sleep(0.001)
                continue
            outcome.update(zip(names, given, strict=True))
            return

    options = {"extensions": extensions, "keep": 10 * MAILS}
    async with sink(**options) as first, sink(**options) as second:
        fail_at_random(first, rng)
        fail_at_random(second, rng)
        async with pool_to(first, second, connections=3, messages_per_connection=5) as pool:
            tasks = [asyncio.create_task(send(pool, n)) for n in range(MAILS)]
            for task in tasks:
                if rng.random() < 0.1:
                    await asyncio.sleep(0)
                    task.cancel()
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            for upstream in pool._endpoints:
                assert (upstream._lent, upstream._opening) == (0, 0)
                assert not upstream._waiters
                assert len(upstream._idle) <= 3
        mails = [*first.messages, *second.messages]
    arrived = Counter(r for mail in mails for r in mail.recipients)
    assert max(arrived.values()) == 1
    seen: Counter[str] = Counter()
    for name, given in outcome.items():
        seen[given.result if given else "none"] += 1
        n = int(name[1:].split(b".")[0])
        if n % 7 == 0:
            assert arrived[name] == 0
        elif given is not None and given.result is Result.ACCEPTED:
            assert arrived[name] == 1
        elif given is not None and given.result is not Result.UNKNOWN:
            assert arrived[name] == 0
    assert all(seen[result] for result in Result), "the faults reached every kind of result"
    assert {mail.content for mail in mails} <= {b"n%d\r\n" % n for n in range(MAILS)}
