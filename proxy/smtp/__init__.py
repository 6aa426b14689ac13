"""The front door: SMTP in, envelope and content's bytes to the gate, one honest reply back.

`server.py` has the sockets and is the only file that knows aiosmtpd; `session.py` the dialogue of
one client, `identity.py` who it is; `command.py` and `data.py` read what it sent; `auth.py`,
`tls.py` and `limits.py` are what their names say; `replies.py` has every reply that is ours.
`docs/smtp.md` says what is offered and what is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from policy.address import Address
from proxy.content import Content
from proxy.envelope import Envelope
from proxy.replies import Reply


class Gate(Protocol):
    """What the front door asks. An exception here is answered `451 4.3.0` with a reference.

    For MAIL and RCPT, None and a positive reply accept (the latter's text is used), any other reply
    refuses. An envelope whose submitter may not relay only ever gets recipients that
    `accepts_from_strangers` took.
    """

    async def mail(self, envelope: Envelope) -> Reply | None:
        """MAIL, with `mail_from`, options and submitter filled in."""
        ...

    def relays_notices(self) -> bool:
        """Whether DSN (RFC 3461) may be offered: what a client asks for reaches the upstream."""
        ...

    def accepts_from_strangers(self, recipient: Address) -> bool:
        """Whether a client that may not relay may write to `recipient`; asked before `admit`."""
        ...

    async def admit(self, envelope: Envelope, recipient: Address) -> Reply | None:
        """RCPT. `recipient` is appended to the envelope only after this accepted it."""
        ...

    def submit(self, envelope: Envelope, content: Content) -> Awaitable[Reply]:
        """End of data: the lines as sent, dots unstuffed. Not cancelled when the client leaves."""
        ...
