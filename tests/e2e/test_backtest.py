"""Mail that went through the relay, decided again from the journal."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

from running_sluis import OPT_IN, SALE, World, message
from typer.testing import CliRunner

from policy.pack import Packs
from proxy.backtest import Backtest, Flip
from proxy.cli.main import app
from proxy.config import Settings, load
from proxy.packs import load_packs

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


async def mails(w: World) -> dict[str, str]:
    """Mail to people of every kind; the reply for each."""
    await w.know("anna@example.nl", "opt-in", **OPT_IN)
    await w.know("bram@example.nl", "relationship", **SALE)
    await w.know("cees@example.nl", "opt-in", box="preticked")
    await w.know("dirk@example.nl", "objection", via="form")
    await w.know("els@example.nl", "relationship", **SALE, days=800)
    await w.know("gus@example.nl", "opt-in", **OPT_IN, sender="globex", third_parties=["acme"])
    await w.know("lot@example.de", "relationship", **SALE, country=None)
    shoes = message("offers", headers=["Sluis-Products: running-socks"])
    replies = {}
    for name in ("anna", "bram", "cees", "dirk", "els", "gus", "nobody"):
        address = f"{name}@example.nl"
        replies[f"news {name}"] = await w.send(address, message())
        replies[f"shoes {name}"] = await w.send(address, shoes, stream="offers")
    replies["shoes lot"] = await w.send("lot@example.de", shoes, stream="offers")
    replies["order"] = await w.send("anna@example.nl", message("orders"), stream="orders")
    report = message("orders", headers=["Content-Type: multipart/report"])
    await w.send("anna@example.nl", report, stream="orders", mail_from="")
    return replies


async def replay(
    w: World, *, packs: Packs | None = None, settings: Settings | None = None, **options: Any
) -> tuple[list[Flip], Backtest]:
    backtest = Backtest(settings or w.settings, packs or w.sluis.packs)
    since = options.pop("since", LONG_AGO)
    flips = [flip async for flip in backtest.flips(w.sluis.store, since, **options)]
    return flips, backtest


def ref_of(reply: str) -> str:
    return reply.rpartition("(ref ")[2].rstrip(")").partition(".")[0]


def stricter(path: Path) -> Path:
    """A directory with a Dutch pack under which a customer is one for a year."""
    text = (resources.files("policy") / "packs" / "nl.toml").read_text("utf-8")
    assert "months = 36" in text
    path.mkdir()
    (path / "nl.toml").write_text(text.replace("months = 36", "months = 12"), "utf-8")
    return path


async def test_under_the_same_law_nothing_flips(world: Make) -> None:
    w = await world()
    replies = await mails(w)
    flips, backtest = await replay(w)
    assert flips == []
    counted = {name: (c.decided, c.same, c.unreadable) for name, c in backtest.counts.items()}
    assert counted == {"newsletter": (7, 7, 0), "offers": (8, 8, 0), "orders": (1, 1, 0)}
    reasons = {(await w.journal(reply))[0].reason for reply in replies.values()}
    assert len(reasons) >= 6
    flips, backtest = await replay(w, since=datetime.now(UTC) + timedelta(minutes=1))
    assert not backtest.counts
    flips, backtest = await replay(w, stream="offers")
    assert set(backtest.counts) == {"offers"}


async def test_a_stricter_pack_flips_what_it_forbids(world: Make, tmp_path: Path) -> None:
    w = await world()
    replies = await mails(w)
    packs = load_packs(stricter(tmp_path / "packs"))
    flips, backtest = await replay(w, packs=packs)
    [els] = flips
    assert els.ref == ref_of(replies["shoes els"])
    assert (els.old.verdict, els.old.reason) == ("allow", "soft-opt-in")
    assert (els.new.verdict, els.new.reason, els.new.cite) == ("block", "expired", "Tw 11.7(4)")
    assert (backtest.counts["offers"].stopped, backtest.counts["offers"].same) == (1, 7)


async def test_other_settings_flip_what_rested_on_them(world: Make, tmp_path: Path) -> None:
    w = await world()
    await mails(w)
    text = w.path.read_text("utf-8")
    other = tmp_path / "other.toml"
    other.write_text(text.replace('similar = [["running-shoes", "running-socks"]]', ""), "utf-8")
    flips, backtest = await replay(w, settings=load(other, {}))
    assert {(f.stream, f.old.reason, f.new.reason) for f in flips} == {
        ("offers", "soft-opt-in", "not-similar")
    }
    assert len(flips) == backtest.counts["offers"].stopped == 3


async def test_what_a_cap_counted_is_recorded(world: Make, tmp_path: Path) -> None:
    cap = 'max_per_person = "1/7d"\n'
    w = await world(edit=lambda text: text.replace("topics =", cap + "topics =", 1))
    await w.know("anna@example.nl", "opt-in", **OPT_IN)
    await w.send("anna@example.nl", message())
    second = await w.send("anna@example.nl", message())
    assert (await w.journal(second))[0].reason == "frequency-cap"
    assert (await replay(w))[0] == []
    other = tmp_path / "other.toml"
    other.write_text(w.path.read_text("utf-8").replace(cap, ""), "utf-8")
    [flip], backtest = await replay(w, settings=load(other, {}))
    assert (flip.old.verdict, flip.old.reason) == ("defer", "frequency-cap")
    assert (flip.new.verdict, flip.new.reason) == ("allow", "consent")
    assert backtest.counts["newsletter"].released == 1


async def test_the_command_lists_flips_and_streams(world: Make, tmp_path: Path) -> None:
    w = await world()
    replies = await mails(w)
    packs = stricter(tmp_path / "packs")

    def run(*more: str) -> str:
        arguments = ["policy", "backtest", "--config", str(w.path), *more]
        with ThreadPoolExecutor(1) as pool:  # the command has a loop of its own
            ran = pool.submit(CliRunner().invoke, app, arguments).result()
        assert ran.exit_code == 0, ran.stderr
        return ran.stdout

    data = json.loads(run("--since", "30d", "--packs", str(packs), "--json"))
    [flip] = data["flips"]
    assert (flip["ref"], flip["n"]) == (ref_of(replies["shoes els"]), 1)
    assert (flip["old"]["reason"], flip["new"]["reason"]) == ("soft-opt-in", "expired")
    assert data["streams"]["newsletter"]["same"] == 7
    assert json.loads(run("--since", "1d", "--json"))["flips"] == []
    words = run("--since", "2026-01-01", "--packs", str(packs), "--stream", "offers")
    assert f"{flip['ref']}.1" in words
    assert "allow soft-opt-in [Tw 11.7(4)] -> block expired [Tw 11.7(4)]" in words
    assert "newsletter" not in words
