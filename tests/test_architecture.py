"""The import direction of the whole tree, read from the source, and the purity of `policy`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each layer may import the layers above it in this list, and its own unit. A unit is the longest
# name listed here that is a prefix of the module; what is listed nowhere is a part of the gate.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("policy",),
    ("proxy", "proxy.errors", "proxy.replies", "proxy.ref", "proxy.packs", "proxy.meters"),
    ("proxy.content",),
    ("proxy.envelope", "proxy.store.model", "proxy.config"),
    ("proxy.log", "proxy.telemetry", "proxy.keys"),
    ("proxy.tokens",),
    ("proxy.message", "proxy.store", "proxy.delivery"),
    # A report has a mail in it, and is read with the same bounded MIME scan.
    ("proxy.feedback",),
    ("proxy.fallback",),
    # Recording an opt-out is shared by the page, the mailbox and the command line.
    ("proxy.web.record",),
    ("proxy.facts",),
    ("parts of the gate",),
    ("proxy.gate",),
    ("proxy.smtp", "proxy.web"),
    ("proxy.sink",),
    ("proxy.app",),
    ("proxy.cli",),
)
RANKS = {unit: rank for rank, layer in enumerate(LAYERS) for unit in layer}
PARTS = "parts of the gate"
ONE_UNIT = {"proxy.inbox": "proxy.sink"}  # the development upstream and its pages

# What `policy` may be made of: values, text and calendars. No clock, chance, file, socket or log.
PURE = {
    *("__future__", "collections", "dataclasses", "datetime", "enum", "functools", "hashlib"),
    *("itertools", "json", "re", "tomllib", "types", "typing", "unicodedata", "policy"),
}


def sources(package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> Iterator[str]:
    """Every absolute name that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def unit(name: str) -> str:
    parts = name.split(".")
    if ".".join(parts[:2]) in ONE_UNIT:
        return ONE_UNIT[".".join(parts[:2])]
    for end in range(len(parts), 1, -1):
        if ".".join(parts[:end]) in RANKS:
            return ".".join(parts[:end])
    if parts[0] == "proxy" and len(parts) > 1 and (ROOT / "proxy" / parts[1]).exists():
        return PARTS
    if parts[0] == "proxy" and len(parts) > 1 and (ROOT / "proxy" / f"{parts[1]}.py").exists():
        return PARTS
    return parts[0]


def test_imports_point_one_way() -> None:
    wrong: list[str] = []
    for package in ("policy", "proxy"):
        for module, path in sources(package):
            own = unit(module)
            for name in imports(path):
                if name.split(".")[0] not in ("policy", "proxy"):
                    continue
                other = unit(name)
                if other != own and RANKS[other] >= RANKS[own]:
                    wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_policy_is_made_of_values_only() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in sources("policy")
        for name in imports(path)
        if name.split(".")[0] not in PURE
        and not (module == "policy.address" and name.split(".")[0] == "idna")
    ]
    assert wrong == []


def test_policy_asks_no_clock() -> None:
    asked = {"now", "utcnow", "today"}
    wrong = [
        f"{module}:{node.lineno}"
        for module, path in sources("policy")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in asked
    ]
    assert wrong == []


def test_importing_policy_loads_nothing_of_the_world() -> None:
    modules = sorted(module for module, _ in sources("policy"))
    program = "import sys\n" + "".join(f"import {module}\n" for module in modules)
    program += (
        "found = {'asyncio', 'socket', 'sqlite3', 'logging', 'ssl', 'threading', 'random'}\n"
        "print(sorted(found & set(sys.modules)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", _with_path(program)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=60,
    )
    assert ran.stdout.strip() == "[]"


def _with_path(program: str) -> str:
    """Without `site`, whose .pth files may load anything, the path is given by hand."""
    return f"import sys\nsys.path[:0] = {[str(ROOT), *sys.path[1:]]!r}\n" + program


@pytest.mark.parametrize("library", ["aiosmtpd", "sqlalchemy", "aiosqlite", "prometheus_client"])
def test_the_gate_knows_no_foreign_library(library: str) -> None:
    for name in ("gate", "dispatch", "without", "facts", "judge", "mail", "copies"):
        path = ROOT / "proxy" / f"{name}.py"
        if path.exists():
            assert library not in {item.split(".")[0] for item in imports(path)}, name
