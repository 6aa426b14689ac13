"""Regular expressions that every supported Python reads alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    str(path.relative_to(ROOT))
    for name in ("policy", "proxy")
    for path in (ROOT / name).rglob("*.py")
)


@pytest.mark.parametrize("name", SOURCES)
def test_no_group_is_repeated_possessively(name: str) -> None:
    """Python before 3.11.5 matches `(...)*+` wrongly where the group has alternatives.

    An atomic group says the same and is read right: `(?>(?:...)*)`.
    """
    assert not re.search(r"\)(?:[*+?]|\{[0-9,]+\})\+", (ROOT / name).read_text("utf-8"))
