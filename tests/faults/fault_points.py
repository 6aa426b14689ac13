"""The points: where a process is killed, and what is broken under it. Pure: a seed gives them."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from fault_site import Trap
from fault_upstream import Stage

MODES = ("inline", "queued", "inline-wait", "several", "mixed")

_SOCKET = "write,writev,sendto,sendmsg"


@dataclass(frozen=True, slots=True)
class Point:
    """One fault. `kind` names it in the table; the rest is what the kind needs.

    `strike`: when the process is killed: `random` (after `count` answers), `syscall` (by `trap`),
    `before`, `after` (the upstream's reply at `stage`, the `count`-th time); `none`: an error is
    injected by `trap`, or met under `prefix`, and the process is killed after `count` answers.
    """

    number: int
    kind: str
    mode: str
    strike: str
    count: int = 0
    trap: Trap | None = None
    stage: Stage = Stage.DOT
    other_process: bool = False
    prefix: tuple[str, ...] = ()


def kills(count: int, seed: int) -> list[Point]:
    """`count` points of SIGKILL, of all kinds and modes, in an order that the seed gives."""
    chance = random.Random(f"kills {seed}")
    stages = (Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT)
    made: list[Point] = []
    for number in range(count):
        mode = MODES[number % len(MODES)]
        share = chance.random()
        point = Point(
            number=number, kind="", mode=mode, strike="", other_process=chance.random() < 0.06
        )
        if share < 0.36:
            made.append(
                replace(
                    point, kind="random moment", strike="random", count=chance.randint(1, 40)
                )
            )
        elif share < 0.70:
            # The first few syncs of a thread are those of the start.
            calls, kind, last, early = chance.choice(
                (
                    ("fdatasync", "fdatasync", 12, False),
                    ("fdatasync", "fdatasync", 36, False),
                    ("pwrite64", "write to the journal", 700, False),
                    (_SOCKET, "write to a socket", 220, False),
                    ("fdatasync,pwrite64", "write at a start", 25, True),
                )
            )
            trap = Trap(calls, "signal=SIGKILL", str(chance.randint(1, last)), early)
            made.append(replace(point, kind=kind, strike="syscall", trap=trap))
        else:
            stage = chance.choice((*stages, Stage.DOT, Stage.DOT))
            when = chance.choice(("before", "after"))
            made.append(
                replace(
                    point,
                    kind=f"{when} the reply to {stage.value}",
                    strike=when,
                    stage=stage,
                    count=chance.randint(1, 25),
                )
            )
    return made


def first_starts(seed: int, rounds: int = 4) -> list[list[Point]]:
    """Kills while a data directory is made, each start going on where the last was killed.

    A call that is killed is not made. Key file, database and instance id get their names by links,
    the first and the last by one thread: the second link of a thread is the last of all.
    """
    chance = random.Random(f"first starts {seed}")
    link = ("link,linkat,rename,renameat,renameat2", "rename or link")
    made = []
    for n in range(rounds):
        syncs = [("fsync,fdatasync", "sync", when) for when in chance.sample(range(1, 9), 2)]
        writes = [("pwrite64", "write", when) for when in chance.sample(range(1, 40), 2)]
        unlinks = [("unlink,unlinkat", "unlink", 1)]
        if n % 2:
            plan = [(*link, 2), (*link, 1), *unlinks, *syncs, *writes]
        else:
            plan = [(*link, 1), syncs[0], (*link, 1), writes[0], *unlinks, (*link, 1), writes[1]]
        made.append(
            [
                Point(
                    number=number,
                    kind=f"{name} in the first start",
                    mode="queued",
                    strike="syscall",
                    trap=Trap(calls, "signal=SIGKILL", str(when), early=True),
                )
                for number, (calls, name, when) in enumerate(plan)
            ]
        )
    return made


def errors(seed: int, rounds: int = 2) -> list[Point]:
    """System calls that fail under load: once, for a while, and from some moment on."""
    chance = random.Random(f"errors {seed}")
    made: list[Point] = []
    for n in range(rounds):
        for calls, error, span in (
            ("fdatasync", "EIO", ""),
            ("fdatasync", "ENOSPC", ""),
            ("fdatasync", "EIO", "+"),
            ("pwrite64", "EIO", ""),
            ("pwrite64", "ENOSPC", ""),
            ("pwrite64", "ENOSPC", ".."),
            ("pwrite64", "ENOSPC", "+"),
            ("pread64", "EIO", ""),
            ("fdatasync,pwrite64,fsync", "EROFS", "+"),
        ):
            first = chance.randint(6, 30) if calls == "fdatasync" else chance.randint(20, 200)
            when = f"{first}{span}" if span != ".." else f"{first}..{first + 25}"
            lasting = {"": "once", "..": "for a while", "+": "for good"}[span]
            made.append(
                Point(
                    number=len(made),
                    kind=f"{error} on {calls.partition(',')[0]} {lasting}",
                    mode=MODES[(n + len(made)) % len(MODES)],
                    strike="none",
                    count=chance.randint(30, 60),
                    trap=Trap(calls, f"error={error}", when),
                )
            )
        # A file may not grow beyond this: as a full disk, for who may not mount one.
        limit = chance.randint(900_000, 2_500_000)
        made.append(
            Point(
                number=len(made),
                kind="EFBIG from some size on",
                mode=MODES[n % len(MODES)],
                strike="none",
                count=60,
                prefix=("prlimit", f"--fsize={limit}"),
            )
        )
    return made
