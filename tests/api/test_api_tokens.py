"""Tokens: made, kept as digests, found again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from proxy.api_tokens import PREFIX, digest, find, new_token
from proxy.cli.main import app
from proxy.config import ApiToken, load


def entry(name: str, token: str) -> ApiToken:
    return ApiToken(name=name, token_hash=digest(token), role="reader")


def test_a_token_is_found_by_itself_alone() -> None:
    made = [new_token() for _ in range(20)]
    assert len(set(made)) == 20
    assert all(len(token) == len(PREFIX) + 43 for token in made)
    entries = [entry(f"t{n}", token) for n, token in enumerate(made)]
    for n, token in enumerate(made):
        assert find(entries, token) is entries[n]
        assert find(entries, token.swapcase()) is None
        assert find(entries, entries[n].token_hash) is None
    assert find([], made[0]) is None


@given(st.text(max_size=300))
def test_any_other_text_finds_nothing(text: str) -> None:
    assert find([entry("a", "sluis_x")], text) is None or text == "sluis_x"


def create(*arguments: str) -> tuple[int, str, str]:
    ran = CliRunner().invoke(app, ["token", "create", *arguments])
    return ran.exit_code, ran.stdout, ran.stderr


def test_what_is_printed_goes_into_the_configuration(tmp_path: Path) -> None:
    code, out, err = create("crm", "--role", "editor", "--sender", "acme")
    assert code == 0
    token, _, lines = out.partition("\n")
    assert token.startswith(PREFIX)
    assert token not in lines
    assert token not in err
    reference = Path(__file__).parents[2] / "config" / "sluis.toml"
    file = tmp_path / "sluis.toml"
    file.write_text(reference.read_text("utf-8") + lines, "utf-8")
    [made] = load(file, {}).api_tokens
    assert (made.name, made.role, made.senders) == ("crm", "editor", ("acme",))
    assert find([made], token) is made
    assert create("crm", "--role", "editor")[1] != out


@pytest.mark.parametrize(
    "arguments", [("crm", "--role", "admin"), ("crm",), ("No Good", "--role", "reader")]
)
def test_a_usage_error(arguments: tuple[str, ...]) -> None:
    code, out, _ = create(*arguments)
    assert code != 0
    assert out == ""
