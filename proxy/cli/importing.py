"""`sluis import`: a file of consents into the ledger, in commits of a thousand rows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson
import typer

from policy.model import Objection, OptIn
from proxy.cli.ledger import Ledger, not_recorded, open_ledger, open_to_try
from proxy.clock import utc_now
from proxy.errors import StoreError
from proxy.imports import Entry, FileError, Options, RowError, read_entries
from proxy.store.model import Store

#: Rows a commit (delivery.md 6: never hold the writer, or every stripe, for long).
_BATCH = 1000

#: Errors printed one by one; the rest is counted.
_SHOWN = 200


@dataclass
class Tally:
    """What an import did."""

    readable: bool = True  # as a whole: with a header that can be understood, to its end
    rows: int = 0
    new: int = 0
    known: int = 0
    errors: int = 0
    without_evidence: int = 0
    overrides: int = 0


def run(
    file: Path,
    *,
    config: Path | None,
    sender: str | None,
    columns: Sequence[str],
    preset: Sequence[str],
    timezone: str | None,
    dry_run: bool,
    json: bool,
) -> int:
    """Import `file`; 0 when every row was good, 65 (EX_DATAERR) when some were skipped or none
    read."""
    try:
        zone = ZoneInfo(timezone) if timezone else None
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise typer.BadParameter(
            f"no time zone {timezone!r}; use a name like Europe/Amsterdam", param_hint="--timezone"
        ) from error
    pairs = _pairs(columns, "--map"), _pairs(preset, "--set")
    return asyncio.run(_import(file, config, sender, pairs, zone, dry_run, json))


async def _import(
    file: Path,
    config: Path | None,
    sender: str | None,
    pairs: tuple[dict[str, str], dict[str, str]],
    zone: ZoneInfo | None,
    dry_run: bool,
    json: bool,
) -> int:
    tally = Tally()
    opened = open_to_try(config) if dry_run else open_ledger(config, create=True)
    try:
        async with opened as ledger:
            ids = frozenset(s.id for s in ledger.settings.senders)
            if sender is not None and sender not in ids:
                raise typer.BadParameter(
                    f"no sender {sender!r} in {ledger.settings.source}", param_hint="--sender"
                )
            options = Options(
                senders=ids,
                sender=sender or (next(iter(ids)) if len(ids) == 1 else None),
                columns=pairs[0],
                preset=pairs[1],
                timezone=zone,
                subaddress=ledger.settings.policy.subaddress,
            )
            try:
                await _read_all(file, options, ledger, tally, dry_run)
            except FileError as error:
                typer.echo(f"{file}: {error}", err=True)
                tally.readable = False
    except StoreError as error:
        if dry_run:
            raise
        raise not_recorded(error, tally.new + tally.known) from error
    _report(file, tally, dry_run=dry_run, json=json)
    return os.EX_DATAERR if tally.errors or not tally.readable else 0


async def _read_all(
    file: Path, options: Options, ledger: Ledger, tally: Tally, dry_run: bool
) -> None:
    batch: list[Entry] = []
    for row in read_entries(file, options, ledger.keys, utc_now):
        tally.rows += 1
        if isinstance(row, RowError):
            tally.errors += 1
            if tally.errors <= _SHOWN:
                typer.echo(f"{file}: {row}", err=True)
            continue
        batch.append(row)
        if len(batch) == _BATCH:
            await _write(batch, ledger.store, tally, dry_run)
            batch = []
    if batch:
        await _write(batch, ledger.store, tally, dry_run)


async def _write(batch: Sequence[Entry], store: Store, tally: Tally, dry_run: bool) -> None:
    objections = [e.event for e in batch if isinstance(e.event.detail, Objection)]
    if objections:
        snapshot = await store.lookup([o.subject for o in objections])
        for objection in objections:
            # An objection counts from the moment it is recorded, so it ends every older opt-in.
            tally.overrides += any(
                isinstance(e.detail, OptIn) and e.exact and e.at > objection.at
                for e in snapshot.known[objection.subject].events
            )
    tally.without_evidence += sum(1 for e in batch if not e.event.evidence)
    if dry_run:
        return
    attributes = [e.attributes for e in batch if e.attributes is not None]
    fresh = await store.append([e.event for e in batch], attributes)
    tally.new += sum(fresh)
    tally.known += len(fresh) - sum(fresh)


def _report(file: Path, tally: Tally, *, dry_run: bool, json: bool) -> None:
    if json:
        typer.echo(orjson.dumps({"file": str(file), "dry_run": dry_run, **asdict(tally)}).decode())
        return
    if tally.errors > _SHOWN:
        typer.echo(f"{file}: {tally.errors - _SHOWN} more rows in error", err=True)
    good = tally.rows - tally.errors
    if not tally.readable and not tally.rows:
        typer.echo("nothing imported")
    elif dry_run:
        typer.echo(f"{good} of {tally.rows} rows would be imported, {tally.errors} in error")
    else:
        typer.echo(
            f"{tally.new} events recorded, {tally.known} were known, {tally.errors} rows in error"
        )
    if tally.without_evidence:
        typer.echo(
            f"warning: {tally.without_evidence} rows have no evidence; such a basis blocks as "
            "proof-missing",
            err=True,
        )
    if tally.overrides:
        typer.echo(
            f"warning: {tally.overrides} objections were recorded of people who opted in after the "
            "objection's date; an objection counts from its recording, so they are blocked",
            err=True,
        )


def _pairs(items: Sequence[str], option: str) -> dict[str, str]:
    pairs = {}
    for item in items:
        left, equals, right = item.partition("=")
        if not (left and equals and right):
            raise typer.BadParameter(f"{item!r} is not of the form a=b", param_hint=option)
        pairs[left.strip()] = right.strip()
    return pairs
