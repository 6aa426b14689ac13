"""`sluis demo --once`: every verdict as expected, readable in any terminal and in a file."""

from __future__ import annotations

import re

import pytest

from proxy.cli.demo import run


@pytest.mark.parametrize("terminal", [True, False])
def test_every_verdict_is_as_expected_and_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    code = run(once=True)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert code == 0, lines
    assert "Every verdict was as expected." in lines
    assert not any("!" in line for line in lines)
    assert max(len(line.rstrip()) for line in lines) <= (80 if terminal else 124)
    row = next(line for line in lines if "preticked-consent" in line)
    assert ("Tw 11.7(1); GDPR 7" in row) is not terminal
    assert ("newsletter, box was pre-ticked" in row) is not terminal
