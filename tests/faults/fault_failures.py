"""An upstream that fails at each stage in each way, under one process that goes on serving."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fault_chain import Chain
from fault_checker import Verdict
from fault_clients import Line, make_mail, offer
from fault_records import Told
from fault_site import PEOPLE, until
from fault_upstream import Act, Session, Stage, as_usual

#: What an upstream does instead of its reply.
WAYS = {
    "4xx": Act(reply=b"451 4.3.0 not now\r\n"),
    "5xx": Act(reply=b"554 5.7.0 never\r\n"),
    "421 and close": Act(reply=b"421 4.3.2 closing\r\n", close=True),
    "close": Act(reply=b"", keep=False, close=True),
    "hang": Act(reply=b"", keep=False, hang=True),
    "garbage": Act(reply=b"\xff\x00 whatever\r\n", keep=False),
    "a reply cut short": Act(reply=b"250-2.0.0 it goes", keep=False, close=True),
    "a reply without its last line": Act(reply=b"250-2.0.0 one\r\n", keep=False, hang=True),
}

#: At the final dot the mail may have been taken all the same.
TAKEN = {
    "taken, close": Act(reply=b"", keep=True, close=True),
    "taken, hang": Act(reply=b"", keep=True, hang=True),
    "taken, garbage": Act(reply=b"\xff\x00 whatever\r\n", keep=True),
    "taken, a reply cut short": Act(reply=b"250-2.0.0 it goes", keep=True, close=True),
    "taken, a reply without its last line": Act(
        reply=b"250-2.0.0 one\r\n", keep=True, hang=True
    ),
}

STAGES = (Stage.CONNECT, Stage.EHLO, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT)

#: Options of the site for each mode, the stream used, and how many recipients a mail has.
MODES = {
    "inline": ({"inline_wait": "20s", "patience": "300ms"}, "orders", 1),
    "queued": ({"inline_wait": "20s", "patience": "300ms"}, "newsq", 1),
    "inline-wait": ({"inline_wait": "120ms", "patience": "400ms"}, "news", 1),
    "several": ({"inline_wait": "20s", "patience": "300ms"}, "orders", 3),
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One way to fail at one stage."""

    stage: Stage
    way: str
    act: Act


def failures() -> Iterator[Failure]:
    """Every stage with every way."""
    for stage in STAGES:
        ways = WAYS | TAKEN if stage is Stage.DOT else WAYS
        for way, act in ways.items():
            yield Failure(stage, way, act)


async def fail(chain: Chain, port: int, number: int, failure: Failure, mode: str) -> Told:
    """One mail that meets the failure once; its client asks again until it hears an end."""
    _, stream, count = MODES[mode]
    left = 1

    def script(stage: Stage, _: Session) -> Act | None:
        nonlocal left
        if stage is failure.stage and left:
            left -= 1
            return failure.act
        return None

    chain.upstream.script = script
    if failure.stage in (Stage.CONNECT, Stage.EHLO):
        chain.upstream.drop()  # so that the next mail needs a new connection
    people = PEOPLE[number % 80 :: 80][:count]
    mail = make_mail(f"f{number}", stream, people, point=number)
    line = Line(chain.site.host, port)
    told = await offer(line, mail, chain.records)
    line.close()
    if not (200 <= told.code < 300 or told.code >= 500):
        chain.crowd.unsettled[mail.id] = mail
        await chain.crowd.settle(port)
    await until(lambda: not left, 30)  # queued mail meets it a little later
    await chain.site.emptied(30)
    chain.upstream.script = as_usual
    return told


async def run_failures(
    template: Path, folder: Path, mode: str, host: str, chosen: list[Failure]
) -> tuple[Verdict, list[Told]]:
    """All chosen failures under one process; the verdict at the end, and the first answers."""
    options, _, _ = MODES[mode]
    chain = await Chain.begin(template, folder, f"failures {mode}", host, **options)
    served = await chain.site.serve()
    told = [
        await fail(chain, served.smtp, number, failure, mode)
        for number, failure in enumerate(chosen)
    ]
    await served.kill()
    verdict = await chain.end()
    chain.records.keep(folder)
    return verdict, told
