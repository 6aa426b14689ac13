"""The metrics as Prometheus reads them: names, labels, ceiling."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from policy.model import Reason, Via
from proxy import telemetry
from proxy.config import load
from proxy.message.promotion import DECLARED, SIGNS
from proxy.telemetry import OUTCOMES, PROMOTION, Telemetry

ROOT = Path(__file__).parents[2]
DESIGN = {
    "decisions": {"stream", "verdict", "reason", "mode"},
    "decisions_by_jurisdiction": {"jurisdiction", "verdict"},
    "decision_seconds": set(),
    "messages": {"stream", "outcome"},
    "relay_seconds": set(),
    "smtp_connections": set(),
    "outbox_messages": {"state"},
    "outbox_oldest_seconds": set(),
    "optouts": {"stream", "via"},
    "optout_effect_seconds": set(),
    "complaints": set(),
    "bounces": {"severity"},
    "bases": {"basis"},
    "bases_expiring": {"within"},
    "store_errors": {"operation"},
    "pack_info": {"pack", "version", "digest"},
    "upstream_up": {"upstream"},
    "build_info": {"version", "python"},
}
MARKETING = '[[streams]]\nid = "s{n}"\nsender = "acme"\ncategory = "{category}"\n'
SENDER = (
    '[[senders]]\nid = "{id}"\nname = "x"\ncountry = "NL"\npostal_address = "y"\ncontact = "z"\n'
)


@dataclass(frozen=True)
class Pack:
    """What the metrics read of a pack."""

    id: str
    version: str = "2026.11"
    digest: str = "0123456789abcdef0123"


COUNTRIES = (
    "nl",
    "be",
    "de",
    "gb",
    "fr",
    "ie",
    "es",
    "it",
    "at",
    "dk",
    "se",
    "pl",
    "us",
    "ca",
    "au",
)
PACKS = [Pack(id_) for id_ in (*COUNTRIES, "eu")]


def made(tmp_path: Path, streams: int = 2, *, senders: int = 1, listeners: int = 1) -> Telemetry:
    """Metrics of a configuration with so many streams, every third of them transactional."""
    text = (
        '[server]\nhostname = "gate.acme.example"\n[http]\npublic_url = "https://m.acme.example"\n'
    )
    for n in range(listeners):
        text += f'[[listeners]]\naddress = "127.0.0.1:{2500 + n}"\n'
        text += 'trusted_networks = ["127.0.0.0/8"]\n'
        text += f'[[upstreams]]\naddress = "relay{n}.acme.example:25"\n'
    for n in range(senders):
        text += SENDER.format(id="acme" if n == 0 else f"sender{n}")
    for n in range(streams):
        text += MARKETING.format(n=n, category="transactional" if n % 3 == 2 else "marketing")
    path = tmp_path / "sluis.toml"
    path.write_text(text)
    return Telemetry(load(path, {}))


def scrape(metrics: Telemetry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels."""
    text = metrics.render()[0].decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: Telemetry, name: str, **labels: str) -> float | None:
    """One sample, None if there is no such series."""
    return scrape(metrics).get((f"sluis_{name}", frozenset(labels.items())))


def exercise(metrics: Telemetry, streams: int, strange: str = "") -> None:
    """Every event with every value of the closed lists, or with one nobody expects."""
    for n in range(streams):
        for reason in [strange] if strange else [r.value for r in Reason]:
            for verdict in ("allow", "block", "defer", *([strange] if strange else [])):
                for mode in ("enforce", "observe"):
                    metrics.decided(
                        strange or f"s{n}", verdict, reason, mode, strange or "nl", 0.001
                    )
        metrics.promotion(strange or f"s{n}", [strange] if strange else PROMOTION[1:])
        for outcome in [strange] if strange else OUTCOMES:
            metrics.message(strange or f"s{n}", outcome)
        for via in [strange] if strange else [v.value for v in Via]:
            metrics.optout(strange or f"s{n}", via, 0.01)
    for pack in PACKS:
        for verdict in ("allow", "block", "defer"):
            metrics.decided("s0", verdict, "consent", "enforce", pack.id, 0.001)
    for command in [strange] if strange else telemetry.COMMANDS:
        for code in range(200, 600):
            metrics.reply(command, code)
    for listener in range(40):
        metrics.connection_opened(strange or f"127.0.0.1:{2500 + listener}")
        metrics.upstream(strange or f"relay{listener}.acme.example:25", True)
        metrics.authority(strange or f"relay{listener}.acme.example:25", lambda: 1.0)
    for n in range(40):
        metrics.store_error(f"{strange}{n}")
    metrics.bounce(strange or "soft")
    metrics.bases({strange: 3} if strange else {"consent": 3})
    metrics.bases_expiring({strange: 3} if strange else {"30d": 3})
    metrics.outbox({strange: 3} if strange else {"waiting": 3}, 5.0)


def test_the_families_of_the_design_are_there(tmp_path: Path) -> None:
    metrics = made(tmp_path)
    metrics.packs(PACKS)
    families = {
        f.name.removeprefix("sluis_"): f
        for f in text_string_to_metric_families(metrics.render()[0].decode())
    }
    for name, labels in DESIGN.items():
        found = {k for sample in families[name].samples for k in sample.labels} - {"le"}
        assert found == labels, name


def test_the_document_lists_every_family_with_type_and_labels(tmp_path: Path) -> None:
    metrics = made(tmp_path, 3)
    metrics.packs(PACKS)
    metrics.certificate("127.0.0.1:2500", lambda: 1.0)
    metrics.authority("relay0.acme.example:25", lambda: 1.0)
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(sluis_[a-z_]+)` \| (\w+) \|\s*(.*?)\s*\| .+ \|$", text, re.M)
    documented = {
        name.removesuffix("_total"): (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in rows
    }
    assert len(documented) == len(rows)
    actual = {
        f.name: (f.type, {k for s in f.samples for k in s.labels} - {"le"})
        for f in text_string_to_metric_families(metrics.render()[0].decode())
        if f.name.startswith("sluis_")
    }
    assert documented == actual
    for name, kind, _ in rows:
        assert name.endswith("_total") == (kind == "counter"), name


@pytest.mark.parametrize("streams", [1, 3, 12, 60])
@pytest.mark.parametrize("strange", ["", "anna@example.nl"])
def test_series_stay_below_500(tmp_path: Path, streams: int, strange: str) -> None:
    metrics = made(tmp_path, streams, senders=1 + streams // 20, listeners=12)
    metrics.packs([*PACKS, *(Pack(f"x{n}") for n in range(30))])
    exercise(metrics, streams, strange)
    first = set(scrape(metrics))
    assert len(first) < 500
    exercise(metrics, streams, strange)
    assert set(scrape(metrics)) == first
    assert "anna" not in metrics.render()[0].decode()


def test_ten_thousand_strangers_make_no_series(tmp_path: Path) -> None:
    metrics = made(tmp_path, 3)
    before = len(scrape(metrics))
    for n in range(10_000):
        metrics.decided(f"x{n}", f"x{n}", f"x{n}", f"x{n}", f"x{n}", 0.0)
        metrics.message(f"x{n}", f"x{n}")
        metrics.promotion(f"x{n}", [f"x{n}"])
        metrics.optout(f"x{n}", f"x{n}", 0.0)
        metrics.reply(f"x{n}", n)
    assert len(scrape(metrics)) < before + 50
    assert (
        value(
            metrics,
            "decisions_total",
            stream="other",
            verdict="other",
            reason="other",
            mode="other",
        )
        == 10_000
    )


def test_nothing_is_lost_in_other(tmp_path: Path) -> None:
    """However many streams there are, the sum over all series is the number of decisions."""
    metrics = made(tmp_path, 60)
    expected = 0
    for n in range(60):
        for reason in Reason:
            metrics.decided(f"s{n}", "block", reason.value, "enforce", "nl", 0.001)
            expected += 1
    samples = scrape(metrics)
    total = sum(v for (name, _), v in samples.items() if name == "sluis_decisions_total")
    first = sum(
        v
        for (name, labels), v in samples.items()
        if name == "sluis_decisions_total" and ("stream", "s0") in labels
    )
    assert total == expected
    assert first == len(Reason)


def test_what_can_happen_is_at_zero_before_it_does(tmp_path: Path) -> None:
    metrics = made(tmp_path, 3)
    metrics.packs(PACKS)
    news = {"stream": "s0", "mode": "enforce"}
    assert value(metrics, "decisions_total", verdict="allow", reason="consent", **news) == 0
    assert value(metrics, "decisions_total", verdict="block", reason="no-basis", **news) == 0
    assert (
        value(metrics, "decisions_total", verdict="allow", reason="not-marketing", **news) is None
    )
    orders = {"stream": "s2", "mode": "enforce"}
    assert value(metrics, "decisions_total", verdict="allow", reason="not-marketing", **orders) == 0
    assert value(metrics, "decisions_total", verdict="block", reason="no-basis", **orders) is None
    assert (
        value(metrics, "decisions_by_jurisdiction_total", jurisdiction="nl", verdict="block") == 0
    )
    assert value(metrics, "messages_total", stream="s1", outcome="blocked") == 0
    assert value(metrics, "optouts_total", stream="unknown", via="one-click") == 0
    assert value(metrics, "store_errors_total", operation="append") == 0
    assert value(metrics, "smtp_replies_total", command="data", code="451") == 0


def test_events_are_counted_where_they_belong(tmp_path: Path) -> None:
    metrics = made(tmp_path, 3)
    metrics.packs([Pack("nl", "2026.11", "abcdef1234567890")])
    metrics.decided("s0", "block", "suppressed", "enforce", "nl", 0.002)
    metrics.decided("s2", "allow", "not-marketing", "enforce", "", 0.0)
    metrics.message("s0", "blocked")
    metrics.promotion("s2", ["discount", "opt_out"])
    metrics.promotion("s2", ["discount", "voucher"])
    metrics.relayed(0.02)
    metrics.connection_opened("127.0.0.1:2500")
    metrics.connection_opened("127.0.0.1:2500")
    metrics.connection_closed("127.0.0.1:2500")
    metrics.reply("RCPT", 550)
    metrics.optout("s0", "one-click", 0.003)
    metrics.complaint()
    metrics.bounce("soft")
    metrics.bounce("who knows")
    metrics.ambiguous_retry()
    metrics.store_error("claim")
    metrics.commit(3, 0.004)
    metrics.lookup(7, 0.001)
    metrics.bases({"consent": 4, "soft-opt-in": 1})
    metrics.bases({"consent": 3})
    metrics.bases_expiring({"30d": 2})
    metrics.outbox({"held": 1}, 12.5)
    metrics.upstream("relay0.acme.example:25", False)
    metrics.loop_lag(0.5)
    metrics.health(ready=True, degraded=2)
    want = {
        ("decisions_total", ("stream", "s0"), ("verdict", "block"), ("reason", "suppressed")): 1,
        ("decisions_by_jurisdiction_total", ("jurisdiction", "nl"), ("verdict", "block")): 1,
        ("decisions_by_jurisdiction_total", ("jurisdiction", "none"), ("verdict", "allow")): 1,
        ("decision_seconds_count",): 2,
        ("messages_total", ("stream", "s0"), ("outcome", "blocked")): 1,
        ("promotions_total", ("stream", "s2"), ("sign", "any")): 2,
        ("promotions_total", ("stream", "s2"), ("sign", "discount")): 2,
        ("promotions_total", ("stream", "s2"), ("sign", "voucher")): 1,
        ("promotions_total", ("stream", "s2"), ("sign", "urgency")): 0,
        ("relay_seconds_sum",): 0.02,
        ("smtp_connections",): 1,
        ("smtp_sessions_total", ("listener", "127.0.0.1:2500")): 2,
        ("smtp_replies_total", ("command", "rcpt"), ("code", "550")): 1,
        ("optouts_total", ("stream", "s0"), ("via", "one-click")): 1,
        ("optout_effect_seconds_sum",): 0.003,
        ("complaints_total",): 1,
        ("bounces_total", ("severity", "soft")): 1,
        ("bounces_total", ("severity", "hard")): 1,
        ("ambiguous_retries_total",): 1,
        ("store_errors_total", ("operation", "claim")): 1,
        ("commit_rows_sum",): 3,
        ("commit_seconds_count",): 1,
        ("lookup_subjects_sum",): 7,
        ("lookup_seconds_count",): 1,
        ("bases", ("basis", "consent")): 3,
        ("bases", ("basis", "soft-opt-in")): 0,
        ("bases_expiring", ("within", "30d")): 2,
        ("bases_expiring", ("within", "60d")): 0,
        ("outbox_messages", ("state", "held")): 1,
        ("outbox_oldest_seconds",): 12.5,
        ("upstream_up", ("upstream", "relay0.acme.example:25")): 0,
        ("event_loop_lag_seconds",): 0.5,
        ("ready",): 1,
        ("degraded",): 2,
        ("pack_info", ("pack", "nl"), ("version", "2026.11"), ("digest", "abcdef12")): 1,
    }
    samples = scrape(metrics)
    for (name, *labels), number in want.items():
        found = [
            v
            for (sample, pairs), v in samples.items()
            if sample == f"sluis_{name}" and pairs >= set(labels)
        ]
        assert found == [number], (name, labels)


def test_signs_of_promotion_are_those_that_are_looked_for() -> None:
    assert ("any", *SIGNS, DECLARED) == PROMOTION


def test_new_packs_replace_the_old(tmp_path: Path) -> None:
    metrics = made(tmp_path)
    metrics.packs([Pack("nl", "1", "a")])
    metrics.packs([Pack("nl", "2", "b")])
    assert value(metrics, "pack_info", pack="nl", version="1", digest="a") is None
    assert value(metrics, "pack_info", pack="nl", version="2", digest="b") == 1


def test_two_processes_worth_of_metrics_do_not_mix(tmp_path: Path) -> None:
    one, other = made(tmp_path), made(tmp_path)
    one.complaint()
    assert value(one, "complaints_total") == 1
    assert value(other, "complaints_total") == 0


def test_openmetrics_is_given_to_who_asks(tmp_path: Path) -> None:
    metrics = made(tmp_path)
    exercise(metrics, 2)
    body, kind = metrics.render("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    read = openmetrics.text_string_to_metric_families(body.decode())  # type: ignore[no-untyped-call]
    assert {"sluis_decisions", "sluis_decision_seconds"} <= {family.name for family in read}
    assert metrics.render()[1].startswith("text/plain; version=0.0.4")


def test_promtool_finds_nothing_to_say(tmp_path: Path) -> None:
    assert which("promtool"), "promtool is missing: `make setup-test` installs it"
    metrics = made(tmp_path, 12, listeners=3)
    metrics.packs(PACKS)
    exercise(metrics, 12)
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=metrics.render()[0],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
