"""Every vector passes, and every part of every pack is missed by a vector when it is taken away."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from datetime import date, timedelta
from importlib import resources
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from policy.pack import CONDITION_KEYS, PackError, Packs, pack_from
from policy.vectors import Case, VectorError, cases_from, run
from proxy.packs import builtin_packs

VECTORS = sorted((Path(__file__).parent / "vectors").glob("*.toml"))
ADVERSARIAL = sorted((Path(__file__).parent / "vectors/adversarial").glob("*.toml"))
CASES = {file.name: cases_from(file.read_text("utf-8"), name=file.name) for file in VECTORS}
PACKS = [item for item in (resources.files("policy") / "packs").iterdir() if item.name != "."]
CONTENTS: dict[str, dict[str, Any]] = {
    item.name.removesuffix(".toml"): tomllib.loads(item.read_text("utf-8"))
    for item in sorted(PACKS, key=lambda item: item.name)
    if item.name.endswith(".toml")
}


@pytest.mark.parametrize("name", CASES)
def test_vectors_pass(name: str) -> None:
    packs = builtin_packs()
    outcomes = [(case.id, run(case, packs)) for case in CASES[name]]
    assert [f"{id_}: {outcome.words}" for id_, outcome in outcomes if not outcome.ok] == []
    assert outcomes


@pytest.mark.parametrize("file", ADVERSARIAL, ids=lambda file: file.stem)
def test_cases_written_from_the_documents_alone_pass(file: Path) -> None:
    """Answers derived sentence by sentence, without running the engine that they are to catch."""
    packs = builtin_packs()
    cases = cases_from(file.read_text("utf-8"), name=file.name)
    outcomes = [(case.id, run(case, packs)) for case in cases]
    assert [f"{id_}: {outcome.words}" for id_, outcome in outcomes if not outcome.ok] == []
    assert outcomes


def test_case_names_are_unique() -> None:
    ids = [case.id for cases in CASES.values() for case in cases]
    assert len(ids) == len(set(ids))


def mutants(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pack with one thing taken away or moved by one, and what that was."""

    def other() -> dict[str, Any]:
        return copy.deepcopy(content)

    for flag in ("applies_to_sent_from", "primary_purpose"):
        if content.get(flag):
            changed = other()
            changed[flag] = False
            yield flag, changed
    for place, country in enumerate(content["countries"]):
        if content.get("fallback") and country in ("NL", "PL"):
            # Being of the EEA shuts the Dutch rule for businesses abroad. At home that is no
            # question, and whatever the Polish pack allows (consent) the Dutch one allows as well.
            continue
        if len(content["countries"]) > 1:
            changed = other()
            del changed["countries"][place]
            yield f"country {country}", changed
    for duty in ("postal_address",):
        if duty in content["duties"]:
            changed = other()
            del changed["duties"][duty]
            yield f"duty {duty}", changed
    if "valid_days" in content["duties"]["unsubscribe"]:
        for by in (-1, 1):
            changed = other()
            changed["duties"]["unsubscribe"]["valid_days"] += by
            yield f"valid_days {by:+}", changed
    if "label" in content["duties"]["subject"]:
        owed = content["duties"]["subject"]["label"]
        for label in {"never", "always", "unless-consent"} - {owed}:
            changed = other()
            changed["duties"]["subject"]["label"] = label
            yield f"label {label}", changed
    for place, rule in enumerate(content["rules"]):
        for what, changed_rule in rule_mutants(rule):
            changed = other()
            changed["rules"][place] = changed_rule
            yield f"{rule['id']}: {what}", changed
        if len(content["rules"]) > 1:
            changed = other()
            del changed["rules"][place]
            yield f"rule {rule['id']}", changed


def rule_mutants(rule: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    needs = {"sale": ("stages", "indirect_remuneration"), "designated": ("designated",)}
    needs |= {"not-listed": ("registry",), "term": ("term",), "awake": ("dormant_months",)}
    needs |= {"in-force": ("in_force_from",)}
    for condition in rule.get("conditions", []):
        changed = copy.deepcopy(rule)
        changed["conditions"].remove(condition)
        for key in needs.get(condition, ()):
            changed.pop(key, None)
        yield f"condition {condition}", changed
    for gate, value in rule.get("gates", {}).items():
        changed = copy.deepcopy(rule)
        del changed["gates"][gate]
        yield f"gate {gate}", changed
        if isinstance(value, list) and len(value) > 1:
            for item in value:
                changed = copy.deepcopy(rule)
                changed["gates"][gate].remove(item)
                yield f"gate {gate} {item}", changed
    for item in rule.get("stages", []):
        if len(rule["stages"]) > 1:
            changed = copy.deepcopy(rule)
            changed["stages"].remove(item)
            yield f"stage {item}", changed
    for purpose, kinds in rule.get("designated", {}).items():
        for item in kinds:
            changed = copy.deepcopy(rule)
            changed["designated"][purpose] = [kind for kind in kinds if kind != item] or ["press"]
            yield f"designated {purpose} {item}", changed
    if rule.get("indirect_remuneration"):
        yield "indirect_remuneration", {**rule, "indirect_remuneration": False}
    if "in_force_from" in rule:
        day: date = rule["in_force_from"]
        for by in (-1, 1):
            yield f"in_force_from {by:+}", {**rule, "in_force_from": day + timedelta(days=by)}
    if "dormant_months" in rule:
        for by in (-1, 1):
            months = rule["dormant_months"] + by
            yield f"dormant_months {by:+}", {**rule, "dormant_months": months}
    yield from term_mutants(rule)


def term_mutants(rule: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    term = rule.get("term")
    if term is None:
        return
    for by in (-1, 1):
        yield f"term {by:+}", {**rule, "term": {**term, "months": term["months"] + by}}
        for stage, months in term.get("by_stage", {}).items():
            by_stage = {**term["by_stage"], stage: months + by}
            yield f"term of {stage} {by:+}", {**rule, "term": {**term, "by_stage": by_stage}}
    for start in ("acts", "mail"):
        starts = term.get("from", [])
        toggled = [s for s in starts if s != start] if start in starts else [*starts, start]
        yield f"term from {toggled}", {**rule, "term": {**term, "from": toggled}}
    for flag in ("lifetimes", "needs_review"):
        toggled_flag = {**term, flag: not term.get(flag, False)}
        if flag == "needs_review" or flag in term:
            yield f"term {flag}", {**rule, "term": toggled_flag}


def concerned(id_: str) -> list[Case]:
    """The cases of a pack: by the recipient's country, or by naming the pack or its sender."""
    countries = set(CONTENTS[id_]["countries"])
    return [
        case
        for cases in CASES.values()
        for case in cases
        if case.facts.recipient.country in countries or case.facts.sender.country in countries
    ]


def with_pack(id_: str, content: dict[str, Any]) -> Packs:
    pack = pack_from(content, name=id_, zones=ZoneInfo)
    return Packs({**builtin_packs().by_id, id_: pack})


@pytest.mark.parametrize("id_", CONTENTS)
def test_every_part_of_a_pack_is_missed(id_: str) -> None:
    cases = concerned(id_)
    unnoticed: list[str] = []
    count = 0
    for what, content in mutants(CONTENTS[id_]):
        count += 1
        packs = with_pack(id_, content)
        if all(run(case, packs).ok for case in cases):
            unnoticed.append(what)
    assert unnoticed == []
    assert count > 5


@pytest.mark.parametrize("id_", CONTENTS)
def test_a_rule_has_its_article_and_confidence(id_: str) -> None:
    for rule in builtin_packs()[id_].rules:
        assert rule.cite.strip()
        assert rule.confidence
        assert rule.reviewed_on.year >= 2026


def test_condition_keys_are_known_to_the_mutants() -> None:
    assert set(CONDITION_KEYS) == {
        *("stages", "indirect_remuneration", "designated", "registry", "in_force_from"),
        *("term", "dormant_months"),
    }


GOOD = """
[[case]]
id = "one"
at = 2026-11-24T12:00:00Z
sender = "A"
message = { category = "marketing" }
recipient = { country = "NL" }
events = [{ type = "opt-in", at = 2026-01-01T00:00:00Z, box = "unticked" }]
expect = { verdict = "allow", reason = ["consent"] }
"""


def test_a_wrong_expectation_fails_in_words() -> None:
    (case,) = cases_from(GOOD.replace("consent", "soft-opt-in"), name="x")
    outcome = run(case, builtin_packs())
    assert not outcome.ok
    assert outcome.words == "expected allow soft-opt-in, got allow consent"
    (case,) = cases_from(GOOD.replace("reason =", "needs_review = true, reason ="), name="x")
    assert "needs_review" in run(case, builtin_packs()).words


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('id = "one"', 'id = "one"\ncolour = "red"', "one: colour"),
        ('sender = "A"', "", "one: sender"),
        ("2026-11-24T12:00:00Z", "2026-11-24T12:00:00", "one: at"),
        ('category = "marketing"', 'category = "adverts"', "one: category"),
        ('category = "marketing"', 'colour = "red"', "one: colour"),
        ('country = "NL"', 'country = "Holland"', "one: country"),
        ('box = "unticked"', 'box = "ticked"', "one: box"),
        ('type = "opt-in"', 'type = "opt-on"', "one: events.type"),
        ('reason = ["consent"]', 'reason = ["because"]', "one: "),
        ('reason = ["consent"]', "reason = []", "one: expect.reason"),
        ('verdict = "allow"', 'verdict = "maybe"', "one: verdict"),
        ("[[case]]", "[[cases]]", "x: cases"),
        ("[[case]]", "[[case]", "x: "),
        ("expect =", "similar = 5\nexpect =", "one: similar"),
        ('verdict = "allow", ', "", "one: expect.verdict"),
        ("[[case]]", "case = 5\n[other]", "x: other"),
        ("events = [{", "events = [5, {", "one: events"),
        (", at = 2026-01-01T00:00:00Z", "", "one: events.at"),
        ('type = "opt-in"', 'type = "opt-in", address = "a b@d"', "one: events.address"),
        ("expect =", "similar = [5]\nexpect =", "one: similar"),
        ("expect =", 'similar = [{ products = ["a"], reviewed_on = 5 }]\nexpect =', "reviewed_on"),
        ("expect =", "lifetimes = 5\nexpect =", "one: lifetimes"),
        ('message = { category = "marketing" }', "message = 5", "one: message"),
        ("expect =", "lifetimes = { shoes = -1 }\nexpect =", "one: shoes"),
    ],
)
def test_an_unreadable_vector_says_where(old: str, new: str, words: str) -> None:
    assert old in GOOD
    with pytest.raises(VectorError, match=words):
        cases_from(GOOD.replace(old, new), name="x")


def test_a_file_without_tables_of_cases_is_refused() -> None:
    with pytest.raises(VectorError, match="x: case: expected"):
        cases_from("case = 5", name="x")


def test_a_group_may_say_who_reviewed_it_and_lifetimes_hold_for_the_file() -> None:
    text = 'lifetime = { car = 120 }\n[[similar]]\nproducts = ["a", "b"]\nreviewer = "Jo"\n'
    (case,) = cases_from(text + "reviewed_on = 2026-01-01\n" + GOOD, name="x")
    (group,) = case.facts.sender.similar
    assert (group.products, group.reviewer) == (("a", "b"), "Jo")
    assert group.reviewed_on == date(2026, 1, 1)
    assert case.facts.sender.lifetimes == {"car": 120}


def test_every_expectation_is_compared() -> None:
    more = 'rule = "x", pack = "eu", obligations = ["identity"], reason ='
    (case,) = cases_from(GOOD.replace("reason =", more), name="x")
    words = run(case, builtin_packs()).words
    assert "expected rule x, got consent" in words
    assert "expected pack eu, got nl@" in words
    assert "expected obligations ('identity',), got ()" in words


def test_the_same_case_twice_is_refused() -> None:
    with pytest.raises(VectorError, match="one: id"):
        cases_from(GOOD + GOOD, name="x")


def test_an_event_for_another_address_is_matched_by_its_keys() -> None:
    def verdict(recipient: str, event: str) -> str:
        text = GOOD.replace('country = "NL"', f'country = "NL", address = "{recipient}"')
        text = text.replace('type = "opt-in"', f'type = "opt-in", address = "{event}"')
        (case,) = cases_from(text, name="x")
        return run(case, builtin_packs()).got.reason

    assert verdict("anna@d.example", "anna@d.example") == "consent"
    assert verdict("anna@d.example", "Anna@d.example") == "no-basis"
    assert verdict("anna@d.example", "bram@d.example") == "no-basis"


def test_a_pack_error_is_not_a_pass() -> None:
    content = copy.deepcopy(CONTENTS["nl"])
    del content["rules"][0]["cite"]
    with pytest.raises(PackError, match="cite"):
        with_pack("nl", content)
