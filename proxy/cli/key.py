"""`sluis key`: the keys that seal opt-out links."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="The keys that seal opt-out links.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _only_subcommands() -> None:
    """Keep `rotate` a word of its own while it is the only one."""


@app.command()
def rotate(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="The TOML file; else $SLUIS_CONFIG, /etc/sluis/sluis.toml."
        ),
    ] = None,
) -> None:
    """Add a key, which seals new links after the restart; old links open as before."""
    from proxy.config import load
    from proxy.data_dir import keys_path, no_new_keys
    from proxy.keys import rotate as add

    settings = load(config, files=False)
    path = keys_path(settings)
    with no_new_keys(settings):
        added = add(path)
    typer.echo(
        f"{path}: {added} added; copy the file to a safe place and to every replica, then "
        "restart sluis serve"
    )
