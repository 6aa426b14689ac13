"""A site as it runs: real configuration, keys, store on disk, metrics, uvicorn on loopback."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from starlette.types import ASGIApp

from bench.acme import ACME, relay_toml, stream_toml
from policy.address import parse
from policy.model import Event, Objection
from proxy.config import Settings, load
from proxy.keys import Keys, load_keys
from proxy.store.sqlite import SqliteStore, open_sqlite
from proxy.telemetry import Telemetry
from proxy.tokens import OptOut, seal
from proxy.web.public import public_app
from proxy.web.server import HttpServer

CONFIG = (
    ACME.replace("Schoenen", "Schoenen & Zn.")
    + """\
privacy_url = "https://www.acme.example/privacy?a=1&b=2"
colour = "#f7c948"
[[senders]]
id = "globex"
name = "Globex N.V."
country = "NL"
postal_address = "Coolsingel 2, 3011 AD Rotterdam"
contact = "020-5550100"
"""
    + stream_toml("newsletter", "news.acme.example")
    + stream_toml("sales", "sales.acme.example", 'one_click = "stream"', 'lang = "nl"')
    + stream_toml("globex-news", "globex.example", sender="globex")
)

START = datetime(2026, 11, 24, 9, 13, tzinfo=UTC)


class Clock:
    """The product's clock in tests: stands still until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        """Move on, by the arguments of `timedelta`."""
        self.now += timedelta(**by)


def free_socket() -> socket.socket:
    """A socket bound to a free loopback port."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound


@dataclass
class Site:
    """A running site and what a test asks of it."""

    settings: Settings
    keys: Keys
    store: SqliteStore
    telemetry: Telemetry
    clock: Clock
    port: int
    client: httpx2.AsyncClient
    path: Path
    _refs: int = field(default=0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def link(
        self, address: str = "anna@example.nl", stream: str = "newsletter", sender: str = "acme"
    ) -> str:
        """The path of a fresh opt-out link, as a mail of `stream` to `address` carries it."""
        self._refs += 1
        return f"/u/{seal(self.keys, OptOut(sender, stream, address, f'REF{self._refs}.1'))}"

    async def events(self, address: str = "anna@example.nl", sender: str = "acme") -> list[Event]:
        """All that the ledger has about `address`, in order."""
        subject = self.keys.subject(sender, parse(address))
        known = (await self.store.lookup([subject])).known[subject]
        return sorted(known.events, key=lambda event: event.recorded_at)

    async def objections(
        self, address: str = "anna@example.nl", sender: str = "acme"
    ) -> list[Objection]:
        """The objections of `address` in order."""
        details = [event.detail for event in await self.events(address, sender)]
        return [detail for detail in details if isinstance(detail, Objection)]

    def metric(self, line: str) -> float:
        """The value of one series, named as the exposition names it."""
        for text in self.telemetry.render()[0].decode().splitlines():
            if text.startswith(f"{line} "):
                return float(text.rpartition(" ")[2])
        raise AssertionError(f"no series {line}")


@dataclass(frozen=True)
class Sites:
    """Starts sites and servers, and takes them down after the test."""

    stack: AsyncExitStack
    path: Path

    async def serve(self, app: ASGIApp, **limits: float) -> int:
        """Serve `app`; its port."""
        server = HttpServer(app, free_socket(), **limits)  # type: ignore[arg-type]
        await server.start()
        self.stack.push_async_callback(server.stop)
        return server.port

    async def start(
        self,
        *,
        change: Callable[[str], str] = lambda text: text,
        body_seconds: float = 10.0,
    ) -> Site:
        """A site whose configuration text went through `change`."""
        config = self.path / "sluis.toml"
        config.write_text(change(relay_toml(self.path, listener="127.0.0.1:0") + CONFIG))
        settings = load(config, {})
        keys = load_keys(self.path / "keys", create=True)
        store = await open_sqlite(self.path / "sluis.db", instance="i1", owner=True, create=True)
        self.stack.push_async_callback(store.close)
        telemetry = Telemetry(settings)
        clock = Clock()
        app = public_app(settings, keys, store, telemetry, clock=clock, body_seconds=body_seconds)
        port = await self.serve(app)
        client = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20)
        await self.stack.enter_async_context(client)
        return Site(settings, keys, store, telemetry, clock, port, client, self.path)


@pytest_asyncio.fixture
async def sites(tmp_path: Path) -> AsyncIterator[Sites]:
    async with AsyncExitStack() as stack:
        yield Sites(stack, tmp_path)


@pytest_asyncio.fixture
async def site(sites: Sites) -> Site:
    return await sites.start()


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Nothing here may wait for long."""
    for item in items:
        if "tests/web" in str(item.path):
            item.add_marker(pytest.mark.timeout(60))
