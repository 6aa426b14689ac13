"""The alert rules: valid, tried by promtool firing and silent, each with words on what to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "config/prometheus"
TESTS = ("alerts.test.yml", "alerts.days.test.yml")


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return list(group["rules"])


ALERTS = [rule for rule in rules() if "alert" in rule]
NAMES = [rule["alert"] for rule in ALERTS]


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def headings(markdown: Path) -> set[str]:
    """The anchors of a page's headings: lower case, punctuation gone, spaces to hyphens."""
    found = re.findall(r"^#+ (.+)$", markdown.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in found}


def test_rules_and_configuration_are_valid() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", "alerts.yml")
    promtool("check", "config", "prometheus.yml")


@pytest.mark.parametrize("file", TESTS)
def test_alerts_fire_and_stay_silent_as_promised(file: str) -> None:
    promtool("test", "rules", file)


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_is_tried_firing_and_silent(name: str) -> None:
    cases = [
        case
        for file in TESTS
        for group in yaml.safe_load((FOLDER / file).read_text())["tests"]
        for case in group.get("alert_rule_test", ())
        if case["alertname"] == name
    ]
    assert any(case["exp_alerts"] for case in cases), "never fires"
    assert any(not case["exp_alerts"] for case in cases), "never silent"


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_every_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert {"summary", "description", "runbook_url"} == set(rule["annotations"])
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert anchor == rule["alert"].lower()
    assert anchor in headings(ROOT / page)


def test_runbook_has_no_alert_that_does_not_exist() -> None:
    described = re.findall(r"^### (Sluis\w+)$", (ROOT / "docs/operations.md").read_text(), re.M)
    assert sorted(described) == sorted(NAMES)


def test_runbook_and_rule_agree_on_the_severity() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    for rule in ALERTS:
        section = text.partition(f"### {rule['alert']}\n")[2]
        assert section.startswith(f"*{rule['labels']['severity']}.*"), rule["alert"]
