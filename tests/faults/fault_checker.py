"""The oracle: holds what clients were told and what upstream received to the journal.

Rules of delivery: 250 means that each recipient's mail arrived, or ended blocked or failed with a
notice on record; a second copy exists only where the journal marked the retry that made it; nobody
who was told that they are unsubscribed gets marketing whose attempt was committed after that.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from fault_records import LAST_LINE, Arrived, Records

_ROWS = """\
SELECT d.id, s.message_id, s.mail_from, s.ref, coalesce(a.address, ''), d.state, d.owed,
 d.maybe_sent, d.marketing, d.copy_key
FROM delivery d JOIN submission s ON s.id = d.submission LEFT JOIN address a ON a.exact = d.exact
ORDER BY d.id"""
_ATTEMPTS = """\
SELECT a.delivery, a.no, a.committed_at, a.ambiguous_retry, coalesce(f.id, 0)
FROM attempt a LEFT JOIN fault_order f
 ON f.kind = 'attempt' AND f.delivery = a.delivery AND f.no = a.no ORDER BY a.delivery, a.no"""
_EVENTS = """\
SELECT e.id, coalesce(a.address, ''), coalesce(f.id, 0)
FROM event e LEFT JOIN address a ON a.exact = e.exact
LEFT JOIN fault_order f ON f.kind = 'event' AND f.delivery = e.id
WHERE e.type = 'objection' ORDER BY e.id"""
_NO_ORDER = "CREATE TEMP TABLE fault_order (id INTEGER, kind TEXT, delivery INTEGER, no INTEGER)"

_UNFINISHED = ("attempting", "waiting")
_TOLD_OF = ("blocked", "failed")


@dataclass(frozen=True, slots=True)
class Row:
    """One recipient of one submission, as the journal has it."""

    id: int
    mail: str
    mail_from: str
    ref: str
    address: str
    state: str
    owed: int
    maybe_sent: int
    marketing: int
    copy_key: str


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt: `committed` in seconds, `order` among all commits (0: not noted)."""

    row: int
    no: int
    committed: float
    ambiguous: bool
    order: int


@dataclass
class Journal:
    """What the journal says, read whole."""

    rows: list[Row]
    tries: dict[int, list[Try]]
    objections: dict[str, list[int]]
    """For each address the place of its objections in the order of commits."""
    notices: set[tuple[str, str]]
    bodies: int

    @classmethod
    def read(cls, path: Path) -> Journal:
        """From the database at `path`."""
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            noted = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'fault_order'").fetchone()
            if noted is None:
                db.execute(_NO_ORDER)
            tries: dict[int, list[Try]] = defaultdict(list)
            for row, no, at, ambiguous, order in db.execute(_ATTEMPTS):
                tries[row].append(Try(row, no, at / 1e6, bool(ambiguous), order))
            objections: dict[str, list[int]] = defaultdict(list)
            for _, address, order in db.execute(_EVENTS):
                objections[address].append(order)
            return cls(
                rows=[Row(*columns) for columns in db.execute(_ROWS)],
                tries=tries,
                objections=objections,
                notices=set(db.execute("SELECT copy_key, state FROM notice")),
                bodies=db.execute("SELECT count(*) FROM body").fetchone()[0],
            )


@dataclass
class Verdict:
    """What was found wrong, in words, and what was counted on the way."""

    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def check(records: Records, journal: Journal) -> Verdict:
    """Hold the three records against each other, after a restart and with nothing left to do."""
    verdict = Verdict()
    wrong = verdict.violations
    rows: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in journal.rows:
        rows[row.mail, row.address].append(row)
    copies = records.copies()
    _finished(journal, wrong)
    _acknowledged(records, journal, rows, copies, verdict)
    _arrived(records, journal, rows, copies, verdict)
    _refused(records, journal, wrong)
    _objected(records, journal, copies, verdict)
    verdict.counts["told"] = len(records.told)
    verdict.counts["arrived"] = len(records.arrived)
    return verdict


def _finished(journal: Journal, wrong: list[str]) -> None:
    for row in journal.rows:
        if row.state in _UNFINISHED:
            wrong.append(f"never ended: {row.mail} to {row.address} is {row.state}")
    if journal.bodies and not any(row.state in _UNFINISHED for row in journal.rows):
        wrong.append(f"{journal.bodies} bodies outlived their mail")


def _acknowledged(
    records: Records,
    journal: Journal,
    rows: dict[tuple[str, str], list[Row]],
    copies: dict[tuple[str, str], list[Arrived]],
    verdict: Verdict,
) -> None:
    refs = {row.ref for row in journal.rows}
    for told in records.told:
        if told.code == 250 and told.ref not in refs:
            verdict.violations.append(
                f"{told.mail} was answered 250 with a reference that is not on record: {told.text}"
            )
    for mail, told in records.acknowledged():
        verdict.counts["acknowledged"] += 1
        for recipient in told.taken:
            mine = rows.get((mail.id, recipient), [])
            states = [row.state for row in mine]
            if "relayed" in states:
                if not copies.get((mail.id, recipient)):
                    verdict.violations.append(
                        f"acknowledged, relayed by the journal, and lost: {mail.id} to {recipient}"
                    )
                continue
            ended = [row for row in mine if row.state in _TOLD_OF]
            untold = [r for r in ended if (r.copy_key, r.state) not in journal.notices]
            if not ended:
                verdict.violations.append(
                    f"acknowledged and lost: {mail.id} to {recipient} is {states or 'nowhere'}"
                )
            elif len(untold) == len(ended):
                verdict.violations.append(
                    f"acknowledged, ended unsent, nobody told: {mail.id} to {recipient} {states}"
                )
            else:
                verdict.counts["reported"] += 1


def _arrived(
    records: Records,
    journal: Journal,
    rows: dict[tuple[str, str], list[Row]],
    copies: dict[tuple[str, str], list[Arrived]],
    verdict: Verdict,
) -> None:
    for row in journal.rows:
        if row.state == "relayed" and not copies.get((row.mail, row.address)):
            verdict.violations.append(f"relayed, and never arrived: {row.mail} to {row.address}")
    for (id_, recipient), here in copies.items():
        mine = rows.get((id_, recipient), [])
        tries = [one for row in mine for one in journal.tries.get(row.id, ())]
        marked = sum(one.ambiguous for one in tries)
        if not any(row.state == "relayed" or row.maybe_sent for row in mine):
            verdict.violations.append(
                f"arrived, and no row says so: {id_} to {recipient} {[r.state for r in mine]}"
            )
        if len(here) - 1 > marked or len(here) > len(tries):
            verdict.violations.append(
                f"unexplained duplicate: {len(here)} copies of {id_} to {recipient},"
                f" {marked} of {len(tries)} attempts marked"
            )
        verdict.counts["second copies"] += len(here) - 1
        mail = records.mails.get(id_)
        if mail is None:
            verdict.counts["notices arrived"] += 1
            continue
        if recipient not in mail.recipients:
            verdict.violations.append(f"{id_} arrived for {recipient}, whom nobody named")
        if mail.marketing and recipient.startswith("nobody"):
            verdict.violations.append(f"marketing without consent: {id_} to {recipient}")
        for arrived in here:
            sent, got = (c.partition(b"\r\n\r\n")[2] for c in (mail.content, arrived.content))
            if sent != got or not got.endswith(LAST_LINE):
                sizes = f"{len(got)} of {len(sent)} octets"
                verdict.violations.append(f"{id_} arrived altered: {sizes}")
    verdict.counts["marked retries"] = sum(
        one.ambiguous for tries in journal.tries.values() for one in tries
    )


def _refused(records: Records, journal: Journal, wrong: list[str]) -> None:
    """After 5xx nothing is sent under its reference. That it was said may not have been written."""
    states: dict[str, set[str]] = defaultdict(set)
    for row in journal.rows:
        states[row.ref].add(row.state)
    for told in records.told:
        if told.code >= 500 and told.ref and states[told.ref] - {*_TOLD_OF, "unknown"}:
            wrong.append(f"refused, and not at its end: {told.mail} {told.text} {states[told.ref]}")


def _objected(
    records: Records,
    journal: Journal,
    copies: dict[tuple[str, str], list[Arrived]],
    verdict: Verdict,
) -> None:
    """Nobody whose no was answered gets marketing by an attempt committed after it."""
    attempts: dict[str, list[tuple[Row, Try]]] = defaultdict(list)
    for row in journal.rows:
        if row.marketing:
            attempts[row.address] += [(row, one) for one in journal.tries.get(row.id, ())]
    for optout in records.optouts:
        if not optout.answered:
            continue
        verdict.counts["opt-outs answered"] += 1
        verdict.counts["of them 202"] += optout.status == 202
        orders = journal.objections.get(optout.person)
        if not orders:
            verdict.violations.append(
                f"{optout.person} was answered {optout.status}, and no objection is on record"
            )
            continue
        for row, one in attempts[optout.person]:
            by_order = 0 < min(orders) < one.order and optout.status == 200
            if by_order or one.committed > optout.ended:
                sent = len(copies.get((row.mail, row.address), ()))
                verdict.violations.append(
                    f"attempt after the opt-out: {row.mail} to {row.address}, {row.state},"
                    f" {one.committed - optout.ended:+.3f} s after the answer, {sent} arrived"
                )
