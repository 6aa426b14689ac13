"""The log: one function per event, fixed keys, one line each. `docs/log-events.md` lists them.

No address, token or secret: each text passes `_clean`, which also escapes whatever could end a line
or steer a terminal. The journal is the record of decisions; the log only samples them: events that
outsiders can cause at will are limited per identity and window, and `suppressed` says how many were
left out, so that a flood is bounded in lines and in memory.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import BinaryIO, Literal, cast

import orjson

# structlog would load rich, 4 MB, for coloured tracebacks, which are never printed here: ours are
# cut and cleaned.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger
finally:
    del sys.modules["rich"]
    if _rich is not None:
        sys.modules["rich"] = _rich

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console"]

_TEXT = 500
_TRACE = 8000
_ITEMS = 50
_MARGIN = 400  # read on past the limit, so that no address is cut in two and missed
_ADDRESS = re.compile(r"""(?:"[^"\r\n]*"|[^\s<>()\[\],;:"'@=]+)@[^\s<>(),;:"']+""")
_TOKEN = re.compile(r"\bk\d+\.[A-Za-z0-9_-]{16,}")
_SILENT = ("mail.log", "uvicorn.access")  # they write addresses and paths with tokens
_MAX_IDENTITIES = 256


def _clean(value: object, limit: int = _TEXT) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in list(value)[:_ITEMS]]
    text = str(value)[: limit + _MARGIN]
    if "@" in text:
        text = _ADDRESS.sub("[address]", text)
    if "k" in text:
        text = _TOKEN.sub("[token]", text)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    return text if len(text) <= limit else text[:limit] + "..."


def _short(text: str) -> str:
    """What makes two failures of one kind; cleaned before the cut, lest half an address is left."""
    return str(_clean(text))[:40]


def _cleaned(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {
        key: _clean(value, _TRACE if key == "traceback" else _TEXT) for key, value in event.items()
    }


def _as_bytes(event: EventDict, **_: object) -> bytes:
    return orjson.dumps(event)


class _Limiter:
    """Lets `burst` events of one identity through per window and counts the rest."""

    def __init__(self, window: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.window = window
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[
            tuple[str, ...], list[float]
        ] = {}  # identity -> [window end, passed, held]
        self._sweep_at = 0.0

    def ask(
        self, identity: tuple[str, ...], burst: int
    ) -> tuple[int | None, Sequence[tuple[str, int]]]:
        """(suppressed so far, or None to hold this one back; what ended windows held back)."""
        now = self._clock()
        with self._lock:
            state = self._seen.get(identity)
            if state is not None and state[1] >= burst and now < state[0] and now < self._sweep_at:
                state[2] += 1
                return None, ()
            ended = self._sweep(now, keep=identity)
            if identity not in self._seen and len(self._seen) >= _MAX_IDENTITIES:
                identity = (identity[0], "other")
            state = self._seen.get(identity)
            if state is None or now >= state[0]:
                held = int(state[2]) if state else 0
                self._seen[identity] = [now + self.window, 1, 0]
                return held, ended
            if state[1] < burst:
                state[1] += 1
                return 0, ended
            state[2] += 1
            return None, ended

    def flush(self) -> list[tuple[str, int]]:
        """What was held back and not told yet."""
        with self._lock:
            held = [(" ".join(i), int(s[2])) for i, s in self._seen.items() if s[2]]
            self._seen.clear()
            return held

    def _sweep(self, now: float, keep: tuple[str, ...]) -> list[tuple[str, int]]:
        if now < self._sweep_at:
            return []
        self._sweep_at = now + self.window
        ended = [i for i, state in self._seen.items() if now >= state[0] and i != keep]
        told = [(" ".join(i), int(self._seen[i][2])) for i in ended if self._seen[i][2]]
        for identity in ended:
            del self._seen[identity]
        return told


class _Library(logging.Handler):
    """Warnings of libraries, as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:
            text = str(record.msg)  # a library's bad format string must not end a session
        error = type(record.exc_info[1]).__name__ if record.exc_info else ""
        library_warned(logger=record.name, text=text, error=error)


class _Stderr:
    """The process's stderr as it is at the moment of writing; a closed pipe never costs a mail."""

    def write(self, line: bytes) -> int:
        try:
            buffer = getattr(sys.stderr, "buffer", None)
            if buffer is not None:
                return cast("BinaryIO", buffer).write(line)
            return sys.stderr.write(line.decode())
        except (OSError, ValueError):
            return 0

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


_limiter = _Limiter()
_handler = _Library(logging.WARNING)
_out: FilteringBoundLogger
_lowest = logging.INFO

def configure(
    level: Level = "info",
    format: Format = "json",  # noqa: A002 - the name of the key in [log]
    *,
    repeat: float = 60.0,
    stream: BinaryIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Set level, form and the window of repetition (seconds). Writes to stderr unless `stream`."""
    global _out, _limiter, _lowest  # noqa: PLW0603 - one log per process
    _limiter = _Limiter(repeat, clock)
    _lowest = _LEVELS[level]
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="at")
    render: Processor = structlog.processors.JSONRenderer(serializer=_as_bytes)
    if format == "console":
        colours = stream is None and sys.stderr.isatty()
        words = structlog.dev.ConsoleRenderer(colors=colours, timestamp_key="at")

        def render(logger: WrappedLogger, name: str, event: EventDict) -> bytes:
            return str(words(logger, name, event)).encode()

    _out = structlog.wrap_logger(
        structlog.BytesLogger(stream or cast("BinaryIO", _Stderr())),
        processors=[structlog.processors.add_log_level, stamp, _cleaned, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    ).bind()
    root = logging.getLogger()
    root.removeHandler(_handler)
    root.addHandler(_handler)
    for name in _SILENT:
        logging.getLogger(name).disabled = True


def _limited(
    level: Level, event: str, identity: tuple[object, ...], burst: int, **keys: object
) -> None:
    """Emit unless this identity had its share of the window; tell what was held back before."""
    suppressed = _ask(_LEVELS[level], (event, *(str(part) for part in identity)), burst)
    if suppressed is not None:
        _tell(_LEVELS[level], event, suppressed, **keys)


def _ask(level: int, identity: tuple[str, ...], burst: int) -> int | None:
    """How many of this identity, the event's name first, were held back before this one; None to
    hold it back, too."""
    if level < _lowest:
        return None
    suppressed, ended = _limiter.ask(identity, burst)
    for name, count in ended:
        _out.warning("log.suppressed", of=name, suppressed=count)
    return suppressed


def _tell(level: int, event: str, suppressed: int, **keys: object) -> None:
    if suppressed:
        keys["suppressed"] = suppressed
    _out.log(level, event, **keys)


_LEVELS: dict[Level, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_REFUSALS = 10
_ROUTINE = 100


# -- the process ---------------------------------------------------------------------------------


def server_started(*, listeners: list[str], public: int, admin: int, recovered: int) -> None:
    """Every listener is open; `recovered` attempts of an earlier run ended as unknown."""
    _out.info(
        "server.started", listeners=listeners, public=public, admin=admin, recovered=recovered
    )


def server_stopped() -> None:
    """Drained and closed. What was held back in the log until now is told first."""
    for name, count in _limiter.flush():
        _out.warning("log.suppressed", of=name, suppressed=count)
    _out.info("server.stopped")


def config_loaded(*, source: str, streams: int) -> None:
    """The configuration is in use."""
    _out.info("config.loaded", source=source, streams=streams)


def keys_created(*, path: str) -> None:
    """The first start made the key file: to be backed up, or no opt-out is ever found again."""
    _out.warning("keys.created", path=path)


def pack_loaded(*, pack: str, version: str, digest: str) -> None:
    """One rule pack is in use."""
    _out.info("pack.loaded", pack=pack, version=version, digest=digest)


def incident(*, ref: str, error: BaseException) -> None:
    """Something unforeseen, answered 451: the last frames without values, and the reference."""
    frames = traceback.format_exception(error, limit=-12)
    _limited(
        "error",
        "incident",
        (type(error).__name__, _place(error)),
        _REFUSALS,
        ref=ref,
        error=type(error).__name__,
        text=str(error),
        traceback=" | ".join(line.strip() for part in frames for line in part.splitlines()),
    )


def _place(error: BaseException) -> str:
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return f"{at.tb_frame.f_code.co_name}:{at.tb_lineno}" if at else ""


def library_warned(*, logger: str, text: str, error: str) -> None:
    """A library logged a warning or worse; `error` is the exception's type, if any."""
    _limited(
        "warning",
        "library.warned",
        (logger, _short(text)),
        _REFUSALS,
        logger=logger,
        text=text,
        error=error,
    )


# -- SMTP ----------------------------------------------------------------------------------------


def certificate_renewed(*, listeners: list[str]) -> None:
    """The certificates of all listeners were read anew and are in use."""
    _out.info("certificate.renewed", listeners=listeners)


def certificate_failed(*, error: str) -> None:
    """New certificates cannot be used; the old ones stay."""
    _limited("error", "certificate.failed", (_short(error),), _REFUSALS, error=error)


def smtp_refused(*, listener: str, peer: str, command: str, code: int, reason: str) -> None:
    """A command or a connection was refused by protocol, limit or authentication."""
    _limited(
        "info",
        "smtp.refused",
        (listener, command, code),
        _REFUSALS,
        listener=listener,
        peer=peer,
        command=command,
        code=code,
        reason=reason,
    )


def message_received(*, ref: str, listener: str, size: int, recipients: int) -> None:
    """End of data: `size` in bytes."""
    suppressed = _ask(logging.DEBUG, ("message.received", listener), _ROUTINE)
    if suppressed is None:
        return
    _tell(
        logging.DEBUG,
        "message.received",
        suppressed,
        ref=ref,
        listener=listener,
        size=size,
        recipients=recipients,
    )


def message_refused(*, ref: str, code: int, reason: str) -> None:
    """The whole message was refused before any decision (header, size, control header, sender)."""
    _limited(
        "info",
        "message.refused",
        (code, reason.partition(" ")[0]),
        _REFUSALS,
        ref=ref,
        code=code,
        reason=reason,
    )


# -- decisions and attempts ----------------------------------------------------------------------


def recipient_decided(
    *, ref: str, n: int, stream: str, verdict: str, reason: str, pack: str, rule: str, mode: str
) -> None:
    """One decision that is durable in the journal, where the rest of it can be read by `ref`."""
    # Of every mail, so nothing is made for a line that is held back.
    identity = ("recipient.decided", stream, verdict, reason, mode)
    suppressed = _ask(logging.INFO, identity, _ROUTINE)
    if suppressed is None:
        return
    _tell(
        logging.INFO,
        "recipient.decided",
        suppressed,
        ref=ref,
        n=n,
        stream=stream,
        verdict=verdict,
        reason=reason,
        pack=pack,
        rule=rule,
        mode=mode,
    )


def message_attempted(*, ref: str, n: int, result: str, stage: str) -> None:
    """One attempt ended: accepted, temporary, permanent, unsent or unknown, at which stage."""
    suppressed = _ask(logging.INFO, ("message.attempted", result, stage), _ROUTINE)
    if suppressed is None:
        return
    _tell(
        logging.INFO,
        "message.attempted",
        suppressed,
        ref=ref,
        n=n,
        result=result,
        stage=stage,
    )


def message_held(*, ref: str, n: int) -> None:
    """Nobody knows whether owed mail left, and `delivery.ambiguous` leaves it to a person."""
    _limited("warning", "message.held", (), _REFUSALS, ref=ref, n=n)


def message_failed(*, ref: str, n: int, stream: str, why: str) -> None:
    """Mail that was answered 250 goes to nobody: expired, dropped (by hand) or refused (5xx)."""
    _limited(
        "warning",
        "message.failed",
        (stream, why),
        _REFUSALS,
        ref=ref,
        n=n,
        stream=stream,
        why=why,
    )


def attempts_recovered(*, count: int) -> None:
    """Attempts were ended as unknown because their process died or let its lease run out."""
    _out.warning("attempts.recovered", count=count)


def message_answered(*, ref: str, first: str) -> None:
    """A retry of mail relayed before, answered from the journal; `first` is its reference."""
    _limited("info", "message.answered", (), _ROUTINE, ref=ref, first=first)


def optout_recorded(*, ref: str, sender: str, stream: str, via: str) -> None:
    """A person's opt-out is durable; `ref` is the mail that carried the link."""
    _limited(
        "info",
        "optout.recorded",
        (stream, via),
        _ROUTINE,
        ref=ref,
        sender=sender,
        stream=stream,
        via=via,
    )


def complaint_recorded(*, ref: str, sender: str, stream: str, type: str) -> None:  # noqa: A002
    """A person's complaint is durable; `ref` is the mail, `type` as the report calls it."""
    _out.info("complaint.recorded", ref=ref, sender=sender, stream=stream, type=type)


def optout_forwarded(*, ref: str, stream: str, by: str, result: str, answer: str) -> None:
    """One try to pass an opt-out on; `ref` is the mail that came with the other opt-out."""
    _limited(
        "info",
        "optout.forwarded",
        (stream, by, result),
        _ROUTINE,
        ref=ref,
        stream=stream,
        by=by,
        result=result,
        answer=answer,
    )


def optout_kept(*, ref: str, sender: str, stream: str, via: str) -> None:
    """It is durable beside the store and binds this process; the merge brings it there."""
    _limited(
        "warning",
        "optout.kept",
        (stream, via),
        _ROUTINE,
        ref=ref,
        sender=sender,
        stream=stream,
        via=via,
    )


def api_recorded(*, token: str, events: int, new: int) -> None:
    """The holder of a token reported so many events, of which these were not on record."""
    _limited("info", "api.recorded", (token,), _ROUTINE, token=token, events=events, new=new)


def api_answered(*, token: str, stream: str, subjects: int) -> None:
    """The API told the holder of a token about so many people."""
    _limited(
        "info",
        "api.answered",
        (token, stream),
        _ROUTINE,
        token=token,
        stream=stream,
        subjects=subjects,
    )


# -- surroundings --------------------------------------------------------------------------------


def store_failed(*, ref: str, operation: str, error: str) -> None:
    """The store could not answer; the client heard 451."""
    _limited(
        "error",
        "store.failed",
        (operation, _short(error)),
        _REFUSALS,
        ref=ref,
        operation=operation,
        error=error,
    )


def store_down(*, operation: str, error: str) -> None:
    """The store cannot be written from here on: marketing is 451, the rest goes on without it."""
    _limited("error", "store.down", (operation,), _REFUSALS, operation=operation, error=error)


def store_up(*, seconds: float) -> None:
    """The store answers again, after so long, and has what was written down meanwhile."""
    _limited("warning", "store.up", (), _REFUSALS, seconds=seconds)


def fallback_merged(*, events: int, attempts: int, results: int) -> None:
    """What was written down beside the store is in it: opt-outs, attempts, results of attempts."""
    _limited(
        "warning",
        "fallback.merged",
        (),
        _REFUSALS,
        events=events,
        attempts=attempts,
        results=results,
    )


def snapshot_failed(*, error: str) -> None:
    """The suppressions for decisions without the store could not be brought up to date."""
    _limited("error", "snapshot.failed", (_short(error),), _REFUSALS, error=error)


def signing_failed(*, ref: str, error: str) -> None:
    """A DKIM key could not be used; the client heard 451, or a notice of ours went unsigned."""
    _limited("error", "signing.failed", (_short(error),), _REFUSALS, ref=ref, error=error)


def signer_lost(*, pid: int, error: str = "") -> None:
    """The process that signs ended or did not answer (or, pid 0, did not start): the event loop
    signs until there is another.
    """
    _limited("warning", "signer.lost", (), _REFUSALS, pid=pid, error=error)


def upstream_failed(*, ref: str, error: str, upstream: str = "") -> None:
    """No upstream, or this one, could be used; the client heard 451."""
    _limited(
        "error",
        "upstream.failed",
        (upstream, _short(error)),
        _REFUSALS,
        ref=ref,
        upstream=upstream,
        error=error,
    )


configure()
