"""One curve a command: how a rate changes with size, sessions, recipients, people, or a slow disk.

Each point runs direct, the peer where it has one, Sluis, direct; the rule for direct rates that
differ is that of the table.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.race import load, mails, postfix
from bench.race.judge import TRIES, judged, number, table
from bench.race.load import Counter, Load, Rate, drive
from bench.race.people import BLOCK, person
from bench.race.process import free_port
from bench.race.rows import Bench, Direct
from bench.race.sluis import Relay, sluis


@dataclass(frozen=True, slots=True)
class Curve:
    """What changes, at which points, and the kind of Postfix beside it (none: "")."""

    title: str
    points: Sequence[int]
    peer: str = ""


CURVES = {
    "size": Curve("octets", (1_000, 4_096, 10_000, 100_000, 1_000_000, 10_000_000), "proxy"),
    "sessions": Curve("sessions", (1, 10, 20, 100, 1000), "proxy"),
    "recipients": Curve("recipients a mail, 5 sessions", (1, 10, 100, 1000), "queue"),
    "people": Curve("people in the consent table", (10_000, 100_000, 1_000_000, 10_000_000)),
    "fsync": Curve("ms that each fsync is held up, by strace", (0, 1, 5)),
}
PEERS = {
    "proxy": "`smtpd_proxy_filter` + sqlite map + PREPEND",
    "queue": "Postfix's queue with `destination_recipient_limit=1`",
}
#: Rates below are of copies, where there are several recipients.
_SPLITS = ("sluis", "queue")


@dataclass(frozen=True, slots=True)
class _Course:
    """What a curve's points are run on."""

    bench: Bench
    port: int
    counter: Counter
    peer: str = ""
    at: int = 0
    roots: Sequence[int] = ()

    def line(self, point: int, relay: Relay, what: Load) -> list[str]:
        """One point, measured."""
        relays: dict[str, tuple[int, Sequence[int]]] = {"sluis": (relay.port, (relay.pid,))}
        if self.peer:
            relays = {self.peer: (self.at, self.roots), **relays}

        def once(name: str, messages: int) -> Rate:
            port, pids = relays[name]
            expected = messages * (what.recipients if name in _SPLITS else 1)
            return drive(replace(what, messages=messages), port, self.counter, pids, expected)

        sizes = {}
        for name in relays:
            warm = once(name, max(what.sessions, 20 // what.recipients))
            rate = warm.per_second / (what.recipients if name in _SPLITS else 1)
            sizes[name] = self.bench.count(rate, what.sessions, what.recipients)
        direct = Direct.lasting(
            self.bench.seconds,
            self.port,
            self.counter,
            replace(what, messages=max(what.sessions, 20), recipients=1),
        )
        refused: list[float] = []
        found = [
            (rate, got)
            for rate, got in judged(
                self.bench.rounds,
                direct,
                lambda: {name: once(name, sizes[name]) for name in relays},
                lambda *two: refused.extend(two),
            )
        ]
        if not found:
            words = f"not judged: direct rates differed in {self.bench.rounds * TRIES} rounds"
            return [f"{point:,}", words, *([""] * (6 if self.peer else 3))]
        bare = statistics.median(rate for rate, _ in found)
        ours = [got["sluis"] for _, got in found]
        cells = [
            f"{point:,}",
            f"{bare:.0f}/s",
            f"{_middle(ours).per_second:.0f}/s",
            number(statistics.median(got["sluis"].per_second / rate for rate, got in found)),
            f"{_middle(ours).cpu:.2f} ms",
        ]
        if self.peer:
            theirs = _middle([got[self.peer] for _, got in found])
            ratios = [got["sluis"].per_second / got[self.peer].per_second for _, got in found]
            cells += [
                f"{theirs.per_second:.0f}/s",
                number(statistics.median(ratios)),
                f"{theirs.cpu:.2f} ms",
            ]
        return cells


def _middle(rates: Sequence[Rate]) -> Rate:
    return Rate(
        statistics.median(rate.per_second for rate in rates),
        statistics.median(rate.cpu for rate in rates),
    )


def curve(bench: Bench, name: str) -> str:
    """The curve as Markdown: a title and a table."""
    chosen = CURVES[name]
    port = free_port()
    with contextlib.ExitStack() as stack:
        course = _Course(bench, port, stack.enter_context(load.sink(port)))
        if name in ("people", "fsync"):
            lines = [_alone(course, name, point) for point in chosen.points]
        else:
            at, roots = stack.enter_context(postfix.postfix(chosen.peer, port, bench.people))
            relay = stack.enter_context(sluis(port, bench.people))
            course = _Course(bench, port, course.counter, chosen.peer, at, roots)
            lines = []
            for point in chosen.points:
                lines.append(course.line(point, relay, _what(bench.folder, name, point)))
                print("  " + ", ".join(lines[-1]), flush=True)
    head = f"| {chosen.title} | direct | Sluis | of direct | CPU |"
    title = f"By {chosen.title}"
    if chosen.peer:
        head += " Postfix | Sluis to it | CPU of Postfix |"
        title += f", beside {PEERS[chosen.peer]}"
    return (
        f"{title} (`python -m bench.peers --curve {name}`; median of {bench.rounds} rounds):\n\n"
        + table(head, lines)
    )


def _what(folder: Path, name: str, point: int) -> Load:
    return Load(
        mail=mails.newsletter(folder, point if name == "size" else 4096),
        messages=1,
        # A mail to a thousand is a thousand mails: a few at a time are enough of them.
        sessions={"sessions": point, "recipients": 5}.get(name, 20),
        recipients=point if name == "recipients" else 1,
    )


def _alone(course: _Course, name: str, point: int) -> list[str]:
    """A point that needs a relay of its own."""
    people = point if name == "people" else course.bench.people
    with sluis(course.port, people, delay_ms=point if name == "fsync" else 0) as relay:
        # The last block; wherever it is, its people stand all over the table.
        block = max(0, people // BLOCK - 1) if name == "people" else 0
        what = Load(
            mail=mails.newsletter(course.bench.folder, 4096), messages=1, person=person(block)
        )
        line = course.line(point, relay, what)
    print("  " + ", ".join(line), flush=True)
    return line
