"""Opt-outs that are passed on by a process that is killed, and the command that shows them."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import urllib.request
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import forwards_path  # noqa: F401
import pytest
import trustme
from https_peer import Peer, answer, trust
from running_sluis import CLIENTS, fields, message, until
from test_process import ANNA, House, free_port, house  # noqa: F401

pytest_plugins = ("running_sluis",)


@pytest.fixture
async def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Peer]:
    authority = trustme.CA()
    monkeypatch.setenv("SSL_CERT_FILE", str(trust(authority, tmp_path)))
    peer = Peer(authority)
    await peer.start()
    yield peer
    await peer.close()


async def begun(house: House, peer: Peer, more: str = "") -> str:  # noqa: F811
    """Serve, send Anna a newsletter with an opt-out at `peer`, and give the URL of ours."""
    public = free_port()
    text = f"{house.path.read_text()}\n{more}"
    house.path.write_text(text.replace('public = "127.0.0.1:0"', f'public = "127.0.0.1:{public}"'))
    code, _, err = await house.run("import", str(house.path.with_name("consents.csv")))
    assert code == 0, err
    await house.serve()
    uri = f"https://127.0.0.1:{peer.port}/leave?id=of-anna"
    headers = [
        f"List-Unsubscribe: <{uri}>", "List-Unsubscribe-Post: List-Unsubscribe=One-Click"
    ]  # fmt: skip
    reply = await house.send(ANNA, message(headers=headers), "newsletter")
    assert reply.startswith("250 "), reply
    [found] = fields(house.sink.messages[0].content, "List-Unsubscribe")
    match = re.search(r"mail\.acme\.example(/u/[^>]+)>", found)
    assert match is not None
    return f"http://127.0.0.1:{public}{match[1]}"


async def click(url: str) -> int:
    def post() -> int:
        request = urllib.request.Request(url, b"List-Unsubscribe=One-Click", method="POST")
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)

    return await asyncio.get_running_loop().run_in_executor(CLIENTS, post)


def forwards(house: House) -> list[tuple[str, int, str]]:  # noqa: F811
    """State, attempts and last answer, read from the file as any program may."""
    path = house.path.with_name("data") / "sluis.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute("SELECT state, attempts, answer FROM forward ORDER BY id").fetchall()


async def reach(house: House, *rows: tuple[str, int, str]) -> None:  # noqa: F811
    """Wait until these are the forwards."""

    async def there() -> bool:
        return forwards(house) == list(rows)

    await until(there, 40)


@pytest.mark.parametrize("how", ["away", "silent"])
async def test_killed_between_click_and_forward(
    house: House, peer: Peer, how: str  # noqa: F811
) -> None:
    url = await begun(house, peer, '[delivery]\nretry_first = "50ms"\nretry_longest = "50ms"\n')
    if how == "away":
        await peer.close()
    else:
        peer.answers.append(None)
    assert await click(url) == 200
    process = house.running[-1]
    if how == "silent":

        async def asked() -> bool:
            return len(peer.requests) == 1

        await until(asked)
    process.kill()
    await process.wait()
    before = len(peer.requests)
    if how == "away":
        await peer.start(peer.port)
    [(state, attempts, _)] = forwards(house)
    assert state == "waiting"
    await house.serve()
    if how == "silent":  # a try was begun: due when its lease ends, or by hand
        code, out, err = await house.run("outbox", "forwards", "--retry", "--all")
        assert (code, out) == (0, "1 due\n"), err

    async def passed() -> bool:
        return [state for state, *_ in forwards(house)] == ["passed"]

    await until(passed, 40)
    assert attempts < forwards(house)[0][1]
    assert len(peer.requests) == before + 1
    assert peer.requests[-1].startswith(b"POST /leave?id=of-anna HTTP/1.1\r\n")


async def test_listed_tried_and_dropped_by_hand(
    house: House, peer: Peer  # noqa: F811
) -> None:
    peer.answers += [answer(503), answer(502)]
    url = await begun(house, peer, '[delivery]\nretry_first = "1h"\n')
    assert await click(url) == 200

    await reach(house, ("waiting", 1, "HTTP 503"))
    code, out, _ = await house.run("outbox", "forwards")
    assert code == 0
    line = re.fullmatch(
        r"([0-9A-Z]{16})\.1  waiting  newsletter  by post to 127\.0\.0\.1  tried 1  due \S+"
        r"  HTTP 503\n",
        out,
    )
    assert line is not None, out
    ref = line[1]
    code, out, _ = await house.run("outbox", "forwards", ref, "--retry")
    assert (code, out) == (0, "1 due\n")

    await reach(house, ("waiting", 2, "HTTP 502"))
    code, out, _ = await house.run("outbox", "forwards", "--drop", "--all", "--json")
    assert (code, json.loads(out)) == (0, {"dropped": 1})
    code, out, err = await house.run("outbox", "forwards", "--drop", "--all")
    assert (code, out, err) == (1, "0 dropped\n", "no opt-out waits to be passed on\n")
    code, out, _ = await house.run("outbox", "forwards", "--ended", "--json")
    [row] = json.loads(out)
    assert (row["state"], row["next_try"], row["host"]) == ("dropped", None, "127.0.0.1")
    assert "of-anna" not in out
    code, _, err = await house.run("outbox", "forwards", "NOSUCH")
    assert (code, "no opt-out" in err) == (1, True)
    wrong = ["--retry"], ["--retry", "--drop", "--all"], ["X", "--drop", "--all"]
    ran = await asyncio.gather(*(house.run("outbox", "forwards", *words) for words in wrong))
    assert [code for code, _, _ in ran] == [64, 64, 64]
