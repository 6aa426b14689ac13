"""How long an attempt may take and whose it is meanwhile, and when owed mail is tried again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Annotated, Literal, Protocol, get_args

from pydantic import AfterValidator, PlainSerializer, StrictStr

from proxy.config.values import duration, wrong

#: What a try of owed mail can end in, other than for good (`proxy.delivery.schedule`).
Kind = Literal["temporary", "full", "policy", "unreachable", "unknown"]


class Stages(Protocol):
    """The time-outs of one upstream."""

    @property
    def connect_timeout(self) -> timedelta: ...
    @property
    def command_timeout(self) -> timedelta: ...
    @property
    def rcpt_timeout(self) -> timedelta: ...
    @property
    def data_timeout(self) -> timedelta: ...
    @property
    def block_timeout(self) -> timedelta: ...
    @property
    def final_timeout(self) -> timedelta: ...


def before_the_dot(upstreams: Iterable[Stages]) -> timedelta:
    """How long after its commit an attempt may write its dot: every stage before it, once."""
    return max(
        u.connect_timeout + u.command_timeout + u.rcpt_timeout + u.data_timeout + u.block_timeout
        for u in upstreams
    )


def lease(upstreams: Iterable[Stages], margin: timedelta) -> timedelta:
    """How long an attempt is its owner's: every stage, the reply to the dot too, and `margin`.

    So an owner that keeps to `before_the_dot` has its result before the lease ends.
    """
    stages = list(upstreams)
    return before_the_dot(stages) + max(u.final_timeout for u in stages) + margin


def waits(text: str) -> tuple[timedelta, timedelta]:
    """`"1m/1h"` as the first wait and the longest. Raises `ValueError` for anything else."""
    first, slash, longest = text.partition("/")
    made = duration(first), duration(longest)
    if not slash or not timedelta(0) < made[0] <= made[1]:
        raise ValueError(text)
    return made


def _retry(value: Mapping[str, str]) -> Mapping[str, str]:
    for key, text in value.items():
        if key not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            raise wrong(f'names "{key}", which is no way to fail for now', f"use {known}")
        try:
            waits(text)
        except ValueError:
            raise wrong(
                f'has "{text}" for {key}, which is no first and longest wait',
                'write both, the shorter first: "1m/1h"',
            ) from None
    return MappingProxyType(dict(value))


Retry = Annotated[
    Mapping[StrictStr, StrictStr], AfterValidator(_retry), PlainSerializer(dict)
]
