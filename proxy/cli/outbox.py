"""`sluis outbox`: mail that is not at its end, seen and moved by hand."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from proxy.cli.ledger import Ledger
    from proxy.store.model import Forward, OutboxRow, State

app = typer.Typer(
    help="Mail that was taken and is not at its end.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

#: What there is none of where nothing could be moved.
_NOTHING = {
    "due": "nothing waits; what is held is tried by its reference, or with `release`",
    "released": "nothing is held",
    "dropped": "nothing waits or is held",
}

Config = Annotated[Path | None, typer.Option("--config", "-c", help="The TOML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Refs = Annotated[list[str] | None, typer.Argument(help="References, as in replies.")]
All = Annotated[bool, typer.Option("--all", help="All that there is of it.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="At most so many recipients.")]


@app.command("list")
def list_(config: Config = None, json: Json = False, limit: Limit = 1000) -> None:
    """Unfinished recipients, oldest first, without their addresses."""
    asyncio.run(_list("", config, json, limit))


@app.command()
def show(ref: str, config: Config = None, json: Json = False) -> None:
    """What is unfinished of one mail; exit 1 where nothing is."""
    asyncio.run(_list(ref, config, json, 100_000))


@app.command()
def retry(refs: Refs = None, all_: All = False, config: Config = None, json: Json = False) -> None:
    """Try what waits now; the decision is taken again, as at every attempt.

    Held mail only by its reference.
    """
    from proxy.store.model import State

    states = (State.WAITING,) if all_ else (State.WAITING, State.HELD)
    asyncio.run(_move("due", states, refs or [], all_, config, json))


@app.command()
def release(
    refs: Refs = None, all_: All = False, config: Config = None, json: Json = False
) -> None:
    """Send held mail after all: it may arrive twice, as nobody knows whether it left."""
    from proxy.store.model import State

    asyncio.run(_move("released", (State.HELD,), refs or [], all_, config, json))


@app.command()
def drop(refs: Refs = None, all_: All = False, config: Config = None, json: Json = False) -> None:
    """Give up what waits or is held: it ends `failed`, and its submitter is told where that is
    due.
    """
    from proxy.store.model import State

    states = (State.WAITING, State.HELD)
    asyncio.run(_move("dropped", states, refs or [], all_, config, json))


@app.command()
def forwards(
    refs: Refs = None,
    ended: Annotated[bool, typer.Option("--ended", help="Those at their end, too.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try what waits again now.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Give up what waits.")] = False,
    all_: All = False,
    config: Config = None,
    json: Json = False,
    limit: Limit = 1000,
) -> None:
    """Opt-outs that are passed on to the opt-out that a mail came with, oldest first."""
    if retry and drop:
        raise typer.BadParameter("--retry or --drop, not both")
    if (retry or drop) and bool(refs) is all_:
        raise typer.BadParameter("name references, or --all")
    asyncio.run(_forwards(refs or [], ended, retry, drop, config, json, limit))


async def _forwards(
    refs: list[str],
    ended: bool,
    retry: bool,
    drop: bool,
    config: Path | None,
    json: bool,
    limit: int,
) -> None:
    import orjson

    from proxy.cli.ledger import open_ledger
    from proxy.clock import utc_now
    from proxy.store.model import ForwardState, Passing

    moved = 0
    found: list[Forward] = []
    async with open_ledger(config) as ledger:
        for ref in [_plain(ref) for ref in refs] or [""]:
            found += await ledger.store.forwards(ref=ref, ended=ended, limit=limit)
        for one in found if retry or drop else []:
            state = ForwardState.WAITING if retry else ForwardState.DROPPED
            moved += await ledger.store.passed(
                Passing(
                    id=one.id,
                    attempts=one.attempts,
                    state=state,
                    answer=one.answer,
                    at=utc_now(),
                    tried=False,
                )
            )
    if retry or drop:
        word = "due" if retry else "dropped"
        typer.echo(orjson.dumps({word: moved}).decode() if json else f"{moved} {word}")
        if not moved and not refs:
            typer.echo("no opt-out waits to be passed on", err=True)
            raise typer.Exit(1)
    elif json:
        typer.echo(orjson.dumps([_forward_json(one) for one in found]).decode())
    else:
        for one in found:
            data = _forward_json(one)
            when = f"due {_second(one.next_try)}" if one.next_try else f"at {_second(one.ended_at)}"
            typer.echo(
                f"{one.ref}.{one.copy}  {one.state}  {one.stream}  by {one.by} to {data['host']}"
                f"  tried {one.attempts}  {when}  {one.answer}".rstrip()
            )
    if refs and (not found or ((retry or drop) and not moved)):
        typer.echo("no opt-out is passed on under these references", err=True)
        raise typer.Exit(1)


def _second(at: datetime | None) -> str:
    return at.isoformat(timespec="seconds") if at else "-"


def _forward_json(one: Forward) -> dict[str, Any]:
    """Without the URI: it may name the person."""
    from proxy.forwards import host_of

    return {
        "ref": one.ref,
        "copy": one.copy,
        "state": one.state.value,
        "stream": one.stream,
        "by": one.by,
        "host": host_of(one.uri),
        "attempts": one.attempts,
        "asked_at": one.asked_at,
        "next_try": one.next_try,
        "answer": one.answer,
        "ended_at": one.ended_at,
    }


async def _list(ref: str, config: Path | None, json: bool, limit: int) -> None:
    import orjson

    from proxy.cli.ledger import open_ledger

    async with open_ledger(config) as ledger:
        rows = await ledger.store.outbox(ref=_plain(ref), limit=limit)
        total = await ledger.store.unfinished()
    if json:
        typer.echo(orjson.dumps([_json(row) for row in rows]).decode())
    else:
        for row in rows:
            due = row.next_try.isoformat(timespec="seconds") if row.next_try else "-"
            typer.echo(
                f"{row.ref}.{row.n}  {row.state}  {row.stream}  tried {row.attempts}  due {due}"
                f"  {row.size} octets{'  maybe sent' if row.maybe_sent else ''}"
                f"{'' if row.owed else '  client waits'}  {row.reply}".rstrip()
            )
        if not ref:
            counts = ", ".join(f"{n} {state}" for state, n in sorted(total.counts.items()))
            typer.echo(counts or "the outbox is empty", err=True)
    if ref and not rows:
        typer.echo(f"{ref}: nothing is unfinished", err=True)
        raise typer.Exit(1)


async def _move(
    done: str,
    states: Collection[State],
    refs: list[str],
    all_: bool,
    config: Path | None,
    json: bool,
) -> None:
    import orjson

    from proxy.cli.ledger import open_ledger
    from proxy.clock import utc_now
    from proxy.store.model import State

    if bool(refs) is all_:
        raise typer.BadParameter("name references, or --all")
    async with open_ledger(config) as ledger:
        rows: list[OutboxRow] = []
        missing: list[str] = []
        for ref in [""] if all_ else [_plain(ref) for ref in refs]:
            found = await ledger.store.outbox(ref=ref, limit=1_000_000)
            rows += found
            missing += [] if found or all_ else [ref]
        chosen = [row.row for row in rows if row.state in states]
        if done == "dropped":
            moved = await _drop(ledger, chosen)
        else:
            moved = await ledger.store.hasten(chosen, utc_now())
    others = Counter(row.state for row in rows if row.state not in states)
    data = {done: moved, "under_way": others[State.ATTEMPTING]}
    data |= {s.value: n for s, n in sorted(others.items()) if s is not State.ATTEMPTING}
    if json:
        typer.echo(orjson.dumps(data).decode())
    else:
        typer.echo(", ".join(f"{count} {word.replace('_', ' ')}" for word, count in data.items()))
    if missing:
        typer.echo(f"nothing is unfinished under {', '.join(missing)}", err=True)
    elif not moved:
        typer.echo(_NOTHING[done], err=True)
    if missing or not moved:
        sys.exit(1)


async def _drop(ledger: Ledger, rows: list[int]) -> int:
    from proxy.clock import utc_now
    from proxy.mail import Reader
    from proxy.message.sign import Signer
    from proxy.notices import Notices
    from proxy.resend import Owing

    settings, keys, store = ledger.settings, ledger.keys, ledger.store
    signer = Signer()
    owing = Owing(
        settings,
        reader=Reader(settings, keys=keys, instance="cli", clock=utc_now),
        notices=Notices(settings, keys=keys, store=store, signer=signer, clock=utc_now),
        store=store,
        clock=utc_now,
    )
    dropped = 0
    for row in rows:
        owed = await store.owed(row)
        if owed is not None:
            last = f"; the last answer was: {owed.reply}" if owed.reply else ""
            reply = f"550 5.4.0 given up by its operator{last}"
            dropped += await owing.drop(owed, reply, "dropped")
    return dropped


def _plain(ref: str) -> str:
    """A reference as in a reply, with or without the number of a recipient."""
    return ref.partition(".")[0].upper()


def _json(row: OutboxRow) -> dict[str, Any]:
    return {
        "ref": row.ref,
        "n": row.n,
        "state": row.state.value,
        "owed": row.owed,
        "stream": row.stream,
        "received_at": row.received_at,
        "attempts": row.attempts,
        "next_try": row.next_try,
        "maybe_sent": row.maybe_sent,
        "reply": row.reply,
        "size": row.size,
    }
