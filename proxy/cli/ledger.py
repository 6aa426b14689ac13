"""How a command opens the same ledger that a running relay uses: short transactions, no instance
lock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from proxy.config import Settings, load
from proxy.data_dir import find_data_dir, make_data_dir, may_create_store, open_keys
from proxy.errors import StoreError, StoreUnavailable
from proxy.keys import Keys, load_keys
from proxy.store.model import Store
from proxy.store.sqlite import open_sqlite


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a command needs: the configuration, the keys, and the store."""

    settings: Settings
    keys: Keys
    store: Store


@asynccontextmanager
async def open_to_try(config: Path | None) -> AsyncIterator[Ledger]:
    """The ledger for a trial run; where none is yet, an empty one that is gone afterwards."""
    settings = load(config, files=False)
    if not may_create_store(settings) or _database(settings).exists():
        async with open_ledger(config) as ledger:
            yield ledger
        return
    with TemporaryDirectory(prefix="sluis-try-") as directory:
        here = Path(directory)
        keys = load_keys(here / "keys", create=True)
        store = await open_sqlite(here / "sluis.db", instance="", owner=False, create=True)
        try:
            yield Ledger(settings, keys, store)
        finally:
            await store.close()


def _database(settings: Settings) -> Path:
    return settings.store.sqlite_path(settings.server.data_dir)


@asynccontextmanager
async def open_ledger(config: Path | None, *, create: bool = False) -> AsyncIterator[Ledger]:
    """Open for the length of the block. Raises `ConfigError`, `KeysError`, `StoreError`.

    `create`: a first import may come before the first start, and makes keys and store.
    """
    settings = load(config, files=False)
    create = create and may_create_store(settings)
    if create:
        make_data_dir(settings)
    find_data_dir(settings)
    keys = open_keys(settings, create=create)
    store = await open_sqlite(
        _database(settings),
        instance="",
        owner=False,
        create=create,
        keys=keys.fingerprint,
    )
    try:
        yield Ledger(settings, keys, store)
    finally:
        await store.close()


def not_recorded(error: StoreError, rows: int = 0) -> StoreUnavailable:
    """What to tell of a write that failed, after so many rows that are on record.

    Repeating is safe: what is on record is known again, and a second objection says no more.
    """
    what = f"NOT all recorded (only {rows} rows are)" if rows else "NOT recorded"
    remedy = (
        "repeat it in a moment; if that fails again, make room on the disk of the store, or end "
        "what holds it locked"
        if isinstance(error, StoreUnavailable)
        else "mend that, then repeat it"
    )
    return StoreUnavailable(f"{what}: {error}; {remedy}")
