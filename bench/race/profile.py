"""Where the time of a running relay goes: py-spy, the kernel's view of its threads, and strace.

py-spy samples every thread that runs, whether it holds the interpreter or not, without stopping
the relay. What a thread waits for is read from `/proc`: a futex inside the interpreter's own data
is that of its lock (GIL), another one an empty queue. Both look at the same load at the same time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.race import load, mails
from bench.race.judge import table
from bench.race.layers import DISK, GIL, ROWS, THREADS, WORK, calls, samples, shares
from bench.race.load import Load, drive, transactions
from bench.race.process import BenchError, free_port, until
from bench.race.rows import Bench
from bench.race.sluis import Relay, sluis

_SECONDS = 4.0
_RATE = 250
_TRACED = (
    "trace=futex,epoll_wait,epoll_pwait,epoll_pwait2,fsync,fdatasync,pwrite64,pwritev"
    ",write,writev,sendto,sendmsg,sendmmsg,read,readv,recvfrom,recvmsg"
)
_COUNTED = (
    "futex",
    "epoll",
    "wake-ups of the loop",
    "socket reads",
    "socket writes",
    "file writes",
    "sync",
)
_TICK = os.sysconf("SC_CLK_TCK")
#: System calls in /proc/*/syscall are numbers of the machine's kind.
_CALLS = {
    "x86_64": {"futex": 202, "fsync": 74, "fdatasync": 75, "pwrite64": 18, "pread64": 17},
    "aarch64": {"futex": 98, "fsync": 82, "fdatasync": 83, "pwrite64": 68, "pread64": 67},
}


@dataclass(frozen=True, slots=True)
class _Seen:
    """One kind of work: shares by thread; CPU by thread (ms, user and system) and counts a mail;
    mails a second, unsampled; how many samples."""

    shares: dict[str, dict[str, float]]
    cpu: dict[str, tuple[float, float]]
    counts: dict[str, float]
    rate: float
    samples: int


def profile(bench: Bench) -> str:
    """The profile of a newsletter, a receipt and a refusal, as Markdown. Takes a minute."""
    port = free_port()
    with sluis(port, bench.people) as relay, load.sink(port) as counter:
        kinds: dict[str, Callable[[int], None]] = {
            f"A {words}, 4 KB, 20 sessions": partial(_mail, bench, relay, counter, kind)
            for kind, words in (("news", "newsletter"), ("orders", "receipt"))
        }
        kinds["A refusal at RCPT, 20 sessions, pipelined"] = partial(_refusal, relay)
        seen = {words: _look(relay, work) for words, work in kinds.items()}
    return "\n\n".join([_counts(seen), *(_shares(words, one) for words, one in seen.items())])


def _mail(bench: Bench, relay: Relay, counter: load.Counter, kind: str, count: int) -> None:
    what = Load(
        mail=mails.newsletter(bench.folder, 4096, kind),
        messages=count,
        sender=f"bounce@{kind}.shop.example",
    )
    drive(what, relay.port, counter, relay.pid, count)


def _refusal(relay: Relay, count: int) -> None:
    text = b"MAIL FROM:<%s>\r\nRCPT TO:<%%dstranger@people.example>\r\nRSET\r\n"
    transactions(relay.port, [(text % load.SENDER.encode(), 3)], sessions=20, count=count)


def _look(relay: Relay, work: Callable[[int], None]) -> _Seen:
    """Warm up; count context switches and CPU; sample; trace."""
    work(400)
    began = time.perf_counter()
    work(400)
    rate = 400 / (time.perf_counter() - began)
    count = max(400, int(rate * _SECONDS / 20) * 20)
    with _sampled(relay.pid) as raw, _watched(relay.pid) as states:
        work(count)
    found = samples(raw)
    if not found.layers:
        raise BenchError("py-spy took no sample")
    before = _threads(relay.pid)
    work(count)
    after = _threads(relay.pid)
    spent: dict[str, tuple[float, float]] = {}
    switches = 0
    for tid, (user, system, switched) in after.items():
        old = before.get(tid, (0.0, 0.0, 0))
        role = found.roles.get(tid, "others")
        had = spent.get(role, (0.0, 0.0))
        spent[role] = (
            had[0] + (user - old[0]) * 1000 / count,
            had[1] + (system - old[1]) * 1000 / count,
        )
        switches += switched - old[2]
    traced = _traced(relay.pid, partial(work, 200))
    counts = {"context switches": switches / count}
    counts |= {name: traced[name] / 200 for name in _COUNTED}
    total = sum(sum(at.values()) for at in found.layers.values())
    return _Seen(shares(found, states), spent, counts, rate, total)


@contextmanager
def _sampled(pid: int) -> Iterator[list[str]]:
    """py-spy beside the block; its raw lines afterwards."""
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if spy is None:
        raise BenchError("py-spy is missing: run scripts/setup bench")
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="sluis-bench-") as name:
        out = Path(name) / "raw"
        words = [spy, "record", "--pid", str(pid), "--format", "raw", "--output", str(out)]
        words += ["--rate", str(_RATE), "--threads", "--nonblocking", "--duration", "600"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            time.sleep(0.5)  # it reads the program's symbols first
            yield lines
        finally:
            process.send_signal(2)  # then it writes what it has
            _, said = process.communicate(timeout=60)
        if not out.exists():
            raise BenchError(f"py-spy: {said.decode()[-500:]}")
        lines += out.read_text().splitlines()


@contextmanager
def _watched(pid: int) -> Iterator[dict[int, Counter[str]]]:
    """What each thread waits for, looked at some hundred times a second beside the block."""
    seen: dict[int, Counter[str]] = defaultdict(Counter)
    ended = threading.Event()
    numbers = _CALLS.get(os.uname().machine, {})
    futex = str(numbers.get("futex"))
    disk = {str(n) for name, n in numbers.items() if name != "futex"}
    own = _interpreter(pid)

    def watch() -> None:
        while not ended.wait(0.003):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(OSError):
                    words = (task / "syscall").read_text("ascii").split()
                    if words[0] == "running":
                        state = ""
                    elif words[0] == futex and any(a <= int(words[1], 16) < b for a, b in own):
                        state = GIL
                    else:
                        state = DISK if words[0] in disk else WORK
                    seen[int(task.name)][state] += 1

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def _interpreter(pid: int) -> list[tuple[int, int]]:
    """Where Python's own data lies, in which its lock is: of libpython, or of the program."""
    found: list[tuple[int, int]] = []
    file = ""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split(maxsplit=5)
        file = words[5] if len(words) > 5 else file if found and not words[4].strip("0") else ""
        named = Path(file).name
        if words[1].startswith("rw") and named.startswith(("libpython", "python")):
            low, high = (int(part, 16) for part in words[0].split("-"))
            if found and found[-1][1] == low:
                found[-1] = found[-1][0], high
            else:
                found.append((low, high))
    return found


def _threads(pid: int) -> dict[int, tuple[float, float, int]]:
    """Of each thread: seconds of user and system time, context switches."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            words = (task / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            status = (task / "status").read_text("utf-8", "replace").splitlines()
            switched = sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
            found[int(task.name)] = (
                int(words[11]) / _TICK,
                int(words[12]) / _TICK,
                switched,
            )
    return found


def _attached(pid: int) -> bool:
    """Whether every thread is traced (TracerPid of proc_pid_status(5))."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)


def _traced(pid: int, work: Callable[[], None]) -> Counter[str]:
    """The calls of the relay while `work` runs, which strace makes slower."""
    with tempfile.TemporaryDirectory(prefix="sluis-bench-") as name:
        out = Path(name) / "trace"
        words = ["strace", "-f", "-y", "-qq", "-o", str(out), "-e", _TRACED, "-p", str(pid)]
        process = subprocess.Popen(words, stderr=subprocess.PIPE)
        try:
            until(lambda: _attached(pid) or process.poll() is not None, "strace attached itself")
            if process.poll() is not None:
                assert process.stderr is not None
                raise BenchError(f"strace: {process.stderr.read().decode()[-500:]}")
            work()
        finally:
            process.terminate()
            process.communicate(timeout=30)
        with out.open(encoding="utf-8", errors="replace") as file:
            return calls(file)


def _shares(words: str, seen: _Seen) -> str:
    threads = [name for name in THREADS if name in seen.shares and name != "others"]
    lines = []
    for row in ROWS:
        cells = [f"{seen.shares[thread][row]:.1%}".replace("%", " %") for thread in threads]
        lines.append([row, *cells])
    cpu = [seen.cpu.get(thread, (0.0, 0.0)) for thread in threads]
    lines.append(
        [
            "**CPU a mail, ms: user + system**",
            *(f"{user:.2f} + {system:.2f}" for user, system in cpu),
        ]
    )
    head = f"| share of the time | {' | '.join(threads)} |"
    title = f"{words} ({seen.rate:.0f}/s; {seen.samples} samples of threads that ran):"
    return f"{title}\n\n{table(head, lines)}"


def _counts(seen: dict[str, _Seen]) -> str:
    names = list(next(iter(seen.values())).counts)
    lines = [[name, *(f"{one.counts[name]:.1f}" for one in seen.values())] for name in names]
    head = f"| a mail | {' | '.join(words.partition(',')[0] for words in seen)} |"
    return (
        "`python -m bench.peers --profile`: py-spy at 250 samples a second without `--gil`, the"
        " kernel's state of each thread at the same time, and calls by strace (which slows the"
        " relay, so that more is done at once). A thread that waits for a CPU counts as one that"
        f" runs.\n\n{table(head, lines)}"
    )
