"""What the store takes and gives: the words of `delivery.md` as frozen values, and the `Store`
protocol.

A recipient appears under two keyed pseudonyms (HMAC, 32 hex digits): `exact`, on which permission
rests, and `wide`, the widened key, on which blocking rests. The address itself stands in one table
that can be erased. Times are aware UTC datetimes here and integers (microseconds since the epoch)
in the database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from policy.model import Decision, Detail, Event
from proxy.content import Content


@dataclass(frozen=True, slots=True)
class Subject:
    """One (sender, address) pair. Consent belongs to the pair; blocking reaches over `wide`."""

    sender: str
    exact: str
    wide: str


@dataclass(frozen=True, slots=True)
class Counted:
    """A marketing mail of one sender to one person that left, may have left, or is on its way.

    The person is the widened key. `at` is the commit of the last attempt; `relayed` tells that the
    upstream took it. One that is not relayed is no other mail than a new try of its copy.
    """

    stream: str
    at: datetime
    copy_key: str
    relayed: bool


@dataclass(frozen=True, slots=True)
class Room:
    """What a frequency cap asks of the commit of an attempt.

    Fewer than `most` other mails after `since` to the person, of `stream`, which is the row's own,
    or of all streams of the sender ("").
    """

    stream: str
    since: datetime
    most: int


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger and the journal know of one subject.

    `events` are those of *all* senders that match the widened key, `Event.exact` telling which
    match the exact one. `attributes` are the recipient's columns (country, kind, ...) as imported
    for this sender. `mails` are those of this sender to this person since the time that was asked
    for, oldest first.
    """

    events: tuple[Event, ...] = ()
    attributes: Mapping[str, object] = field(default_factory=dict)
    last_marketing_at: datetime | None = None
    mails: tuple[Counted, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent read. `high` is the highest ledger id it saw; commits are validated against
    it.

    `overlay` numbers what was held beside the ledger and is in it as well, for the same purpose.
    """

    high: int
    known: Mapping[Subject, Known]
    overlay: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """A ledger entry to append.

    `uid` makes the append idempotent. `address` is stored in the erasable table ("" = not).
    `unless_in_force`: skip when the same objection already holds and no opt-in came after it, so
    that a repeated click adds nothing, while a click after a new opt-in counts. `forward` is the
    reference ("ref.copy") of the mail whose own opt-out is to hear of it, "" for none: where that
    mail went to this subject and can be answered so, one `Forward` is made in the same commit,
    whether or not the event is new.
    """

    uid: str
    subject: Subject
    detail: Detail
    at: datetime
    recorded_at: datetime
    evidence: str = ""
    address: str = ""
    unless_in_force: bool = False
    forward: str = ""


class Added(StrEnum):
    """What became of an opt-out that was handed in. All are durable."""

    NEW = "new"
    KNOWN = "known"  # the same one holds already
    KEPT = "kept"  # the store cannot be written: held beside it, binding this process


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAttributes:
    """Attributes of a recipient for one sender; the entry with the latest `at` wins, key by key."""

    subject: Subject
    at: datetime
    values: Mapping[str, object]
    address: str = ""


class State(StrEnum):
    """States of a row (delivery.md section 2)."""

    ATTEMPTING = "attempting"
    WAITING = "waiting"
    HELD = "held"
    RELAYED = "relayed"
    BLOCKED = "blocked"
    FAILED = "failed"
    RETURNED = "returned"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One end-of-data, or one refusal at RCPT (`content_hash` "" then).

    `submitter` is `Submitter.identity`; `content_hash` SHA-256 (hex) of the content without leading
    Received fields; `class_source` which input chose the stream; `forward` the opt-out URI that
    ours replaced; `forward_by` how an opt-out can be passed on to it (`post`, `mail`, or "").
    """

    ref: str
    received_at: datetime
    submitter: str
    listener: str
    mail_from: str
    message_id: str
    content_hash: str
    size: int
    stream: str
    sender: str
    category: str
    mode: str
    class_source: str
    campaign: str = ""
    variant: str = ""
    template: str = ""
    forward: str = ""
    marks: tuple[str, ...] = ()
    forward_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRow:
    """One recipient of a submission with its decision.

    `copy` numbers the distinct copy within the submission (1-based), `copy_key` is the "same copy"
    hash (random where there is no Message-ID). `state` is `attempting`, `blocked`, `returned`
    (deferred) or `waiting`. `facts` is the canonical JSON of the facts used, kept for explanation
    and back-tests; no address in it. `marketing` rows update the subject's last marketing mail when
    they end `relayed`, and count as mails to the person. `room`: an attempt that does not find it
    makes the result `stale`. A `waiting` row is owed and comes with a body; it is due at `next_try`
    (None: now).
    """

    n: int
    copy: int
    subject: Subject
    address: str
    copy_key: str
    state: State
    decision: Decision
    facts: str
    marketing: bool
    reply: str = ""
    room: tuple[Room, ...] = ()
    next_try: datetime | None = None


@dataclass(frozen=True, slots=True)
class Body:
    """A mail as it came: its content, and the envelope as text that the store does not read."""

    envelope: str
    content: Content


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A mail of ours (DSN): one more submission, waiting, with the transaction that causes it.

    `covers` are the copies it tells of, each with the state that it ended in. It is written unless
    all of them were told of since `since`; one that covers none is always written.
    """

    covers: tuple[tuple[str, State], ...]
    submission: Submission
    row: NewRow
    body: Body
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Commit C1 of one submission: dedupe, validation against newer events, decisions, attempts.

    `high` and `overlay` are the snapshot's; an event above one of them that touches one of the rows
    makes the result `stale`. `dedupe_from`: rows whose last attempt is older than this are no
    longer "the same copy". `body` is kept where a row is `waiting`; `notice` is written with new
    rows. `undeduped`: decided without the store, and to be recorded beside it.
    """

    submission: Submission
    rows: tuple[NewRow, ...]
    high: int
    dedupe_from: datetime
    at: datetime
    body: Body | None = None
    notice: Notice | None = None
    overlay: int = 0
    undeduped: bool = False


class Fate(StrEnum):
    """What C1 made of a row (delivery.md section 5)."""

    CLAIMED = "claimed"      # an attempt is durable: send it
    RECORDED = "recorded"    # blocked or deferred, durable: answer it
    ANSWERED = "answered"    # relayed before: first reply and ref, nothing sent
    QUEUED = "queued"        # owed by an earlier submission: 250 queued with its ref
    IN_FLIGHT = "in-flight"  # live in this process: join it
    BUSY = "busy"            # live in another process: 451 4.4.5
    SKIPPED = "skipped"      # not claimed because another row is in flight or busy


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFate:
    """`row` and `attempt` are set for claimed rows; `ref` and `reply` are those of the first
    outcome."""

    n: int
    fate: Fate
    row: int = 0
    attempt: int = 0
    ref: str = ""
    reply: str = ""
    ambiguous_retry: bool = False


@dataclass(frozen=True, slots=True)
class IntakeResult:
    """`stale`: nothing was written, look up and decide again. Else one fate per row, in order."""

    stale: bool
    fates: tuple[RowFate, ...] = ()


class Result(StrEnum):
    """How an attempt ended, as the wire showed it."""

    ACCEPTED = "accepted"    # 2xx to the final dot
    TEMPORARY = "temporary"  # 4xx
    PERMANENT = "permanent"  # 5xx
    UNSENT = "unsent"        # failed before the final dot was written: certainly not delivered
    UNKNOWN = "unknown"      # final dot written, no reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of one attempt of one row; `reply` is the upstream's own line, verbatim.

    `next_try` is when a row that is owed is due again (None: at once).
    """

    row: int
    attempt: int
    result: Result
    reply: str
    at: datetime
    next_try: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """One transaction before a 250 for several: results, what is owed from here on, its notice.

    `owe` are (row, attempt) that are still under way: with `body` they become owed first, so that
    a result that is not final leaves them waiting. `wait` are rows that the decision deferred, each
    with the time until which: with `body` they are owed and wait.
    """

    outcomes: tuple[Outcome, ...] = ()
    owe: tuple[tuple[int, int], ...] = ()
    wait: tuple[tuple[int, datetime], ...] = ()
    body: Body | None = None
    notice: Notice | None = None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A row that waits and may be tried, or that was held until it expired."""

    row: int
    attempts: int
    ref: str
    n: int
    stream: str
    received_at: datetime
    next_try: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """All that another attempt of a waiting row needs. `address` is "" once it was erased.

    `tried_at` is when its last attempt began, None where there was none; `said` tells that `reply`
    is what the upstream answered then, not a word of ours.
    """

    row: int
    attempts: int
    n: int
    copy: int
    copy_key: str
    subject: Subject
    address: str
    reply: str
    submission: Submission
    body: Body
    state: State = State.WAITING
    tried_at: datetime | None = None
    said: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """Claim a waiting row: the decision taken again, and what follows from it.

    `state` is `attempting`, `blocked`, `failed` (expired, dropped) or `waiting` (until `next_try`);
    the last two may come without a decision. `attempts` is how often the row was tried when it was
    read: a row that moved on since is `BUSY`. `copy_key` is the row's.
    """

    row: int
    attempts: int
    subject: Subject
    state: State
    decision: Decision | None
    facts: str
    high: int
    dedupe_from: datetime
    at: datetime
    reply: str = ""
    room: tuple[Room, ...] = ()
    next_try: datetime | None = None
    notice: Notice | None = None
    copy_key: str = ""
    overlay: int = 0


class ForwardState(StrEnum):
    """How far an opt-out is that is passed on."""

    WAITING = "waiting"  # to be tried
    PASSED = "passed"    # taken there, or in the outbox as a mail
    REFUSED = "refused"  # it will never be taken
    EXPIRED = "expired"  # not taken in time
    DROPPED = "dropped"  # given up by hand


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """An opt-out on its way to the opt-out that a mail came with: `uri`, `by` post or mail.

    `ref` and `copy` name the mail. `answer` is the last one, in a few words; `next_try` is set
    while it waits, `ended_at` after that.
    """

    id: int
    ref: str
    copy: int
    stream: str
    sender: str
    uri: str
    by: str
    state: ForwardState
    attempts: int
    asked_at: datetime
    next_try: datetime | None
    answer: str
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passing:
    """What became of a forward that waited: its new state, and a mail that goes with it.

    `attempts` is how often it was tried when it was read; `tried` tells that it was once more.
    `next_try` is when one that waits on is due (None: now).
    """

    id: int
    attempts: int
    state: ForwardState
    answer: str
    at: datetime
    tried: bool = True
    next_try: datetime | None = None
    mail: Notice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """One unfinished row as people read it. `owed`: answered 250, or about to be."""

    row: int
    ref: str
    n: int
    state: State
    owed: bool
    stream: str
    received_at: datetime
    attempts: int
    next_try: datetime | None
    maybe_sent: bool
    reply: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """How many rows are unfinished in each state, and when the oldest was received.

    `oldest_open` is that of those that no person holds back.
    """

    counts: Mapping[str, int]
    oldest: datetime | None
    oldest_open: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reattempt:
    """A claimed row whose dot was not written in time: end that attempt as unsent, decide and claim
    again."""

    row: int
    attempt: int
    subject: Subject
    decision: Decision
    facts: str
    state: State
    reply: str = ""
    room: tuple[Room, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One row of the journal as people read it (`explain`, `consent show`, tests)."""

    ref: str
    n: int
    copy: int
    exact: str
    address: str
    state: State
    stream: str
    sender: str
    mode: str
    verdict: str
    reason: str
    cite: str
    pack: str
    rule: str
    basis_event: str
    facts: str
    decided_at: datetime
    attempts: int
    result: str
    reply: str
    ended_at: datetime | None
    maybe_sent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """The decision in force of one row of the journal, with the facts it rested on, for replays.

    `id` grows with the journal. `at_rcpt`: refused before there was a message. `null`: from the
    null sender.
    """

    id: int
    ref: str
    n: int
    stream: str
    sender: str
    mode: str
    at_rcpt: bool
    null: bool
    verdict: str
    reason: str
    cite: str
    pack: str
    facts: str
    decided_at: datetime


class Store(Protocol):
    """The information point. Every write is durable (fsynced) when its awaitable returns.

    Raises `StoreUnavailable` (try later) or `StoreDown` (until restart); nothing else.
    """

    async def lookup(
        self, subjects: Sequence[Subject], *, mails_since: datetime | None = None
    ) -> Snapshot:
        """Ledger, attributes and last mail of all `subjects`; concurrent calls share one query.

        With `mails_since` also the marketing mails after it (`Known.mails`).
        """
        ...

    async def append(
        self, events: Sequence[NewEvent], attributes: Sequence[NewAttributes] = ()
    ) -> list[bool]:
        """Append in one commit; for each event whether it was new. Blocking events go first in a
        group."""
        ...

    async def oppose(self, event: NewEvent) -> Added:
        """Append one opt-out, in the store or beside it."""
        ...

    async def claim(self, intake: Intake) -> IntakeResult:
        """Commit C1. All rows or none: if one copy is live elsewhere, no row is claimed."""
        ...

    async def reclaim(
        self, rows: Sequence[Reattempt], *, high: int, at: datetime, overlay: int = 0
    ) -> IntakeResult:
        """Decide again for claimed rows of this process; stale as in `claim`."""
        ...

    async def record(self, outcomes: Sequence[Outcome]) -> list[int]:
        """Commit C2, awaited; the rows that ended so. The others had been taken from us before."""
        ...

    def record_later(self, outcomes: Sequence[Outcome]) -> None:
        """Commit C2 with the next group, not awaited; kept and retried on store trouble."""
        ...

    async def settle(self, settlement: Settlement) -> list[int]:
        """Results, bodies and notice in one commit; which rows are as the settlement has them.

        A row that is missing had been taken from us before: it is not owed, or ended otherwise.
        """
        ...

    async def due(self, at: datetime, limit: int) -> list[Due]:
        """Rows that are due at `at`, those that wait longest first. A plain read."""
        ...

    async def owed(self, row: int) -> Owed | None:
        """A row that waits or is held, with its mail; None when it does neither any more."""
        ...

    async def take(self, take: Take) -> IntakeResult:
        """Commit a decision taken again for a waiting row; stale as in `claim`.

        Fates: `CLAIMED`, `RECORDED`, `ANSWERED` (its copy was relayed elsewhere), `BUSY`.
        """
        ...

    async def hasten(self, rows: Sequence[int], at: datetime) -> int:
        """Make rows that wait or are held wait until `at`, and no longer; how many there were."""
        ...

    async def unfinished(self) -> Unfinished:
        """What the outbox holds, in numbers."""
        ...

    async def outbox(self, *, ref: str = "", limit: int = 1000) -> list[OutboxRow]:
        """Unfinished rows, oldest first; of one submission with `ref`."""
        ...

    async def told(
        self, covers: Sequence[tuple[str, State]], since: datetime
    ) -> set[tuple[str, State]]:
        """Of which of these a notice told since `since`."""
        ...

    async def forwards_due(self, at: datetime, limit: int) -> list[Forward]:
        """Opt-outs to pass on that may be tried at `at`, those that wait longest first."""
        ...

    async def forwards(
        self, *, ref: str = "", ended: bool = False, limit: int = 1000
    ) -> list[Forward]:
        """Opt-outs that wait to be passed on, oldest first; with `ended` all; of one mail."""
        ...

    async def forwards_waiting(self) -> int:
        """How many opt-outs wait to be passed on."""
        ...

    async def passed(self, passing: Passing) -> bool:
        """Record a try, with the mail that it makes; False when it did not wait as it was read."""
        ...

    async def journal(
        self, *, ref: str = "", exact: str = "", limit: int = 1000
    ) -> list[JournalEntry]:
        """Rows of one submission, or the newest rows of one exact key."""
        ...

    async def decided(self, *, after: int, limit: int, since: datetime) -> list[Decided]:
        """Rows with an `id` above `after` that were decided at `since` or later, paged by id."""
        ...

    async def addresses(self, exacts: Sequence[str]) -> Mapping[str, str]:
        """The addresses of exact keys; those of people that were erased are missing."""
        ...

    async def subjects(self, *, after: int, limit: int) -> list[tuple[int, Subject]]:
        """Distinct (sender, address) pairs of the ledger, paged by id, for reports and gauges."""
        ...

    async def recover(self) -> int:
        """End the attempts whose owner is gone as unknown: of older runs, of any instance, and of
        runs that let their lease run out. How many. To be called every few seconds.
        """
        ...

    async def ping(self) -> None:
        """Raise if the store cannot read and write."""
        ...

    async def close(self) -> None:
        """Flush what waits, then close."""
        ...
