"""docs/guarantees.md names only what exists: tests, and arguments that `make faults` takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from run_faults import GROUPS, parser

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/guarantees.md").read_text("utf-8")


def test_each_test_that_proves_something_exists() -> None:
    named = set(re.findall(r"`(tests/[\w/.]+)`", PAGE))
    assert len(named) > 10
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_each_command_is_one_that_runs() -> None:
    given = re.findall(r'`(?:make faults )?ARGS="([^"]*)"`', PAGE)
    assert len(given) > 5
    for arguments in given:
        asked = parser().parse_args(arguments.split())
        assert set(asked.only.split(",")) <= set(GROUPS)
    assert "\nfaults: setup-test" in (ROOT / "Makefile").read_text("utf-8")


@pytest.mark.parametrize("section", re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:-1])
def test_each_promise_has_limits_and_proof(section: str) -> None:
    assert "**Limits" in section
    assert "**Proof.**" in section
