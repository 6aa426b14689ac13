"""How a command opens the same ledger that a running relay uses: short transactions, no instance
lock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.config import Settings, load
from proxy.data_dir import make_data_dir, may_create_store, open_keys
from proxy.keys import Keys
from proxy.store.model import Store
from proxy.store.sqlite import open_sqlite


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a command needs: the configuration, the keys, and the store."""

    settings: Settings
    keys: Keys
    store: Store


@asynccontextmanager
async def open_ledger(config: Path | None, *, create: bool = False) -> AsyncIterator[Ledger]:
    """Open for the length of the block. Raises `ConfigError`, `KeysError`, `StoreError`.

    `create`: a first import may come before the first start, and makes keys and store.
    """
    settings = load(config)
    create = create and may_create_store(settings)
    if create:
        make_data_dir(settings)
    keys = open_keys(settings, create=create)
    store = await open_sqlite(
        settings.store.sqlite_path(settings.server.data_dir),
        instance="",
        owner=False,
        create=create,
    )
    try:
        yield Ledger(settings, keys, store)
    finally:
        await store.close()
