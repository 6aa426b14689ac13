"""The oracle itself: each thing that may not happen is found, and what is explained is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from fault_checker import Journal, Row, Try, check
from fault_clients import make_mail
from fault_records import Arrived, OptOut, Records, Told

MAIL = make_mail("a", "news", ["anna@example.nl"], point=0)
ROW = Row(
    id=1,
    mail=MAIL.id,
    mail_from=MAIL.mail_from,
    ref="REF1",
    address="anna@example.nl",
    state="relayed",
    owed=0,
    maybe_sent=0,
    marketing=1,
    copy_key="k",
)
TOLD = Told(MAIL.id, 1.0, 2.0, 250, "2.0.0 taken (ref REF1)", MAIL.recipients)
ARRIVED = Arrived(MAIL.id, MAIL.mail_from, MAIL.recipients, MAIL.content, 1.5)
TRY = Try(1, 1, 1.2, ambiguous=False, order=7)
NO = OptOut("anna@example.nl", 2.5, 3.0, 200, "one-click")


def world() -> tuple[Records, Journal]:
    """One mail that was told, recorded and received; then the person says no."""
    records = Records({MAIL.id: MAIL}, [TOLD], [NO], [ARRIVED])
    journal = Journal([ROW], {1: [TRY]}, {"anna@example.nl": [9]}, set(), 0)
    return records, journal


def test_what_is_in_order_is_not_reported() -> None:
    verdict = check(*world())
    assert verdict.violations == []
    assert verdict.counts["acknowledged"] == verdict.counts["opt-outs answered"] == 1


Change = Callable[[Records, Journal], object]


def turn(**fields: object) -> Change:
    def change(_: Records, journal: Journal) -> None:
        journal.rows[0] = replace(journal.rows[0], **fields)  # type: ignore[arg-type]

    return change


def attempts(*tries: Try) -> Change:
    return lambda _, journal: journal.tries.update({1: list(tries)})


def both(*changes: Change) -> Change:
    return lambda records, journal: [change(records, journal) for change in changes]


CASES: list[tuple[str, Change]] = [
    ("relayed by the journal, and lost", lambda r, j: r.arrived.clear()),
    ("acknowledged and lost", both(turn(state="returned"), lambda r, j: r.arrived.clear())),
    ("acknowledged and lost", lambda r, j: j.rows.clear()),
    ("nobody told", both(turn(state="blocked"), lambda r, j: r.arrived.clear())),
    ("nobody told", both(turn(state="failed"), lambda r, j: r.arrived.clear())),
    ("arrived, and no row says so", turn(state="failed")),
    ("never ended", turn(state="waiting")),
    ("outlived", lambda r, j: setattr(j, "bodies", 1)),
    ("a reference that is not on record", turn(ref="REF2")),
    ("unexplained duplicate", lambda r, j: r.arrived.append(ARRIVED)),
    (
        "unexplained duplicate",
        both(attempts(TRY, replace(TRY, no=2)), lambda r, j: r.arrived.append(ARRIVED)),
    ),
    ("altered", lambda r, j: r.arrived.__setitem__(0, replace(ARRIVED, content=b"x\r\n\r\ny"))),
    ("altered", lambda r, j: r.arrived.__setitem__(0, replace(ARRIVED, content=MAIL.content[:-9]))),
    (
        "whom nobody named",
        lambda r, j: r.arrived.append(replace(ARRIVED, recipients=("bram@example.nl",))),
    ),
    (
        "without consent",
        lambda r, j: r.arrived.append(replace(ARRIVED, recipients=("nobody1@example.nl",))),
    ),
    ("attempt after the opt-out", attempts(replace(TRY, order=10))),
    ("attempt after the opt-out", attempts(replace(TRY, committed=3.1))),
    ("no objection is on record", lambda r, j: j.objections.clear()),
    (
        "refused, and not at its end",
        lambda r, j: r.told.append(replace(TOLD, code=550, text="5.7.1 no (ref REF1)")),
    ),
]


@pytest.mark.parametrize(
    ("words", "change"), CASES, ids=[f"{n}-{words}" for n, (words, _) in enumerate(CASES)]
)
def test_each_violation_is_found(words: str, change: Change) -> None:
    records, journal = world()
    change(records, journal)
    assert any(words in found for found in check(records, journal).violations)


@pytest.mark.parametrize(
    "change",
    [
        both(
            turn(maybe_sent=1),
            attempts(TRY, replace(TRY, no=2, ambiguous=True, order=8)),
            lambda r, j: r.arrived.append(ARRIVED),
        ),
        both(
            turn(state="blocked"),
            lambda r, j: r.arrived.clear(),
            lambda r, j: j.notices.add(("k", "blocked")),
        ),
        lambda r, j: r.told.append(replace(TOLD, code=0, text="")),
        lambda r, j: r.optouts.append(replace(NO, person="bram@example.nl", status=503)),
    ],
    ids=["a marked second copy", "blocked and told", "a lost reply", "an opt-out not answered"],
)
def test_what_is_explained_is_not_reported(change: Change) -> None:
    records, journal = world()
    change(records, journal)
    assert check(records, journal).violations == []
