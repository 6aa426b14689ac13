"""`sluis consent show` at 80 columns: what a person reads or copies is never cut."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from proxy.cli.consent import _print

REFS = ("06H0T7309E4X36Q6", "06H0T730059RAC2K")


def test_refs_and_reasons_are_whole_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    at = datetime(2026, 11, 24, 10, 31, tzinfo=UTC)
    mail = {"decided_at": at, "stream": "newsletter", "verdict": "block"}
    _print(
        {
            "address": "anna@example.nl",
            "senders": {"acme": {"events": [], "attributes": {}}},
            "streams": {},
            "mails": [
                {**mail, "ref": REFS[0], "reason": "visible-recipients", "state": "blocked"},
                {**mail, "ref": REFS[1], "reason": "no-basis", "state": "relayed"},
            ],
        }
    )
    out = capsys.readouterr().out
    assert "anna@example.nl and acme: nothing is recorded" in out
    first, second = (next(line for line in out.splitlines() if ref in line) for ref in REFS)
    assert first.split()[2:] == [REFS[0], "newsletter", "visible-recipients", "blocked"]
    assert second.split()[2:] == [REFS[1], "newsletter", "no-basis", "relayed,"]
    assert out.splitlines()[-1].strip() == "observed"
    assert max(map(len, out.splitlines())) <= 80
