"""`sluis explain`: the decision for one address, by the same facts and engine as SMTP; or what
became of a mail whose reference a reply or a log line named."""

from __future__ import annotations

import asyncio
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import orjson
import typer

from policy.address import Address, AddressError, parse
from policy.explain import explain
from policy.model import Decision
from proxy.cli.ledger import Ledger, open_ledger
from proxy.clock import utc_now
from proxy.config import Settings, Stream
from proxy.config.packs import configured_packs
from proxy.inquiry import Inquiry, as_known_at, decision_fields, decision_grounds

LANGUAGES = ("en", "nl")

#: A reference; in a relayed mail (`Sluis-Ref`) with the number of the copy behind it.
_REF = re.compile(r"([0-9A-HJKMNP-TV-Z]{16})(?:\.[0-9]{1,4})?")


def run(
    address: str,
    *,
    config: Path | None,
    stream: str | None,
    products: tuple[str, ...],
    topics: tuple[str, ...],
    at: str | None,
    language: str,
    json: bool,
) -> int:
    """Print the decision; 0 when the mail may be sent, 1 when not."""
    if language not in LANGUAGES:
        raise typer.BadParameter("en or nl", param_hint="--lang")
    ref = _REF.fullmatch(address.strip().upper())
    if ref is not None:
        return asyncio.run(_look_up(ref[1], config, json))
    if stream is None:
        raise typer.BadParameter("an address needs the stream of the mail", param_hint="--stream")
    moment = parse_time(at, "--at") if at else None
    return asyncio.run(_explain(address, config, stream, products, topics, moment, language, json))


async def _explain(
    address: str,
    config: Path | None,
    stream_id: str,
    products: tuple[str, ...],
    topics: tuple[str, ...],
    moment: datetime | None,
    language: str,
    json: bool,
) -> int:
    async with open_ledger(config) as ledger:
        stream = stream_of(ledger.settings, stream_id)
        who = address_of(address, ledger.settings)
        decision = await decide_now(ledger, stream, who, products, topics, moment)
    if json:
        typer.echo(orjson.dumps(decision_json(decision, language), default=str).decode())
    else:
        typer.echo(explain(decision, language, at=moment or utc_now()))
    return 0 if decision.allowed else 1


async def _look_up(ref: str, config: Path | None, json: bool) -> int:
    """Print the journal of one submission; 1 when it was blocked for somebody, 66 for none."""
    async with open_ledger(config) as ledger:
        entries = sorted(await ledger.store.journal(ref=ref), key=lambda e: e.n)
    if not entries:
        typer.echo(f"sluis: no recipient was decided under {ref}; see the log", err=True)
        return os.EX_NOINPUT
    if json:
        told = [
            {"ref": e.ref, "n": e.n, "address": e.address, "stream": e.stream, "mode": e.mode,
             "verdict": e.verdict, "reason": e.reason, "cite": e.cite, "pack": e.pack,
             "rule": e.rule, "decided_at": e.decided_at, "state": e.state, "reply": e.reply}
            for e in entries
        ]  # fmt: skip
        typer.echo(orjson.dumps(told, default=str).decode())
    else:
        for e in entries:
            law = "; ".join(part for part in (e.cite, e.pack and f"pack {e.pack}") if part)
            typer.echo(f"{e.address} on {e.stream}: {e.verdict} ({e.reason}){law and f', {law}'}")
            observed = ", observed only" if e.mode == "observe" else ""
            typer.echo(f"  decided {e.decided_at:%Y-%m-%d %H:%M:%S} UTC{observed}; {e.state}")
            if e.reply:
                typer.echo(f"  reply: {e.reply}")
    return int(any(e.verdict == "block" for e in entries))


async def decide_now(
    ledger: Ledger,
    stream: Stream,
    address: Address,
    products: tuple[str, ...] = (),
    topics: tuple[str, ...] = (),
    moment: datetime | None = None,
) -> Decision:
    """The decision on a mail that meets every duty; with `moment`, as it would have been then."""
    inquiry = inquiry_of(ledger.settings, stream, products, topics)
    subject = ledger.keys.subject(stream.sender, address)
    [known] = await inquiry.known(ledger.store, [subject], moment or utc_now())
    if moment is not None:
        known = as_known_at(known, moment)
    return inquiry.decide(address, known, moment or utc_now(), counterfactual=True)


def inquiry_of(
    settings: Settings,
    stream: Stream,
    products: tuple[str, ...] = (),
    topics: tuple[str, ...] = (),
) -> Inquiry:
    """An inquiry under the packs that the configuration names."""
    packs = configured_packs(settings)
    return Inquiry(settings, packs, stream, products, topics)


def decision_json(decision: Decision, language: str = "en") -> dict[str, object]:
    """A decision as plain data for `--json`."""
    return decision_fields(decision, language) | decision_grounds(decision)


def stream_of(settings: Settings, id_: str) -> Stream:
    """The stream named on the command line, or a usage error that names those there are."""
    stream = settings.find_stream(id_)
    if stream is None:
        known = ", ".join(s.id for s in settings.streams)
        raise typer.BadParameter(f"no stream {id_!r}; one of {known}", param_hint="--stream")
    return stream


def address_of(text: str, settings: Settings) -> Address:
    """The address named on the command line, or a usage error that says what is wrong with it."""
    try:
        return parse(text, smtputf8=True, subaddress=settings.policy.subaddress)
    except AddressError as error:
        raise typer.BadParameter(f"no mail address: {error}", param_hint="ADDRESS") from error


def parse_time(text: str, option: str) -> datetime:
    """An ISO 8601 time with its zone; a date alone is its last moment in UTC."""
    try:
        value = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no ISO 8601 time: write 2026-03-01T12:00:00Z", param_hint=option
        ) from error
    if value.tzinfo is None:
        if len(text) > len("2026-03-01"):
            raise typer.BadParameter(f"{text!r} has no time zone; add Z", param_hint=option)
        value = value.replace(hour=23, minute=59, second=59, microsecond=999999, tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise typer.BadParameter(f"{text!r} is out of range", param_hint=option) from error
