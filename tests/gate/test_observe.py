"""A stream in observe decides and records, and never changes what the client hears.

The law, over any history of a person and any overlay; an opt-out that Sluis itself took is the one
exception.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.acme import ACME, relay_toml, stream_toml
from policy import model as m
from policy.address import parse
from proxy.config import Settings, load
from proxy.envelope import Envelope, Submitter
from proxy.judge import Judge, Ruling
from proxy.keys import load_keys
from proxy.mail import Mail, Reader
from proxy.packs import builtin_packs
from proxy.store.model import Counted, Known, Snapshot, State, Store, Subject
from proxy.telemetry import Telemetry

NOW = datetime(2026, 11, 24, 22, 30, tzinfo=UTC)  # within quiet hours
OVERLAYS = [
    "",
    'max_per_person = "1/1d"',
    'quiet_hours = "21:00-08:00"\ntimezone = "Europe/Amsterdam"',
    "valid_months = { consent = 1, soft-opt-in = 1 }",
    'blocked_products = ["wine"]',
]
CONTENT = (
    b"From: Acme <hello@watched.acme.example>\r\nTo: undisclosed-recipients:;\r\nSubject: News\r\n"
    b"Message-ID: <1@watched.acme.example>\r\nDate: Tue, 24 Nov 2026 08:00:00 +0000\r\n\r\n"
    b"Acme Schoenen B.V.\r\nUnsubscribe: mailto:privacy@acme.example?subject=unsubscribe\r\n"
)
RECIPIENTS = ["anna@example.nl", "anna+shop@example.nl", "bram@example.nl"]
OWN = {m.Via.ONE_CLICK, m.Via.PAGE, m.Via.MAILTO, m.Via.STAFF}

_TEMPORARY = tempfile.TemporaryDirectory()
_DIRECTORY = Path(_TEMPORARY.name)
_KEYS = load_keys(_DIRECTORY / "keys", create=True)


class Looked:
    """A store of which only the lookup is asked."""

    def __init__(self, known: Sequence[Known]) -> None:
        self._known = known

    async def lookup(
        self, subjects: Sequence[Subject], *, mails_since: datetime | None = None
    ) -> Snapshot:
        return Snapshot(7, dict(zip(subjects, self._known, strict=True)))


class Site:
    """Reader and judge of one configuration, with the mail read once."""

    def __init__(self, mode: str, overlay: str) -> None:
        path = _DIRECTORY / "sluis.toml"
        watched = [f'mode = "{mode}"', 'topics = ["newsletter"]', overlay]
        text = relay_toml(_DIRECTORY) + ACME + 'max_per_person = "2/7d"\n'
        path.write_text(text + stream_toml("watched", "watched.acme.example", *watched), "utf-8")
        self.settings: Settings = load(path, {})
        reader = Reader(self.settings, keys=_KEYS, instance="i", clock=lambda: NOW)
        self.judge = Judge(
            self.settings,
            keys=_KEYS,
            packs=builtin_packs(),
            telemetry=Telemetry(self.settings),
            clock=lambda: NOW,
        )
        envelope = Envelope(
            submitter=Submitter(listener="127.0.0.1:2525", peer="127.0.0.1", network="127.0.0.0/8"),
            ref="r",
            received_at=NOW,
            mail_from=parse("bounces@watched.acme.example"),
            recipients=[parse(address) for address in RECIPIENTS],
        )
        mail = asyncio.run(reader.read(envelope, CONTENT))
        assert isinstance(mail, Mail)
        self.mail = mail

    def rule(self, known: Sequence[Known]) -> Ruling:
        return asyncio.run(self.judge.rule(self.mail, cast(Store, Looked(known))))


SITES = {(mode, o): Site(mode, o) for mode in ("observe", "enforce") for o in OVERLAYS}

days = st.integers(0, 1500).map(lambda n: NOW - timedelta(days=n, hours=1))
details: st.SearchStrategy[Any] = st.one_of(
    st.builds(m.OptIn, box=st.sampled_from(m.Box), topics=st.sampled_from([(), ("newsletter",)])),
    st.builds(m.Objection, scope=st.sampled_from(m.Scope), via=st.sampled_from(m.Via)),
    st.builds(m.Complaint),
    st.builds(m.Bounce, severity=st.sampled_from(m.Severity)),
)


@st.composite
def histories(draw: st.DrawFn) -> Known:
    events = []
    for n in range(draw(st.integers(0, 3))):
        at = draw(days)
        events.append(
            m.Event(
                at=at, recorded_at=at, sender="acme", detail=draw(details), evidence="x",
                uid=f"e{n}", exact=draw(st.sampled_from([True, True, True, False])),
            )
        )  # fmt: skip
    mails = tuple(
        Counted("watched", NOW - timedelta(hours=h), f"k{h}", relayed=draw(st.booleans()))
        for h in draw(st.lists(st.integers(0, 100), max_size=3, unique=True))
    )
    attributes = {"country": draw(st.sampled_from(["NL", "DE", "US", "BR"])), "kind": "consumer"}
    return Known(events=tuple(events), attributes=attributes, mails=mails)


people = st.lists(histories(), min_size=3, max_size=3)


@settings(max_examples=200, deadline=None)
@given(people, st.sampled_from(OVERLAYS))
def test_observe_changes_no_reply_save_for_an_opt_out_that_sluis_took(
    known: list[Known], overlay: str
) -> None:
    ruling = SITES["observe", overlay].rule(known)
    for case, one, row in zip(ruling.cases, known, ruling.intake.rows, strict=True):
        assert row.marketing  # and so it counts
        if case.state is State.ATTEMPTING:
            assert case.reply == ""
            assert bool(row.room) is case.decision.allowed
            continue
        assert case.state is State.BLOCKED
        assert case.decision.reason is m.Reason.SUPPRESSED
        said = [e.detail for e in one.events if isinstance(e.detail, m.Objection)]
        assert any(objection.via in OWN for objection in said)


@settings(max_examples=200, deadline=None)
@given(people, st.sampled_from(OVERLAYS))
def test_observe_decides_as_enforce_does(known: list[Known], overlay: str) -> None:
    observed, enforced = (SITES[mode, overlay].rule(known) for mode in ("observe", "enforce"))
    # In observe the mail to the first spelling leaves in any case, and counts for the second.
    for place in (0, 2):
        watched, held = observed.cases[place], enforced.cases[place]
        assert watched.decision == held.decision
        assert held.state is {
            m.Verdict.ALLOW: State.ATTEMPTING,
            m.Verdict.BLOCK: State.BLOCKED,
            m.Verdict.DEFER: State.RETURNED,
        }[held.decision.verdict]
        if held.state is State.RETURNED:
            assert held.reply.startswith("451 4.7.1 ")


@pytest.mark.parametrize(("mode", "leave"), [("observe", 3), ("enforce", 2)])
def test_two_spellings_of_one_person_count_for_each_other(mode: str, leave: int) -> None:
    at = NOW - timedelta(days=3)
    opt_in = m.Event(
        at=at, recorded_at=at, sender="acme", detail=m.OptIn(box=m.Box.UNTICKED), evidence="x",
        uid="e",
    )  # fmt: skip
    known = Known(events=(opt_in,), attributes={"country": "NL", "kind": "consumer"})
    ruling = SITES[mode, 'max_per_person = "1/1d"'].rule([known, replace(known), known])
    reasons = [case.decision.reason for case in ruling.cases]
    assert reasons == ["consent", "frequency-cap", "consent"]
    assert sum(case.state is State.ATTEMPTING for case in ruling.cases) == leave
