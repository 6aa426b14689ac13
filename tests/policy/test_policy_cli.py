"""`sluis policy`: data on stdout, messages on stderr, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proxy.cli.policy import app
from proxy.packs import builtin_packs

VECTORS = Path(__file__).parent / "vectors"
RUNNER = CliRunner()


def test_list_prints_every_pack() -> None:
    ran = RUNNER.invoke(app, ["list"])
    assert ran.exit_code == 0
    assert [line.split()[0] for line in ran.stdout.splitlines()] == [
        pack.label for pack in builtin_packs()
    ]
    ran = RUNNER.invoke(app, ["list", "--json"])
    listed = json.loads(ran.stdout)
    assert {item["id"] for item in listed} == set(builtin_packs().by_id)
    assert all(len(item["digest"]) == 64 for item in listed)


def test_show_prints_the_rules_with_their_articles() -> None:
    ran = RUNNER.invoke(app, ["show", "nl"])
    assert ran.exit_code == 0
    assert "soft-opt-in -> soft-opt-in  [Tw 11.7(4); medium]" in ran.stdout
    assert "only for outside_eea = True" in ran.stdout
    assert "an easy opt-out  [Tw 11.7(6)-(7); GDPR 7(3), 21(2)]" in ran.stdout
    assert "postal address" not in ran.stdout
    us = RUNNER.invoke(app, ["show", "us"]).stdout
    assert "an easy opt-out that works for 30 days" in us
    assert "an honest subject, labelled unless under consent" in us
    assert "postal address" in us
    shown = json.loads(RUNNER.invoke(app, ["show", "nl", "--json"]).stdout)
    assert [rule["id"] for rule in shown["rules"]] == [r.id for r in builtin_packs()["nl"].rules]


def test_show_of_an_unknown_pack_is_a_usage_error() -> None:
    ran = RUNNER.invoke(app, ["show", "qq"])
    assert ran.exit_code == 64
    assert ran.stdout == ""
    assert "no pack qq" in ran.stderr


def test_vector_files_pass() -> None:
    files = [str(file) for file in sorted(VECTORS.glob("*.toml"))]
    ran = RUNNER.invoke(app, ["test", *files])
    assert ran.exit_code == 0, ran.stdout
    assert ran.stdout.endswith(" passed, 0 failed\n")
    assert len(ran.stdout.splitlines()) == 1


def test_a_failing_case_is_one_line_and_exit_1(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    text = (VECTORS / "netherlands.toml").read_text("utf-8")
    file.write_text(text.replace('"no-identity"', '"no-unsubscribe"'), "utf-8")
    ran = RUNNER.invoke(app, ["test", str(file)])
    assert ran.exit_code == 1
    line, summary = ran.stdout.splitlines()
    assert line == f"{file}: NL-31: expected block no-unsubscribe, got block no-identity"
    assert summary == "19 passed, 1 failed"
    ran = RUNNER.invoke(app, ["test", "--json", str(file)])
    assert ran.exit_code == 1
    assert json.loads(ran.stdout)["failed"] == 1


@pytest.mark.parametrize(
    ("content", "code"), [("[[case]]\nid = 'x'\n", 65), ("[[case", 65), (None, 66)]
)
def test_an_unreadable_file_is_named(tmp_path: Path, content: str | None, code: int) -> None:
    file = tmp_path / "cases.toml"
    if content is not None:
        file.write_text(content, "utf-8")
    ran = RUNNER.invoke(app, ["test", str(file)])
    assert ran.exit_code == code
    assert str(file) in ran.stderr
    assert ran.stdout == ""


def test_packs_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('id = "xx"\n', "utf-8")
    ran = RUNNER.invoke(app, ["list", "--packs", str(tmp_path)])
    assert ran.exit_code == 65
    assert "bad.toml" in ran.stderr
