"""A bounded sample of `make fuzz`, and proof that the fuzz notices."""

from __future__ import annotations

import asyncio
import re

import grammar_fuzz
import pytest

from proxy.smtp import data, session


def test_a_thousand_sessions() -> None:
    mails, recipients = asyncio.run(grammar_fuzz.fuzz(1000, seed=20_000, at_once=20))
    assert mails > 100
    assert recipients > mails


def find(sessions: int = 400) -> str:
    with pytest.raises(grammar_fuzz.FuzzError) as error:
        asyncio.run(grammar_fuzz.fuzz(sessions, seed=1, at_once=20))
    return str(error.value)


def test_it_notices_another_end_of_data(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = data.Incoming.feed

    def lax(self: data.Incoming, chunk: bytes) -> bool:
        return honest(self, re.sub(rb"\n\.\r?\n", b"\r\n.\r\n", chunk))

    monkeypatch.setattr(data.Incoming, "feed", lax)
    assert re.search("out of step|smuggled", find())


def test_it_notices_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: session.Session, __: bytes) -> None:
        raise RuntimeError("not foreseen")

    monkeypatch.setitem(session._COMMANDS, b"VRFY", broken)
    assert "something unforeseen" in find()


def test_it_notices_an_answer_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = session.Session._on_rset

    async def twice(self: session.Session, argument: bytes) -> None:
        await honest(self, argument)
        await honest(self, argument)

    monkeypatch.setitem(session._COMMANDS, b"RSET", twice)
    assert re.search("out of step|no reply", find())
