"""Who hands in a mail, and from whom to whom: the edge between `smtp/` and the gate."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from policy.address import Address
from proxy.content import Room


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitter:
    """The client of one SMTP session.

    `network` is the trusted network (CIDR, as configured) that the peer's address lies in, "" for
    none;
    `credential` the authenticated user name, "" for none. One of the two is set for every client
    that may relay. `listener` is the listener's configured address. `protocol` is the RFC 3848
    keyword.
    """

    listener: str
    peer: str
    network: str = ""
    credential: str = ""
    helo: str = ""
    tls: bool = False
    protocol: str = "ESMTP"

    @property
    def identity(self) -> str:
        """What "same submitter" means for duplicates: the credential, else the network."""
        return f"user:{self.credential}" if self.credential else f"net:{self.network}"

    @property
    def may_relay(self) -> bool:
        """Authenticated, or on a trusted network; nobody else relays (no open relay, ever)."""
        return bool(self.credential or self.network)


@dataclass(frozen=True, slots=True)
class Notices:
    """What the client wants to hear about one recipient (RFC 3461 section 4).

    `notify` is `NEVER` or a list such as `SUCCESS,FAILURE`, `orcpt` the original recipient as typed
    (`rfc822;anna+40example.nl`); "" where it said nothing.
    """

    notify: str = ""
    orcpt: str = ""


@dataclass(slots=True, kw_only=True)
class Envelope:
    """One mail transaction as the client gave it (RFC 5321 3.3).

    `mail_from` is None for the null reverse-path. `body_8bit` is BODY=8BITMIME, `smtputf8` RFC
    6531. `ref` names the transaction in replies, journal and log. For notices about the mail (RFC
    3461) `ret` is `FULL`, `HDRS` or "", `envid` the client's name for the mail as typed (xtext),
    and `notices` has an entry, by `Address.exact`, for each recipient about whom the client said
    something. `solicitation` tells that the client calls the mail one (SOLICIT=, RFC 3865),
    `turned_away` that it named others, who were refused. `room` is what the message takes of
    `limits.memory`: it is given back when the envelope is gone. `noted` is the gate's own.
    """

    submitter: Submitter
    ref: str
    received_at: datetime
    mail_from: Address | None = None
    recipients: list[Address] = field(default_factory=list)
    body_8bit: bool = False
    smtputf8: bool = False
    declared_size: int = 0
    ret: str = ""
    envid: str = ""
    solicitation: bool = False
    turned_away: bool = False
    notices: dict[str, Notices] = field(default_factory=dict)
    room: Room | None = field(default=None, repr=False, compare=False)
    noted: object = field(default=None, repr=False, compare=False)
