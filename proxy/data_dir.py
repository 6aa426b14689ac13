"""What lies in `server.data_dir`, and when it may be made: once, never again by accident."""

from __future__ import annotations

from pathlib import Path

from proxy.config import Settings
from proxy.errors import ConfigError, StoreUnavailable
from proxy.keys import Keys, load_keys
from proxy.store.instance import prepare


def make_data_dir(settings: Settings) -> None:
    """Create `data_dir`, readable by us alone. Raises `ConfigError` with the remedy."""
    try:
        prepare(settings.server.data_dir)
    except StoreUnavailable as error:
        raise ConfigError(
            [f"{settings.source}: server.data_dir: {error}; give it to the user that runs sluis"]
        ) from error


def may_create_store(settings: Settings) -> bool:
    """Whether a missing database may be made: only where no relay ever ran on this `data_dir`.

    Later a missing one is a lost one, and an empty suppression list must never appear by accident.
    """
    return not (settings.server.data_dir / "instance").exists()


def keys_path(settings: Settings) -> Path:
    """Where the key file lies."""
    return settings.http.keys_file or settings.server.data_dir / "keys"


def open_keys(settings: Settings, *, create: bool) -> Keys:
    """The keys; made only where there is no ledger yet: under new keys no opt-out is found."""
    fresh = create and not settings.store.sqlite_path(settings.server.data_dir).exists()
    return load_keys(keys_path(settings), create=fresh and settings.http.keys_file is None)
