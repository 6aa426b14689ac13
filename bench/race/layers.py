"""Whose a sample is: stacks of py-spy to layers, calls of strace to kinds. No process here."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: A layer, and the files that are its own. The innermost frame that has a layer counts.
LAYERS = {
    "logging and metrics": (
        "structlog/",
        "prometheus_client/",
        "logging/",
        "proxy/log.py",
        "proxy/telemetry.py",
        "proxy/meters.py",
    ),
    "session": ("proxy/smtp/", "aiosmtpd/"),
    "reading": ("proxy/message/", "proxy/mail.py", "proxy/looks.py", "proxy/content.py"),
    "delivery": ("proxy/delivery/", "proxy/dispatch.py"),
    "store": ("proxy/store/", "proxy/fallback/", "aiosqlite/"),
    "judging": ("policy/", "proxy/"),
}
LOOP = "loop and its syscalls"
ROWS = (
    "session",
    "reading",
    "judging",
    "delivery",
    "store",
    "logging and metrics",
    LOOP,
    "waits for the interpreter (GIL)",
    "waits for the disk",
    "waits for work",
)
GIL, DISK, WORK = ROWS[-3:]
THREADS = ("event loop", "store writer", "store reader", "others")

_FRAME = re.compile(r"\(([^()]*?)(?::\d+)?\)$")
_THREAD = re.compile(r"thread \((\d+)\): ")
#: By what a thread does it is known: its name says nothing.
_ROLES = (("proxy/store/group.py", "store writer"), ("proxy/store/asked.py", "store reader"))

_CALL = re.compile(r"^\d+\s+(?:[\d.]+\s+)?(\w+)\((\d*)(<[^>]*>)?")
_SYNCS = ("fsync", "fdatasync")
_SENDS = ("write", "writev", "sendto", "sendmsg", "sendmmsg")


def layer(stack: Iterable[str]) -> str:
    """The layer of the innermost frame that has one; `stack` is outermost first."""
    for frame in reversed(list(stack)):
        found = _FRAME.search(frame)
        if found is None:
            continue
        file = found[1]
        for name, files in LAYERS.items():
            if any(_of(file, part) for part in files):
                # Of the command that runs the loop nothing is anybody's work.
                return LOOP if file.startswith("proxy/cli/") else name
    return LOOP


def _of(file: str, part: str) -> bool:
    """Whether `file`, which py-spy shortens to what follows its package's root, is of `part`."""
    return file.startswith(part) or f"/{part}" in file


@dataclass(slots=True)
class Samples:
    """Of each thread (by its kernel id) what it was seen at, and what it is."""

    layers: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    roles: dict[int, str] = field(default_factory=dict)


def samples(raw: Iterable[str]) -> Samples:
    """py-spy's raw output with threads: `thread (id): name;frame;frame count`."""
    found = Samples()
    for line in raw:
        text, _, count = line.rstrip("\n").rpartition(" ")
        frames = text.split(";")
        thread = _THREAD.match(frames[0])
        if thread is None or not count.isdigit():
            continue
        tid = int(thread[1])
        found.layers[tid][layer(frames[1:])] += int(count)
        if frames[0].endswith("MainThread"):
            found.roles[tid] = "event loop"
        for file, role in _ROLES:
            if file in text:
                found.roles.setdefault(tid, role)
    return found


def shares(found: Samples, states: Mapping[int, Mapping[str, int]]) -> dict[str, dict[str, float]]:
    """Of each kind of thread the share of its time in each of `ROWS`; several are added up.

    `states`: of each thread how often it was seen running ("") or waiting (GIL, DISK, WORK).
    """
    made: dict[str, dict[str, float]] = {}
    for tid, seen in states.items():
        total = sum(seen.values())
        if not total:
            continue
        mine = made.setdefault(found.roles.get(tid, "others"), dict.fromkeys(ROWS, 0.0))
        running = seen.get("", 0) / total
        at = found.layers.get(tid, Counter())
        count = sum(at.values())
        for name in at:
            mine[name] += running * at[name] / count
        if not count:
            mine[LOOP] += running
        for name in (GIL, DISK, WORK):
            mine[name] += seen.get(name, 0) / total
    return made


def calls(trace: Iterable[str]) -> Counter[str]:
    """What a trace of strace (`-f -y`) holds: futex calls, waits, syncs, writes by what they go to.

    A call that was interrupted by another thread's line is counted where it begins.
    """
    found: Counter[str] = Counter()
    for line in trace:
        call = _CALL.match(line)
        if call is None:
            continue
        name, _, target = call.groups()
        target = target or ""
        if name == "futex":
            found["futex"] += 1
        elif name.startswith("epoll_"):
            found["epoll"] += "wait" in name
        elif name in _SYNCS:
            found["sync"] += 1
        elif name in _SENDS:
            if "socket:" in target or "TCP" in target:
                found["socket writes"] += 1
            elif "eventfd" in target:
                found["wake-ups of the loop"] += 1
            else:
                found["file writes"] += 1
        elif name.startswith("pwrite"):
            found["file writes"] += 1
        elif name in ("read", "recvfrom", "recvmsg", "readv") and "socket:" in target:
            found["socket reads"] += 1
    return found
