"""The configuration: one TOML file and the environment, checked whole before anything starts.

`load` gives frozen `Settings` or raises `ConfigError` with *all* problems, each one line with file,
key, what is wrong and the remedy. Nothing is fetched or listened on; files that the configuration
names (certificates, secrets) are read.

Who serves needs them all. A command that does not serve loads without `files`: a certificate that
is half renewed must not stop an objection from being recorded, or the health from being asked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from proxy.config import layers
from proxy.config.checks import findings
from proxy.config.layers import ENVIRONMENT, Draft
from proxy.config.models import (
    UNKNOWN_STREAM,
    ApiToken,
    Credential,
    Delivery,
    DeliveryMode,
    Dkim,
    DkimKey,
    Feedback,
    Http,
    Limits,
    Listener,
    Log,
    Partial,
    PolicyConfig,
    Retention,
    Sender,
    Server,
    Settings,
    StoreConfig,
    Stream,
    Table,
    Upstream,
)
from proxy.config.secrets import read_secrets
from proxy.config.tables import LISTS, Sections, parts, validate
from proxy.errors import ConfigError

__all__ = [
    "UNKNOWN_STREAM",
    "ApiToken",
    "Credential",
    "Delivery",
    "Dkim",
    "DkimKey",
    "Feedback",
    "Http",
    "Limits",
    "Listener",
    "Loaded",
    "Log",
    "PolicyConfig",
    "Retention",
    "Sender",
    "Server",
    "Settings",
    "StoreConfig",
    "Stream",
    "Table",
    "Upstream",
    "find_config",
    "load",
    "read",
]

SYSTEM_CONFIG = Path("/etc/sluis/sluis.toml")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and for each key its source: file, environment variable, other key, or default."""

    settings: Settings
    sources: Mapping[str, str]


def find_config(explicit: Path | None, env: Mapping[str, str] | None = None) -> Path:
    """`explicit`, else `$SLUIS_CONFIG`, else `/etc/sluis/sluis.toml`. Raises `ConfigError`."""
    env = os.environ if env is None else env
    if explicit is not None:
        return explicit
    if named := env.get("SLUIS_CONFIG"):
        return Path(named)
    if SYSTEM_CONFIG.exists():
        return SYSTEM_CONFIG
    raise ConfigError([f"{SYSTEM_CONFIG}: not found; name the file with --config or $SLUIS_CONFIG"])


def load(
    path: Path | None, env: Mapping[str, str] | None = None, *, files: bool = True
) -> Settings:
    """The settings of `path` under the environment (`os.environ` unless given).

    None looks for the file as `find_config` does; with no file anywhere, `SLUIS_*` variables alone
    may do. Without `files`, those that only a serving process uses (certificates, `ca_file`, keys
    that sign, `dkim.records_dir`, `password_file`, `packs_dir`) may be broken or missing. Raises
    `ConfigError` with every problem.
    """
    return read(path, env, files=files).settings


def read(path: Path | None, env: Mapping[str, str] | None = None, *, files: bool = True) -> Loaded:
    """Like `load`, with the source of each value (for `sluis check --show`)."""
    env = os.environ if env is None else env
    draft = Draft(_place(path, env))
    if draft.path != ENVIRONMENT:
        layers.read_file(draft)
        if draft.problems:
            raise ConfigError(draft.problems)
    layers.apply_environment(draft, env)
    layers.find_control_characters(draft, draft.raw)
    layers.resolve_paths(draft)
    read_secrets(draft, files=files)
    _inherit(draft)
    sections = validate(draft)
    for key, what, remedy in findings(parts(draft, sections), files=files):
        draft.add(key, what, remedy)
    if draft.problems:
        raise ConfigError(draft.problems)
    return Loaded(_settings(draft, sections), _sources(draft, sections))


def _place(path: Path | None, env: Mapping[str, str]) -> Path:
    alone = any(n.startswith(layers.PREFIX) and "__" in n for n in env)
    if path is None and alone and "SLUIS_CONFIG" not in env and not SYSTEM_CONFIG.exists():
        return ENVIRONMENT
    return find_config(path, env)


def _inherit(draft: Draft) -> None:
    """A stream without `partial` or `delivery` has that of `[delivery]`."""
    delivery = draft.raw.get("delivery")
    streams = draft.raw.get("streams")
    if not isinstance(delivery, dict) or not isinstance(streams, list):
        return
    for own, key, known in (("partial", "partial", Partial), ("delivery", "mode", DeliveryMode)):
        value = delivery.get(key)
        if value not in get_args(known):
            continue
        for n, stream in enumerate(streams):
            if isinstance(stream, dict) and own not in stream:
                stream[own] = value
                draft.sources[f"streams.{n}.{own}"] = f"delivery.{key}"


def _sources(draft: Draft, sections: Sections) -> dict[str, str]:
    written = {f"{key}.{name}" for key, _, table in layers.tables(draft.raw) for name in table}
    sources = {}
    for section, entries in sections.items():
        for n, table in entries.items():
            prefix = f"{section}.{n}" if section in LISTS else section
            for name in type(table).model_fields:
                key = f"{prefix}.{name}"
                origin = str(draft.path) if key in written else "default"
                sources[key] = draft.sources.get(key, origin)
    return sources


def _settings(draft: Draft, sections: Sections) -> Settings:
    values: dict[str, Any] = {
        name: tuple(tables.values()) if name in LISTS else tables[0]
        for name, tables in sections.items()
    }
    if len(values["senders"]) == 1:
        first = values["streams"][0]
        implicit = Stream(
            id=UNKNOWN_STREAM,
            sender=values["senders"][0].id,
            category=first.category.MARKETING,
            partial=values["delivery"].partial,
            delivery=values["delivery"].mode,
            lang=first.lang,
        )
        values["streams"] = (*values["streams"], implicit)
    settings = Settings(**values)
    settings._source = draft.path
    own = {f"streams.{n}.delivery": s.id for n, s in enumerate(settings.streams)}
    written = {f"{key}.{name}" for key, _, table in layers.tables(draft.raw) for name in table}
    settings._own_delivery = frozenset(
        id_
        for key, id_ in own.items()
        if key in written and draft.sources.get(key) != "delivery.mode"
    )
    return settings
