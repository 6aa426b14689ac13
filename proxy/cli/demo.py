"""`sluis demo`: the main job, end to end, on this machine alone.

Starts a sink, the relay and its web pages, imports a sample of consents, sends mails over real
SMTP, shows each verdict with its reason and article, clicks one unsubscribe link, and shows the
next mail blocked.
"""

from __future__ import annotations

import asyncio
import csv
import re
import shlex
import shutil
import signal
import smtplib
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from policy.model import Reason
from proxy import log
from proxy.app import Running, running
from proxy.clock import utc_now
from proxy.config import Settings, load
from proxy.imports import Entry, Options, read_entries
from proxy.sink import Sink

_CONFIG = """\
[server]
hostname = "gate.acme.example"
data_dir = "{data_dir}"
development = true

[[listeners]]
address = "127.0.0.1:{smtp}"
trusted_networks = ["127.0.0.0/8"]
may_set_stream = true

[[upstreams]]
address = "127.0.0.1:{upstream}"
tls = "none"

[http]
public = "127.0.0.1:{public}"
public_url = "http://127.0.0.1:{public}"
admin = "127.0.0.1:{admin}"

[[senders]]
id = "acme"
name = "Acme Schoenen B.V."
country = "NL"
postal_address = "Keizersgracht 1, 1015 AA Amsterdam"
contact = "privacy@acme.example"
candidate_countries = ["NL"]
similar = [["running-shoes", "running-socks"]]

[[streams]]
id = "newsletter"
sender = "acme"
category = "marketing"
topics = ["newsletter"]
from_domains = ["news.acme.example"]

[[streams]]
id = "offers"
sender = "acme"
category = "marketing"
from_domains = ["offers.acme.example"]

[[streams]]
id = "bare"
sender = "acme"
category = "marketing"
topics = ["newsletter"]
footer = "off"
from_domains = ["bare.acme.example"]

[[streams]]
id = "orders"
sender = "acme"
category = "transactional"
from_domains = ["orders.acme.example"]
"""

_COLUMNS = (
    *("sender", "address", "type", "at", "evidence", "country", "kind", "box", "topics"),
    *("stage", "paid", "products", "address_from_customer", "informed", "objection_offered"),
    *("scope", "via", "purpose"),
)
_SALE = {
    "type": "relationship",
    "stage": "purchase",
    "paid": "true",
    "address_from_customer": "true",
    "informed": "true",
    "objection_offered": "box",
    "products": "running-shoes",
}
_OPT_IN = {"type": "opt-in", "box": "unticked", "topics": "newsletter"}


def _people() -> list[dict[str, str]]:
    """Two shops' worth of habits: who said what, when, and what proves it. Times are relative to
    now."""
    consumer = {"sender": "acme", "country": "NL", "kind": "consumer"}
    company = {"sender": "acme", "country": "NL", "kind": "company-generic"}

    def person(name: str, days: int, evidence: str, **fields: str) -> dict[str, str]:
        at = (utc_now() - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
        base = company if name.endswith("bedrijf.example") else consumer
        address = name if "@" in name else f"{name}@example.nl"
        return {**base, "address": address, "at": at, "evidence": evidence, **fields}

    return [
        person("anna", 260, "form:signup-v3", **_OPT_IN),
        person("iris", 30, "form:signup-v4", **_OPT_IN),
        person("bram", 190, "order:1001", **_SALE),
        person("cees", 120, "form:signup-v1", **{**_OPT_IN, "box": "preticked"}),
        person("dirk", 400, "form:signup-v3", **_OPT_IN),
        person("dirk", 12, "ticket:77", type="objection", scope="marketing", via="form"),
        person("els", 1500, "order:204", **_SALE),
        person("fatma", 90, "", **_OPT_IN),
        person("gerrit", 4, "cart:5512", **{**_SALE, "stage": "cart", "paid": "false"}),
        person(
            "inkoop@bedrijf.example",
            60,
            "page:bedrijf-contact",
            type="published",
            purpose="supplier-offers",
        ),
        person(
            "info@bedrijf.example",
            60,
            "page:bedrijf-contact",
            type="published",
            purpose="general-contact",
        ),
    ]


@dataclass(frozen=True, slots=True)
class Act:
    """One mail of the demo and the reasons that its recipients must get, in order."""

    what: str
    stream: str
    to: tuple[str, ...]
    expected: tuple[Reason, ...]
    products: str = ""
    opt_out: bool = True


_ACTS = (
    Act("newsletter, opted in", "newsletter", ("anna",), (Reason.CONSENT,)),
    Act("socks to a buyer of shoes", "offers", ("bram",), (Reason.SOFT_OPT_IN,), "running-socks"),
    Act("a kettle to the same buyer", "offers", ("bram",), (Reason.NOT_SIMILAR,), "kettles"),
    Act("newsletter, box was pre-ticked", "newsletter", ("cees",), (Reason.PRETICKED_CONSENT,)),
    Act("newsletter, withdrawn", "newsletter", ("dirk",), (Reason.SUPPRESSED,)),
    Act("order confirmation to the same", "orders", ("dirk",), (Reason.NOT_MARKETING,)),
    Act("offer, bought four years ago", "offers", ("els",), (Reason.EXPIRED,), "running-shoes"),
    Act("newsletter, no proof of the opt-in", "newsletter", ("fatma",), (Reason.PROOF_MISSING,)),
    Act("offer after a left cart", "offers", ("gerrit",), (Reason.NOT_A_SALE,), "running-shoes"),
    Act("newsletter to a stranger", "newsletter", ("hans",), (Reason.NO_BASIS,)),
    Act("offer to a published buying desk", "offers", ("inkoop@bedrijf.example",),
        (Reason.PUBLISHED_ADDRESS,), "running-shoes"),
    Act("offer to a general info@ address", "offers", ("info@bedrijf.example",),
        (Reason.PURPOSE_MISMATCH,), "running-shoes"),
    Act("one newsletter to three people", "newsletter", ("anna", "iris", "hans"),
        (Reason.CONSENT, Reason.CONSENT, Reason.NO_BASIS)),
    Act("newsletter without a way out: gets a footer", "newsletter", ("iris",), (Reason.CONSENT,),
        opt_out=False),
    Act("the same where the footer is off", "bare", ("iris",), (Reason.NO_UNSUBSCRIBE,),
        opt_out=False),
)  # fmt: skip

#: Columns that the table of verdicts needs so that no mail wraps.
_WIDE = 124

_REF = re.compile(r"\(ref ([0-9A-Z]{16})")


def run(*, once: bool) -> int:
    """Run the demo; with `once` exit as soon as it is done. 0 when every verdict was as
    expected."""
    return uvloop.run(_run(once=once))


async def _run(*, once: bool) -> int:
    console = Console(highlight=False)
    if not console.is_terminal:  # a file or a pipe has no width: no cell needs to wrap
        console = Console(highlight=False, width=_WIDE)
    log.configure("error", "console")
    with tempfile.TemporaryDirectory(prefix="sluis-demo-") as directory:
        sink = Sink()
        web = _free_port(8025)
        await sink.start("127.0.0.1", _free_port(1025), web)
        settings = _settings(Path(directory), sink)
        try:
            async with running(settings) as sluis:
                good = await _play(console, sluis, sink, Path(directory))
                if not once:
                    _invite(console, sluis, sink)
                    await _until_interrupted()
        finally:
            await sink.close()
    return 0 if good else 1


def _settings(directory: Path, sink: Sink) -> Settings:
    path = directory / "sluis.toml"
    ports = {"smtp": _free_port(2525), "public": _free_port(8080), "admin": _free_port(9464)}
    path.write_text(
        _CONFIG.format(data_dir=directory / "data", upstream=sink.smtp_port, **ports), "utf-8"
    )
    return load(path, {})


async def _play(console: Console, sluis: Running, sink: Sink, directory: Path) -> bool:
    recorded = await _import(sluis, directory / "consents.csv")
    console.print(
        f"\n[bold]1.[/] {recorded} events imported: who said yes or no, when, with what proof."
    )
    console.print(
        "[bold]2.[/] Each mail goes by real SMTP; each recipient is decided on its own.\n"
    )
    table = Table(box=None, padding=(0, 1))
    wide = console.width >= _WIDE
    for name in ("mail", "recipient", "verdict", *(["reason", "law"] if wide else ["reason, law"])):
        may_wrap = ("law",) if wide else ("mail", "reason, law")
        table.add_column(name, no_wrap=name not in may_wrap)
    good = True
    for act in _ACTS:
        good &= await _perform(table, sluis, act)
    console.print(table)
    good &= _show_footer(console, sink)

    console.print("\n[bold]3.[/] anna clicks unsubscribe in her mail program (RFC 8058, one POST).")
    await asyncio.to_thread(_one_click, sink)
    table = Table(box=None, padding=(0, 1), show_header=False)
    again = Act("the next newsletter", "newsletter", ("anna",), (Reason.SUPPRESSED,))
    good &= await _perform(table, sluis, again)
    receipt = Act("her order confirmation", "orders", ("anna",), (Reason.NOT_MARKETING,))
    good &= await _perform(table, sluis, receipt)
    console.print(table)
    if good:
        console.print("\n[green]Every verdict was as expected.[/]")
    else:
        console.print("\n[red]A verdict was not as expected: marked ! above.[/]")
    return good


async def _import(sluis: Running, path: Path) -> int:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(_people())
    options = Options(senders=frozenset({"acme"}))
    rows = list(read_entries(path, options, sluis.keys, utc_now))
    entries = [row for row in rows if isinstance(row, Entry)]
    fresh = await sluis.store.append(
        [e.event for e in entries], [e.attributes for e in entries if e.attributes]
    )
    return sum(fresh)


async def _perform(table: Table, sluis: Running, act: Act) -> bool:
    to = tuple(name if "@" in name else f"{name}@example.nl" for name in act.to)
    reply = await asyncio.to_thread(_send, sluis.smtp_ports[0], act, to)
    match = _REF.search(reply)
    entries = await sluis.store.journal(ref=match[1]) if match else []
    good = [Reason(e.reason) for e in entries] == list(act.expected)
    if not entries:
        table.add_row(act.what, ", ".join(act.to), f"[red]! {reply}[/]")
    for i, entry in enumerate(sorted(entries, key=lambda e: e.n)):
        colour = "green" if entry.verdict == "allow" else "yellow"
        mark = "" if i < len(act.expected) and entry.reason == act.expected[i] else "[red]! [/]"
        table.add_row(
            act.what if i == 0 else "",
            entry.address.removesuffix("@example.nl"),
            f"{mark}[{colour}]{'sent' if entry.verdict == 'allow' else 'blocked'}[/]",
            *_grounds(table, entry.reason, entry.cite),
        )
    return good


def _grounds(table: Table, reason: str, law: str) -> Sequence[str]:
    """Reason and law in a cell each, or in one where the terminal is narrow."""
    narrow = len(table.columns) == 4
    return [f"{reason}\n[dim]{law}[/]" if law else reason] if narrow else [reason, law]


def _send(port: int, act: Act, to: Sequence[str]) -> str:
    """Hand in one mail as any application would; the reply to the last command that was
    answered."""
    mail = EmailMessage()
    mail["From"] = f"Acme Schoenen B.V. <hello@{_DOMAINS[act.stream]}>"
    mail["To"] = to[0] if len(to) == 1 else "undisclosed-recipients:;"
    mail["Subject"] = act.what.capitalize()
    mail["Message-ID"] = f"<{datetime.now(UTC).timestamp()}@{_DOMAINS[act.stream]}>"
    mail["Sluis-Campaign"] = "demo"
    if act.products:
        mail["Sluis-Products"] = act.products
    text = "Hello!\n\nNews from the canal.\n\nAcme Schoenen B.V.\nKeizersgracht 1, Amsterdam\n"
    if act.opt_out:
        text += "Unsubscribe: mailto:privacy@acme.example?subject=unsubscribe\n"
    mail.set_content(text)
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.ehlo("app.acme.example")
        replies = [client.mail(f"bounces@{_DOMAINS[act.stream]}")]
        replies += [client.rcpt(address) for address in to]
        if replies[-1][0] == 250:
            replies.append(client.data(mail.as_bytes(policy=SMTP)))
    code, text_ = replies[-1]
    return f"{code} {text_.decode('ascii', 'replace')}"


_DOMAINS = {
    "newsletter": "news.acme.example",
    "bare": "bare.acme.example",
    "offers": "offers.acme.example",
    "orders": "orders.acme.example",
}


def _show_footer(console: Console, sink: Sink) -> bool:
    """The end of the mail that came without a way out; whether it has one now."""
    mails = [m.content for m in sink.messages if m.recipients == (b"iris@example.nl",)]
    line = mails[-1].rstrip().rpartition(b"\r\n")[2].decode("utf-8", "replace") if mails else ""
    good = "/u/" in line
    shown = f"{line[:72]}..." if good else "[red]! no footer[/]"
    console.print(f"\n   The footer that iris got, with a link of her own:\n     {shown}")
    return good


def _one_click(sink: Sink) -> None:
    """What a mail program does: one POST to the https URI of List-Unsubscribe."""
    mails = [m.content for m in sink.messages if m.recipients == (b"anna@example.nl",)]
    if not mails:
        raise RuntimeError("nothing was relayed to anna")
    header = mails[0].partition(b"\r\n\r\n")[0].replace(b"\r\n ", b" ").decode("ascii")
    match = re.search(r"^List-Unsubscribe: *<(http[^>]+)>", header, re.MULTILINE)
    if match is None:
        raise RuntimeError("the relayed mail has no List-Unsubscribe")
    request = urllib.request.Request(match[1], data=b"List-Unsubscribe=One-Click")  # noqa: S310
    # Our own link on loopback, whatever proxy the environment names for the outside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10):
        pass


def _invite(console: Console, sluis: Running, sink: Sink) -> None:
    console.print(
        f"""
[bold]Running; Ctrl-C stops.[/]
  inbox of what was relayed   http://127.0.0.1:{sink.http_port}/
  metrics                     http://127.0.0.1:{sluis.admin_port}/metrics
  SMTP, try it yourself       127.0.0.1:{sluis.smtp_ports[0]}
    swaks --server 127.0.0.1:{sluis.smtp_ports[0]} --from hello@orders.acme.example \\
      --to hans@example.nl
  configuration               {sluis.settings.source}
    {_sluis()} explain hans@example.nl --stream newsletter \\
      --config {sluis.settings.source}
""",
        soft_wrap=True,
    )


def _sluis() -> str:
    """How to call this very program from here: `make demo` puts it on no path."""
    program = Path(sys.argv[0])
    found = shutil.which("sluis")
    if found is not None and Path(found).resolve() == program.resolve():
        return "sluis"
    return shlex.quote(str(program))


async def _until_interrupted() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


def _free_port(wanted: int) -> int:
    """`wanted` when it is free, so that the URLs are the usual ones; else any free port."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            number: int = probe.getsockname()[1]
            return number
    raise OSError("no free port on 127.0.0.1")
