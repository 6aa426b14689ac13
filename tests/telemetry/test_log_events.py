"""The log: fixed keys, one line an event, bounded, nothing personal."""

from __future__ import annotations

import inspect
import io
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import log

ROOT = Path(__file__).parents[2]
NOT_EVENTS = {"configure"}
EVENTS: dict[str, Callable[..., None]] = {
    name: function
    for name, function in vars(log).items()
    if inspect.isfunction(function)
    and function.__module__ == "proxy.log"
    and not name.startswith("_")
    and name not in NOT_EVENTS
}


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Lines:
    """The log's lines, and its clock."""

    def __init__(self) -> None:
        self.raw = io.BytesIO()
        self.clock = Clock()

    def configure(self, level: log.Level = "debug", format: log.Format = "json") -> None:  # noqa: A002
        log.configure(level, format, stream=self.raw, clock=self.clock)

    def text(self) -> str:
        return self.raw.getvalue().decode()

    def events(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.raw.getvalue().split(b"\n")[:-1]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    made = Lines()
    made.configure()
    yield made
    log.configure()


def call(name: str, text: str = "x") -> None:
    """One event with `text` wherever a text goes."""
    values: dict[str, Any] = {
        "str": text,
        "int": 7,
        "float": 7.0,
        "list[str]": [text],
        "BaseException": ValueError(text),
    }
    parameters = inspect.signature(EVENTS[name]).parameters.values()
    EVENTS[name](**{p.name: values[str(p.annotation)] for p in parameters})


def documented() -> dict[str, tuple[str, int, set[str]]]:
    """Event -> level, lines per window (0: no limit), keys; from the page."""
    text = (ROOT / "docs" / "log-events.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z.]+)` \| (\w+) \| *(\d*) *\| *(.*?) *\| .+ \|$", text, re.M)
    return {
        event: (level, int(limit or 0), set(re.findall(r"`(\w+)`", keys)))
        for event, level, limit, keys in rows
    }


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_every_event_is_documented_with_level_and_keys(name: str, lines: Lines) -> None:
    call(name)
    (line,) = lines.events()
    level, _, keys = documented()[line["event"]]
    assert line.pop("at").endswith("Z")
    assert (line.pop("level"), line.pop("event")) == (level, name.replace("_", ".", 1))
    assert set(line) == keys


def test_every_documented_event_exists() -> None:
    names = {name.replace("_", ".", 1) for name in EVENTS}
    assert set(documented()) == names | {"log.suppressed"}


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_a_flood_of_one_event_is_bounded_and_counted(name: str, lines: Lines) -> None:
    limit = documented()[name.replace("_", ".", 1)][1]
    if limit == 0:
        assert not re.search(r"refused|decided|received|failed|incident|warned|attempted", name)
        return
    for _ in range(10_000):
        call(name)
    assert len(lines.events()) == limit
    assert all("suppressed" not in line for line in lines.events())
    lines.clock.now += 61
    call(name)
    assert lines.events()[-1]["suppressed"] == 10_000 - limit
    assert len(lines.events()) == limit + 1


def test_what_was_held_back_is_told_when_the_flood_stops(lines: Lines) -> None:
    for _ in range(50):
        log.message_refused(ref="r", code=552, reason="too-large x")
    lines.clock.now += 61
    log.store_failed(ref="r", operation="claim", error="locked")
    told = [line for line in lines.events() if line["event"] == "log.suppressed"]
    assert [(line["of"], line["suppressed"]) for line in told] == [
        ("message.refused 552 too-large", 40)
    ]
    for _ in range(50):
        log.message_refused(ref="r", code=552, reason="too-large x")
    log.server_stopped()
    assert [(line["event"], line.get("suppressed")) for line in lines.events()[-2:]] == [
        ("log.suppressed", 40),
        ("server.stopped", None),
    ]


def test_kinds_invented_by_strangers_are_bounded(lines: Lines) -> None:
    for n in range(10_000):
        log.smtp_refused(listener="l", peer=f"192.0.2.{n}", command=f"X{n}", code=500, reason="?")
    assert len(lines.events()) < 1000
    lines.clock.now += 61
    log.server_stopped()
    suppressed = sum(line.get("suppressed", 0) for line in lines.events())
    refused = sum(line["event"] == "smtp.refused" for line in lines.events())
    assert refused + suppressed == 10_000


def test_different_refusals_do_not_hide_each_other(lines: Lines) -> None:
    for _ in range(100):
        log.smtp_refused(listener="l", peer="192.0.2.1", command="RCPT", code=550, reason="no")
    log.smtp_refused(listener="l", peer="192.0.2.2", command="AUTH", code=535, reason="bad")
    assert lines.events()[-1]["command"] == "AUTH"


NASTY = [
    'x\r\n{"event":"optout.recorded"}',
    "x\x1b[2J\x1b]0;title\x07",
    "x\u2028y\u2029z\x85",
    'x","level":"info',
    "x\x00\x08\x7f",
    "x\u202egnp.exe\u2066\ufeff",
    "\ud800",
]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("name", sorted(EVENTS))
def test_one_event_is_one_printable_line(
    name: str, text: str, form: log.Format, lines: Lines
) -> None:
    lines.configure(format=form)
    call(name, text)
    written = lines.text()
    assert written.endswith("\n")
    assert written[:-1].isprintable()
    if form == "json":
        (line,) = lines.events()
        assert line["event"] == name.replace("_", ".", 1)
        assert line["level"] == documented()[line["event"]][0]


@given(st.text())
def test_any_text_is_one_printable_line(text: str) -> None:
    lines = Lines()
    lines.configure()
    try:
        log.optout_recorded(ref=text, sender=text, stream=text, via=text)
    finally:
        log.configure()
    assert lines.text()[:-1].isprintable()
    assert len(lines.events()) == 1


ADDRESSES = [
    "anna.canary@example.nl",
    "<anna.canary@example.nl>",
    "RCPT TO:<anna.canary@example.nl> refused",
    '"anna canary"@example.nl',
    "anna.canary+x@[192.0.2.1]",
    "ann\u00e1.canary@b\u00fccher.example",
    "mailto:anna.canary@example.nl?subject=x",
    "x" * 495 + " anna.canary@example.nl",
    "k1.canaryAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "https://mail.acme.example/u/k2.canary_-AAAAAAAAAAAAAAAAAAAA is gone",
]


@pytest.mark.parametrize("text", ADDRESSES)
@pytest.mark.parametrize("name", sorted(EVENTS))
def test_no_address_and_no_token_at_any_level(name: str, text: str, lines: Lines) -> None:
    call(name, text)
    assert "canary" not in lines.text()
    assert lines.text()


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_no_part_of_an_address_in_what_was_suppressed(name: str, lines: Lines) -> None:
    for cut in range(30, 40):
        for _ in range(200):
            call(name, "x" * cut + " anna.canary@example.nl")
    log.server_stopped()
    assert "anna" not in lines.text()


def test_a_failure_shows_where_and_no_values(lines: Lines) -> None:
    secret = "-".join(("canary", "secret"))

    def fails(password: str) -> None:
        raise KeyError(len(password))

    with pytest.raises(KeyError) as caught:
        fails(secret)
    log.incident(ref="r1", error=caught.value)
    (line,) = lines.events()
    assert (line["error"], line["ref"]) == ("KeyError", "r1")
    assert "in fails" in line["traceback"]
    assert secret not in lines.text()


def test_a_long_text_is_cut(lines: Lines) -> None:
    log.optout_recorded(ref="x" * 10_000, sender="s", stream="t", via="page")
    assert len(lines.text()) < 1000
    try:
        raise ValueError("y" * 100_000)
    except ValueError as error:
        log.incident(ref="r", error=error)
    assert len(lines.text()) < 12_000


def test_the_level_holds(lines: Lines) -> None:
    lines.configure("warning")
    log.message_received(ref="r", listener="l", size=1, recipients=1)
    log.server_started(listeners=[], public=1, admin=2, recovered=0)
    assert lines.text() == ""
    log.store_failed(ref="r", operation="claim", error="locked")
    assert [line["event"] for line in lines.events()] == ["store.failed"]


def test_libraries_speak_through_the_log(lines: Lines) -> None:
    logging.getLogger("asyncio").warning("slow %s", "anna.canary@example.nl")
    record = logging.LogRecord("asyncio", logging.ERROR, "x.py", 1, "bad %d", ("format",), None)
    for handler in logging.getLogger().handlers:
        if type(handler).__module__ == "proxy.log":
            handler.handle(record)
    logging.getLogger("mail.log").error("anna.canary@example.nl")
    logging.getLogger("uvicorn.access").error("GET /u/k1.canary")
    assert [line["logger"] for line in lines.events()] == ["asyncio", "asyncio"]
    assert [line["text"] for line in lines.events()] == ["slow [address]", "bad %d"]
    assert "canary" not in lines.text()


def test_a_closed_stderr_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.BytesIO):
        def write(self, _: object) -> int:
            raise BrokenPipeError

    log.configure()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(Gone()))
    log.server_stopped()
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    monkeypatch.setattr("sys.stderr", closed)
    log.server_stopped()
    assert closed.closed
