"""`sluis consent`: see and record what is known of one person."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from proxy.cli.ledger import Ledger
    from proxy.store.model import Known

app = typer.Typer(
    help="What the ledger knows of one person.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="The TOML file; else $SLUIS_CONFIG, /etc/sluis/sluis.toml."
    ),
]
Sender = Annotated[str | None, typer.Option(help="The sender's id; may be left out if only one.")]


@app.command()
def show(
    address: str,
    config: Config = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Every event about this address, the decision per stream now, and the latest mails."""
    asyncio.run(_show(address, config, json))


@app.command()
def record(
    address: str,
    type_: Annotated[str, typer.Option("--type", help="opt-in, relationship, contact, ...")],
    evidence: Annotated[str, typer.Option(help="A reference: form:signup-v3, order:1001, ...")],
    config: Config = None,
    sender: Sender = None,
    at: Annotated[str | None, typer.Option(help="ISO 8601; default now.")] = None,
    fields: Annotated[
        list[str] | None, typer.Option("--set", help="field=value, once a field; lists with |.")
    ] = None,
) -> None:
    """Record one event, with its evidence."""
    row = {"address": address, "type": type_, "evidence": evidence, **_fields(fields or [])}
    asyncio.run(_record(row, config, sender, at))


@app.command("object")
def object_(
    address: str,
    config: Config = None,
    sender: Sender = None,
    scope: Annotated[
        str, typer.Option(help="topic, stream, marketing or everything.")
    ] = "marketing",
    stream: Annotated[str | None, typer.Option(help="With --scope stream.")] = None,
    topic: Annotated[list[str] | None, typer.Option(help="With --scope topic.")] = None,
    via: Annotated[str, typer.Option(help="staff, reply, form, ...")] = "staff",
    evidence: Annotated[str, typer.Option(help="A reference: ticket:77, ...")] = "",
) -> None:
    """Record that this person said no; the next decision in any process sees it."""
    row: dict[str, object] = {
        "address": address,
        "type": "objection",
        "evidence": evidence,
        "scope": scope,
        "via": via,
    }
    if (scope == "stream") != (stream is not None):
        raise typer.BadParameter("--scope stream and --stream belong together")
    if (scope == "topic") != bool(topic):
        raise typer.BadParameter("--scope topic and --topic belong together")
    if stream:
        row["stream"] = stream
    if topic:
        row["topics"] = list(topic)
    asyncio.run(_record(row, config, sender, None))


async def _record(
    row: dict[str, object], config: Path | None, sender: str | None, at: str | None
) -> None:
    from proxy.cli.explaining import stream_of
    from proxy.cli.ledger import not_recorded, open_ledger
    from proxy.clock import utc_now
    from proxy.errors import StoreError
    from proxy.imports import Options, RowError, entry_of

    try:
        async with open_ledger(config, create=True) as ledger:
            if "stream" in row:
                stream_of(ledger.settings, str(row["stream"]))
            row["sender"] = sender or _only_sender(ledger)
            row["at"] = at or utc_now().isoformat()
            options = Options(
                senders=frozenset(s.id for s in ledger.settings.senders),
                imported=False,
                subaddress=ledger.settings.policy.subaddress,
            )
            entry = entry_of(1, row, options, ledger.keys, utc_now)
            if isinstance(entry, RowError):
                raise typer.BadParameter(f"{entry.column}: {entry.reason}")
            attributes = [entry.attributes] if entry.attributes else []
            [new] = await ledger.store.append([entry.event], attributes)
    except StoreError as error:
        raise not_recorded(error) from error
    typer.echo("recorded" if new else "was on record already")


async def _show(text: str, config: Path | None, json: bool) -> None:
    import orjson

    from proxy.cli.explaining import address_of, decide_now, decision_json
    from proxy.cli.ledger import open_ledger

    async with open_ledger(config) as ledger:
        address = address_of(text, ledger.settings)
        known: dict[str, Known] = {}
        for sender in ledger.settings.senders:
            subject = ledger.keys.subject(sender.id, address)
            known[sender.id] = (await ledger.store.lookup([subject])).known[subject]
        entries = await ledger.store.journal(exact=ledger.keys.pseudonym(address.exact), limit=20)
        decisions = {
            stream.id: await decide_now(ledger, stream, address)
            for stream in ledger.settings.streams
        }
        data: dict[str, Any] = {
            "address": address.exact,
            "senders": {id_: _known_json(id_, k) for id_, k in known.items()},
            "streams": {id_: decision_json(d) for id_, d in decisions.items()},
            "mails": [
                {
                    "ref": e.ref,
                    "decided_at": e.decided_at,
                    "stream": e.stream,
                    "verdict": e.verdict,
                    "reason": e.reason,
                    "cite": e.cite,
                    "pack": e.pack,
                    "state": e.state,
                    "reply": e.reply,
                }
                for e in entries
            ],
        }
    if json:
        typer.echo(orjson.dumps(data, default=str).decode())
    else:
        _print(data)


def _known_json(sender: str, known: Known) -> dict[str, object]:
    from policy.events import fields_of, type_of

    return {
        "attributes": dict(known.attributes),
        "last_marketing_at": known.last_marketing_at,
        # Another sender's evidence is never shown.
        "events": [
            {
                "at": e.at,
                "recorded_at": e.recorded_at,
                "type": type_of(e.detail),
                "evidence": e.evidence,
                "exact": e.exact,
                **fields_of(e.detail),
            }
            for e in sorted(known.events, key=lambda e: (e.at, e.recorded_at))
            if e.sender == sender
        ],
    }


def _print(data: dict[str, Any]) -> None:
    from rich.console import Console

    # What people wrote is shown as it is: "[x]" and ":key:" are no markup.
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    for id_, known in data["senders"].items():
        table = _table(f"{data['address']} and {id_}", "at", "event", "facts", "evidence")
        for event in known["events"]:
            facts = {k: v for k, v in event.items() if k not in _PLAIN}
            words = ", ".join(f"{k} {_word(v)}" for k, v in facts.items())
            if not event["exact"]:
                words = f"recorded for another spelling of the address; {words}"
            table.add_row(f"{event['at']:%Y-%m-%d %H:%M}", event["type"], words, event["evidence"])
        if known["events"]:
            console.print(table)
        else:
            console.print(f"{table.title}: nothing is recorded")
        if known["attributes"]:
            shown = ", ".join(f"{k} {_word(v)}" for k, v in known["attributes"].items())
            console.print(f"known of the person: {shown}")
    table = _table("now, per stream", "stream", "verdict", "reason", "law", "until")
    for id_, decision in data["streams"].items():
        until = str(decision["expires_at"] or "")[:10]
        table.add_row(id_, decision["verdict"], decision["reason"], decision["cite"], until)
    console.print(table)
    if data["mails"]:
        table = _table("latest mails", "at", "ref", "stream", "reason", "state")
        for mail in data["mails"]:
            when = f"{mail['decided_at']:%Y-%m-%d %H:%M}"
            # The verdict is in the state, except where it was only observed.
            observed = mail["verdict"] == "block" and mail["state"] != "blocked"
            state = f"{mail['state']}, observed" if observed else mail["state"]
            table.add_row(when, mail["ref"], mail["stream"], mail["reason"], state)
        console.print(table)


def _table(title: str, *columns: str) -> Table:
    """A table without lines that shows every word whole: a reference is there to be copied."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in columns:
        wraps = name in ("facts", "evidence", "law", "stream", "state")
        table.add_column(name, no_wrap=not wraps, overflow="fold")
    return table


#: Columns that every event has; the command line names them itself.
_OPTIONS = frozenset({"sender", "address", "type", "at", "evidence"})
_PLAIN = frozenset({"at", "recorded_at", "type", "evidence", "exact"})


def _word(value: object) -> str:
    if isinstance(value, list):
        return "|".join(str(v) for v in value)
    return (
        {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    )


def _fields(items: Sequence[str]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise typer.BadParameter(f"{item!r} is not of the form field=value", param_hint="--set")
        if name.strip() in _OPTIONS:
            raise typer.BadParameter(
                f"{name.strip()} is not set this way, but by its own option or argument",
                param_hint="--set",
            )
        fields[name.strip()] = value.strip()
    return fields


def _only_sender(ledger: Ledger) -> str:
    senders = ledger.settings.senders
    if len(senders) != 1:
        known = ", ".join(s.id for s in senders)
        raise typer.BadParameter(f"several senders; one of {known}", param_hint="--sender")
    return senders[0].id
