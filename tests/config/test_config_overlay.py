"""What may be written of caps, quiet hours, own terms and blocked products, and what it means."""

from __future__ import annotations

from datetime import time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from policy.model import NO_OVERLAY, Cap, Overlay, QuietHours
from policy.overlay import cap_from, hours_from
from proxy.config import Settings, load
from proxy.config.overlay import zone
from proxy.errors import ConfigError

REFERENCE = Path(__file__).parents[2] / "config" / "sluis.toml"


def loaded(tmp_path: Path, stream: str = "", sender: str = "", more: str = "") -> Settings:
    text = REFERENCE.read_text("utf-8")
    text = text.replace('from_domains = ["news.acme.example"]', f"\\g{stream}", 1)
    text = text.replace("\\g", 'from_domains = ["news.acme.example"]\n')
    text = text.replace('contact = "privacy', f'{sender}\ncontact = "privacy', 1)
    path = tmp_path / "sluis.toml"
    path.write_text(text.replace("[retention]", f"[retention]\n{more}"), "utf-8")
    return load(path, {})


def test_nothing_set_is_no_overlay(tmp_path: Path) -> None:
    settings = loaded(tmp_path)
    assert all(s.overlay is NO_OVERLAY for s in settings.streams)
    assert all(s.overlay is NO_OVERLAY for s in settings.senders)


def test_everything_set(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        'max_per_person = "2/7d"\nquiet_hours = "21:00-08:30"\ntimezone = "Asia/Kathmandu"\n'
        'valid_months = { consent = 24, soft-opt-in = 12 }\nblocked_products = ["wine"]',
        'max_per_person = "5/12h"\nblocked_products = ["wine/red"]',
    )
    assert settings.stream("newsletter").overlay == Overlay(
        cap=Cap(most=2, window=timedelta(days=7)),
        quiet_hours=QuietHours(start=time(21), end=time(8, 30), zone=ZoneInfo("Asia/Kathmandu")),
        valid_months={"consent": 24, "soft-opt-in": 12},
        blocked_products=("wine",),
    )
    assert settings.sender("acme").overlay == Overlay(
        cap=Cap(most=5, window=timedelta(hours=12)), blocked_products=("wine/red",)
    )
    assert settings.stream("orders").overlay is NO_OVERLAY


@pytest.mark.parametrize(
    "text", ["", "2", "0/7d", "2/0d", "2/7", "2/7w", "-1/7d", "2 / 7d", "2/7d "]
)
def test_no_cap(text: str, tmp_path: Path) -> None:
    assert cap_from(text) is None
    with pytest.raises(ConfigError, match="max_per_person"):
        loaded(tmp_path, f'max_per_person = "{text}"')


@pytest.mark.parametrize(
    "text", ["", "21-8", "21:00", "21:00-21:00", "24:00-08:00", "21:60-08:00", "21:00–08:00"]
)
def test_no_hours(text: str, tmp_path: Path) -> None:
    assert hours_from(text) is None
    with pytest.raises(ConfigError, match="quiet_hours"):
        loaded(tmp_path, f'quiet_hours = "{text}"\ntimezone = "UTC"')


@pytest.mark.parametrize("text", ["Mars/Base", "../etc/passwd", "/etc/passwd", "Europe", "é"])
def test_no_zone(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="timezone"):
        loaded(tmp_path, f'timezone = "{text}"')


def test_zones_by_name() -> None:
    assert zone("Asia/Kathmandu") == ZoneInfo("Asia/Kathmandu")
    assert zone(None) is zone("") is zone("Europe") is zone("\0") is zone("No/Where") is None


def test_a_term_is_of_a_rule_that_can_have_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='names "legal-person", which has no term'):
        loaded(tmp_path, "valid_months = { legal-person = 3 }")
    with pytest.raises(ConfigError, match="valid_months"):
        loaded(tmp_path, "valid_months = { consent = 0 }")


def test_quiet_hours_need_a_zone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="timezone: is not set, and there are quiet_hours"):
        loaded(tmp_path, 'quiet_hours = "21:00-08:00"')


def test_a_cap_looks_back_no_further_than_the_journal(tmp_path: Path) -> None:
    kept = 'evidence = "30d"'
    assert loaded(tmp_path, 'max_per_person = "2/30d"', more=kept)
    for where in ("stream", "sender"):
        with pytest.raises(ConfigError, match=rf"{where}s\.0\.max_per_person: looks back further"):
            loaded(tmp_path, **{where: 'max_per_person = "2/31d"'}, more=kept)
