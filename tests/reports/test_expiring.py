"""The forecast of bases that end."""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from shop import NOW, OPT_IN, SALE, Shop
from typer.testing import CliRunner

from policy.address import parse
from policy.model import Reason
from proxy.census import Census
from proxy.cli.main import app
from proxy.config import Stream
from proxy.forecast import COLUMNS, Forecast, forecast
from proxy.inquiry import Inquiry
from proxy.sheets import Sheet
from proxy.telemetry import Telemetry

pytest_plugins = ("shop",)


def monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


async def crowd(shop: Shop) -> dict[str, date]:
    """Who has a basis with an end, and the last day of it."""
    last = {}
    for days in (3, 17, 17 + 7, 60):
        end = (NOW + timedelta(days=days)).date()
        address = f"c{days}@example.nl"
        await shop.know(address, "opt-in", **OPT_IN, valid_until=end.isoformat())
        last[address] = end
    await shop.know("anna@example.nl", "opt-in", **OPT_IN)
    await shop.know("bram@example.nl", "opt-in", box="unticked", topics=["offers"])
    await shop.know("dirk@example.nl", "objection", via="form")
    sold = NOW - timedelta(days=3 * 365 + 1 - 20)
    await shop.know("els@example.nl", "relationship", at=sold, **SALE)
    return last


async def ask(shop: Shop, days: int, **options: object) -> Forecast:
    return await forecast(
        shop.settings, shop.store, shop.packs, now=NOW, within=timedelta(days=days),
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


async def test_ends_are_counted_by_week_and_basis(shop: Shop) -> None:
    last = await crowd(shop)
    found = await ask(shop, 30)
    assert (found.people, found.ending) == (7, 4)
    consent = {week: n for (week, basis), n in found.weeks.items() if basis == "consent"}
    # The last day is included, in Dutch time: the end is the next midnight, in UTC that same day.
    assert consent == {monday(last[f"c{days}@example.nl"]): 1 for days in (3, 17, 24)}
    [sale] = [week for week, basis in found.weeks if basis == "soft-opt-in"]
    assert abs((sale - (NOW + timedelta(days=20)).date()).days) <= 7
    assert (await ask(shop, 90)).ending == 5
    assert (await ask(shop, 1)).ending == 0


async def test_a_stream_counts_whom_its_mail_may_reach(shop: Shop) -> None:
    await crowd(shop)
    found = await ask(shop, 30, inquiry=shop.inquiry("newsletter"))
    assert (found.people, found.ending) == (5, 3)  # neither bram, of another topic, nor els
    shoes = await ask(shop, 30, inquiry=shop.inquiry("offers"))
    assert {basis for _, basis in shoes.weeks} == {"soft-opt-in"}
    assert (await ask(shop, 30, inquiry=shop.inquiry("globex-news"))).people == 0


async def test_forecast_and_gauges_agree(shop: Shop) -> None:
    await crowd(shop)
    telemetry = Telemetry(shop.settings)
    census = Census(shop.settings, store=shop.store, packs=shop.packs, telemetry=telemetry)
    bases = await census.count(NOW)
    text = telemetry.render()[0].decode()
    for days in (30, 60, 90):
        found = await ask(shop, days)
        assert found.people == sum(bases.values())
        assert f'sluis_bases_expiring{{within="{days}d"}} {float(found.ending)}' in text


async def test_a_row_for_each_person(shop: Shop, tmp_path: Path) -> None:
    last = await crowd(shop)
    sheet = Sheet(tmp_path / "ends.csv", COLUMNS)
    await ask(shop, 30, sheet=sheet)
    sheet.finish()
    with (tmp_path / "ends.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["address"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"c3@example.nl", "c17@example.nl", "c24@example.nl", "els@example.nl"}
    row = rows["c3@example.nl"]
    assert (row["basis"], row["sender"], row["evidence"]) == ("consent", "acme", "form:1")
    ends = datetime.fromisoformat(row["expires_at"])
    assert ends.tzinfo is not None
    assert ends.astimezone(UTC).date() == last["c3@example.nl"]


async def test_the_command(shop: Shop, tmp_path: Path) -> None:
    await crowd(shop)
    await shop.store.close()

    def run(*more: str) -> tuple[int, str, str]:
        arguments = ["report", "expiring", "--config", str(shop.path), *more]
        with ThreadPoolExecutor(1) as pool:  # the command has a loop of its own
            ran = pool.submit(CliRunner().invoke, app, arguments).result()
        return ran.exit_code, ran.stdout, ran.stderr

    out = tmp_path / "ends.csv"
    code, text, _ = run("--within", "30d", "--json", "--out", str(out))
    assert code == 0
    data = json.loads(text)
    assert (data["people"], data["ending"], data["stream"]) == (7, 4, None)
    assert sum(row["count"] for row in data["weeks"]) == 4
    assert all(date.fromisoformat(row["from"]).weekday() == 0 for row in data["weeks"])
    assert len(out.read_text("utf-8").splitlines()) == 5
    code, text, _ = run("--stream", "newsletter")
    assert code == 0
    assert "5 may be written to (mail of stream newsletter)" in text
    assert run("--within", "soon")[0] != 0
    code, _, err = run("--out", str(tmp_path / "none" / "ends.csv"))
    assert code == 74
    assert "ends.csv" in err


async def test_quiet_hours_and_caps_end_no_basis(shop: Shop) -> None:
    """They defer a mail; asked at night, the forecast is that of the day."""
    await crowd(shop)
    stream = Stream.model_validate(
        shop.settings.stream("newsletter").model_dump(exclude_none=True)
        | {"quiet_hours": "00:00-23:59", "timezone": "UTC", "max_per_person": "1/7d"}
    )
    inquiry = Inquiry(shop.settings, shop.packs, stream)
    address = parse("anna@example.nl")
    [known] = await inquiry.known(shop.store, [shop.keys.subject("acme", address)], NOW)
    assert inquiry.decide(address, known, NOW.replace(hour=12)).reason is Reason.QUIET_HOURS
    assert inquiry.basis(address, known, NOW.replace(hour=12)).allowed
    assert (await ask(shop, 30, inquiry=inquiry)).people == 5
