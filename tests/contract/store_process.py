"""How to run `store_child.py`, and to read what it reports."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]


def child(path: Path, action: str, *arguments: str) -> list[str]:
    """The command line of `store_child.py`."""
    return [sys.executable, str(_HERE / "store_child.py"), str(path), action, *arguments]


def child_environment() -> dict[str, str]:
    """The environment in which a child finds the code."""
    paths = os.pathsep.join([str(_ROOT), str(_HERE)])
    return {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}


def lines(printed: str) -> list[dict[str, object]]:
    """What a child reported: one JSON object a line; a last line cut by a kill is no report."""
    whole = printed.split("\n")[:-1]
    return [json.loads(line) for line in whole]
