"""`sluis policy backtest`: what other packs or settings would have done with the mail of late."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import orjson
import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from policy.pack import PackError, Packs
from proxy.backtest import Backtest, Count, Flip
from proxy.cli.explaining import parse_time, stream_of
from proxy.cli.ledger import open_ledger
from proxy.clock import utc_now
from proxy.config import load
from proxy.config.values import Duration
from proxy.packs import load_packs


def run(
    *,
    config: Path | None,
    since: str,
    packs_dir: Path | None,
    settings: Path | None,
    stream: str | None,
    json: bool,
) -> int:
    """Print every flip as it is found, then the summary; 0 whatever they say."""
    moment = since_time(since)
    asyncio.run(_backtest(config, moment, packs_dir, settings, stream, json))
    return 0


def since_time(text: str, option: str = "--since") -> datetime:
    """A duration before now (`30d`), or an ISO 8601 time with its zone."""
    try:
        return utc_now() - TypeAdapter(Duration).validate_python(text)
    except (ValidationError, OverflowError):
        return parse_time(text, option)


def packs_of(directory: Path | None) -> Packs:
    """The packs of a directory beside the shipped ones, or a usage error that says where."""
    try:
        return load_packs(directory)
    except (PackError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="--packs") from error


async def _backtest(
    config: Path | None,
    since: datetime,
    packs_dir: Path | None,
    settings: Path | None,
    stream: str | None,
    json: bool,
) -> None:
    async with open_ledger(config) as ledger:
        tried = load(settings, files=False) if settings is not None else ledger.settings
        if stream is not None:
            stream_of(ledger.settings, stream)
        backtest = Backtest(tried, packs_of(packs_dir or tried.policy.packs_dir))
        if json:
            typer.echo('{"flips":[', nl=False)
        first = True
        async for flip in backtest.flips(ledger.store, since, stream):
            if json:
                typer.echo(f"{'' if first else ','}\n{_flip_json(flip)}", nl=False)
            else:
                typer.echo(_line(flip))
            first = False
    streams = {name: asdict(count) for name, count in sorted(backtest.counts.items())}
    if json:
        typer.echo(f'],\n"streams":{orjson.dumps(streams).decode()}}}')
    else:
        _print(backtest.counts)


def _line(flip: Flip) -> str:
    old, new = flip.old, flip.new
    return (
        f"{flip.ref}.{flip.n}  {flip.decided_at:%Y-%m-%d %H:%M}  {flip.stream}  "
        f"{old.verdict} {old.reason} [{old.cite}] -> {new.verdict} {new.reason} [{new.cite}]"
    )


def _flip_json(flip: Flip) -> str:
    return orjson.dumps(flip).decode()


def _print(counts: dict[str, Count]) -> None:
    table = Table(title="per stream", title_justify="left")
    table.add_column("stream")
    for name in ("decided", "same", "now blocked", "now allowed", "other reason", "unreadable"):
        table.add_column(name, justify="right")
    for stream, count in sorted(counts.items()):
        numbers = (
            *(count.decided, count.same, count.stopped, count.released),
            *(count.other_reason, count.unreadable),
        )
        table.add_row(stream, *(f"{n:,}" for n in numbers))
    Console(highlight=False, soft_wrap=True).print(table)
