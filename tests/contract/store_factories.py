"""Every store that must pass the contract, behind one fixture: `stores`.

A new store is one more class and one more entry of `FACTORIES`.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from store_process import child, child_environment
from store_values import after

from proxy.store.model import Store
from proxy.store.sqlite import open_sqlite


class Stores(Protocol):
    """Opens stores on one database; those still open are closed at the end of the test."""

    async def open(self, instance: str = "a", *, owner: bool = True, **more: Any) -> Store:
        """A connection of its own, as another process would have it; `more` as for
        `open_sqlite`."""
        ...

    def elsewhere(self, action: str, *arguments: str) -> str:
        """Run `store_child.py` in another process to its end; what it printed."""
        ...


#: An empty store, made once: the tests of creation are elsewhere.
_TEMPLATES: dict[str, bytes] = {}


class SqliteStores:
    """Stores on one real file."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "store.db"
        self._opened: list[Store] = []
        if (template := _TEMPLATES.get("sqlite")) is not None:
            self.path.write_bytes(template)

    async def open(self, instance: str = "a", *, owner: bool = True, **more: Any) -> Store:
        """See `Stores.open`."""
        options: dict[str, Any] = {"clock": lambda: after(3600), **more}
        store = await open_sqlite(self.path, instance=instance, owner=owner, create=True, **options)
        if "sqlite" not in _TEMPLATES:
            await store.close()
            _TEMPLATES["sqlite"] = self.path.read_bytes()
            return await self.open(instance, owner=owner, **more)
        self._opened.append(store)
        return store

    def elsewhere(self, action: str, *arguments: str) -> str:
        """See `Stores.elsewhere`."""
        done = subprocess.run(
            child(self.path, action, *arguments),
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def close(self) -> None:
        """Close what the test left open."""
        for store in self._opened:
            await store.close()


FACTORIES = {"sqlite": SqliteStores}


@pytest.fixture(params=sorted(FACTORIES))
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    """Each store of `FACTORIES` in turn, on a database of its own."""
    factory = FACTORIES[request.param](tmp_path)
    yield factory
    await factory.close()
