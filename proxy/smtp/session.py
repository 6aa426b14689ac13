"""The dialogue with one client: commands in, replies out, a complete message to the gate.

No sockets here: `Wire` is what the session needs of one. Every command gets exactly one reply. What
goes wrong on our side is answered `451 4.3.0` with a reference; the traceback is in the log only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from proxy import log
from proxy.content import SPOOL_AT, Budget, Room, Spool
from proxy.envelope import Envelope
from proxy.message.received import trace_end
from proxy.ref import new_ref
from proxy.replies import Reply, our_fault, with_ref
from proxy.smtp import auth, command, limits, replies
from proxy.smtp.data import Incoming
from proxy.smtp.identity import Login, Manner, xclient
from proxy.smtp.limits import ERROR_PAUSE, ERRORS_FREE, IDLE_COMMANDS
from proxy.smtp.proxied import XCLIENT_NAMES
from proxy.smtp.wire import Desk, EndlessLine, Gone, Wire

# Octets of a command line with CRLF: RFC 5321 4.5.3.1.4 and what the extensions add; RFC 4954
# section 4.
_LINE_MAX = 512
_LINES_MAX = {b"MAIL": 2048, b"RCPT": 2048, b"AUTH": auth.RESPONSE_MAX}
_BROWSERS = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT"})


@dataclass(slots=True)
class Transaction:
    """An open mail transaction, and the recipients already in it."""

    envelope: Envelope
    exact: set[str] = field(default_factory=set)


class Session:
    """One client. `run` returns when the connection should be closed."""

    def __init__(self, wire: Wire, desk: Desk) -> None:
        self._wire = wire
        self._desk = desk
        self._limits = desk.settings.limits
        self._hostname = desk.settings.server.hostname
        self._subaddress = desk.settings.policy.subaddress
        self._patience = self._limits.command_timeout.total_seconds()
        self._errors_left = self._errors_before = self._limits.errors
        self._messages_left = self._limits.messages_per_connection
        self._idle_left = IDLE_COMMANDS
        self._login = Login(wire, desk)
        self._helo = ""
        self._extended = self._notices = False
        self._transaction: Transaction | None = None
        self._asked = b"", False, False
        self._mail: command.Mail | Reply = replies.MAIL_SYNTAX
        self._verb = "connect"
        self._over = self._draining = False
        self.waiting = False

    # -- The loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Greet, then answer one command after the other."""
        await self._wire.hush()
        if self._wire.pending:
            self._end(replies.TALKED_TOO_EARLY)
        else:
            self._wire.say(replies.greeting(self._hostname))
        while not self._over:
            self.waiting = False
            if self._draining:
                self._end(replies.SHUTTING_DOWN)
                break
            try:
                line = self._wire.line_at_hand()
                if line is None:
                    self.waiting = True
                    line = await self._wire.line(self._patience)
                    self.waiting = False
                    if self._over:  # it came as we said goodbye
                        return
                if (answer := self._take(line)) is not None:
                    await answer
                if self._errors_left < self._errors_before:
                    await self._hold_back()
            except Gone:
                self.waiting = False
                return
            except EndlessLine:
                self._end(replies.COMMAND_TOO_LONG_TO_READ)
            except Exception as error:  # the edge: our trouble is temporary and tells nothing
                open_ = self._transaction
                ref = open_.envelope.ref if open_ else new_ref(self._desk.clock())
                log.incident(ref=ref, error=error)
                # What may be left of a message is never read as commands.
                (self._end if self._verb == "DATA" else self._reply)(our_fault(ref))

    async def _hold_back(self) -> None:
        """A client that makes one error after the other gets its answers slowly."""
        self._errors_before = self._errors_left
        if self._limits.errors - self._errors_left > ERRORS_FREE:
            self._wire.hold()
            await self._desk.pause(ERROR_PAUSE)

    def wind_down(self) -> bool:
        """Say goodbye after the command in progress; True when there is none and it was said."""
        self._draining = True
        if self.waiting and not self._over:
            self._end(replies.SHUTTING_DOWN)
            return True
        return False

    def time_out(self, *, session_over: bool) -> None:
        """The client let a deadline pass."""
        self._end(replies.SESSION_TOO_LONG if session_over else replies.TIMED_OUT)

    async def _line(self) -> bytes:
        self.waiting = True
        line = await self._wire.line(self._patience)
        self.waiting = False
        if self._over:  # it came as we said goodbye
            raise Gone
        return line

    def _take(self, line: bytes) -> Awaitable[None] | None:
        """Answer a command; what is left to await of it."""
        self._verb = "other"
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            # Where the client's lines end is in doubt, so nothing of its transaction is sent.
            self._transaction = None
            self._error(replies.BARE_IN_COMMAND)
            return None
        if b"\0" in line:
            self._error(replies.NUL_IN_COMMAND)
            return None
        verb, argument = command.split(line[:-2])
        answer = _COMMANDS.get(verb)
        self._verb = _NAMES.get(verb, "other")
        if len(line) > _LINES_MAX.get(verb, _LINE_MAX):
            self._error(replies.COMMAND_TOO_LONG)
        elif answer is not None:
            return answer(self, argument)
        elif verb in _BROWSERS:
            self._end(replies.NOT_A_WEB_SERVER)
        else:
            self._error(replies.UNKNOWN_COMMAND)
        return None

    # -- Replies ---------------------------------------------------------------------------------

    def _reply(self, reply: Reply) -> None:
        if reply.code == 421:  # RFC 5321 section 3.8: then the channel closes
            self._over = True
        self._wire.say(replies.octets(reply))
        self._desk.counters.reply(self._verb, reply.code)

    def _refuse(self, reply: Reply) -> None:
        self._reply(reply)
        log.smtp_refused(
            listener=self._desk.listener.address,
            peer=self._wire.peer,
            command=self._verb,
            code=reply.code,
            reason=reply.text,
        )

    def _error(self, reply: Reply) -> None:
        """A refusal that the client could have avoided; after too many it may go."""
        self._errors_left -= 1
        if self._errors_left > 0:
            self._refuse(reply)
        else:
            self._end(replies.TOO_MANY_ERRORS)

    def _end(self, reply: Reply) -> None:
        self._over = True
        if reply.positive:
            self._reply(reply)
        else:
            self._refuse(reply)

    def _idle(self) -> bool:
        """Count a command that brings no mail; False when there were too many."""
        self._idle_left -= 1
        if self._idle_left < 0:
            self._end(replies.TOO_MANY_IDLE_COMMANDS)
        return self._idle_left >= 0

    # -- Greeting and small commands -------------------------------------------------------------

    async def _on_ehlo(self, argument: bytes) -> None:
        self._hello(argument, extended=True)

    async def _on_helo(self, argument: bytes) -> None:
        self._hello(argument, extended=False)

    def _hello(self, argument: bytes, *, extended: bool) -> None:
        if not argument.strip(b" "):
            return self._error(replies.NAME_WANTED)
        if not self._idle():
            return None
        self._transaction = None
        self._helo = command.client_name(argument)
        self._extended = extended
        self._notices = extended and self._desk.gate.relays_notices()
        if extended:
            self._wire.say(replies.extensions(self._hostname, self._offers()))
        else:
            self._wire.say(replies.hello(self._hostname))
        return self._desk.counters.reply(self._verb, 250)

    def _offers(self) -> list[str]:
        offers = [
            "PIPELINING",
            f"SIZE {self._limits.message_size}",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
            # RFC 9422: so that a client splits its mail before it is told to.
            f"LIMITS MAILMAX={self._limits.messages_per_connection}"
            f" RCPTMAX={self._limits.recipients}",
        ]
        if self._notices:
            # Where it does not, a client that wants notices sees to them itself (RFC 3461, 5.2.2).
            offers.append("DSN")
        if self._desk.listener.tls == "starttls" and not self._wire.tls:
            offers.append("STARTTLS")
        if self._wire.may_speak_for_others:
            offers.append("XCLIENT " + " ".join(XCLIENT_NAMES))
        if self._login.offered:
            offers.append("AUTH " + " ".join(auth.MECHANISMS))
        return offers

    async def _on_noop(self, _: bytes) -> None:
        if self._idle():
            self._reply(replies.OK)

    async def _on_rset(self, argument: bytes) -> None:
        if argument:
            return self._error(replies.NO_ARGUMENT_WANTED)
        if self._idle():
            self._transaction = None
            self._reply(replies.OK)
        return None

    async def _on_quit(self, argument: bytes) -> None:
        if argument:
            return self._error(replies.NO_ARGUMENT_WANTED)
        return self._end(replies.BYE)

    async def _on_help(self, _: bytes) -> None:
        if self._idle():
            self._reply(replies.HELP)

    async def _on_vrfy(self, _: bytes) -> None:
        # Never a word about who is known here.
        if self._idle():
            self._reply(replies.CANNOT_VERIFY)

    async def _on_expn(self, _: bytes) -> None:
        self._error(replies.NOT_IMPLEMENTED)

    async def _on_bdat(self, _: bytes) -> None:
        # The octets that follow would be read as commands.
        self._end(replies.NO_CHUNKING)

    # -- TLS and authentication ------------------------------------------------------------------

    async def _on_starttls(self, argument: bytes) -> None:
        if argument:
            return self._error(replies.NO_ARGUMENT_WANTED)
        if self._desk.listener.tls != "starttls":
            return self._error(replies.NOT_IMPLEMENTED)
        if self._wire.tls:
            return self._error(replies.TLS_ALREADY)
        if self._wire.pending:
            # RFC 3207 section 5: what came in clear may be somebody else's.
            return self._end(replies.TALKED_TOO_EARLY)
        self._reply(replies.READY_FOR_TLS)
        if not await self._wire.start_tls():
            raise Gone
        # RFC 3207 section 4.2: nothing said in clear is known any more.
        self._helo = self._login.user = ""
        self._extended = self._notices = False
        self._transaction = None
        return None

    async def _on_xclient(self, argument: bytes) -> None:
        in_transaction = self._transaction is not None
        said = xclient(argument, self._wire, self._desk, in_transaction=in_transaction)
        if isinstance(said, Reply):
            return self._error(said)
        if not self._idle():
            return None
        if said.address is not None:
            self._wire.assume(said.client)
        # The session starts anew, as somebody else's.
        self._helo, self._login.user = "", said.login or ""
        self._extended = self._notices = False
        self._wire.say(replies.greeting(self._hostname))
        return self._desk.counters.reply(self._verb, 220)

    async def _on_auth(self, argument: bytes) -> None:
        answer = await self._login.authenticate(
            argument,
            self._line,
            extended=self._extended,
            in_transaction=self._transaction is not None,
        )
        say = {
            Manner.DONE: self._reply,
            Manner.REFUSED: self._refuse,
            Manner.ERROR: self._error,
            Manner.LAST: self._end,
        }
        return say[answer.manner](answer.reply)

    # -- The transaction -------------------------------------------------------------------------

    async def _on_mail(self, argument: bytes) -> None:
        if not self._helo or self._transaction is not None:
            return self._error(replies.NESTED_MAIL if self._helo else replies.HELO_FIRST)
        if self._desk.listener.auth == "required" and not self._login.user:
            return self._error(replies.AUTH_REQUIRED)
        if self._messages_left <= 0:
            return self._end(replies.TOO_MANY_MESSAGES)
        asked = argument, self._extended, self._notices
        if asked != self._asked:  # most clients send from one address
            self._mail = command.read_mail(
                argument,
                extended=self._extended,
                notices=self._notices,
                size_limit=self._limits.message_size,
                subaddress=self._subaddress,
            )
            self._asked = asked
        mail = self._mail
        if isinstance(mail, Reply):
            return self._refuse(mail) if mail is replies.DECLARED_TOO_BIG else self._error(mail)
        received_at = self._desk.clock()
        envelope = Envelope(
            submitter=self._login.submitter(
                self._helo, extended=self._extended, utf8=mail.smtputf8
            ),
            ref=new_ref(received_at),
            received_at=received_at,
            mail_from=mail.sender,
            body_8bit=mail.body_8bit,
            smtputf8=mail.smtputf8,
            declared_size=mail.size,
            ret=mail.ret,
            envid=mail.envid,
            solicitation=mail.solicitation,
        )
        self._wire.hold()
        answer = await self._desk.gate.mail(envelope)
        if answer is None or answer.positive:
            self._transaction = Transaction(envelope)
        return self._reply(answer or replies.SENDER_OK)

    async def _on_rcpt(self, argument: bytes) -> None:
        if self._transaction is None:
            return self._error(replies.MAIL_FIRST if self._helo else replies.HELO_FIRST)
        envelope = self._transaction.envelope
        rcpt = command.read_rcpt(
            argument,
            notices=self._notices,
            smtputf8=envelope.smtputf8,
            subaddress=self._subaddress,
        )
        if isinstance(rcpt, Reply):
            envelope.turned_away = True
            return self._error(rcpt)
        recipient = rcpt.recipient
        if recipient.exact in self._transaction.exact:
            # One copy each, however often it is named; a stranger has but the one to name.
            if envelope.submitter.may_relay or self._idle():
                self._reply(replies.RECIPIENT_OK)
            return None
        if not envelope.submitter.may_relay and not self._desk.gate.accepts_from_strangers(
            recipient
        ):
            return self._error(replies.AUTH_REQUIRED if self._login.helps else replies.RELAY_DENIED)
        if len(envelope.recipients) >= self._limits.recipients:
            # A client goes on with all that it has: one line in the log, not one for each.
            say = self._reply if envelope.turned_away else self._refuse
            envelope.turned_away = True
            return say(replies.TOO_MANY_RECIPIENTS)
        self._wire.hold()
        answer = await self._desk.gate.admit(envelope, recipient)
        if answer is None or answer.positive:
            envelope.recipients.append(recipient)
            self._transaction.exact.add(recipient.exact)
            if rcpt.notices is not command.NO_NOTICES:
                envelope.notices[recipient.exact] = rcpt.notices
        else:
            envelope.turned_away = True
            if answer.code == 550:
                # An app that asks person after person does its work: each was decided and recorded.
                self._idle_left = IDLE_COMMANDS
        return self._reply(answer or replies.RECIPIENT_OK)

    def _on_data(self, argument: bytes) -> Awaitable[None] | None:
        transaction = self._transaction
        if argument or transaction is None or not transaction.envelope.recipients:
            self._refuse_data(argument, transaction)
            return None
        self._transaction = None
        own = transaction.envelope.submitter.may_relay
        desk = self._desk
        memory, disk = (desk.memory, desk.disk) if own else desk.strangers
        room = memory.room(SPOOL_AT)
        if room is not None:
            return self._message(transaction.envelope, room, disk)
        if self._wire.pending:  # content, as after any DATA that was refused
            self._end(replies.TALKED_TOO_EARLY)
        else:
            self._refuse(replies.NO_ROOM)
        return None

    def _refuse_data(self, argument: bytes, transaction: Transaction | None) -> None:
        if self._wire.pending:
            # DATA ends a pipelined group (RFC 2920): what follows is content, never commands.
            return self._end(replies.TALKED_TOO_EARLY)
        if argument:
            return self._error(replies.NO_ARGUMENT_WANTED)
        first = replies.MAIL_FIRST if self._helo else replies.HELO_FIRST
        return self._error(first if transaction is None else replies.RCPT_FIRST)

    async def _message(self, envelope: Envelope, room: Room, disk: Budget) -> None:
        """From 354 to the gate's answer."""
        self._messages_left -= 1
        self._wire.say(replies.GO_AHEAD)
        spool = Spool(self._desk.settings.server.data_dir, disk, hash_from=trace_end)
        incoming = await self._receive(spool, min(self._limits.message_size, disk.limit))
        if incoming is None:
            return self._end(replies.TOO_MUCH_DATA)
        self._idle_left = IDLE_COMMANDS
        fault = incoming.fault
        if fault is None and spool.on_disk and not room.grow(limits.SPOOLED_TAKES):
            fault = replies.NO_ROOM
        if fault is not None:
            log.message_refused(ref=envelope.ref, code=fault.code, reason=fault.text)
            return self._reply(with_ref(fault, envelope.ref))
        log.message_received(
            ref=envelope.ref,
            listener=self._desk.listener.address,
            size=incoming.size, recipients=len(envelope.recipients),
        )
        self._wire.hold()
        # From here on it is the gate's: what becomes of the client changes nothing (delivery.md 4).
        envelope.room = room
        try:
            content = incoming.content()
            answer = await self._desk.work(self._desk.gate.submit(envelope, content))
        except Exception as error:
            log.incident(ref=envelope.ref, error=error)
            answer = our_fault(envelope.ref)
        if answer.positive:
            self._errors_left = self._errors_before = self._limits.errors
        return self._reply(answer)

    async def _receive(self, spool: Spool, size_limit: int) -> Incoming | None:
        """The whole message; None when the client sends on and on. Raises `Gone`."""
        incoming = Incoming(
            size_limit=size_limit, line_limit=self._limits.line, spool=spool,
            normalise=self._desk.listener.bare_newline == "normalise",
        )
        started = self._desk.now()
        while not incoming.overrun:
            now, received, idle = self._desk.now(), incoming.received, self._limits.data_timeout
            deadline = limits.data_deadline(started=started, now=now, received=received, idle=idle)
            if incoming.feed(await self._wire.read(deadline)):
                if incoming.rest:
                    self._wire.give_back(incoming.rest)
                return incoming
        return None


_COMMANDS: dict[bytes, Callable[[Session, bytes], Awaitable[None] | None]] = {
    b"EHLO": Session._on_ehlo,
    b"HELO": Session._on_helo,
    b"MAIL": Session._on_mail,
    b"RCPT": Session._on_rcpt,
    b"DATA": Session._on_data,
    b"RSET": Session._on_rset,
    b"NOOP": Session._on_noop,
    b"QUIT": Session._on_quit,
    b"HELP": Session._on_help,
    b"VRFY": Session._on_vrfy,
    b"EXPN": Session._on_expn,
    b"BDAT": Session._on_bdat,
    b"AUTH": Session._on_auth,
    b"STARTTLS": Session._on_starttls,
    b"XCLIENT": Session._on_xclient,
}
_NAMES = {verb: verb.decode("ascii") for verb in _COMMANDS}
