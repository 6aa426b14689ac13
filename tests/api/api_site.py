"""A running admin address with the API, on its own loop in a thread: for any HTTP client."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest

from bench.acme import ACME, GLOBEX, NEWSLETTER, relay_toml, stream_toml
from policy.address import parse
from policy.events import detail_from
from proxy.api_tokens import digest
from proxy.config import Settings, load
from proxy.data_dir import make_data_dir, open_keys
from proxy.keys import Keys
from proxy.packs import builtin_packs
from proxy.store.model import NewAttributes, NewEvent
from proxy.store.sqlite import SqliteStore, open_sqlite
from proxy.web.admin import admin_app
from proxy.web.api import Api
from proxy.web.server import HttpServer

T = TypeVar("T")

NOW = datetime.now(UTC).replace(microsecond=0)
TOKENS = {name: f"sluis_{name:x<43}" for name in ("reader", "editor", "auditor", "globex", "shop")}

CONFIG = (
    ACME
    + """\
candidate_countries = ["NL"]
similar = [["running-shoes", "running-socks"]]
"""
    + GLOBEX
    + NEWSLETTER
    + stream_toml("globex-news", "globex.example", sender="globex")
)


class Health:
    """Always well."""

    def ready(self) -> tuple[bool, dict[str, object]]:
        return True, {"status": "ready"}

    def render(self) -> tuple[bytes, str]:
        return b"", "text/plain"


@dataclass
class Site:
    """The address, its store, and ways to ask."""

    path: Path
    loop: asyncio.AbstractEventLoop
    settings: Settings
    keys: Keys
    store: SqliteStore
    api: Api
    port: int
    seen: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, work: Awaitable[T]) -> T:
        """Do `work` on the site's loop."""

        async def doing() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(doing(), self.loop).result(30)

    def know(
        self,
        address: str,
        type_: str,
        *,
        days: float = 10,
        sender: str = "acme",
        evidence: str = "form:1",
        **fields: Any,
    ) -> None:
        """Record one event, `days` ago, of a Dutch consumer."""
        at = NOW - timedelta(days=days)
        parsed = parse(address)
        subject = self.keys.subject(sender, parsed)
        event = NewEvent(
            uid=f"{sender}.{address}.{type_}.{days}",
            subject=subject,
            detail=detail_from(type_, fields),
            at=at,
            recorded_at=at,
            evidence=evidence,
            address=parsed.exact,
        )
        values = {"country": "NL", "kind": "consumer"}
        attributes = NewAttributes(subject=subject, at=at, values=values)
        self.run(self.store.append([event], [attributes]))

    def ask(self, *addresses: str, role: str | None = "editor", **more: Any) -> httpx2.Response:
        """`POST /api/v1/decisions`."""
        body = {"stream": "newsletter", "addresses": list(addresses), **more}
        headers = {"authorization": f"Bearer {TOKENS[role]}"} if role is not None else {}
        return httpx2.post(f"{self.url}/api/v1/decisions", json=body, headers=headers, timeout=30)

    def report(
        self, *events: dict[str, Any], role: str | None = "editor", key: str = "", **more: Any
    ) -> httpx2.Response:
        """`POST /api/v1/events`."""
        headers = {"content-type": "application/json"}
        if role is not None:
            headers["authorization"] = f"Bearer {TOKENS[role]}"
        if key:
            headers["idempotency-key"] = key
        body = json.dumps({"events": list(events), **more})  # escapes half a surrogate pair
        url = f"{self.url}/api/v1/events"
        return httpx2.post(url, content=body, headers=headers, timeout=30)


def tokens() -> str:
    """The configuration of `TOKENS`."""
    lines = []
    for name, token in TOKENS.items():
        role = {"globex": "auditor", "shop": "editor"}.get(name, name)
        lines += ["[[api_tokens]]", f'name = "{name}"', f'token_hash = "{digest(token)}"']
        lines += [f'role = "{role}"', 'senders = ["globex"]' if role != name else ""]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Site]]:
    """A factory of sites; they end with the module."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    stack = AsyncExitStack()

    async def make(body_seconds: float = 10.0, ready: bool = True) -> Site:
        path = tmp_path_factory.mktemp("site")
        config = path / "sluis.toml"
        text = relay_toml(path / "data", listener="127.0.0.1:0", development=True) + CONFIG
        config.write_text(text + tokens(), "utf-8")
        settings = load(config, {})
        make_data_dir(settings)
        keys = open_keys(settings, create=True)
        store = await open_sqlite(
            settings.store.sqlite_path(settings.server.data_dir),
            instance="i1", owner=True, create=True,
        )  # fmt: skip
        stack.push_async_callback(store.close)
        api = Api(
            settings, keys, builtin_packs(), clock=lambda: datetime.now(UTC),
            body_seconds=body_seconds,
        )  # fmt: skip
        if ready:
            api.store = store
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        server = HttpServer(admin_app(Health(), Health(), api.app), bound)
        await server.start()
        stack.push_async_callback(server.stop)
        return Site(path, loop, settings, keys, store, api, server.port)

    def run(**options: Any) -> Site:
        return asyncio.run_coroutine_threadsafe(make(**options), loop).result(30)

    yield run
    asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture(scope="module")
def site(start: Callable[..., Site]) -> Site:
    """A site that knows four people."""
    made = start()
    opt_in: dict[str, Any] = {"box": "unticked", "topics": ["newsletter"]}
    made.know("anna@example.nl", "opt-in", **opt_in)
    made.know("bram@example.nl", "opt-in", **opt_in)
    made.know("bram@example.nl", "objection", days=1, via="form")
    made.know("cees@example.nl", "opt-in", box="preticked")
    made.know("anna@example.nl", "opt-in", sender="globex", evidence="secret:7", box="unticked")
    return made
