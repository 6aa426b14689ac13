"""Rows without smtp-source: refusals, latencies, opt-outs, memory, a start."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Sequence

from bench.race import load, mails, postfix
from bench.race.judge import Aim, Row, judged
from bench.race.load import Load, Rate, drive, transactions
from bench.race.process import BenchError, cpu, forget_peak, free_port, resident
from bench.race.rows import Bench, against, refusing, spent, yardstick
from bench.race.sluis import sluis
from bench.race.work import idle_sessions, optouts

_MAIL = b"MAIL FROM:<%s>\r\n" % load.SENDER.encode()
_SESSIONS = 10
_REFUSED = {b"421", b"451", b"550", b"554"}
_MIB = 1024 * 1024
_MB = 1_000_000


def refusals(bench: Bench) -> list[Row]:
    """RCPT of people without consent: MAIL, RCPT and RSET pipelined, 20 sessions."""
    row = Row(
        "refusals.rate",
        "refusals/s at RCPT against Postfix `check_recipient_access` sqlite",
        Aim(1.5, 3),
    )
    cost = Row("refusals.cpu", "CPU per refusal against the same", less_is_better=True)
    rows = [row, cost]
    step = (_MAIL + b"RCPT TO:<%dstranger@people.example>\r\nRSET\r\n", 3)
    port = free_port()
    with contextlib.ExitStack() as stack:
        theirs, roots = stack.enter_context(postfix.postfix("refuse", port, bench.people))
        ours = stack.enter_context(sluis(port, bench.people))
        stack.enter_context(load.sink(port, counting=False))

        def once(at: int, pids: Sequence[int], rate: float, name: str) -> Rate:
            count = max(200, int(rate * bench.seconds))
            began = cpu(pids) if pids else 0.0
            _, rate, codes = transactions(at, [step], sessions=20, count=count)
            if name != "direct" and not codes & {b"550", b"554"}:
                raise BenchError(f"{name} refused nobody: {sorted(codes)}")
            return Rate(rate, ((cpu(pids) - began) * 1000 / count) if pids else 0.0)

        relays: dict[str, tuple[int, Sequence[int]]] = {
            "postfix": (theirs, roots),
            "sluis": (ours.port, (ours.pid,)),
        }
        speeds = {name: once(*relay, 500, name).per_second for name, relay in relays.items()}
        speed = once(port, (), 2000, "direct").per_second / 2

        def between() -> dict[str, Rate]:
            return {name: once(*relay, speeds[name], name) for name, relay in relays.items()}

        def direct() -> float:
            return once(port, (), speed, "direct").per_second

        for _, got in judged(bench.rounds, direct, between, refusing(*rows)):
            against(row, got["sluis"], got["postfix"])
            spent(cost, got["sluis"].cpu, got["postfix"].cpu)
            print(f"  {row.figures[-1]}")
    return rows


def latency(bench: Bench) -> list[Row]:
    """From MAIL to the last 250, 10 sessions, a client of our own; pipelined and not."""
    content = mails.newsletter(bench.folder, 4096).read_bytes().replace(b"\n", b"\r\n")
    rcpt = b"RCPT TO:<%dperson@people.example>\r\n"
    end = (content + b"\r\n.\r\n", 1)
    ways = {
        "plain": [(_MAIL, 1), (rcpt, 1), (b"DATA\r\n", 1), end],
        "pipelined": [(_MAIL + rcpt + b"DATA\r\n", 3), end],
    }
    rows = {
        "plain": Row(
            "latency.p99",
            "p99 of a transaction, 10 sessions, not pipelined, against proxy_filter's",
            Aim(1.0, 0.5, below=True),
        ),
        "pipelined": Row(
            "latency.pipelined", "the same, MAIL RCPT DATA pipelined", Aim(1.0, 0.5, below=True)
        ),
    }
    port = free_port()
    with contextlib.ExitStack() as stack:
        theirs, _ = stack.enter_context(postfix.postfix("proxy", port, bench.people))
        ours = stack.enter_context(sluis(port, bench.people))
        stack.enter_context(load.sink(port, counting=False))
        relays = {"postfix": theirs, "sluis": ours.port}

        def once(at: int, way: str, count: int) -> tuple[list[float], float]:
            times, rate, codes = transactions(at, ways[way], sessions=_SESSIONS, count=count)
            if codes & _REFUSED:
                raise BenchError(f"refused: {sorted(codes)}")
            return times, rate

        for at in relays.values():
            once(at, "plain", 200)
        speed = once(port, "plain", 1000)[1]
        count = min(bench.people - _SESSIONS, max(300, int(600 * bench.seconds)))

        def between() -> dict[tuple[str, str], tuple[float, float]]:
            got = {}
            for way in ways:
                for name, at in relays.items():
                    cuts = statistics.quantiles(once(at, way, count)[0], n=100)
                    got[way, name] = cuts[49] * 1000, cuts[98] * 1000
            return got

        def direct() -> float:
            return once(port, "plain", int(speed * bench.seconds / 2))[1]

        for _, got in judged(bench.rounds, direct, between, refusing(*rows.values())):
            for way, row in rows.items():
                (half, p99), (their_half, theirs99) = got[way, "sluis"], got[way, "postfix"]
                row.add(
                    p99 / theirs99,
                    f"p99 {p99:.1f} ms to {theirs99:.1f} ms; p50 {half:.1f} to {their_half:.1f}",
                )
                print(f"  {way}: {row.figures[-1]}")
    return list(rows.values())


def clicks(bench: Bench) -> list[Row]:
    """One-click opt-outs of as many people, each durable before its 200."""
    row = Row("clicks", "opt-out POSTs per second, thousands, durable", Aim(3, 6))
    port = free_port()
    with contextlib.ExitStack() as stack:
        _, direct = yardstick(bench, stack, port)

        def between() -> Rate:
            people = int(2000 * bench.seconds)
            with sluis(port, 0) as relay:
                optouts(relay, 200, first=people)
                began = cpu(relay.pid)
                rate = optouts(relay, people)
                return Rate(rate, (cpu(relay.pid) - began) * 1000 / people)

        for _, got in judged(bench.rounds, direct, between, refusing(row)):
            row.add(got.per_second / 1000, f"{got.per_second:.0f}/s at {got.cpu:.2f} ms")
            print(f"  {row.figures[-1]}")
    return [row]


def start(bench: Bench) -> list[Row]:
    """From the call of the program to `200` on `/readyz`, and what is resident then."""
    ready = Row("start.ready", "seconds from start to ready", Aim(1.0, 0.6, below=True))
    idle = Row("start.idle", "idle RSS, MB", Aim(90, 70, below=True))
    port = free_port()
    with contextlib.ExitStack() as stack:
        _, direct = yardstick(bench, stack, port)
        with sluis(port, 0):  # the first one after a change compiles it
            pass

        def between() -> tuple[float, float, float]:
            with sluis(port, 0) as relay:
                return relay.seconds_to_ready, cpu(relay.pid), resident(relay.pid)

        for _, (seconds, used, rss) in judged(bench.rounds, direct, between, refusing(ready, idle)):
            ready.add(seconds, f"{used:.2f} s of CPU")
            idle.add(rss)
            print(f"  {seconds:.2f} s, {used:.2f} s of CPU, {rss:.1f} MB")
    return [ready, idle]


def memory(bench: Bench) -> list[Row]:
    """Large mails at once, and sessions that only said EHLO, over what an idle relay has."""
    large = Row("memory.large", "20 x 10 MB at once, MiB over idle", Aim(40, 40, below=True))
    few = Row("memory.few", "5 x 10 MB at once, MiB over idle", less_is_better=True)
    each = Row("memory.session", "1,000 sessions, KiB each", Aim(30, 30, below=True))
    mail = mails.newsletter(bench.folder, 10_000_000)
    port = free_port()
    with load.sink(port) as counter:
        for _ in range(bench.rounds):
            with sluis(port, bench.people) as relay:
                first = Load(mail=mails.newsletter(bench.folder, 4096), messages=20)
                drive(first, relay.port, counter, relay.pid, 20)
                before = resident(relay.pid)
                with idle_sessions(relay.port, 1000):
                    each.add((resident(relay.pid) - before) * _MB / 1024 / 1000)
                for row, count in ((few, 5), (large, 20)):
                    forget_peak(relay.pid)
                    what = Load(mail=mail, messages=count, sessions=count)
                    drive(what, relay.port, counter, relay.pid, count)
                    row.add((resident(relay.pid, "VmHWM") - before) * _MB / _MIB)
                print(f"  {large.ratios[-1]:.1f} MiB, {each.ratios[-1]:.1f} KiB a session")
    return [large, few, each]
