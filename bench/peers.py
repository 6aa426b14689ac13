"""Sluis against Postfix, side by side, and against no relay at all: the table of performance.

    python -m bench.peers [ROW ...] [--rounds 5] [--seconds 3] [--people 20000] [--write]
    python -m bench.peers --quick
    python -m bench.peers --curve size|sessions|recipients|people|fsync

Every round runs direct, the peers, Sluis, direct, in this order; a row shows the median and the
range of the ratios of one round each, and is not judged when its two direct rates differ by more
than a fifth. Rates are counted at the sink (smtp-sink), CPU is that of the relay with all its
processes. Before the first round a few mails through each relay are compared with what was sent.
`--write` puts the table into docs/performance.md and the ratios into bench/recorded.json, with
which `--quick` (two short rounds of the first rows) compares.

The peers do less: see LACKS. Needs root (Postfix), and Debian's postfix, postfix-sqlite and
python3-milter, which `scripts/setup bench` installs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.race import load, mails, postfix
from bench.race.load import Counter, Load, Rate, drive, transactions
from bench.race.process import BenchError, cpu, free_port, memory
from bench.race.sluis import Relay, fsync_ms, sluis
from bench.race.verify import verify
from bench.race.work import optouts, signing_rate

LACKS = {
    "proxy": "keeps no journal of decisions, no fsync, cannot split recipients into copies",
    "milter": "one look-up and one constant header; Postfix queues durably, no journal",
    "queue": "no header of its own per copy, no journal of decisions; queues durably",
    "refuse": "no reference in the refusal, nothing recorded",
}
RECORDED = Path(__file__).with_name("recorded.json")
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
MARKS = "<!-- bench.peers: begin -->", "<!-- bench.peers: end -->"
DRIFT = 0.2


@dataclass(frozen=True, slots=True)
class Aim:
    """What a ratio should reach."""

    least: float
    aim: float
    below: bool = False

    def met(self, value: float) -> str:
        """In a word."""
        if self.below:
            return "aim" if value <= self.aim else "yes" if value <= self.least else "**no**"
        return "aim" if value >= self.aim else "yes" if value >= self.least else "**no**"


@dataclass(slots=True)
class Row:
    """One line of the table: ratios of the rounds that were judged."""

    name: str
    aim: Aim | None
    ratios: list[float] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    def text(self, digits: int = 2) -> str:
        """As a row of Markdown."""
        if not self.ratios:
            return f"| {self.name} | not judged: the machine was not steady | | | |"
        low, high = min(self.ratios), max(self.ratios)
        figure = self.figures[self.ratios.index(sorted(self.ratios)[len(self.ratios) // 2])]
        wanted = ("at most " if self.aim.below else "") + f"{self.aim.least:g}" if self.aim else ""
        return (
            f"| {self.name} | **{self.median:.{digits}f}** ({low:.{digits}f} to {high:.{digits}f})"
            f" | {wanted} | {self.aim.met(self.median) if self.aim else ''} | {figure} |"
        )


@dataclass(frozen=True, slots=True)
class Bench:
    """What the rows share."""

    folder: Path
    rounds: int
    seconds: float
    people: int

    def count(self, rate: float, least: int = 100) -> int:
        """How many messages last about so long as a run should."""
        return max(least, min(self.people, int(rate * self.seconds)))


def rates(
    bench: Bench,
    mail: Path,
    kinds: Sequence[str],
    *,
    sessions: int = 20,
    recipients: int = 1,
    dkim: bool = False,
) -> Iterator[dict[str, Rate] | None]:
    """Rounds of direct, each of `kinds` and Sluis; None where the two direct rates differ."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        relays: dict[str, tuple[int, int | None]] = {"direct": (port, None)}
        for kind in kinds:
            relays[kind] = stack.enter_context(postfix.postfix(kind, port, bench.people))
        ours = stack.enter_context(sluis(port, bench.people, dkim=dkim))
        relays["sluis"] = (ours.port, ours.pid)
        for name, (at, _) in relays.items():
            if name != "direct":
                verify(at, port, mail, name)
        counter = stack.enter_context(load.sink(port))

        def once(name: str, messages: int) -> Rate:
            at, pid = relays[name]
            # A copy each, but Postfix's proxy hands a mail on as it came.
            splits = name in ("sluis", "queue")
            what = Load(mail=mail, messages=messages, sessions=sessions, recipients=recipients)
            return drive(what, at, counter, pid, messages * (recipients if splits else 1))

        guess = {
            name: once(name, max(sessions, 200 // recipients)).per_second / recipients
            if name in ("sluis", "queue")
            else once(name, max(sessions, 200)).per_second
            for name in relays
        }
        size = {name: bench.count(rate, sessions) for name, rate in guess.items()}
        for _ in range(bench.rounds):
            got = {name: once(name, size[name]) for name in relays}
            again = once("direct", size["direct"])
            first = got["direct"]
            drift = abs(first.per_second - again.per_second) / max(
                first.per_second, again.per_second
            )
            if drift > DRIFT:
                print(f"  direct {first.per_second:.0f} and {again.per_second:.0f}/s: not judged")
                yield None
                continue
            got["direct"] = Rate((first.per_second + again.per_second) / 2, 0.0)
            print("  " + ", ".join(f"{n} {r.per_second:.0f}/s" for n, r in got.items()))
            yield got


def _against(row: Row, ours: Rate, theirs: Rate, unit: str = "/s") -> None:
    row.ratios.append(ours.per_second / theirs.per_second)
    row.figures.append(f"{ours.per_second:.0f}{unit} to {theirs.per_second:.0f}{unit}")


def _spent(row: Row, ours: float, theirs: float) -> None:
    row.ratios.append(ours / theirs)
    row.figures.append(f"{ours:.2f} ms to {theirs:.2f} ms")


def small(bench: Bench) -> list[Row]:
    """4 KB to one recipient, 20 sessions: against all peers."""
    mail = mails.newsletter(bench.folder, 4096)
    proxy = Row("rate against Postfix `smtpd_proxy_filter` + sqlite map + PREPEND", Aim(2.0, 2.7))
    spent = Row("CPU per mail against the same", Aim(0.5, 0.3, below=True))
    milter = Row("rate against Postfix + Python milter (unix socket)", Aim(6, 8))
    direct = Row("rate against smtp-source -> smtp-sink, 4 KB", Aim(0.30, 0.45))
    for got in rates(bench, mail, ("proxy", "milter")):
        if got is None:
            continue
        ours = got["sluis"]
        _against(proxy, ours, got["proxy"])
        _against(milter, ours, got["milter"])
        _against(direct, ours, got["direct"])
        _spent(spent, ours.cpu, got["proxy"].cpu)
    return [proxy, spent, milter, direct]


def large(bench: Bench) -> list[Row]:
    """100 KB and 1 MB against no relay."""
    rows = []
    for octets, words, aim in (
        (100_000, "100 KB", Aim(0.5, 0.6)),
        (1_000_000, "1 MB", Aim(0.75, 0.9)),
    ):
        row = Row(f"rate against smtp-source -> smtp-sink, {words}", aim)
        for got in rates(bench, mails.newsletter(bench.folder, octets), ()):
            if got is not None:
                _against(row, got["sluis"], got["direct"])
        rows.append(row)
    return rows


def copies(bench: Bench) -> list[Row]:
    """100 recipients per mail: each a copy of its own."""
    mail = mails.newsletter(bench.folder, 4096)
    row = Row("copies/s at 100 recipients against Postfix's queue, one recipient each", Aim(5, 8))
    spent = Row("CPU per copy against the same", None)
    for got in rates(bench, mail, ("queue",), sessions=5, recipients=100):
        if got is not None:
            _against(row, got["sluis"], got["queue"], " copies/s")
            _spent(spent, got["sluis"].cpu, got["queue"].cpu)
    return [row, spent]


def refusals(bench: Bench) -> list[Row]:
    """RCPT of people without consent: MAIL, RCPT and RSET pipelined, 20 sessions."""
    row = Row("refusals/s at RCPT against Postfix `check_recipient_access` sqlite", Aim(1.5, 3))
    spent = Row("CPU per refusal against the same", None)
    step = (
        b"MAIL FROM:<%s>\r\nRCPT TO:<%%dstranger@people.example>\r\nRSET\r\n"
        % load.SENDER.encode(),
        3,
    )
    port = free_port()
    with (
        postfix.postfix("refuse", port, bench.people) as (theirs, root),
        sluis(port, bench.people) as ours,
    ):
        for _ in range(bench.rounds):
            result = {}
            used = {}
            for name, at, pid in (("postfix", theirs, root), ("sluis", ours.port, ours.pid)):
                transactions(at, [step], sessions=20, count=200)
                count = 5000 if name == "postfix" else 3000
                began = cpu(pid)
                _, rate, codes = transactions(at, [step], sessions=20, count=count)
                if not codes & {b"550", b"554"}:
                    raise BenchError(f"{name} refused nobody: {sorted(codes)}")
                result[name] = rate
                used[name] = (cpu(pid) - began) * 1000 / count
            _spent(spent, used["sluis"], used["postfix"])
            row.ratios.append(result["sluis"] / result["postfix"])
            row.figures.append(f"{result['sluis']:.0f}/s to {result['postfix']:.0f}/s")
            print(f"  sluis {result['sluis']:.0f}/s, postfix {result['postfix']:.0f}/s")
    return [row, spent]


def latency(bench: Bench) -> list[Row]:
    """p99 from MAIL to the last 250, 10 sessions, a client of our own that does not pipeline."""
    content = mails.newsletter(bench.folder, 4096).read_bytes().replace(b"\n", b"\r\n")
    steps = [
        (b"MAIL FROM:<%s>\r\n" % load.SENDER.encode(), 1),
        (b"RCPT TO:<%dperson@people.example>\r\n", 1),
        (b"DATA\r\n", 1),
        (content + b"\r\n.\r\n", 1),
    ]
    row = Row(
        "p99 of a transaction, 10 sessions, against proxy_filter's", Aim(1.0, 0.5, below=True)
    )
    port = free_port()
    with contextlib.ExitStack() as stack:
        theirs, _ = stack.enter_context(postfix.postfix("proxy", port, bench.people))
        ours = stack.enter_context(sluis(port, bench.people))
        stack.enter_context(load.sink(port, counting=False))
        for _ in range(bench.rounds):
            p99 = {}
            for name, at in (("postfix", theirs), ("sluis", ours.port)):
                transactions(at, steps, sessions=10, count=200)
                times, _, codes = transactions(at, steps, sessions=10, count=2000)
                if codes & {b"421", b"451", b"550", b"554"}:
                    raise BenchError(f"{name} refused: {sorted(codes)}")
                p99[name] = statistics.quantiles(times, n=100)[98] * 1000
            row.ratios.append(p99["sluis"] / p99["postfix"])
            row.figures.append(f"{p99['sluis']:.1f} ms to {p99['postfix']:.1f} ms")
            print(f"  p99: sluis {p99['sluis']:.1f} ms, postfix {p99['postfix']:.1f} ms")
    return [row]


def dkim(bench: Bench) -> list[Row]:
    """Both keys on each copy, against how often this machine signs with both in one thread."""
    row = Row("rate with DKIM (RSA-2048 + Ed25519) against the raw signing rate", Aim(0.8, 0.8))
    for got in rates(bench, mails.newsletter(bench.folder, 4096), (), dkim=True):
        if got is not None:
            _against(row, got["sluis"], Rate(signing_rate(), 0.0))
    return [row]


def table(bench: Bench) -> list[Row]:
    """The same load with a small and a large consent table; rounds take turns."""
    row = Row("rate with 1,000,000 consents against 10,000", Aim(0.8, 0.9))
    mail = mails.newsletter(bench.folder, 4096)
    port = free_port()
    with contextlib.ExitStack() as stack:
        few = stack.enter_context(sluis(port, 10_000))
        many = stack.enter_context(sluis(port, 1_000_000))
        counter = stack.enter_context(load.sink(port))
        for _ in range(bench.rounds):
            got = {}
            for name, relay in (("few", few), ("many", many)):
                what = Load(mail=mail, messages=bench.count(1000))
                got[name] = drive(what, relay.port, counter, relay.pid, what.messages)
            _against(row, got["many"], got["few"])
            print(f"  {row.figures[-1]}")
    return [row]


def clicks(bench: Bench) -> list[Row]:
    """One-click opt-outs of as many people, each durable before its 200."""
    row = Row("opt-out POSTs per second, thousands, durable", Aim(3, 6))
    for _ in range(bench.rounds):
        port = free_port()
        with sluis(port, 0) as relay:
            rate = optouts(relay, 6000)
        row.ratios.append(rate / 1000)
        row.figures.append(f"{rate:.0f}/s")
        print(f"  {rate:.0f}/s")
    return [row]


def start(bench: Bench) -> list[Row]:
    """From exec to an open port, and what stays resident."""
    ready = Row("seconds from start to ready", Aim(1.0, 0.6, below=True))
    idle = Row("idle memory, MiB (proportional set size)", Aim(90, 70, below=True))
    for _ in range(bench.rounds):
        with sluis(free_port(), 0) as relay:
            ready.ratios.append(relay.seconds_to_ready)
            idle.ratios.append(memory(relay.pid))
    for row in (ready, idle):
        row.figures = ["" for _ in row.ratios]
    return [ready, idle]


ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "small": small,
    "large": large,
    "copies": copies,
    "refusals": refusals,
    "latency": latency,
    "dkim": dkim,
    "table": table,
    "clicks": clicks,
    "start": start,
}


def curve(bench: Bench, name: str) -> None:
    """One figure per point: Sluis against the direct rate, and its CPU per mail."""
    points: dict[str, Sequence[int]] = {
        "size": (1_000, 4_096, 10_000, 100_000, 1_000_000, 10_000_000),
        "sessions": (1, 10, 20, 100, 1000),
        "recipients": (1, 10, 100, 1000),
        "people": (10_000, 100_000, 1_000_000),
        "fsync": (0, 5),
    }
    print(f"| {name} | rate | against direct | CPU per mail |\n|---|---|---|---|")
    for point in points[name]:
        mail = mails.newsletter(bench.folder, point if name == "size" else 4096)
        port = free_port()
        people = point if name == "people" else bench.people
        with (
            sluis(port, people, delay_ms=point if name == "fsync" else 0) as relay,
            load.sink(port) as counter,
        ):
            what = Load(
                mail=mail,
                messages=1,
                sessions=point if name == "sessions" else 20,
                recipients=point if name == "recipients" else 1,
            )
            print(_point(bench, what, port, relay, counter, point))


def _point(bench: Bench, what: Load, port: int, relay: Relay, counter: Counter, point: int) -> str:
    def once(at: int, pid: int | None, messages: int, each: int) -> Rate:
        run = Load(
            mail=what.mail, messages=messages, sessions=what.sessions, recipients=what.recipients
        )
        return drive(run, at, counter, pid, messages * each)

    found = []
    for _ in range(bench.rounds):
        warm = once(relay.port, relay.pid, what.sessions * 2, what.recipients)
        ours = once(
            relay.port,
            relay.pid,
            bench.count(warm.per_second / what.recipients, what.sessions),
            what.recipients,
        )
        warm = once(port, None, what.sessions * 2, 1)
        direct = once(port, None, bench.count(warm.per_second, what.sessions), 1)
        found.append((ours.per_second, ours.per_second / direct.per_second, ours.cpu))
    rate, ratio, cpu = (statistics.median(column) for column in zip(*found, strict=True))
    return f"| {point:,} | {rate:.0f}/s | {ratio:.2f} | {cpu:.2f} ms |"


def write(rows: Sequence[Row], bench: Bench) -> None:
    """The table into the page, the ratios into the record."""
    known = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    known |= {
        row.name: {"median": round(row.median, 3), "line": row.text()} for row in rows if row.ratios
    }
    RECORDED.write_text(json.dumps(known, indent=1) + "\n")
    head, _, rest = PAGE.read_text().partition(MARKS[0])
    if not rest:
        raise BenchError(f"{PAGE} has no {MARKS[0]}")
    tail = rest.partition(MARKS[1])[2]
    lines = [entry["line"] for entry in known.values()]
    text = "\n".join(
        [
            MARKS[0],
            f"Median and range of {bench.rounds} rounds; fdatasync of this disk:"
            f" {fsync_ms(bench.folder):.2f} ms.",
            "",
            "| what | measured | at least | reached | figures of the median round |",
            "|---|---|---|---|---|",
            *lines,
            MARKS[1],
        ]
    )
    PAGE.write_text(head + text + tail)


def quick(bench: Bench) -> int:
    """The first rows in two short rounds, beside the record; 1 where one fell by a fifth."""
    known = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    fell = 0
    for row in small(bench):
        was = known.get(row.name, {}).get("median")
        if not row.ratios or was is None:
            print(f"{row.name}: nothing to compare")
            continue
        change = row.median / was - 1
        worse = -change if not (row.aim and row.aim.below) else change
        fell |= worse > DRIFT
        word = "FELL" if worse > DRIFT else "as recorded" if abs(change) <= DRIFT else "better"
        print(f"{row.name}: {row.median:.2f}, recorded {was:.2f} ({change:+.0%}): {word}")
    return int(fell)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one run, about")
    parser.add_argument("--people", type=int, default=20_000, help="consents, and most mails a run")
    parser.add_argument("--curve", choices=["size", "sessions", "recipients", "people", "fsync"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sluis-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        bench = Bench(folder, chosen.rounds, chosen.seconds, chosen.people)
        print(f"fdatasync of this disk: {fsync_ms(folder):.2f} ms; {os.cpu_count()} CPUs")
        try:
            if chosen.quick:
                return quick(Bench(folder, 2, 1.5, 5000))
            if chosen.curve:
                curve(replace(bench, rounds=min(bench.rounds, 3)), chosen.curve)
                return 0
            rows = []
            for row in chosen.rows or ROWS:
                print(f"{row}: {(ROWS[row].__doc__ or '').strip()}")
                rows += ROWS[row](bench)
            print("\n".join(row.text() for row in rows))
            print("What the peers do not do:")
            for kind, words in LACKS.items():
                print(f"  {kind}: {words}")
            if chosen.write:
                write(rows, bench)
        except BenchError as error:
            print(f"bench.peers: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
