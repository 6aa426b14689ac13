"""Decisions in words: short ASCII for replies, whole in both languages, documented one by one."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest

from policy import model as m
from policy.basis import CONDITIONS
from policy.engine import decide
from policy.events import EVENT_FIELDS, RECIPIENT_FIELDS
from policy.explain import explain, remedy, sentence
from policy.phrases import CONDITIONS as CONDITION_WORDS
from policy.phrases import DETAILS, REASONS
from policy.vectors import Case, cases_from
from proxy.packs import builtin_packs

DOCS = Path(__file__).parents[2] / "docs"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
PACKS = builtin_packs()


def cases() -> list[Case]:
    files = sorted((Path(__file__).parent / "vectors").glob("*.toml"))
    return [case for file in files for case in cases_from(file.read_text("utf-8"), name=file.name)]


@pytest.mark.parametrize("reason", list(m.Reason))
def test_every_reason_has_words_and_a_remedy_in_both_languages(reason: m.Reason) -> None:
    verdict = m.Verdict.BLOCK
    for language in ("en", "nl"):
        line = sentence(m.Decision(verdict=verdict, reason=reason, cite="Law 1"), language)
        assert line.isascii()
        assert line.startswith(f"{reason}: ")
        assert line.endswith("; Law 1")
        assert len(line) < 120
        assert remedy(reason, language).endswith((".", "`."))
    assert remedy(reason, "nl-BE") == remedy(reason, "nl") != remedy(reason, "en")
    assert sentence(m.Decision(verdict=verdict, reason=reason)).count(";") == 0


def test_reasons_are_documented_with_their_remedies() -> None:
    text = (DOCS / "reasons.md").read_text("utf-8")
    assert re.findall(r"^### `([a-z-]+)`$", text, re.MULTILINE) == [str(r) for r in m.Reason]
    joined = " ".join(text.split())
    for reason in m.Reason:
        assert REASONS[reason].words.english[1:] in joined
        if REASONS[reason].remedy.english != "Nothing to do.":
            assert " ".join(REASONS[reason].remedy.english.split()) in joined, reason


def test_conditions_are_documented_in_their_order() -> None:
    text = (DOCS / "decision.md").read_text("utf-8")
    places = [text.index(f"`{name}`") for name in CONDITIONS]
    assert all(place > 0 for place in places)
    assert set(CONDITIONS) <= set(CONDITION_WORDS)
    for condition in CONDITIONS.values():
        assert f"`{condition.reason}`" in text


def test_every_field_is_documented() -> None:
    text = (DOCS / "decision.md").read_text("utf-8")
    for names in (*EVENT_FIELDS.values(), RECIPIENT_FIELDS):
        for name in names:
            assert f"`{name}`" in text, name
    for field in fields(m.Message):
        if field.name != "visible_recipients_allowed":  # the stream's setting, no fact of the mail
            assert f"`{field.name}`" in text, field.name
    for type_ in EVENT_FIELDS:
        assert f"| `{type_}` |" in text


def test_the_fixed_order_is_the_documented_one() -> None:
    text = (DOCS / "decision.md").read_text("utf-8")
    table = text.partition("| order | condition |")[2].partition("\n\n")[0]
    rows = [row.split("|")[2:4] for row in table.splitlines()[2:]]
    documented = [
        (name, rank)
        for rank, (conditions, _) in enumerate(rows)
        for name in re.findall(r"`([a-z-]+)`", conditions)
    ]
    ranks = {name: condition.rank for name, condition in CONDITIONS.items()}
    assert dict(documented) == ranks
    for rank, (_, reasons) in enumerate(rows):
        found = {str(c.reason) for c in CONDITIONS.values() if c.rank == rank}
        assert set(re.findall(r"`([a-z-]+)`", reasons)) == found


def test_every_detail_and_condition_is_said_in_dutch() -> None:
    patterns = [re.compile(pattern) for pattern, _ in DETAILS]
    missing: set[str] = set()
    conditions: set[str] = set()
    for case in cases():
        for step in decide(case.facts, PACKS).trace:
            conditions.add(step.condition)
            if not any(pattern.fullmatch(step.detail) for pattern in patterns):
                missing.add(step.detail)
    assert missing == set()
    assert conditions <= set(CONDITION_WORDS) | {str(reason) for reason in m.Reason}


def test_every_vector_is_explained_in_both_languages() -> None:
    for case in cases():
        decision = decide(case.facts, PACKS, counterfactual=True)
        for language, verdicts in (
            ("en", ("Allowed", "Blocked", "Deferred")),
            ("nl", ("Toegestaan", "Tegengehouden", "Uitgesteld")),
        ):
            text = explain(decision, language, at=case.facts.at)
            assert text.startswith(verdicts)
            assert str(decision.reason) in text.splitlines()[0]
            assert decision.cite in text
            assert ("Remedy" in text or "Oplossing" in text) is not decision.allowed


def test_an_explanation_reads_like_this() -> None:
    purchase = m.Relationship(
        stage=m.Stage.PURCHASE, paid=True, products=("shoes",), address_from_customer=True,
        informed=True, objection_offered=m.ObjectionOffered.NONE,
    )
    at = datetime(2026, 5, 10, 9, 30, tzinfo=UTC)
    facts = m.Facts(
        at=NOW,
        sender=m.Sender(id="acme"),
        recipient=m.Recipient(country="NL", kind=m.Kind.CONSUMER),
        message=m.Message(category=m.Category.MARKETING, products=("shoes",)),
        events=(
            m.Event(at=at, recorded_at=at, sender="acme", evidence="order:1", uid="e1",
                    detail=purchase),
        ),
    )
    decision = decide(facts, PACKS)
    assert sentence(decision) == (
        "no-objection-offered: no way to object was offered at collection; Tw 11.7(4)"
    )
    lines = explain(decision, at=NOW).splitlines()
    assert lines[:5] == [
        "Blocked (no-objection-offered): no way to object was offered at collection.",
        "Decided for sending at 2026-11-24 12:00:00 UTC.",
        f"Pack {PACKS['nl'].label}, rule soft-opt-in.",
        "Article: Tw 11.7(4).",
        "Decided by the entry e1.",
    ]
    assert "  - proof: yes, evidence order:1 [nl/soft-opt-in]" in lines
    failed = (
        "  - told, and objection offered: no, objection offered by none, informed yes "
        "[nl/soft-opt-in]"
    )
    assert failed in lines
    assert lines[-1].startswith("Remedy: This cannot be repaired by a mail.")
    dutch = explain(decision, "nl", at=NOW)
    assert "bezwaar aangeboden met geen, verteld ja" in dutch


def test_a_detail_without_a_dutch_form_is_left_as_it_is() -> None:
    step = m.Step("nl", "consent", "odd-condition", m.Answer.NO, "", "something new")
    decision = m.Decision(
        verdict=m.Verdict.BLOCK, reason=m.Reason.NO_BASIS, trace=(step,), expires_at=NOW.date()
    )
    text = explain(decision, "nl", at=NOW)
    assert "  - odd-condition: nee, something new [nl/consent]" in text
    assert "Geldt tot 2026-11-24." in text


def test_what_is_deferred_is_said_so() -> None:
    decision = m.Decision(verdict=m.Verdict.DEFER, reason=m.Reason.QUIET_HOURS)
    assert explain(decision, at=NOW).startswith("Deferred (quiet-hours)")
    assert explain(decision, "nl", at=NOW).startswith("Uitgesteld (quiet-hours)")


def case_of(text: str) -> m.Facts:
    head = 'id = "one"\nat = 2026-11-24T12:00:00Z\nsender = "A"\n'
    tail = 'recipient = { country = "NL", kind = "consumer" }\nexpect = { verdict = "block", '
    (case,) = cases_from(f'[[case]]\n{head}{tail}reason = "held" }}\n{text}', name="x")
    return case.facts


def test_dutch_speaks_dutch_but_leaves_the_operators_own_words() -> None:
    both = """
message = { category = "marketing", products = ["support"], topics = ["contest"] }
events = [
    { type = "opt-in", at = 2026-05-01T00:00:00Z, box = "paper", topics = ["press"] },
    { type = "relationship", at = 2026-05-01T00:00:00Z, stage = "contest", products = ["cart"] },
]
"""
    text = explain(decide(case_of(both), PACKS), "nl", at=NOW)
    assert "actieve handeling: ja, op papier" in text
    assert "een verkoop die telt: nee, stadium prijsvraag" in text
    assert "soort ontvanger: nee, consument" in text
    assert "onderwerpen press; bericht over contest" in text
    objected = """
message = { category = "marketing" }
events = [{ type = "objection", at = 2026-05-01T00:00:00Z, scope = "everything" }]
"""
    assert "bezwaar tegen alles van" in explain(decide(case_of(objected), PACKS), "nl", at=NOW)


def test_a_missing_duty_is_said_once_and_an_end_can_be_none() -> None:
    hidden = """
message = { category = "marketing", unsubscribe = "phone" }
events = [{ type = "opt-in", at = 2026-05-01T00:00:00Z, box = "paper" }]
"""
    lines = explain(decide(case_of(hidden), PACKS), at=NOW).splitlines()
    assert "  - no way to unsubscribe is shown [nl/duties]" in lines
    over = """
message = { category = "marketing" }
events = [{ type = "opt-in", at = 2026-05-01T00:00:00Z, box = "paper", valid_until = 2026-11-01 }]
"""
    (change,) = decide(case_of(over), PACKS, counterfactual=True).counterfactual
    assert (change.now, change.needed) == ("2026-11-01", "none")
