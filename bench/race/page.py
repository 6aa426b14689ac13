"""What was measured last: `bench/recorded.json`, and the parts of docs/performance.md made from it.

Each part stands between two marks and is written whole; what was not run again stays as it was.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.race.judge import HEAD, Row
from bench.race.postfix import version
from bench.race.process import BenchError
from bench.race.rows import LACKS
from bench.race.sluis import fsync_ms

RECORDED = Path(__file__).parents[1] / "recorded.json"
PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
PARTS = ("peers", "curves", "profile")


def machine(folder: Path) -> str:
    """What the figures rest on: the disk's own sync first. Waits for a fraction of a second."""
    return (
        f"fdatasync of this disk: {fsync_ms(folder):.2f} ms (median of 200 appends of 4 KB);"
        f" {os.cpu_count()} CPUs, Linux {platform.release().partition('-')[0]},"
        f" Python {platform.python_version()}, Postfix {version()}"
    )


def recorded(path: Path = RECORDED) -> dict[str, Any]:
    """The record; empty where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def medians(record: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """The recorded rows that were judged, by key."""
    rows = (row for group in record.get("rows", {}).values() for row in group)
    return {row["key"]: row for row in rows if "median" in row}


def entry(row: Row) -> dict[str, Any]:
    """A row as it is recorded."""
    made: dict[str, Any] = {"key": row.key, "line": row.text()}
    if row.ratios:
        made |= {"median": round(row.median, 3), "rounds": len(row.ratios)}
        made |= {"low": round(min(row.ratios), 3), "high": round(max(row.ratios), 3)}
    return made


def part(name: str, record: Mapping[str, Any], order: Iterable[str]) -> str:
    """The text of one part of the page."""
    if name == "peers":
        rows = record.get("rows", {})
        lines = [row["line"] for group in order for row in rows.get(group, ())]
        if not lines:
            return ""
        lacks = [f"- {words}." for words in LACKS.values()]
        said = f"Median and range of the rounds; {record['machine']}."
        words = "What the peers do less:"
        return "\n".join([said, "", HEAD, *lines, "", words, "", *lacks])
    held = record.get(name, {})
    return "\n\n".join(held[key] for key in held)


def rendered(page: str, record: Mapping[str, Any], order: Sequence[str]) -> str:
    """`page` with its parts made from `record`. Raises `BenchError` where a mark is missing."""
    for name in PARTS:
        begin, end = f"<!-- bench.{name}: begin -->", f"<!-- bench.{name}: end -->"
        head, mark, rest = page.partition(begin)
        _, closed, tail = rest.partition(end)
        if not mark or not closed:
            raise BenchError(f"{PAGE.name} lacks {begin} or {end}")
        text = part(name, record, order)
        if text:
            page = f"{head}{begin}\n{text}\n{end}{tail}"
    return page


def write(record: Mapping[str, Any], order: Sequence[str]) -> None:
    """The record into its file, and the page made from it."""
    page = rendered(PAGE.read_text(), record, order)
    RECORDED.write_text(json.dumps(record, indent=1) + "\n")
    PAGE.write_text(page)
