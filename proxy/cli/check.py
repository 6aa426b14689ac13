"""`sluis check`: is the configuration usable, what is wrong with it, and what does it come to?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import orjson
import typer

from proxy import config as configuration
from proxy.config.packs import configured_packs
from proxy.config.show import entries
from proxy.data_dir import data_dir_trouble
from proxy.errors import ConfigError


def check(
    config: Annotated[
        Path | None,
        typer.Option("--config", help="The file; else $SLUIS_CONFIG, else /etc/sluis/sluis.toml."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print every key, its value and its source.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the configuration; exit 0, or 78 with one line per problem on stderr.

    What another user or machine may not find is a warning: it does not change the exit code.
    """
    try:
        loaded = configuration.read(config)
        configured_packs(loaded.settings)
    except ConfigError as error:
        if json:
            _print({"ok": False, "problems": error.problems})
        for problem in [] if json else error.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(os.EX_CONFIG) from None
    settings = loaded.settings
    keys = entries(loaded) if show else []
    trouble = data_dir_trouble(settings)
    if json:
        shown = {e.key: {"value": e.value, "source": e.source} for e in keys}
        answer = {
            "ok": True,
            "source": str(settings.source),
            "warnings": [trouble] if trouble else [],
        }
        _print({**answer, **({"keys": shown} if show else {})})
        return
    if trouble:
        typer.echo(f"warning: {trouble}", err=True)
    for entry in keys:
        typer.echo(str(entry))
    if not show:
        streams = sum(not stream.implicit for stream in settings.streams)
        typer.echo(
            f"{settings.source}: ok ({_count(len(settings.listeners), 'listener')}, "
            f"{_count(len(settings.upstreams), 'upstream')}, "
            f"{_count(len(settings.senders), 'sender')}, {_count(streams, 'stream')})"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print(value: object) -> None:
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
