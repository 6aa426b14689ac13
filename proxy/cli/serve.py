"""`sluis serve` and `sluis healthcheck`."""

from __future__ import annotations

import gc
import os
import urllib.error
import urllib.request
from pathlib import Path

import typer


def run(config: Path | None) -> None:
    """Serve until told to stop. Raises `SluisError` when something cannot start."""
    # Nothing that is loaded goes away; once it serves, the collector works again.
    gc.disable()
    import uvloop

    from proxy import log
    from proxy.app import serve
    from proxy.config import load

    settings = load(config)
    log.configure(
        settings.log.level, settings.log.format, repeat=settings.log.repeat.total_seconds()
    )
    log.config_loaded(source=str(settings.source), streams=len(settings.streams))
    os.umask(0o077)
    uvloop.run(serve(settings))


def healthcheck(config: Path | None, url: str | None) -> int:
    """Ask `/readyz` of the running relay; 0 when ready, 69 (EX_UNAVAILABLE) when not."""
    if url is None:
        from proxy.config import load

        host, _, port = load(config, files=False).http.admin.rpartition(":")
        if host in ("0.0.0.0", "[::]"):  # noqa: S104  listens everywhere, so ask ourselves
            host = "127.0.0.1"
        url = f"http://{host}:{port}/readyz"
    # Ourselves, never a proxy that the environment names for the outside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            typer.echo(answer.read().decode(errors="replace").strip())
            return 0
    except urllib.error.HTTPError as error:
        typer.echo(error.read().decode(errors="replace").strip(), err=True)
    except urllib.error.URLError as error:
        why = getattr(error.reason, "strerror", None) or error.reason
        typer.echo(f"sluis: {url}: {why}; is `sluis serve` running there?", err=True)
    except (OSError, ValueError) as error:
        typer.echo(f"sluis: {url}: {error}", err=True)
    return os.EX_UNAVAILABLE
