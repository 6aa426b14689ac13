"""Processes of a relay: started, waited for, and what they cost, read from /proc."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_TICK = os.sysconf("SC_CLK_TCK")
_PATIENCE = 30.0


def installed() -> dict[str, str]:
    """The environment of a relay whose modules are compiled, as those of an installation are.

    Python may be told not to keep what it compiles (images of CI are); a start would then measure
    the compiler: a fifth of a second more.
    """
    kept = Path(__file__).parents[2] / "build" / "bytecode"
    rest = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**rest, "PYTHONPYCACHEPREFIX": str(kept)}


class BenchError(Exception):
    """A part did not do what the bench rests on; the words say which."""


def until(condition: Callable[[], bool], what: str, seconds: float = _PATIENCE) -> None:
    """Wait for `condition`; raises `BenchError` naming `what` after so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"not within {seconds:g} s: {what}")
        time.sleep(0.005)


def listens(port: int) -> bool:
    """Whether somebody answers on the port of loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that nobody has now, nor gets for a connection of its own.

    The kernel's own choice is taken from those of connections, of which a bench makes many.
    """
    lowest = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0]
    for port in random.sample(range(10_000, int(lowest)), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise BenchError("no port of loopback is free")


def tree(root: int) -> list[int]:
    """`root` and all its descendants that live."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu(roots: int | Sequence[int]) -> float:
    """CPU seconds of the processes under each of `roots`, with those of children that ended."""
    ticks = 0
    for root in (roots,) if isinstance(roots, int) else roots:
        for pid in tree(root):
            fields = _stat(pid)
            # utime, stime, and those of waited-for children (proc(5), counted after the name)
            ticks += sum(int(number) for number in fields[11:15]) if fields else 0
    return ticks / _TICK


def resident(pid: int, field: str = "VmRSS") -> float:
    """Resident memory of one process, mapped files included, in MB of 10^6 octets (proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    line = next(line for line in status.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / 1_000_000


def forget_peak(pid: int) -> None:
    """Let VmHWM begin at what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return []
    return text[text.rfind(")") + 2 :].split()


def run(words: list[str], seconds: float = 120.0) -> str:
    """A command to its end; raises `BenchError` with what it said."""
    done = subprocess.run(
        words,
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        umask=0o022,
    )
    if done.returncode != 0:
        said = done.stdout + done.stderr
        raise BenchError(f"{Path(words[0]).name} ended with {done.returncode}: {said}")
    return done.stdout


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started, and wait for that."""
    for pid in reversed(tree(process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
