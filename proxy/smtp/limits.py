"""How many clients at once, how long each may wait, how much each may try (promise 8)."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import timedelta

from proxy.config import Limits
from proxy.content import SPOOL_AT, Budget
from proxy.replies import Reply
from proxy.smtp import replies

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MIN_RATE = 500  # octets a second during DATA, as Postfix's smtpd_min_data_rate
HANDSHAKE_SECONDS = 30
GOODBYE_SECONDS = 5.0  # for a last reply to leave before the connection is cut
IDLE_COMMANDS = 100  # commands since the last message or refusal that bring mail no further
AUTH_FAILURES = 3  # of one connection
AUTH_MEMORY = 900.0  # seconds for which a failure counts across connections
AUTH_FREE = 3  # failures of a network, or for a user, until answers are held back
AUTH_SHUT = 30  # failures of a network until it is not listened to
AUTH_PAUSE_MAX = 16.0
ERRORS_FREE = 10  # errors of a session until answers are held back, as Postfix's soft limit
ERROR_PAUSE = 1.0
#: What the gate takes in memory of a message that is on disk, in octets: what it reads at a time,
#: what it decodes to look at, and what is on its way to an upstream.
SPOOLED_TAKES = 1 << 20
_STRANGERS = 8  # what others have of memory and disk is so many times what strangers have


def read_peer(peername: object) -> Address | None:
    """The client's address from a socket's peer name; None where there is none (a unix socket)."""
    if not isinstance(peername, tuple) or not peername:
        return None
    try:
        found = ipaddress.ip_address(str(peername[0]).partition("%")[0])
    except ValueError:
        return None
    # A dual-stack socket shows IPv4 clients in IPv6 form; trust is configured in IPv4 form.
    return getattr(found, "ipv4_mapped", None) or found


def trusted_network(peer: Address | None, networks: Sequence[Network]) -> str:
    """The narrowest of `networks` that holds `peer`, as configured; "" for none."""
    held = [n for n in networks if peer is not None and peer.version == n.version and peer in n]
    return str(max(held, key=lambda n: n.prefixlen)) if held else ""


class Admission:
    """Counts the connections of a process: in all, and per client network (IPv4 address, IPv6 /64).

    A trusted network is the operator's own and counts in all only. Share one between listeners.
    `failures` are those to authenticate, `memory` and `disk` what messages take; `strangers` are
    the memory and disk of those who may not relay, so that their mail to the feedback mailboxes
    never takes what an application needs, nor the other way round.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._networks: dict[str, int] = {}
        self.total = 0
        self.failures = Failures(time.monotonic)
        self.memory = Budget(limits.memory)
        self.disk = Budget(limits.spool)
        # Room for one large message at least.
        memory = max(limits.memory // _STRANGERS, SPOOL_AT + SPOOLED_TAKES)
        self.strangers = Budget(memory), Budget(limits.spool // _STRANGERS)

    def enter(self, peer: Address | None, *, trusted: bool) -> Reply | None:
        """Take a place, to be given back by `leave`; or the refusal, and no place is taken."""
        if self.total >= self._limits.connections:
            return replies.TOO_MANY_CONNECTIONS
        key = "" if trusted else network_of(peer)
        count = self._networks.get(key, 0)
        if key and count >= self._limits.connections_per_network:
            return replies.TOO_MANY_FROM_YOU
        self.total += 1
        if key:
            self._networks[key] = count + 1
        return None

    def leave(self, peer: Address | None, *, trusted: bool) -> None:
        """Give the place back."""
        self.total -= 1
        key = "" if trusted else network_of(peer)
        if key:
            left = self._networks[key] - 1
            if left:
                self._networks[key] = left
            else:
                del self._networks[key]


class Failures:
    """Failed authentications of a process, by client network and by user name, bounded in number.

    `now` is a clock in seconds, `peer` the client's address or "". A user name counts whether or
    not it exists.
    """

    KEPT = 10_000

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def is_shut_out(self, peer: str) -> bool:
        """Whether this network has failed so often that it is not worth the work."""
        return self._count(f"net {_network(peer)}") >= AUTH_SHUT

    def note(self, peer: str, username: str) -> float:
        """Count a failure; how many seconds its answer should be held back."""
        worst = 0
        for key in (f"net {_network(peer)}", f"user {username[:255]}"):
            count = self._count(key) + 1
            worst = max(worst, count)
            self._seen[key] = count, self._now()
            self._seen.move_to_end(key)
        while len(self._seen) > self.KEPT:
            self._seen.popitem(last=False)
        over = min(worst - AUTH_FREE, 10)
        return min(2.0 ** (over - 1), AUTH_PAUSE_MAX) if over > 0 else 0.0

    def forgive(self, peer: str, username: str) -> None:
        """The password was right after all."""
        self._seen.pop(f"net {_network(peer)}", None)
        self._seen.pop(f"user {username[:255]}", None)

    def _count(self, key: str) -> int:
        count, last = self._seen.get(key, (0, 0.0))
        return count if self._now() - last < AUTH_MEMORY else 0


def _network(peer: str) -> str:
    return network_of(ipaddress.ip_address(peer)) if peer else ""


def network_of(peer: Address | None) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 one."""
    if isinstance(peer, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(peer) >> 64 << 64, 64)))
    return str(peer or "")


def data_deadline(*, started: float, now: float, received: int, idle: timedelta) -> float:
    """When DATA has taken too long: after `idle` without octets, or on falling below `MIN_RATE`.

    The second starts counting after a first `idle`, so that a slow start is not a fault.
    """
    patience = idle.total_seconds()
    return min(now + patience, started + patience + received / MIN_RATE)
