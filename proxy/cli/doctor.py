"""`sluis doctor`: is what runs here in order, and closed to strangers?"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import orjson
import typer

from proxy import config as configuration
from proxy.cli.examination import Finding, Verdict, examine


def run(config: Path | None, *, json: bool) -> int:
    """Print each finding as it comes; 1 when one failed."""
    settings = configuration.load(config, files=False)
    found: list[Finding] = []

    async def work() -> None:
        async for finding in examine(settings):
            found.append(finding)
            if not json:
                typer.echo(f"{finding.verdict:8} {finding.subject}: {finding.words}")

    asyncio.run(work())
    if json:
        rows = [{"verdict": f.verdict, "subject": f.subject, "words": f.words} for f in found]
        typer.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
    else:
        count = Counter(f.verdict for f in found)
        typer.echo(", ".join(f"{count[v]} {v}" for v in Verdict if count[v]), err=True)
    return int(any(f.verdict is Verdict.FAILED for f in found))
