"""`sluis report`: what is coming."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="What is coming.", no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def group() -> None:
    """What is coming."""


@app.command()
def expiring(
    within: Annotated[str, typer.Option(help="How far to look ahead: 90d.")] = "90d",
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The TOML file.")] = None,
    stream: Annotated[
        str | None, typer.Option(help="For mail of this stream; else any marketing mail.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a CSV with a row for each person.", dir_okay=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Whose basis ends when, by week: ask for consent before, afterwards nobody may."""
    try:
        data = asyncio.run(_expiring(within, config, stream, out))
    except OSError as error:
        typer.echo(f"sluis: {error.filename or out}: {error.strerror or error}", err=True)
        raise typer.Exit(os.EX_IOERR) from error
    if json:
        import orjson

        typer.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode())
    else:
        _print(data)


async def _expiring(
    within: str, config: Path | None, stream_id: str | None, out: Path | None
) -> dict[str, Any]:
    from pydantic import TypeAdapter, ValidationError

    from proxy.cli.explaining import inquiry_of, stream_of
    from proxy.cli.ledger import open_ledger
    from proxy.clock import utc_now
    from proxy.config.packs import configured_packs
    from proxy.config.values import Duration
    from proxy.forecast import COLUMNS, forecast
    from proxy.sheets import Sheet

    try:
        span = TypeAdapter(Duration).validate_python(within)
        now = utc_now()
        until = now + span
    except (ValidationError, OverflowError) as error:
        raise typer.BadParameter(
            f"{within!r} is no duration: write 90d", param_hint="--within"
        ) from error
    async with open_ledger(config) as ledger:
        settings = ledger.settings
        inquiry = None
        if stream_id is not None:
            inquiry = inquiry_of(settings, stream_of(settings, stream_id))
        sheet = Sheet(out, COLUMNS) if out is not None else None
        try:
            found = await forecast(
                settings,
                ledger.store,
                configured_packs(settings),
                now=now,
                within=span,
                inquiry=inquiry,
                sheet=sheet,
            )
            if sheet is not None:
                sheet.finish()
        finally:
            if sheet is not None:
                sheet.abandon()
    return {
        "at": now,
        "until": until,
        "stream": stream_id,
        "people": found.people,
        "ending": found.ending,
        "weeks": [
            {"week": f"{monday:%G-W%V}", "from": monday, "basis": basis, "count": count}
            for (monday, basis), count in sorted(found.weeks.items())
        ],
        "out": str(out) if out is not None else None,
    }


def _print(data: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    mail = f"mail of stream {data['stream']}" if data["stream"] else "marketing mail"
    console.print(
        f"{data['people']:,} may be written to ({mail}); of {data['ending']:,} the basis ends by "
        f"{data['until']:%Y-%m-%d}"
    )
    if data["weeks"]:
        table = Table()
        for name in ("week", "from", "basis"):
            table.add_column(name)
        table.add_column("ends", justify="right")
        for row in data["weeks"]:
            table.add_row(row["week"], f"{row['from']}", row["basis"], f"{row['count']:,}")
        console.print(table)
    if data["out"]:
        console.print(f"person by person: {data['out']}")
