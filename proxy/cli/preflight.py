"""`sluis preflight`: what a campaign to a list would come to, before it is sent."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from policy.explain import remedy
from policy.model import Reason
from proxy.cli.explaining import LANGUAGES, inquiry_of, parse_time, stream_of
from proxy.cli.ledger import open_ledger
from proxy.clock import utc_now
from proxy.imports import FileError
from proxy.lists import ListFile
from proxy.preflight import Files, Preflight, Tally

#: Rows between two lines of progress, where there is no terminal.
_EVERY = 100_000


def run(
    file: Path,
    *,
    config: Path | None,
    stream: str,
    products: tuple[str, ...],
    topics: tuple[str, ...],
    at: str | None,
    column: str | None,
    out: Path | None,
    language: str,
    json: bool,
) -> int:
    """Print the summary; 0 whatever it says, 66 when the file cannot be opened, 65 when read."""
    if language not in LANGUAGES:
        raise typer.BadParameter("en or nl", param_hint="--lang")
    moment = parse_time(at, "--at") if at else None
    if not file.is_file():
        typer.echo(f"sluis: {file}: no such file", err=True)
        return os.EX_NOINPUT
    try:
        data = asyncio.run(
            _preflight(file, config, stream, products, topics, moment, column, out, language)
        )
    except FileError as error:
        typer.echo(f"sluis: {file}: {error}", err=True)
        return os.EX_DATAERR
    except OSError as error:
        typer.echo(f"sluis: {error.filename or file}: {error.strerror or error}", err=True)
        return os.EX_IOERR
    if json:
        typer.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode())
    else:
        _print(data)
    return 0


async def _preflight(
    file: Path,
    config: Path | None,
    stream_id: str,
    products: tuple[str, ...],
    topics: tuple[str, ...],
    moment: datetime | None,
    column: str | None,
    out: Path | None,
    language: str,
) -> dict[str, Any]:
    async with open_ledger(config) as ledger:
        stream = stream_of(ledger.settings, stream_id)
        now = utc_now()
        preflight = Preflight(
            inquiry=inquiry_of(ledger.settings, stream, products, topics),
            keys=ledger.keys,
            store=ledger.store,
            now=now,
            at=moment or now,
            language=language,
        )
        with (
            ListFile(file, column) as list_,
            Files(out, list_) if out is not None else nullcontext() as files,
            _progress(list_) as progress,
        ):
            tally = await preflight.run(list_, files, progress)
    return {
        "file": str(file),
        "stream": stream.id,
        "sender": stream.sender,
        "at": preflight.at,
        **_counts(tally, language),
        "out": str(out) if out is not None else None,
    }


def _counts(tally: Tally, language: str) -> dict[str, Any]:
    return {
        "rows": tally.rows,
        "allowed": tally.allowed,
        "blocked": tally.blocked,
        "deferred": tally.deferred,
        "duplicates": tally.duplicates,
        "invalid": tally.invalid,
        "expiring": tally.expiring,
        "needs_review": tally.needs_review,
        "bases": [{"reason": reason, "count": n} for reason, n in tally.bases.most_common()],
        "stopped": [
            {"reason": reason, "cite": cite, "count": n, "remedy": remedy(Reason(reason), language)}
            for (reason, cite), n in tally.stopped.most_common()
        ],
    }


@contextmanager
def _progress(list_: ListFile) -> Iterator[Callable[[Tally], None]]:
    """How far it is, on stderr: a bar on a terminal, else a line now and then."""
    if not sys.stderr.isatty():

        def line(tally: Tally) -> None:
            if tally.rows % _EVERY == 0:
                percent = 100 * list_.read // max(1, list_.size)
                typer.echo(f"{tally.rows} rows read ({percent}%)", err=True)

        yield line
        return
    columns = (
        TextColumn("{task.fields[rows]} rows"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=max(1, list_.size), rows=0)
        yield lambda tally: bar.update(task, completed=list_.read, rows=tally.rows)


def _print(data: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{data['file']} on stream {data['stream']}, as of {data['at']:%Y-%m-%d %H:%M} UTC"
    )
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    table.add_column()
    for key, words in (
        ("rows", "rows"),
        ("allowed", "may be mailed"),
        ("blocked", "blocked"),
        ("deferred", "deferred"),
        ("duplicates", "duplicates"),
        ("invalid", "no address that can be sent to"),
    ):
        table.add_row(f"{data[key]:,}", words)
    console.print(table)
    if data["expiring"]:
        console.print(
            f"{data['expiring']:,} of the blocked may be mailed now; their basis ends before that"
        )
    if data["bases"]:
        table = Table(title="on what basis", title_justify="left")
        table.add_column("reason")
        table.add_column("count", justify="right")
        for row in data["bases"]:
            table.add_row(row["reason"], f"{row['count']:,}")
        console.print(table)
    if data["stopped"]:
        table = Table(title="why not", title_justify="left")
        for name in ("reason", "law", "remedy"):
            table.add_column(name)
        table.add_column("count", justify="right")
        for row in data["stopped"]:
            table.add_row(row["reason"], row["cite"], row["remedy"], f"{row['count']:,}")
        console.print(table)
    if data["out"]:
        console.print(f"row by row: {data['out']}/allowed.csv and {data['out']}/blocked.csv")
