"""From file and environment to one raw table, with the source of each value.

Layers: TOML file < environment `SLUIS_SECTION__KEY`, entries of a list by index
(`SLUIS_LISTENERS__0__ADDRESS`). A relative path in the file counts from the file's directory, one
in the environment from the working directory.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from proxy.config.models import Settings, Table
from proxy.config.values import control_character

PREFIX = "SLUIS_"
ENVIRONMENT = Path("environment")

Raw = dict[str, Any]


@dataclass(slots=True)
class Draft:
    """The raw configuration on its way to `Settings`: what was read, from where, and what is wrong.

    `sources` maps a dotted key to where its value came from, unless from the file itself.
    """

    path: Path
    raw: Raw = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def add(self, key: str, what: str, remedy: str) -> None:
        """One problem, one line: where, key, what, remedy. Control characters are shown escaped."""
        self.keys.add(key)
        parts = key.split(".")
        above = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        place = next((self.sources[k] for k in above if k in self.sources), str(self.path))
        line = f"{place}: {key}: {what}; {remedy}"
        self.problems.append("".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in line))


@dataclass(frozen=True, slots=True)
class Shape:
    """What a field holds: a table, a list of tables, or (`table` None) a value of type `base`."""

    table: type[Table] | None
    many: bool
    base: object
    optional: bool


def shape(annotation: object) -> Shape:
    """The shape of a field's annotation, seen through Annotated and `| None`."""
    optional = False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            members = [a for a in get_args(annotation) if a is not type(None)]
            optional = optional or len(members) < len(get_args(annotation))
            annotation = members[0]
        else:
            break
    item = get_args(annotation)[0] if origin is tuple else annotation
    if isinstance(item, type) and issubclass(item, Table):
        return Shape(item, origin is tuple, annotation, optional)
    return Shape(None, False, origin if origin not in (None, Literal) else annotation, optional)


def fields(table: type[Table]) -> dict[str, Shape]:
    """Name and shape of every key of a table."""
    return {name: shape(info.annotation) for name, info in table.model_fields.items()}


def read_file(draft: Draft) -> None:
    """Read the TOML file into the draft; if that fails it is the only problem."""
    path = draft.path
    try:
        text = path.read_bytes().decode("utf-8")
        draft.raw = tomllib.loads(text)
    except FileNotFoundError:
        draft.problems.append(f"{path}: not found; name the file with --config or $SLUIS_CONFIG")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        draft.problems.append(f"{path}: cannot be read ({reason}); make it readable for this user")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        draft.problems.append(f"{path}:{line}: is not UTF-8; save the file as UTF-8")
    except tomllib.TOMLDecodeError as error:
        draft.problems.append(f"{path}{_position(str(error), text)}; correct the TOML there")


def _position(message: str, text: str) -> str:
    """`Invalid value (at line 3, column 5)` as `:3:5: Invalid value`."""
    found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL)
    if found:
        return f":{found[2]}:{found[3]}: {found[1]}"
    what = message.removesuffix(" (at end of document)")
    return f":{text.count(chr(10)) + 1}: {what}"


def apply_environment(draft: Draft, env: Mapping[str, str]) -> None:
    """Lay `SLUIS_SECTION__KEY` over the file, lists by index in numeric order."""
    names = [n for n in env if n.startswith(PREFIX) and n != "SLUIS_CONFIG"]
    split = {n: n.removeprefix(PREFIX).lower().split("__") for n in names}
    for name in sorted(names, key=lambda n: [(not p.isdigit(), p.zfill(6)) for p in split[n]]):
        if len(split[name]) == 1:
            _refuse_near_name(draft, name, split[name][0])
        else:
            _set(draft, name, split[name], env[name])
    state = env.get("STATE_DIRECTORY", "").partition(":")[0]
    server = draft.raw.setdefault("server", {})
    if state and isinstance(server, dict) and "data_dir" not in server:
        server["data_dir"] = state
        draft.sources["server.data_dir"] = "environment STATE_DIRECTORY"


def _refuse_near_name(draft: Draft, name: str, rest: str) -> None:
    """`SLUIS_HTTP_PUBLIC_URL` is a slip; others without `__` (a Kubernetes service's) are not."""
    for section, inner in fields(Settings).items():
        if rest == section or (inner.many and rest.startswith(f"{section}_0")):
            wanted = f"{PREFIX}{section.upper()}__" + ("0__KEY" if inner.many else "KEY")
        elif inner.table and rest.removeprefix(f"{section}_") in inner.table.model_fields:
            wanted = f"{PREFIX}{section.upper()}__{rest.removeprefix(f'{section}_').upper()}"
        else:
            continue
        draft.problems.append(
            f"environment {name}: has no effect in this form; write {wanted}, or remove it"
        )
        return


def _set(draft: Draft, name: str, parts: list[str], value: str) -> None:
    key = ".".join(parts)
    draft.sources[key] = f"environment {name}"
    where: Any = draft.raw
    table: type[Table] = Settings
    at = 0
    while True:
        inner = fields(table).get(parts[at])
        if inner is None:
            draft.add(
                key, f"is no key{suggestion(table, parts[at])}", "correct or remove the variable"
            )
            return
        if inner.table is None or (table is not Settings and at == len(parts) - 1):
            break
        where = where.setdefault(parts[at], [] if inner.many else {})
        at += 1
        if inner.many:
            entry = _entry(where, parts[at])
            if entry is None:
                remedy = f"give an index from 0 to {len(where) if isinstance(where, list) else 0}"
                draft.add(
                    key,
                    "names no entry of the list",
                    f"{remedy}, as in {PREFIX}LISTENERS__0__ADDRESS",
                )
                return
            where, at = entry, at + 1
        table = inner.table
        if at >= len(parts) or not isinstance(where, dict):
            draft.add(
                key, "names a table, not a key", f"add one of: {', '.join(table.model_fields)}"
            )
            return
    rest = parts[at + 1 :]
    if rest and (inner.base is not Mapping or len(rest) > 1):
        draft.add(key, "goes deeper than the key does", f"write it without __{rest[0].upper()}")
        return
    if rest:
        entries = where.setdefault(parts[at], {})
        if isinstance(entries, dict):
            entries[rest[0]] = _number(value)
    elif not value and inner.optional:
        where.pop(parts[at], None)
    else:
        where[parts[at]] = _coerce(value, inner)


def _entry(entries: object, index: str) -> object:
    """The entry of that index, appended when it is the next one; None if there is no such place."""
    if not isinstance(entries, list) or not re.fullmatch(r"[0-9]{1,4}", index):
        return None
    if int(index) > len(entries):
        return None
    if int(index) == len(entries):
        entries.append({})
    return entries[int(index)]


def _number(value: str) -> object:
    return int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else value


def _coerce(value: str, inner: Shape) -> object:
    """A variable's text as what TOML would give; what does not fit stays text, refused later."""
    if inner.many or inner.base in (tuple, Mapping):
        if value.lstrip().startswith(("[", "{")):
            try:
                return tomllib.loads(f"value = {value}")["value"]
            except tomllib.TOMLDecodeError:
                return value
        return [item.strip() for item in value.split(",") if item.strip()]
    if inner.base is bool or inner.base == Literal[False]:
        return {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
    return _number(value) if inner.base is int else value


def suggestion(table: type[Table], key: str) -> str:
    """`(did you mean "x"?)` for a key that is close to a known one, or known in another table."""
    if not table.model_fields:
        return " (this version takes none in this table)"
    near = difflib.get_close_matches(key, table.model_fields, n=1, cutoff=0.6)
    if near:
        return f' (did you mean "{near[0]}"?)'
    for section, inner in fields(Settings).items():
        if inner.table is not None and inner.table is not table and key in inner.table.model_fields:
            return f" here (it belongs in {f'[[{section}]]' if inner.many else f'[{section}]'})"
    return ""


def tables(raw: Raw) -> Iterator[tuple[str, type[Table], Raw]]:
    """Every table present in `raw` that is in the place of a table: dotted key, model, content."""
    for section, inner in fields(Settings).items():
        content = raw.get(section)
        if inner.table is None:
            continue
        if not inner.many and isinstance(content, dict):
            yield section, inner.table, content
            for name, nested in fields(inner.table).items():
                if nested.table is not None and isinstance(content.get(name), list):
                    yield from _entries(f"{section}.{name}", nested.table, content[name])
        elif inner.many and isinstance(content, list):
            yield from _entries(section, inner.table, content)


def _entries(
    key: str, table: type[Table], content: list[Any]
) -> Iterator[tuple[str, type[Table], Raw]]:
    for n, entry in enumerate(content):
        if isinstance(entry, dict):
            yield f"{key}.{n}", table, entry


def find_control_characters(draft: Draft, value: object, key: str = "") -> None:
    """Refuse what could end a line or a header field wherever the value is used later."""
    if isinstance(value, dict):
        for name, inner in value.items():
            find_control_characters(draft, inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            find_control_characters(draft, inner, f"{key}.{n}")
    elif isinstance(value, str) and (found := control_character(value)):
        draft.add(
            key, f"holds the control character {found}", "write the text on one line without it"
        )


def resolve_paths(draft: Draft) -> None:
    """Make every relative path absolute, from the file's or the working directory."""
    for key, table, content in tables(draft.raw):
        for name, inner in fields(table).items():
            value = content.get(name)
            if inner.base is Path and isinstance(value, str) and value:
                here = f"{key}.{name}" in draft.sources or draft.path == ENVIRONMENT
                base = Path.cwd() if here else draft.path.absolute().parent
                content[name] = str(base / value)
