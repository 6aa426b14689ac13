"""`sluis sink`: the development upstream, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Annotated

import typer


def sink(
    smtp: Annotated[str, typer.Option(help="host:port of SMTP.")] = "127.0.0.1:1025",
    http: Annotated[str, typer.Option(help="host:port of the inbox.")] = "127.0.0.1:8025",
    public_url: Annotated[
        str, typer.Option(help="Besides loopback, where the inbox may send one-click opt-outs.")
    ] = "",
) -> None:
    """Take every mail, keep the newest 1,000 in memory, show them in a browser; until Ctrl-C."""
    import uvloop

    addresses = [_split(option, text) for option, text in (("--smtp", smtp), ("--http", http))]
    try:
        uvloop.run(_serve(*addresses[0], *addresses[1], public_url))
    except OSError as error:
        typer.echo(f"sluis: cannot listen: {error.strerror or error}; choose other ports", err=True)
        raise typer.Exit(os.EX_UNAVAILABLE) from None


def _split(option: str, text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        typer.echo(f"sluis: {option} {text}: write host:port, as in 127.0.0.1:1025", err=True)
        raise typer.Exit(os.EX_USAGE)
    return host.removeprefix("[").removesuffix("]"), int(port)


async def _serve(
    smtp_host: str, smtp_port: int, http_host: str, http_port: int, public_url: str
) -> None:
    from proxy.sink import Sink

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    server = Sink(public_url=public_url)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(server.close)
        await server.start(smtp_host, smtp_port)
        await server.open_inbox(http_host, http_port)
        typer.echo(f"SMTP   {smtp_host}:{server.smtp_port}", err=True)
        typer.echo(f"inbox  http://{http_host}:{server.http_port}/", err=True)
        await stop.wait()
