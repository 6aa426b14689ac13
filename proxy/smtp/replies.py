"""Every reply that the front door itself gives; the gate gives the rest.

Each has an enhanced status code (RFC 2034, RFC 3463; registry of RFC 5248), so ENHANCEDSTATUSCODES
is true. The greeting and the answers to HELO, EHLO and DATA have none, as RFC 2034 section 4 wants.
No text holds what the client typed.
"""

from __future__ import annotations

from proxy.replies import Reply

OK = Reply(250, "2.0.0", "ok")
SENDER_OK = Reply(250, "2.1.0", "ok")
RECIPIENT_OK = Reply(250, "2.1.5", "ok")
HELP = Reply(214, "2.0.0", "EHLO MAIL RCPT DATA RSET NOOP QUIT AUTH STARTTLS; see docs/smtp.md")
CANNOT_VERIFY = Reply(252, "2.5.0", "cannot verify, send mail and see")
BYE = Reply(221, "2.0.0", "bye")
READY_FOR_TLS = Reply(220, "2.0.0", "ready to start TLS")
AUTHENTICATED = Reply(235, "2.7.0", "authenticated")

# -- The session ends -----------------------------------------------------------------------------
SHUTTING_DOWN = Reply(421, "4.3.2", "shutting down, try again")
TOO_MANY_CONNECTIONS = Reply(421, "4.3.2", "too many connections, try again later")
TOO_MANY_FROM_YOU = Reply(421, "4.3.2", "too many connections from your network, try again later")
TIMED_OUT = Reply(421, "4.4.2", "timed out waiting for you")
SESSION_TOO_LONG = Reply(421, "4.4.2", "session has lasted too long, connect again")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "too many errors")
TOO_MANY_IDLE_COMMANDS = Reply(421, "4.7.0", "too many commands without mail")
TOO_MANY_FAILURES = Reply(421, "4.7.0", "too many failed authentications")
TOO_MANY_MESSAGES = Reply(421, "4.7.0", "too many messages in one session, connect again")
TOO_MUCH_DATA = Reply(421, "4.3.4", "far more than the maximum message size")
COMMAND_TOO_LONG_TO_READ = Reply(421, "4.7.0", "endless command line")
TALKED_TOO_EARLY = Reply(554, "5.5.0", "data sent before it was asked for")
NO_PROXY_HEADER = Reply(421, "4.7.0", "no PROXY header from a proxy")
NO_CHUNKING = Reply(502, "5.5.1", "CHUNKING is not offered")
NOT_A_WEB_SERVER = Reply(554, "5.5.1", "this is an SMTP server")

# -- Syntax and order -----------------------------------------------------------------------------
COMMAND_TOO_LONG = Reply(500, "5.5.2", "command line too long")
BARE_IN_COMMAND = Reply(500, "5.5.2", "bare CR or LF in command: lines end with CR LF")
NUL_IN_COMMAND = Reply(501, "5.5.2", "NUL in command")
UNKNOWN_COMMAND = Reply(500, "5.5.1", "command not recognised")
NOT_IMPLEMENTED = Reply(502, "5.5.1", "command not implemented")
NO_ARGUMENT_WANTED = Reply(501, "5.5.4", "this command takes no argument")
NAME_WANTED = Reply(501, "5.5.4", "your host name is missing")
MAIL_SYNTAX = Reply(501, "5.5.4", "syntax: MAIL FROM:<address> and parameters")
RCPT_SYNTAX = Reply(501, "5.5.4", "syntax: RCPT TO:<address>")
PARAMETER_SYNTAX = Reply(501, "5.5.4", "malformed or repeated parameter")
UNKNOWN_PARAMETER = Reply(555, "5.5.4", "parameter not recognised or not offered")
HELO_FIRST = Reply(503, "5.5.1", "send EHLO first")
MAIL_FIRST = Reply(503, "5.5.1", "send MAIL first")
RCPT_FIRST = Reply(503, "5.5.1", "no recipient was accepted")
NESTED_MAIL = Reply(503, "5.5.1", "a transaction is open, send RSET first")
NULL_RECIPIENT = Reply(553, "5.1.3", "invalid-address a recipient cannot be empty")

# -- The data -------------------------------------------------------------------------------------
DECLARED_TOO_BIG = Reply(552, "5.3.4", "message larger than the maximum size")
TOO_BIG = Reply(552, "5.3.4", "message larger than the maximum size")
BARE_IN_DATA = Reply(550, "5.5.2", "bare CR or LF in message: lines end with CR LF")
NUL_IN_DATA = Reply(554, "5.6.0", "NUL in message")
NO_ROOM = Reply(452, "4.3.1", "no room for this message now, try again later")
LONG_LINE = Reply(554, "5.6.0", "line too long in message")

# -- Who may --------------------------------------------------------------------------------------
TOO_MANY_RECIPIENTS = Reply(
    452, "4.5.3", "too many recipients, send the rest in another transaction"
)
RELAY_DENIED = Reply(550, "5.7.1", "not-authorised you may not relay here")
AUTH_REQUIRED = Reply(530, "5.7.0", "authentication required")
AUTH_FAILED = Reply(535, "5.7.8", "authentication failed")
AUTH_NEEDS_TLS = Reply(538, "5.7.11", "authentication needs TLS, send STARTTLS first")
AUTH_AGAIN = Reply(503, "5.5.1", "already authenticated")
AUTH_IN_TRANSACTION = Reply(503, "5.5.1", "not during a transaction")
AUTH_MECHANISM = Reply(504, "5.5.4", "mechanism not offered")
AUTH_SYNTAX = Reply(501, "5.5.4", "syntax: AUTH mechanism and optional initial response")
AUTH_BASE64 = Reply(501, "5.5.2", "malformed authentication response")
AUTH_TOO_LONG = Reply(500, "5.5.6", "authentication response too long")
AUTH_CANCELLED = Reply(501, "5.7.0", "authentication cancelled")
TLS_ALREADY = Reply(503, "5.5.1", "TLS is active already")
NOT_FOR_OTHERS = Reply(550, "5.7.1", "not-authorised to speak for other clients")
XCLIENT_SYNTAX = Reply(501, "5.5.4", "syntax: XCLIENT attribute=value, values in xtext")
XCLIENT_LOGIN = Reply(501, "5.5.4", "no such login")

GO_AHEAD = b"354 end data with <CR><LF>.<CR><LF>\r\n"


_LINES: dict[int, bytes] = {
    id(reply): f"{reply}\r\n".encode("ascii")
    for reply in list(globals().values())
    if isinstance(reply, Reply)
}


def octets(reply: Reply) -> bytes:
    """A reply as it goes out; those of this module, which live as long as it, are made once."""
    return _LINES.get(id(reply)) or f"{reply}\r\n".encode("ascii")


def greeting(hostname: str) -> bytes:
    """The first line (RFC 5321 section 4.2)."""
    return f"220 {hostname} ESMTP Sluis\r\n".encode("ascii")


def hello(hostname: str) -> bytes:
    """The answer to HELO."""
    return f"250 {hostname}\r\n".encode("ascii")


def extensions(hostname: str, offers: list[str]) -> bytes:
    """The answer to EHLO: what is offered in this session, now."""
    lines = [hostname, *offers]
    marks = ["-"] * (len(lines) - 1) + [" "]
    text = "".join(f"250{m}{line}\r\n" for m, line in zip(marks, lines, strict=True))
    return text.encode("ascii")
