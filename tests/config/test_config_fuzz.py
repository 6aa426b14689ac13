"""Whatever stands in file or environment: settings, or `ConfigError`; never anything else."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_config_load import MINIMAL, write

from proxy.config import Settings, load
from proxy.config.layers import fields
from proxy.config.show import as_toml
from proxy.errors import ConfigError

BASE: dict[str, Any] = tomllib.loads(
    MINIMAL
    + '[[credentials]]\nusername = "x"\npassword_hash = "$argon2id$v=19$m=8,t=1,p=1$YWFh$YWFh"'
)
STRANGE: list[Any] = [
    0,
    -1,
    10**18,
    1.5,
    True,
    "",
    "x",
    "a:1",
    [],
    [1],
    ["x"],
    [[]],
    [{}],
    {},
    {"x": 1},
]
KEYS = [
    (section, name)
    for section, inner in fields(Settings).items()
    if inner.table
    for name in inner.table.model_fields
]


def outcome(path: Path, env: dict[str, str] | None = None) -> bool:
    """Whether it loaded (a refusal without a problem would count as loaded)."""
    try:
        load(path, env or {})
    except ConfigError as error:
        return not error.problems
    return True


def text_of(raw: dict[str, Any]) -> str:
    return "\n".join(f"{section} = {as_toml(content)}" for section, content in raw.items())


def test_the_base_of_this_test_loads(tmp_path: Path) -> None:
    assert outcome(write(tmp_path, text_of(BASE)))


@pytest.mark.parametrize(("section", "name"), KEYS)
def test_a_strange_value_of_any_key(tmp_path: Path, section: str, name: str) -> None:
    refused = 0
    for value in STRANGE:
        raw = copy.deepcopy(BASE)
        table = raw.setdefault(section, {})
        (table[0] if isinstance(table, list) else table)[name] = value
        refused += not outcome(write(tmp_path, text_of(raw)))
    assert refused > len(STRANGE) / 2


@pytest.mark.parametrize("section", list(Settings.model_fields))
def test_a_strange_value_in_place_of_a_section(tmp_path: Path, section: str) -> None:
    for value in STRANGE:
        path = write(tmp_path, text_of(BASE | {section: value}))
        assert not outcome(path) or value in ({}, []), value


@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        st.lists(
            st.sampled_from(
                ["server", "listeners", "streams", "policy", "subaddress", "0", "1", ""]
            )
            | st.sampled_from([name for _, name in KEYS])
            | st.text(max_size=4),
            max_size=5,
        ).map(lambda parts: "SLUIS_" + "__".join(parts).upper()),
        st.text(max_size=12)
        | st.sampled_from(["[", "[]", "{}", "{a=1}", "[[1]]", "true", "1", "-"]),
        max_size=6,
    )
)
def test_any_environment(tmp_path: Path, env: dict[str, str]) -> None:
    path = write(tmp_path, MINIMAL)
    assert outcome(path, env) in (True, False)


@hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, len(MINIMAL)), st.text(max_size=6))
def test_any_text_put_into_the_file(tmp_path: Path, at: int, more: str) -> None:
    path = tmp_path / "sluis.toml"
    path.write_bytes((MINIMAL[:at] + more + MINIMAL[at:]).encode("utf-8", "surrogatepass"))
    assert outcome(path) in (True, False)
