"""Preflight and the API say of the same people what the relay then does with their mail."""

from __future__ import annotations

import csv
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from running_sluis import OPT_IN, SALE, World, message

from proxy.api_tokens import digest, new_token
from proxy.inquiry import Inquiry
from proxy.lists import ListFile
from proxy.preflight import Files, Preflight
from proxy.store.model import State

pytest_plugins = ("running_sluis",)

TOKEN = '[[api_tokens]]\nname = "crm"\ntoken_hash = "{}"\nrole = "reader"\n'

Make = Callable[..., Coroutine[Any, Any, World]]


async def people(world: World) -> list[str]:
    """A crowd in which every kind of answer occurs; returns their addresses."""
    know = world.know
    await know("anna@example.nl", "opt-in", **OPT_IN)
    await know("bram@example.nl", "relationship", **SALE)
    await know("cees@example.nl", "opt-in", box="preticked", topics=["newsletter"])
    await know("dirk@example.nl", "opt-in", **OPT_IN, days=300)
    await know("dirk@example.nl", "objection", scope="marketing", via="form", days=1)
    await know("els@example.nl", "relationship", **SALE, days=1500)
    await know("fatma@example.nl", "opt-in", **OPT_IN, evidence="")
    await know("gerrit@example.nl", "opt-in", box="unticked", topics=["offers"])
    await know("hans@example.de", "opt-in", **OPT_IN, country="DE")
    await know("iris@example.nl", "bounce", severity="hard")
    await know("jan+shop@example.nl", "opt-in", **OPT_IN)
    await know("jan@example.nl", "objection", scope="marketing", via="reply", days=1)
    await know("kim@example.com", "opt-in", **OPT_IN, country=None, kind=None)
    await know("lot@example.de", "relationship", **SALE, country=None)
    await know("mo@example.ie", "relationship", **SALE, country="IE", days=400)
    await know("nl@bedrijf.example", "published", purpose="supplier-offers", kind="company-generic")
    await know("otto@example.com", "opt-in", box="unticked", country="US")
    names = ("anna", "bram", "cees", "dirk", "els", "fatma", "gerrit", "iris", "jan+shop", "jan")
    return [
        *(f"{name}@example.nl" for name in (*names, "nobody")),
        *("hans@example.de", "kim@example.com", "lot@example.de", "mo@example.ie"),
        *("nl@bedrijf.example", "otto@example.com"),
    ]


@pytest.mark.parametrize(
    ("stream", "products"), [("newsletter", ()), ("offers", ("running-socks",)), ("orders", ())]
)
async def test_verdict_reason_and_article_are_those_of_smtp(
    world: Make, tmp_path: Path, stream: str, products: tuple[str, ...]
) -> None:
    token = new_token()
    w: World = await world(more=TOKEN.format(digest(token)))
    addresses = await people(w)

    file = tmp_path / "list.txt"
    file.write_text("\n".join(addresses), "utf-8")
    now = datetime.now(UTC)
    inquiry = Inquiry(w.settings, w.sluis.packs, w.settings.stream(stream), products)
    preflight = Preflight(inquiry=inquiry, keys=w.sluis.keys, store=w.sluis.store, now=now, at=now)
    with ListFile(file) as list_, Files(tmp_path / "out", list_) as files:
        tally = await preflight.run(list_, files)
    told: dict[str, dict[str, str]] = {}
    for name in ("allowed", "blocked"):
        with (tmp_path / "out" / f"{name}.csv").open(encoding="utf-8", newline="") as rows:
            told |= {row["address"]: row for row in csv.DictReader(rows)}
    assert set(told) == set(addresses)
    assert tally.rows == tally.allowed + tally.blocked == len(addresses)

    body = {"stream": stream, "addresses": addresses, "products": list(products)}
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{w.sluis.admin_port}") as client:
        client.headers["authorization"] = f"Bearer {token}"
        answered = (await client.post("/api/v1/decisions", json=body)).json()["decisions"]
    assert [d["address"] for d in answered] == addresses
    for decision in answered:
        line = told[decision["address"]]
        for key in ("verdict", "reason", "cite", "remedy", "pack"):
            assert decision[key] == line[f"sluis_{key}"]

    headers = [f"Sluis-Products: {', '.join(products)}"] if products else []
    happened = {}
    for address in addresses:
        reply = await w.send(address, message(stream, headers=headers), stream=stream)
        [row] = await w.journal(reply)
        happened[address] = row
        said = told[address]
        assert (row.verdict, row.reason, row.cite, row.pack) == (
            said["sluis_verdict"],
            said["sluis_reason"],
            said["sluis_cite"],
            said["sluis_pack"],
        ), address
        assert (row.state is State.RELAYED) == (said["sluis_verdict"] == "allow"), reply
    assert len({row.reason for row in happened.values()}) >= {"orders": 2}.get(stream, 5)
