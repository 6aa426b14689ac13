"""Short ways to make the values that a store takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from policy.model import Basis, Box, Decision, Detail, Objection, OptIn, Reason, Verdict, Via
from proxy.store.model import (
    Body,
    Intake,
    IntakeResult,
    NewEvent,
    NewRow,
    Notice,
    Outcome,
    Reattempt,
    Result,
    Room,
    RowFate,
    State,
    Store,
    Subject,
    Submission,
)

T0 = datetime(2026, 11, 24, 9, tzinfo=UTC)
WINDOW = timedelta(days=5)

ALLOW = Decision(
    verdict=Verdict.ALLOW,
    reason=Reason.CONSENT,
    cite="Tw 11.7(1)",
    pack="nl@2026.11#0123abcd",
    rule="consent",
    jurisdiction="nl",
    basis=Basis(rule="consent", event="optin-1", evidence="form:1", at=T0),
)
BLOCK = Decision(
    verdict=Verdict.BLOCK, reason=Reason.SUPPRESSED, cite="GDPR 21(3)", event="objection-1"
)
DEFER = Decision(verdict=Verdict.DEFER, reason=Reason.QUIET_HOURS)


def after(seconds: float) -> datetime:
    """So many seconds after the tests' beginning of time."""
    return T0 + timedelta(seconds=seconds)


def person(name: str, *, sender: str = "acme", tag: str = "") -> Subject:
    """`tag` makes another exact address with the same widened key."""
    return Subject(sender, f"exact:{name}+{tag}" if tag else f"exact:{name}", f"wide:{name}")


ANNA = person("anna")
BRAM = person("bram")


def event(
    uid: str,
    subject: Subject = ANNA,
    detail: Detail | None = None,
    *,
    at: datetime = T0,
    evidence: str = "",
    unless_in_force: bool = False,
) -> NewEvent:
    """An event recorded when it happened; an objection by one-click unless told otherwise."""
    return NewEvent(
        uid=uid,
        subject=subject,
        detail=detail or Objection(via=Via.ONE_CLICK),
        at=at,
        recorded_at=at,
        evidence=evidence,
        unless_in_force=unless_in_force,
    )


def opt_in(uid: str, subject: Subject = ANNA, *, at: datetime = T0) -> NewEvent:
    """A good opt-in."""
    return event(uid, subject, OptIn(box=Box.UNTICKED, topics=("news",)), at=at, evidence="form:1")


def row(
    copy_key: str,
    subject: Subject = ANNA,
    *,
    n: int = 1,
    state: State = State.ATTEMPTING,
    marketing: bool = True,
    reply: str = "",
    room: tuple[Room, ...] = (),
) -> NewRow:
    """One recipient's row with the decision that fits its state."""
    fits = {State.BLOCKED: BLOCK, State.RETURNED: DEFER}
    decision = fits.get(state, ALLOW)
    return NewRow(
        n=n,
        copy=n,
        subject=subject,
        address=f"{subject.exact.removeprefix('exact:')}@example.nl",
        copy_key=copy_key,
        state=state,
        decision=decision,
        facts='{"v":1}',
        marketing=marketing,
        reply=reply,
        room=room,
    )


def intake(
    ref: str,
    rows: Sequence[NewRow] | NewRow,
    *,
    high: int = 0,
    at: datetime = T0,
    stream: str = "newsletter",
) -> Intake:
    """Commit C1 of a submission."""
    return Intake(
        submission=Submission(
            ref=ref,
            received_at=at,
            submitter="user:shop",
            listener="127.0.0.1:2525",
            mail_from="news@acme.example",
            message_id="<1@acme.example>",
            content_hash="00" * 32,
            size=1234,
            stream=stream,
            sender="acme",
            category="marketing",
            mode="enforce",
            class_source="credential",
            campaign="spring",
            marks=("one_click_unsigned",),
        ),
        rows=(rows,) if isinstance(rows, NewRow) else tuple(rows),
        high=high,
        dedupe_from=at - WINDOW,
        at=at,
    )


def only(result: IntakeResult) -> RowFate:
    """The one fate of a submission with one recipient."""
    assert not result.stale
    (fate,) = result.fates
    return fate


def outcome(
    fate: RowFate, result: Result = Result.ACCEPTED, reply: str = "", *, at: datetime = T0
) -> Outcome:
    """How the attempt of `fate` ended."""
    said = {
        Result.ACCEPTED: "250 2.0.0 Ok: queued as 4bD",
        Result.TEMPORARY: "451 4.3.2 later",
        Result.PERMANENT: "550 5.1.1 no such user",
    }
    return Outcome(
        row=fate.row,
        attempt=fate.attempt,
        result=result,
        reply=reply or said.get(result, ""),
        at=at,
    )


def again(
    fate: RowFate,
    subject: Subject = ANNA,
    state: State = State.ATTEMPTING,
    *,
    room: tuple[Room, ...] = (),
) -> Reattempt:
    """The same row, decided again."""
    decision = {State.ATTEMPTING: ALLOW, State.BLOCKED: BLOCK, State.RETURNED: DEFER}[state]
    return Reattempt(
        row=fate.row,
        attempt=fate.attempt,
        subject=subject,
        decision=decision,
        facts='{"v":2}',
        state=state,
        reply="550 5.7.1 suppressed" if state is State.BLOCKED else "",
        room=room,
    )


async def relayed(store: Store, ref: str, copy_key: str, subject: Subject = ANNA) -> RowFate:
    """Send one copy to its end."""
    fate = only(await store.claim(intake(ref, row(copy_key, subject), high=await high(store))))
    await store.record([outcome(fate)])
    return fate


async def high(store: Store) -> int:
    """The highest ledger id now."""
    return (await store.lookup([])).high


async def states(store: Store, ref: str) -> list[State]:
    """The states of a transaction's rows."""
    return [entry.state for entry in await store.journal(ref=ref)]


BODY = Body('{"v":1}', b"Subject: x\r\n\r\nhello\r\n")
SUBMITTER = Subject("acme", "exact:news", "wide:news")


def notice(*covers: tuple[str, State], ref: str = "dsn", since: float = -86400) -> Notice:
    """A notice of ours about these copies."""
    return Notice(
        covers=covers,
        submission=Submission(
            ref=ref,
            received_at=T0,
            submitter="user:shop",
            listener="127.0.0.1:2525",
            mail_from="",
            message_id=f"<{ref}@gate.acme.example>",
            content_hash="11" * 32,
            size=99,
            stream="newsletter",
            sender="acme",
            category="marketing",
            mode="enforce",
            class_source="notice",
        ),
        row=NewRow(
            n=1,
            copy=1,
            subject=SUBMITTER,
            address="news@acme.example",
            copy_key=f"notice-{ref}",
            state=State.WAITING,
            decision=ALLOW,
            facts="{}",
            marketing=False,
        ),
        body=Body("{}", b"Subject: failed\r\n\r\n"),
        since=after(since),
    )
