"""The pages on the law say what the packs say, and say it whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from policy.basis import CONDITIONS
from policy.pack import Pack
from policy.pages import _WORDS, CAVEAT, page
from policy.phrases import CONDITIONS as PHRASES
from proxy.cli.policy import app
from proxy.packs import builtin_packs, pack_texts

PAGES = Path(__file__).parents[2] / "docs" / "law"
PACKS = list(builtin_packs())


def test_the_pages_are_those_of_the_packs(tmp_path: Path) -> None:
    """When this fails: `make docs`, and look at what it changed."""
    ran = CliRunner().invoke(app, ["docs", "--out", str(tmp_path)])
    assert ran.exit_code == 0
    made = {file.name: file.read_text("utf-8") for file in tmp_path.iterdir()}
    kept = {file.name: file.read_text("utf-8") for file in PAGES.iterdir()}
    assert kept == made
    assert len(made) == len(PACKS) + 1


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.id)
def test_a_page_holds_all_that_a_pack_does(pack: Pack) -> None:
    text = (PAGES / f"{pack.id}.md").read_text("utf-8")
    assert CAVEAT in text
    for word in (pack.label, str(pack.reviewed_on), pack.title, pack.suppression_cite):
        assert word in text
    for rule in pack.rules:
        _, _, after = text.partition(f". {rule.id}\n")
        section = after.partition("\n##")[0]
        assert f"**{rule.cite}** (confidence: {rule.confidence}; " in section
        assert f"reviewed on {rule.reviewed_on})" in section
        for condition in rule.conditions:
            assert f"(`{condition.reason}`)" in section
        for word in (*rule.stages, *(rule.gates.kinds or ()), rule.registry or ""):
            assert word in section
        if rule.term:
            assert f"{rule.term.months} months" in section
            assert all(f"{n} months" in section for n in rule.term.by_stage.values())
        assert "{" not in section
    duties = pack.duties
    for cite in (duties.identity, duties.unsubscribe, duties.subject, duties.recipients):
        assert f"| {cite} |" in text
    assert ("postal address" in text.partition("owes")[2]) == bool(duties.postal_address)
    assert (f"works for {duties.valid_days} days" in text) == bool(duties.valid_days)


def test_each_condition_has_words() -> None:
    assert set(CONDITIONS) - set(_WORDS) <= set(PHRASES)


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.id)
def test_a_change_of_a_rule_shows(pack: Pack) -> None:
    """Each rule taken away, and each of its conditions, makes another page."""
    name, text = pack_texts(None)[pack.id]
    whole = page(pack, text, name)
    for place, rule in enumerate(pack.rules):
        others = (*pack.rules[:place], *pack.rules[place + 1 :])
        assert page(replace(pack, rules=others), text, name) != whole
        for missing in rule.conditions:
            left = tuple(c for c in rule.conditions if c is not missing)
            changed = replace(rule, conditions=left)
            rules = (*pack.rules[:place], changed, *pack.rules[place + 1 :])
            assert page(replace(pack, rules=rules), text, name) != whole


def test_remarks_are_the_comments_of_the_pack() -> None:
    text = (PAGES / "nl.md").read_text("utf-8")
    assert "Telecommunicatiewet article 11.7" in text
    soft = text.partition(". soft-opt-in\n")[2].partition("\n###")[0]
    assert "C-654/23" in soft
    assert "storage limitation" in soft
    assert "C-654/23" not in text.partition(". soft-opt-in\n")[0]


def test_packs_of_ones_own(tmp_path: Path) -> None:
    text = pack_texts(None)["nl"][1].replace("months = 36", "months = 7")
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs" / "mine.toml").write_text(text, "utf-8")
    out = tmp_path / "out"
    ran = CliRunner().invoke(app, ["docs", "--out", str(out), "--packs", str(tmp_path / "packs")])
    assert ran.exit_code == 0
    assert "7 months of the calendar" in (out / "nl.md").read_text("utf-8")
    assert "`mine.toml`" in (out / "nl.md").read_text("utf-8")
