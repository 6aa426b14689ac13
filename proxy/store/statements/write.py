"""Write `proxy/store/sql` anew: `make statements`, or `python -m proxy.store.statements.write`.

Statements are made of the modules beside this one, the tables of the migrations.
"""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib import import_module
from pathlib import Path
from textwrap import wrap
from typing import Any

from proxy.store.query import Query
from proxy.store.upgrade import upgrade

_HERE = Path(__file__).parent
_SQL = _HERE.parent / "sql"

#: Where a clause begins, and with it a line of the text.
_CLAUSE = re.compile(
    r"(?<!DELETE) "
    r"(?=(?:SELECT|FROM|JOIN|LEFT OUTER JOIN|WHERE|ORDER BY|UNION|VALUES|SET|ON CONFLICT)\b)"
)
_LITERAL = re.compile(r"'[^']*'|\"[^\"]*\"")
_AS_IS: Any = {"break_long_words": False, "break_on_hyphens": False}


def texts() -> dict[Path, str]:
    """What the modules of `proxy/store/sql` are to hold, by file."""
    modules = {path.stem for path in _HERE.glob("*.py")}
    names = sorted(modules - {"__init__", Path(__file__).stem})
    made = {_SQL / f"{name}.py": _module(name) for name in names}
    made[_SQL / "tables.py"] = _tables()
    return made


def stale() -> list[Path]:
    """The files of `proxy/store/sql` that differ from it, are missing, or have no source."""
    right = texts()
    held = {path: path.read_text() for path in _SQL.glob("*.py") if path.stem != "__init__"}
    return sorted(path for path in right.keys() | held.keys() if right.get(path) != held.get(path))


def write() -> list[Path]:
    """Bring `proxy/store/sql` up to date; the files that changed."""
    changed = stale()
    right = texts()
    for path in changed:
        if path in right:
            path.write_text(right[path])
        else:
            path.unlink()
    return changed


def _module(name: str) -> str:
    source = import_module(f"proxy.store.statements.{name}")
    made = {key: query for key, query in vars(source).items() if isinstance(query, Query)}
    return "\n".join([
        f'"""Written by `make statements`: change `proxy/store/statements/{name}.py` instead."""',
        "",
        "from proxy.store.query import Query",
        *(line for key, query in made.items() for line in _statement(key, query)),
        "",
    ])


def _tables() -> str:
    """All that the migrations make in an empty database."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        upgrade(db, None)
        made = db.execute(
            "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite!_%'"
            " ESCAPE '!' ORDER BY rowid"
        ).fetchall()
        [(revision,)] = db.execute("SELECT version_num FROM alembic_version").fetchall()
    return "\n".join([
        '"""Written by `make statements`: change `proxy/store/migrations` instead."""',
        "",
        "#: The newest migration.",
        f"REVISION = {json.dumps(revision)}",
        "",
        "#: A database of that schema, but for its row in `alembic_version`.",
        "TABLES = (",
        *(f'    """{_tidy(sql)}""",' for (sql,) in made),
        ")",
        "",
    ])


def _tidy(sql: str) -> str:
    lines = (line.rstrip().replace("\t", "  ") for line in sql.strip().split("\n"))
    return "\n    ".join(lines)


def _statement(key: str, query: Query) -> Iterator[str]:
    if any(" " in literal for literal in _LITERAL.findall(query.sql)):
        raise ValueError(f"{key}: lines may break at any space: bind this literal instead")
    yield ""
    yield f"{key} = Query("
    lines = [
        line
        for clause in _CLAUSE.split(query.sql)
        for line in wrap(clause, 96, initial_indent=" " * 4, subsequent_indent=" " * 6, **_AS_IS)
    ]
    text = "\n".join(lines).strip()
    yield f'    """{text}""",'
    if query.names:
        yield from _items("(", [json.dumps(name) for name in query.names], ")")
    if query.constants:
        pairs = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in query.constants.items()]
        yield from _items("{", pairs, "}")
    yield ")"


def _items(begin: str, items: Sequence[str], end: str) -> Iterator[str]:
    line = f"    {begin}{', '.join(items)}{',' if len(items) == 1 else ''}{end},"
    if len(line) <= 96:
        yield line
        return
    yield f"    {begin}"
    yield from wrap(
        ", ".join(items) + ",", 96, initial_indent=" " * 8, subsequent_indent=" " * 8, **_AS_IS
    )
    yield f"    {end},"


if __name__ == "__main__":
    for path in write():
        sys.stdout.write(f"{path.name}\n")
