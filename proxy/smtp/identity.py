"""Who speaks on a connection: what AUTH proves (RFC 4954), and what XCLIENT is believed."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

from proxy.envelope import Submitter
from proxy.replies import Reply
from proxy.smtp import auth, replies
from proxy.smtp.limits import AUTH_FAILURES
from proxy.smtp.proxied import Attributes, read_xclient
from proxy.smtp.wire import Desk, Wire


class Manner(Enum):
    """How an answer is given: an `ERROR` counts against the client, after the `LAST` we hang up."""

    DONE = auto()
    REFUSED = auto()
    ERROR = auto()
    LAST = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, and what it means for the session."""

    reply: Reply
    manner: Manner


def _error(reply: Reply) -> Answer:
    return Answer(reply, Manner.ERROR)


class Login:
    """The user of one session, "" for nobody, and the tries that it has left."""

    __slots__ = ("_desk", "_left", "_named", "_submitter", "_wire", "user")

    def __init__(self, wire: Wire, desk: Desk) -> None:
        self._wire = wire
        self._desk = desk
        self._left = AUTH_FAILURES
        self._named: tuple[object, ...] = ()
        self._submitter: Submitter | None = None
        self.user = ""

    @property
    def helps(self) -> bool:
        """Whether AUTH could make a client more than it is."""
        return self._possible and not self.user

    @property
    def offered(self) -> bool:
        """Whether EHLO names it: where it helps, and a password is safe."""
        return self.helps and self._password_is_safe

    def submitter(self, helo: str, *, extended: bool, utf8: bool) -> Submitter:
        """Who hands in a mail: the same as the one before, where nothing changed since."""
        wire = self._wire
        named = utf8, extended, helo, self.user, wire.tls, wire.peer, wire.network
        if self._submitter is not None and named == self._named:
            return self._submitter
        # RFC 3848 and RFC 6531 section 4.3.
        protocol = "UTF8SMTP" if utf8 else "ESMTP" if extended else "SMTP"
        if extended:
            protocol += "S" * wire.tls + "A" * bool(self.user)
        self._named = named
        self._submitter = Submitter(
            listener=self._desk.listener.address,
            peer=wire.peer,
            network=wire.network,
            credential=self.user,
            helo=helo,
            tls=wire.tls,
            protocol=protocol,
        )
        return self._submitter

    async def authenticate(
        self,
        argument: bytes,
        answer: Callable[[], Awaitable[bytes]],
        *,
        extended: bool,
        in_transaction: bool,
    ) -> Answer:
        """One AUTH command; `answer` awaits the client's next line, CRLF included."""
        if not self._possible:
            return _error(replies.NOT_IMPLEMENTED)
        if not extended:
            return _error(replies.HELO_FIRST)
        if self.user:
            return _error(replies.AUTH_AGAIN)
        if in_transaction:
            return _error(replies.AUTH_IN_TRANSACTION)
        if not self._password_is_safe:
            return _error(replies.AUTH_NEEDS_TLS)
        name, _, initial = argument.strip(b" ").partition(b" ")
        if not name or b" " in initial:
            return _error(replies.AUTH_SYNTAX)

        async def ask(challenge: bytes) -> bytes:
            self._wire.say(b"334 " + base64.b64encode(challenge) + b"\r\n")
            line = await answer()
            if len(line) > auth.RESPONSE_MAX:
                raise auth.AuthError(replies.AUTH_TOO_LONG)
            if not line.endswith(b"\r\n"):
                raise auth.AuthError(replies.BARE_IN_COMMAND)
            return line[:-2]

        try:
            username, password = await auth.converse(name.upper(), initial, ask)
        except auth.AuthError as error:
            return _error(error.reply)
        return await self._verify(username, password)

    async def _verify(self, username: str, password: str) -> Answer:
        self._wire.hold()
        peer, failures = self._wire.peer, self._desk.failures
        if failures.is_shut_out(peer) and not self._wire.network:
            return Answer(replies.TOO_MANY_FAILURES, Manner.LAST)
        if await self._desk.authenticator.verify(username, password):
            failures.forgive(peer, username)
            self.user = username
            return Answer(replies.AUTHENTICATED, Manner.DONE)
        await self._desk.pause(failures.note(peer, username))
        self._left -= 1
        if self._left > 0:
            return Answer(replies.AUTH_FAILED, Manner.REFUSED)
        return Answer(replies.TOO_MANY_FAILURES, Manner.LAST)

    @property
    def _possible(self) -> bool:
        return self._desk.listener.auth != "none" and self._desk.authenticator.usable

    @property
    def _password_is_safe(self) -> bool:
        return self._wire.tls or bool(self._wire.network) or self._desk.password_in_clear


def xclient(argument: bytes, wire: Wire, desk: Desk, *, in_transaction: bool) -> Attributes | Reply:
    """What an XCLIENT command says of the client, or the error that it is."""
    if not wire.may_speak_for_others:
        return replies.NOT_FOR_OTHERS
    if in_transaction:
        return replies.AUTH_IN_TRANSACTION
    try:
        said = read_xclient(argument)
    except ValueError:
        return replies.XCLIENT_SYNTAX
    if said.login and desk.settings.credential(said.login) is None:
        return replies.XCLIENT_LOGIN
    return said
