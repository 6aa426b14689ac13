"""The gauges of living bases, against a store on disk."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from shop import NOW, OPT_IN, SALE, Shop

from proxy.census import WINDOWS, Census
from proxy.errors import StoreUnavailable
from proxy.living import moment_of
from proxy.telemetry import Telemetry

pytest_plugins = ("shop",)


def gauges(telemetry: Telemetry, family: str) -> dict[str, float]:
    """Label -> value of the gauge's series that are not zero."""
    found = {}
    for line in telemetry.render()[0].decode().splitlines():
        if line.startswith(f"sluis_{family}{{"):
            name, _, value = line.rpartition(" ")
            found[name.split('"')[1]] = float(value)
    return {name: value for name, value in found.items() if value}


def census(shop: Shop, telemetry: Telemetry) -> Census:
    return Census(shop.settings, store=shop.store, packs=shop.packs, telemetry=telemetry)


async def test_bases_are_counted_by_pair_and_by_their_end(shop: Shop) -> None:
    """Three sales end in 20, 45 and 80 days, one lasts, and three people may not be written to."""
    for days in (20, 45, 80, 400):
        sold = NOW - timedelta(days=3 * 365 + 1 - days)
        await shop.know(f"sale{days}@example.nl", "relationship", at=sold, **SALE)
    await shop.know("anna@example.nl", "opt-in", **OPT_IN)
    until = (NOW + timedelta(days=10)).date().isoformat()
    await shop.know("bea@example.nl", "opt-in", **OPT_IN, valid_until=until)
    await shop.know("bea@example.nl", "opt-in", **OPT_IN, sender="globex", evidence="form:2")
    await shop.know("old@example.nl", "relationship", at=NOW - timedelta(days=1500), **SALE)
    await shop.know("cees@example.nl", "opt-in", box="preticked")
    await shop.know("dirk@example.nl", "opt-in", **OPT_IN)
    await shop.know("dirk@example.nl", "objection", at=NOW, via="form")

    telemetry = Telemetry(shop.settings)
    counted = await census(shop, telemetry).count(NOW)
    assert counted == {"soft-opt-in": 4, "consent": 3}
    assert gauges(telemetry, "bases") == {"soft-opt-in": 4, "consent": 3}
    assert gauges(telemetry, "bases_expiring") == {"30d": 2, "60d": 3, "90d": 4}
    assert set(WINDOWS) == {"30d", "60d", "90d"}

    # A month later the first two ended, and no longer count.
    await census(shop, telemetry).count(NOW + timedelta(days=31))
    assert gauges(telemetry, "bases") == {"soft-opt-in": 3, "consent": 2}
    assert gauges(telemetry, "bases_expiring") == {"30d": 1, "60d": 2, "90d": 2}


async def test_an_unknown_country_counts_under_the_law_of_its_domain_too(shop: Shop) -> None:
    """As for the mail itself: a Dutch basis does not make up for the German one that is missing."""
    for address in ("erik@example.nl", "erik@example.de"):
        await shop.know(address, "relationship", country=None, kind=None, **SALE)
        await shop.know(address.replace("erik", "fien"), "opt-in", country=None, **OPT_IN)
    telemetry = Telemetry(shop.settings)
    counted = await census(shop, telemetry).count(NOW)
    assert counted["consent"] == 1


async def test_more_people_than_a_page(shop: Shop) -> None:
    await asyncio.gather(*(shop.know(f"p{i}@example.nl", "opt-in", **OPT_IN) for i in range(205)))
    telemetry = Telemetry(shop.settings)
    assert await census(shop, telemetry).count(NOW) == {"consent": 205}


async def test_store_trouble_skips_a_count_and_no_more(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.know("anna@example.nl", "opt-in", **OPT_IN)
    telemetry = Telemetry(shop.settings)
    tried = 0
    subjects = shop.store.subjects

    async def flaky(*, after: int, limit: int) -> object:
        nonlocal tried
        tried += 1
        if tried == 1:
            raise StoreUnavailable("the disk is away")
        return await subjects(after=after, limit=limit)

    monkeypatch.setattr(shop.store, "subjects", flaky)
    running = asyncio.create_task(census(shop, telemetry).every(0, lambda: NOW))
    async with asyncio.timeout(20):
        while not gauges(telemetry, "bases"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    running.cancel()
    assert gauges(telemetry, "bases") == {"consent": 1}


def test_a_day_ends_when_the_next_begins() -> None:
    assert moment_of(datetime(2026, 11, 24, tzinfo=UTC).date()) == datetime(
        2026, 11, 25, tzinfo=UTC
    )
    assert moment_of(None) is None
