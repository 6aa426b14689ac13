"""The packs that a configuration names, and what is wrong with them in its own terms."""

from __future__ import annotations

from policy.pack import PackError, Packs
from proxy.config.models import Settings
from proxy.errors import ConfigError
from proxy.packs import load_packs


def configured_packs(settings: Settings) -> Packs:
    """The shipped packs and those of `policy.packs_dir`. Raises `ConfigError`."""
    try:
        return load_packs(settings.policy.packs_dir)
    except (PackError, OSError) as error:
        problem = f"{settings.source}: policy.packs_dir: {error}; mend that pack, or remove the key"
        raise ConfigError([problem]) from error
