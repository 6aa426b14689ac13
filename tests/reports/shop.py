"""A shop on disk for the reports: real configuration, keys and store, and people in the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bench.acme import ACME, GLOBEX, NEWSLETTER, relay_toml, stream_toml
from policy.address import parse
from policy.events import detail_from
from policy.pack import Packs
from proxy.config import Settings, load
from proxy.data_dir import make_data_dir, open_keys
from proxy.imports import event_uid
from proxy.inquiry import Inquiry
from proxy.keys import Keys
from proxy.packs import builtin_packs
from proxy.store.model import NewAttributes, NewEvent
from proxy.store.sqlite import SqliteStore, open_sqlite

NOW = datetime.now(UTC).replace(microsecond=0)

CONFIG = (
    ACME
    + """\
candidate_countries = ["NL"]
similar = [["running-shoes", "running-socks"]]
"""
    + GLOBEX
    + NEWSLETTER
    + stream_toml("offers", "offers.acme.example", 'products = ["running-socks"]')
    + stream_toml("globex-news", "globex.example", sender="globex")
)

OPT_IN: dict[str, Any] = {"box": "unticked", "topics": ["newsletter"]}
SALE: dict[str, Any] = {
    "stage": "purchase",
    "paid": True,
    "products": ["running-shoes"],
    "address_from_customer": True,
    "informed": True,
    "objection_offered": "box",
}


@dataclass
class Shop:
    """What a test of a report sees."""

    settings: Settings
    keys: Keys
    store: SqliteStore
    packs: Packs
    path: Path

    async def know(
        self,
        address: str,
        type_: str,
        *,
        at: datetime = NOW - timedelta(days=10),
        evidence: str = "form:1",
        sender: str = "acme",
        country: str | None = "NL",
        kind: str | None = "consumer",
        **fields: Any,
    ) -> None:
        """Record one event, and who the person is."""
        parsed = parse(address, smtputf8=True)
        subject = self.keys.subject(sender, parsed)
        event = NewEvent(
            uid=event_uid(sender, parsed.exact, type_, at, evidence),
            subject=subject,
            detail=detail_from(type_, fields),
            at=at,
            recorded_at=at,
            evidence=evidence,
            address=parsed.exact,
        )
        values = {k: v for k, v in (("country", country), ("kind", kind)) if v}
        await self.store.append([event], [NewAttributes(subject=subject, at=at, values=values)])

    def inquiry(self, stream: str) -> Inquiry:
        """About a mail of that stream."""
        return Inquiry(self.settings, self.packs, self.settings.stream(stream))


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop with an empty ledger."""
    path = tmp_path / "sluis.toml"
    base = relay_toml(tmp_path / "data", listener="127.0.0.1:0", development=True)
    path.write_text(base + CONFIG, "utf-8")
    settings = load(path, {})
    make_data_dir(settings)
    keys = open_keys(settings, create=True)
    async with AsyncExitStack() as stack:
        store = await open_sqlite(
            settings.store.sqlite_path(settings.server.data_dir),
            instance="i1",
            owner=True,
            create=True,
        )
        stack.push_async_callback(store.close)
        yield Shop(settings, keys, store, builtin_packs(), path)
