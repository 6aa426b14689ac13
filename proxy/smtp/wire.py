"""What a session needs of its surroundings: a connection, and what a listener's sessions share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from proxy.config import Listener, Settings
from proxy.content import Budget
from proxy.replies import Reply
from proxy.smtp import Gate
from proxy.smtp.auth import Authenticator
from proxy.smtp.limits import Address, Failures


class Gone(ConnectionError):
    """The client has nothing more to say, or is no longer there."""


class EndlessLine(ValueError):
    """A line longer than anybody has reason to send."""


class Counters(Protocol):
    """The measurements of the front door (`proxy.telemetry.Telemetry`)."""

    def connection_opened(self, listener: str) -> None: ...
    def connection_closed(self, listener: str) -> None: ...
    def reply(self, command: str, code: int) -> None: ...


class Wire(Protocol):
    """One connection. Output waits until more input is needed: one write per pipelined burst."""

    peer: str
    network: str
    tls: bool
    may_speak_for_others: bool

    @property
    def pending(self) -> bool:
        """Whether the client has sent more than was asked for yet."""
        ...

    def say(self, octets: bytes) -> None:
        """Queue output."""
        ...

    def line_at_hand(self) -> bytes | None:
        """What `line` would give, if without waiting for the client or for others' turn."""
        ...

    async def line(self, wait: float) -> bytes:
        """The next octets up to and with LF. Raises `Gone`, `EndlessLine`."""
        ...

    async def read(self, deadline: float) -> bytes:
        """The next octets, at least one. Raises `Gone`."""
        ...

    async def hush(self) -> None:
        """Let arrive what the client sent before it was greeted."""
        ...

    def assume(self, client: Address | None) -> None:
        """The peer speaks for `client` from now on; None is one that nobody knows."""
        ...

    def give_back(self, octets: bytes) -> None:
        """Octets read too far; they come first next time."""
        ...

    def hold(self) -> None:
        """No deadline until the next read: it is our turn."""
        ...

    async def start_tls(self) -> bool:
        """Whether the handshake succeeded; what came in clear after STARTTLS is gone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What the sessions of one listener share."""

    listener: Listener
    settings: Settings
    gate: Gate
    counters: Counters
    clock: Callable[[], datetime]
    now: Callable[[], float]  # the loop's time, for deadlines
    authenticator: Authenticator
    failures: Failures
    memory: Budget
    disk: Budget
    strangers: tuple[Budget, Budget]  # memory and disk of those who may not relay
    password_in_clear: bool
    pause: Callable[[float], Awaitable[None]]  # seconds; ended early when the house closes
    work: Callable[[Awaitable[Reply]], Awaitable[Reply]]  # goes on when who awaits it is cancelled
