"""Packs are read strictly: every error says file, line and key; the digest is of the content."""

from __future__ import annotations

from datetime import date
from importlib import resources
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from policy.model import Reason
from policy.pack import Pack, PackError, Packs, load_pack, packs_from
from proxy.packs import builtin_packs, load_packs

NL = (resources.files("policy") / "packs" / "nl.toml").read_text("utf-8")

PACK = """\
id = "xx"
title = "Nowhere"
version = "2026.11"
reviewed_on = 2026-11-24
zone = "Europe/Amsterdam"
countries = ["XX"]

[duties]
identity = { cite = "a" }
unsubscribe = { cite = "b" }
subject = { cite = "c" }
recipients = { cite = "d" }

[[rules]]
id = "consent"
allows = "consent"
event = "opt-in"
cite = "Law 1"
confidence = "high"
conditions = ["named", "evidence", "in-force"]

[[rules]]
id = "customer"
allows = "soft-opt-in"
event = "relationship"
cite = "Law 2"
confidence = "low"
conditions = ["sale", "term"]
stages = ["purchase"]
term = { months = 12 }
[rules.gates]
kinds = ["consumer"]
"""


def read(text: str) -> PackError | None:
    try:
        load_pack(text, name="xx.toml", zones=ZoneInfo)
    except PackError as error:
        return error
    return None


def test_the_sample_is_a_pack() -> None:
    pack = load_pack(PACK, name="xx.toml", zones=ZoneInfo)
    assert pack.label == f"xx@2026.11#{pack.digest[:8]}"
    assert pack.reviewed_on == date(2026, 11, 24)
    assert [rule.allows for rule in pack.rules] == [Reason.CONSENT, Reason.SOFT_OPT_IN]
    assert pack.suppression_cite == "GDPR 21(3)"


def test_the_digest_is_of_the_content_not_of_its_layout() -> None:
    pack = load_pack(PACK, name="a", zones=ZoneInfo)
    laid_out = PACK.replace("\n[[rules]]", "\n\n# A remark.\n[[rules]]").replace(
        'id = "xx"\ntitle = "Nowhere"', 'title = "Nowhere"\nid   =   "xx"'
    )
    assert load_pack(laid_out, name="b", zones=ZoneInfo).digest == pack.digest
    changed = PACK.replace("months = 12", "months = 13")
    assert load_pack(changed, name="c", zones=ZoneInfo).digest != pack.digest


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    [
        ('id = "xx"', 'id = "nowhere"', 1, "id", "two small letters"),
        ('id = "xx"', "id = 5", 1, "id", "expected a text"),
        ('title = "Nowhere"\n', "", 1, "title", "missing"),
        ('title = "Nowhere"', 'title = " "', 2, "title", "expected a text"),
        ("2026.11", "November", 3, "version", "year.month"),
        ("2026-11-24", '"2026-11-24"', 4, "reviewed_on", "expected a date"),
        ("2026-11-24", "2026-11-24T00:00:00Z", 4, "reviewed_on", "expected a date"),
        ("Europe/Amsterdam", "Europe/Nowhere", 5, "zone", "unknown time zone"),
        ('["XX"]', "[]", 6, "countries", "expected a list"),
        ('["XX"]', '["xx"]', 6, "countries", "two capitals"),
        ("[duties]", "colour = 1\n[duties]", 8, "colour", "unknown key"),
        ('identity = { cite = "a" }\n', "", 8, "duties.identity", "missing"),
        ('{ cite = "b" }', "{}", 10, "duties.unsubscribe.cite", "missing"),
        ('{ cite = "b" }', '{ cite = "b", valid_days = 0 }', 10, "duties.unsubscribe", "whole"),
        ('{ cite = "c" }', '{ cite = "c", label = "now" }', 11, "duties.subject", "one of never"),
        ('{ cite = "c" }', "5", 11, "duties.subject", "expected a table"),
        ('cite = "Law 1"\n', "", 14, "rules.0.cite", "missing"),
        ('cite = "Law 1"', 'cite = "Law 1\u00b0"', 18, "rules.0.cite", "printable ASCII"),
        ('confidence = "high"', 'confidence = "sure"', 19, "rules.0.confidence", "high"),
        ('allows = "consent"', 'allows = "expired"', 16, "rules.0.allows", "not one of"),
        ('allows = "consent"', 'allows = "maybe"', 16, "rules.0.allows", "not one of"),
        ('event = "opt-in"', 'event = "opt"', 17, "rules.0.event", "expected one of none"),
        ('"named", "evid', '"name", "evid', 20, "rules.0.conditions", "unknown condition 'name'"),
        ('"named", "evid', '"sale", "evid', 20, "rules.0.conditions", "cannot be asked"),
        ('["named", "evidence"', '["evidence", "named"', 20, "rules.0.conditions", "fixed order"),
        ('["named", "evidence"', '["named", "named"', 20, "rules.0.conditions", "named twice"),
        ('["named", "evidence", "in-force"]', "5", 20, "rules.0.conditions", "expected a list"),
        ('id = "customer"', 'id = "consent"', 23, "rules.1.id", "exists already"),
        ('stages = ["purchase"]\n', "", 22, "rules.1.stages", "sale needs it"),
        ('["purchase"]', '["theft"]', 29, "rules.1.stages", "'theft'"),
        ('["purchase"]', "[]", 29, "rules.1.stages", "expected a list"),
        ("{ months = 12 }", "{ months = 0 }", 30, "rules.1.term.months", "from 1 to 1200"),
        ("{ months = 12 }", "{ months = true }", 30, "rules.1.term.months", "from 1 to 1200"),
        ("{ months = 12 }", '{ months = 1, from = ["x"] }', 30, "rules.1.term.from", "acts"),
        ("{ months = 12 }", "{ months = 1, from = [[5]] }", 30, "rules.1.term.from", "acts"),
        ("{ months = 12 }", "{ months = 1, days = 2 }", 30, "rules.1.term.days", "unknown"),
        ('conditions = ["sale", "term"]', 'conditions = ["sale"]', 30, "rules.1.term", "reads it"),
        ('kinds = ["consumer"]', 'kinds = ["dog"]', 32, "rules.1.gates.kinds", "'dog'"),
        ('kinds = ["consumer"]', "business_only = 1", 32, "rules.1.gates.business_only", "true"),
        ('kinds = ["consumer"]', "age = 1", 32, "rules.1.gates.age", "unknown key"),
        ("[duties]", "fallback = 1\n[duties]", 8, "fallback", "true or false"),
        ("[duties]", "[duties", 8, "", "line 8"),
    ],
)
def test_an_error_says_where(old: str, new: str, line: int, key: str, words: str) -> None:
    assert old in PACK
    error = read(PACK.replace(old, new, 1))
    assert error is not None
    assert error.line == line
    assert error.key.startswith(key)
    assert words in str(error)
    assert str(error).startswith(f"xx.toml:{line}: " if line else "xx.toml: ")


def test_a_pack_without_rules_is_none() -> None:
    head = PACK.partition("[[rules]]")[0]
    error = read(head)
    assert error is not None
    assert "rules: missing" in str(error)
    error = read("rules = []\n" + head)
    assert error is not None
    assert "at least one rule" in str(error)


def test_a_rule_may_be_reviewed_on_a_day_of_its_own() -> None:
    text = PACK.replace('cite = "Law 2"', 'cite = "Law 2"\nreviewed_on = 2026-12-01')
    first, second = load_pack(text, name="xx.toml", zones=ZoneInfo).rules
    assert (first.reviewed_on, second.reviewed_on) == (date(2026, 11, 24), date(2026, 12, 1))
    error = read(text.replace("2026-12-01", '"December"'))
    assert error is not None
    assert (error.line, error.key) == (27, "rules.1.reviewed_on")


def test_two_packs_may_not_share_id_country_or_fallback() -> None:
    with pytest.raises(PackError, match=r"b\.toml:1: id: a pack xx exists already, in a\.toml"):
        packs_from({"a.toml": PACK, "b.toml": PACK}, ZoneInfo)
    with pytest.raises(PackError, match=r"b\.toml:6: countries: XX belongs to xx already"):
        packs_from({"a.toml": PACK, "b.toml": PACK.replace('id = "xx"', 'id = "yy"')}, ZoneInfo)
    both = PACK.replace("[duties]", "fallback = true\n[duties]")
    with pytest.raises(PackError, match=r"b\.toml:8: fallback: xx is the fallback already"):
        packs_from({"a.toml": both, "b.toml": both.replace('id = "xx"', 'id = "yy"')}, ZoneInfo)


def test_packs_are_found_by_country() -> None:
    packs = builtin_packs()
    assert [pack.id for pack in packs] == sorted(packs.by_id)
    assert len(packs) == len(packs.by_id)
    assert packs.of("NL") is packs["nl"]
    assert packs.of("nl") is packs["nl"]
    assert packs.of("FI") is packs["eu"] is packs.fallback
    assert packs.of("BR") is None
    assert packs.of(None) is None
    assert packs.of("") is None
    assert packs.in_eea("NO")
    assert not packs.in_eea("CH")
    alone = Packs({"nl": packs["nl"]})
    assert alone.fallback is None
    assert not alone.in_eea("NL")


def test_an_operators_pack_takes_the_place_of_the_shipped_one(tmp_path: Path) -> None:
    assert load_packs(None) is builtin_packs()
    (tmp_path / "nl.toml").write_text(NL.replace("months = 36", "months = 24"), "utf-8")
    (tmp_path / "xx.toml").write_text(PACK, "utf-8")
    packs = load_packs(tmp_path)
    assert packs["nl"].digest != builtin_packs()["nl"].digest
    assert packs.of("XX") is packs["xx"]
    assert packs.of("FI") is not None
    (tmp_path / "again.toml").write_text(PACK, "utf-8")
    with pytest.raises(PackError, match="holds a pack xx already"):
        load_packs(tmp_path)


def test_an_empty_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="no pack"):
        load_packs(tmp_path)


@pytest.mark.parametrize("pack", list(builtin_packs()), ids=lambda pack: pack.id)
def test_a_rule_is_read_on_one_screen(pack: Pack) -> None:
    """What a reader scrolls past to see a rule whole, its comment included."""
    text = (resources.files("policy") / "packs" / f"{pack.id}.toml").read_text("utf-8")
    assert max(len(block.splitlines()) for block in text.split("\n[[rules]]")) <= 24
    assert len(text.splitlines()) < 75
    assert all(len(line) <= 120 for line in text.splitlines())
