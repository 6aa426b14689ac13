"""Sluis against Postfix, side by side, and against no relay at all: the table of performance.

    python -m bench.peers [ROW ...] [--rounds 5] [--seconds 3] [--write]
    python -m bench.peers --curve size|sessions|recipients|people|fsync|all [--write]
    python -m bench.peers --profile [--write]
    python -m bench.peers --quick
    python -m bench.peers --prepare

Every round runs direct, the peers, Sluis, direct, in this order; a row shows the median and the
range of the ratios of one round each. A round whose two direct rates differ by more than a fifth is
not judged but run again, three times the rounds at most. Rates are counted at the sink (smtp-sink);
CPU is that of a relay with all its processes, a milter's too. Before the first round a few mails
through each relay are compared with what was sent: the body, one header of ours per copy, no two
links alike, the signatures. Latencies are those of a client of our own, pipelined and not.
`--write` puts what was measured into bench/recorded.json and docs/performance.md; `--quick` runs
the main rows shortly and says what fell since then (ends with 1 where something did).

The peers do less: see rows.LACKS. Needs root (Postfix), and Debian's postfix, postfix-sqlite and
python3-milter, which `scripts/setup bench` installs. The row `table` and the curve `people` write
stores of ten million people: 6 GB of disk for the time, and 6 more in build/bench for the next
run; `--prepare` writes them there before.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.race import others, page, rows
from bench.race.curves import CURVES, curve
from bench.race.judge import HEAD, Row, compared
from bench.race.people import BLOCK, stored
from bench.race.process import BenchError
from bench.race.profile import profile
from bench.race.rows import LACKS, Bench

ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "small": rows.small,
    "large": rows.large,
    "copies": rows.copies,
    "refusals": others.refusals,
    "latency": others.latency,
    "dkim": rows.dkim,
    "memory": others.memory,
    "table": rows.table,
    "clicks": others.clicks,
    "start": others.start,
}
#: What `--quick` has time for.
QUICK = ("small", "copies", "refusals", "latency", "clicks", "start")
_ENOUGH = 90.0  # seconds after which no further row is begun


def measure(bench: Bench, names: Sequence[str], *, write: bool) -> None:
    """Rows, printed and recorded."""
    record = page.recorded()
    record["machine"] = page.machine(bench.folder)
    print(record["machine"])
    found: list[Row] = []
    for name in names:
        began = time.monotonic()
        print(f"{name}: {(ROWS[name].__doc__ or '').strip()}", flush=True)
        got = ROWS[name](bench)
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
        found += got
        record.setdefault("rows", {})[name] = [page.entry(row) for row in got]
        if write:  # after each row, so that a later one that breaks loses none
            page.write(record, tuple(ROWS))
    print(HEAD)
    print("\n".join(row.text() for row in found))
    print("What the peers do not do:")
    for words in LACKS.values():
        print(f"  {words}")


def curves(bench: Bench, names: Sequence[str], *, write: bool) -> None:
    """Curves, printed and recorded."""
    record = page.recorded()
    known = record.setdefault("curves", {})
    told = page.machine(bench.folder)
    for name in names:
        began = time.monotonic()
        print(f"{name}:", flush=True)
        text = f"{curve(bench, name)}\n\n({told}.)"
        print(f"{text}\n  {time.monotonic() - began:.0f} s", flush=True)
        record["curves"] = known = {
            key: text if key == name else known[key] for key in CURVES if key in {*known, name}
        }
        if write:
            page.write(record, tuple(ROWS))


def quick(bench: Bench) -> int:
    """The main rows in short rounds, beside the record; 1 where one fell."""
    known = page.medians(page.recorded())
    fell = []
    began = time.monotonic()
    for name in QUICK:
        if time.monotonic() - began > _ENOUGH:
            print(f"{name}: not run, the machine was too unsteady for two minutes")
            continue
        for row in ROWS[name](bench):
            worse, line = compared(row, known.get(row.key))
            print(line, flush=True)
            if worse:
                fell.append(row.name)
    print("fell: " + "; ".join(fell) if fell else "nothing fell")
    return int(bool(fell))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(ROWS)}; default: all")
    parser.add_argument("--rounds", type=int, help="default: 5, of a curve 3")
    parser.add_argument("--seconds", type=float, help="of one run, about; default: 3, of a curve 1")
    parser.add_argument("--curve", choices=[*CURVES, "all"])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--write", action="store_true", help="into the record and the page")
    chosen = parser.parse_args()
    unknown = set(chosen.rows) - set(ROWS)
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    short = bool(chosen.curve)
    with tempfile.TemporaryDirectory(prefix="sluis-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        rounds = chosen.rounds or (3 if short else 5)
        bench = Bench(folder, rounds, chosen.seconds or (1.0 if short else 3.0), BLOCK)
        try:
            if chosen.prepare:
                for people in (1_000_000, 10_000_000):
                    print(f"a ledger of {people:,} people", flush=True)
                    stored(folder / str(people), people)
                return 0
            if chosen.quick:
                return quick(Bench(folder, chosen.rounds or 1, chosen.seconds or 1.0, BLOCK))
            if chosen.curve:
                every = list(CURVES) if chosen.curve == "all" else [chosen.curve]
                curves(bench, every, write=chosen.write)
            elif chosen.profile:
                text = profile(bench)
                print(text)
                if chosen.write:
                    record = page.recorded() | {"profile": {"path": text}}
                    page.write(record, tuple(ROWS))
            else:
                measure(bench, chosen.rows or list(ROWS), write=chosen.write)
        except BenchError as error:
            print(f"bench.peers: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
