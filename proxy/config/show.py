"""The effective configuration as a person reads it: each key, its value and its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

import orjson
from pydantic import SecretStr

from proxy.config import Loaded
from proxy.config.models import Settings, Table

MASK = "********"
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


@dataclass(frozen=True, slots=True)
class Entry:
    """One key. `value` is plain (text, number, truth, list, table) or None for "not set"."""

    key: str
    value: Any
    source: str

    def __str__(self) -> str:
        if self.value is None:
            return f"# {self.key} is not set"
        return f"{self.key} = {as_toml(self.value)}  # {self.source}"


def entries(loaded: Loaded) -> list[Entry]:
    """All keys in the order of the file, secrets masked; the implicit stream is not among them."""
    found = []
    for section in Settings.model_fields:
        content = getattr(loaded.settings, section)
        tables = enumerate(content) if isinstance(content, tuple) else [(None, content)]
        for n, table in tables:
            prefix = section if n is None else f"{section}.{n}"
            for name in type(table).model_fields:
                if (key := f"{prefix}.{name}") in loaded.sources:
                    found.append(Entry(key, plain(getattr(table, name)), loaded.sources[key]))
    return found


def plain(value: object) -> Any:
    """A setting as TOML and JSON can hold it; a secret as a mask."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, timedelta):
        return duration(value)
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Table):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if is_dataclass(value) and not isinstance(value, type):
        return {k: plain(v) for k, v in asdict(value).items() if v is not None}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return str(value)


def duration(value: timedelta) -> str:
    """The shortest way to write it: `5d`, `90s`, `500ms`."""
    milliseconds = value // timedelta(milliseconds=1)
    for unit, seconds in _UNITS:
        if milliseconds % (seconds * 1000) == 0:
            return f"{milliseconds // (seconds * 1000)}{unit}"
    return f"{milliseconds}ms"


def as_toml(value: object) -> str:
    """A plain value on one line of TOML (a JSON string is a TOML string)."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    return orjson.dumps(value).decode()


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else orjson.dumps(name).decode()
