"""The reference file and the page on configuration say what the code does, key by key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from proxy.config import Settings, load
from proxy.config.layers import fields
from proxy.config.show import plain
from proxy.errors import ConfigError

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "config" / "sluis.toml"
DOCUMENT = ROOT / "docs" / "configuration.md"
REQUIRED = "required"


def keys() -> dict[str, object]:
    """Every key of the models (`section.key`) with its default, plain; `REQUIRED` for none."""
    found: dict[str, object] = {}
    for section, inner in fields(Settings).items():
        assert inner.table is not None
        for name, info in inner.table.model_fields.items():
            default = info.default
            found[f"{section}.{name}"] = (
                REQUIRED if default is PydanticUndefined else plain(default)
            )
    return found


@dataclass(frozen=True)
class Line:
    """One line of the reference: `#key = value` is not active."""

    key: str
    active: bool
    value: str
    comment: str


def reference() -> Iterator[Line]:
    section = ""
    for line in REFERENCE.read_text(encoding="utf-8").splitlines():
        if header := re.fullmatch(r"#?\[+([a-z_]+)\]+", line):
            section = header[1]
        elif found := re.fullmatch(r"(#?)([a-z_0-9]+) = ?(.*?)(?:\s+#\s(.*))?", line):
            yield Line(f"{section}.{found[2]}", not found[1], found[3].strip(), found[4] or "")


def value_of(text: str) -> object:
    return tomllib.loads(f"value = {text}")["value"]


UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
SIZES = {"KiB": 1 << 10, "MiB": 1 << 20}


def amount(value: object, units: dict[str, int]) -> object:
    """`"5m"` as a number of the smallest unit; anything else as it is."""
    found = re.fullmatch(r"(\d+)([A-Za-z]+)", value) if isinstance(value, str) else None
    return int(found[1]) * units[found[2]] if found and found[2] in units else value


def same(text: str, default: object) -> bool:
    """Whether TOML text means the default, however durations and sizes are written."""
    got = value_of(text)
    if isinstance(default, int) and not isinstance(default, bool):
        got = amount(got, SIZES)
    got, default = amount(got, UNITS), amount(default, UNITS)
    return got == default and type(got) is type(default)


def test_the_reference_loads_as_it_is() -> None:
    got = load(REFERENCE, {})
    assert [s.id for s in got.streams] == ["newsletter", "orders", "unknown"]
    assert got.upstreams[0].address == "127.0.0.1:1025"
    assert all(listener.host == "127.0.0.1" for listener in got.listeners)
    assert not got.server.development


def test_the_reference_has_every_key_and_no_other() -> None:
    assert {line.key for line in reference()} == set(keys())


def test_every_default_in_the_reference_is_that_of_the_code() -> None:
    defaults = keys()
    for line in reference():
        default = defaults[line.key]
        if default == REQUIRED:
            assert line.active or line.comment.startswith("required"), line
        elif line.active:
            told = re.search(r"default: (.+)$", line.comment)
            same_as_set = same(line.value, default)
            assert same_as_set or line.key.startswith("streams.") or told, line
            assert told is None or same(told[1], default), line
        elif default is None:
            assert not line.value, line
            assert "such as" in line.comment, line
        else:
            assert line.value, line
            assert same(line.value, default), line


def test_the_reference_loads_with_every_commented_default_active(tmp_path: Path) -> None:
    lines = REFERENCE.read_text(encoding="utf-8").splitlines()
    credentials = lines.index("#[[credentials]]")
    policy = lines.index("[policy]")
    active = [
        re.sub(r"^#(?=[a-z_0-9]+ = *[^ #])", "", line)
        for line in [*lines[:credentials], *lines[policy:]]
    ]
    path = tmp_path / "sluis.toml"
    path.write_text("\n".join(active), encoding="utf-8")
    assert path.read_text() != REFERENCE.read_text()
    one, other = load(path, {}), load(REFERENCE, {})
    for section in Settings.model_fields:
        assert getattr(one, section) == getattr(other, section)


def test_every_such_as_is_a_value_that_the_key_takes() -> None:
    """Each by the model of its table alone, with the reference's values of the required keys."""
    lines = list(reference())
    values = {line.key: value_of(line.value) for line in reversed(lines) if line.value}
    tried = 0
    for line in lines:
        if found := re.search(r"such as (.+?)(?:;|$)", line.comment):
            section, _, name = line.key.partition(".")
            table = fields(Settings)[section].table
            assert table is not None
            needed = [n for n, info in table.model_fields.items() if info.is_required()]
            content = {n: values[f"{section}.{n}"] for n in needed} | {name: value_of(found[1])}
            assert getattr(table.model_validate(content), name) is not None, line
            tried += 1
    assert tried > 20


def documented() -> dict[str, str]:
    rows = re.findall(
        r"^\| `([a-z_0-9.\[\]]+)` \| .*? \| (.*?) \| .+ \|$", DOCUMENT.read_text(), re.M
    )
    found = {key.replace("[]", ""): default for key, default in rows}
    assert len(found) == len(rows)
    return found


def test_the_document_has_every_key_with_its_default() -> None:
    rows = documented()
    defaults = keys()
    assert set(rows) == set(defaults)
    for key, text in rows.items():
        if defaults[key] == REQUIRED:
            assert text == "required", key
        elif defaults[key] is None:
            assert text == "not set", key
        else:
            assert same(text.strip("`"), defaults[key]), key


def test_lists_are_marked_as_lists_in_the_document() -> None:
    text = DOCUMENT.read_text()
    for section, inner in fields(Settings).items():
        heading = f"## [[{section}]]" if inner.many else f"## [{section}]"
        assert f"{heading}\n" in text
        if inner.many:
            assert f"`{section}." not in text.replace("`listeners.0", "")


def test_the_example_of_problems_is_what_check_says(tmp_path: Path) -> None:
    told = DOCUMENT.read_text().split("```\n$ sluis check --config sluis.toml\n")[1].split("```")[0]
    text = REFERENCE.read_text().replace('hostname = "', 'devlopment = true\nhostname = "', 1)
    text = text.replace('["127.0.0.0/8", "::1/128"]', '["0.0.0.0/0"]')
    path = tmp_path / "sluis.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {"SLUIS_LISTENERS__0__TLS": "ssl"})
    got = [line.replace(str(path), "sluis.toml") for line in caught.value.problems]
    assert got == told.splitlines()
