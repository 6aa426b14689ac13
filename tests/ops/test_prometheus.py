"""Dashboard and alerts against a real Prometheus that scrapes a real `sluis serve` with mail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import smtplib
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trustme
import yaml

from proxy.sink import Sink

ROOT = Path(__file__).resolve().parents[2]
SLUIS = Path(sys.executable).with_name("sluis")
BOARD: dict[str, Any] = json.loads((ROOT / "config/grafana/sluis.json").read_text())
RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "config/prometheus/alerts.yml").read_text())[
    "groups"
][0]["rules"]
EXPRESSIONS = [
    (panel["title"], target["expr"])
    for panel in BOARD["panels"]
    for target in panel.get("targets", ())
]

CONFIG = """\
[server]
hostname = "gate.acme.example"
data_dir = "{data}"
development = true
[[listeners]]
address = "127.0.0.1:0"
trusted_networks = ["127.0.0.0/8"]
[[listeners]]
address = "localhost:0"
trusted_networks = ["127.0.0.0/8"]
tls = "starttls"
certificate = "cert.pem"
key = "key.pem"
[[upstreams]]
address = "127.0.0.1:{upstream}"
ca_file = "ca.pem"
[http]
public = "127.0.0.1:0"
public_url = "http://mail.acme.example"
admin = "127.0.0.1:0"
[[senders]]
id = "acme"
name = "Acme Schoenen B.V."
country = "NL"
postal_address = "Keizersgracht 1, 1015 AA Amsterdam"
contact = "privacy@acme.example"
candidate_countries = ["NL"]
[[streams]]
id = "newsletter"
sender = "acme"
category = "marketing"
topics = ["newsletter"]
from_domains = ["news.acme.example"]
[[streams]]
id = "watched"
sender = "acme"
category = "marketing"
mode = "observe"
topics = ["newsletter"]
from_domains = ["watched.acme.example"]
[[streams]]
id = "orders"
sender = "acme"
category = "transactional"
from_domains = ["orders.acme.example"]
"""

CONSENTS = """\
sender,address,type,at,evidence,country,kind,box,topics
acme,anna@example.nl,opt-in,2026-03-01T12:00:00Z,form:signup-v3,NL,consumer,unticked,newsletter
"""

PROMETHEUS = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: sluis
    static_configs: [{{targets: ["127.0.0.1:{admin}"]}}]
"""

T = TypeVar("T")

FOOTER = """
Acme Schoenen B.V., Keizersgracht 1, 1015 AA Amsterdam
Unsubscribe: mailto:privacy@acme.example?subject=unsubscribe
"""


def until(look: Callable[[], T | None], seconds: float = 30) -> T:
    """The first truthy answer of `look`; fails when none comes in time."""
    deadline = time.monotonic() + seconds
    while True:
        answer = None
        with contextlib.suppress(OSError):
            answer = look()
        if answer:
            return answer
        assert time.monotonic() < deadline, "nothing within the deadline"
        time.sleep(0.1)


def get(url: str, data: bytes | None = None) -> bytes:
    with urllib.request.urlopen(url, data, timeout=10) as answer:
        body: bytes = answer.read()
    return body


@contextlib.contextmanager
def upstream(tls: ssl.SSLContext) -> Iterator[Sink]:
    """A sink that takes every mail, on a loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    sink = Sink(tls=tls)
    try:
        asyncio.run_coroutine_threadsafe(sink.start("127.0.0.1", 0), loop).result(10)
        yield sink
        asyncio.run_coroutine_threadsafe(sink.close(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass(frozen=True)
class Scene:
    """Sluis under traffic, and the Prometheus that watches it."""

    prometheus: str
    admin: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result vector; fails where Prometheus does not accept the expression."""
        for variable, value in (
            ("$__rate_interval", "1m"),
            ("$__range", "5m"),
            ("$instance", ".*"),
            ("$stream", ".*"),
        ):
            expression = expression.replace(variable, value)
        answer = json.loads(
            get(f"{self.prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        )
        assert answer["status"] == "success"
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result


def send(port: int, stream: str, recipient: str) -> int:
    """Hand in one mail as an application does; the code of the reply that ended it."""
    mail = EmailMessage()
    mail["From"] = f"hello@{stream}.acme.example"
    mail["To"] = recipient
    mail["Subject"] = "News"
    mail.set_content(FOOTER)
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        try:
            client.send_message(mail)
        except smtplib.SMTPRecipientsRefused as refused:
            return next(iter(refused.recipients.values()))[0]
        except smtplib.SMTPResponseException as refused:
            return refused.smtp_code
    return 250


def traffic(smtp: int, public: int, sink: Sink) -> None:
    """Each kind of outcome that a panel shows."""
    assert send(smtp, "news", "anna@example.nl") == 250
    found = re.search(rb"<http://mail\.acme\.example(/u/[^>]+)>", sink.messages[-1].content)
    assert found
    get(f"http://127.0.0.1:{public}{found[1].decode()}", b"List-Unsubscribe=One-Click")
    assert send(smtp, "news", "anna@example.nl") == 550
    assert send(smtp, "news", "bram@example.nl") == 550
    assert send(smtp, "watched", "cees@example.nl") == 250
    assert send(smtp, "orders", "dora@example.nl") == 250


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    top = tmp_path_factory.mktemp("watched")
    with contextlib.ExitStack() as stack:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(top / "ca.pem"))
        issued = authority.issue_cert("localhost", "127.0.0.1")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(context)
        sink = stack.enter_context(upstream(context))
        (top / "cert.pem").write_bytes(b"".join(p.bytes() for p in issued.cert_chain_pems))
        (top / "key.pem").write_bytes(issued.private_key_pem.bytes())
        config = top / "sluis.toml"
        config.write_text(CONFIG.format(data=top / "data", upstream=sink.smtp_port))
        log = top / "sluis.log"
        sluis = stack.enter_context(
            subprocess.Popen([SLUIS, "serve", "--config", config], stderr=log.open("wb"))
        )
        stack.callback(sluis.terminate)

        def started() -> dict[str, Any] | None:
            assert sluis.poll() is None, log.read_text()
            lines = [line for line in log.read_text().splitlines() if '"server.started"' in line]
            return json.loads(lines[0]) if lines else None

        ports = until(started)
        smtp = int(ports["listeners"][0].rpartition(":")[2])
        consents = top / "consents.csv"
        consents.write_text(CONSENTS)
        subprocess.run([SLUIS, "import", consents, "--config", config], check=True)

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        settings = top / "prometheus.yml"
        rules = ROOT / "config/prometheus/alerts.yml"
        settings.write_text(PROMETHEUS.format(rules=rules, admin=ports["admin"]))
        prometheus = stack.enter_context(
            subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={settings}",
                    f"--storage.tsdb.path={top / 'tsdb'}",
                    f"--web.listen-address={address}",
                    "--log.level=error",
                ]
            )
        )
        stack.callback(prometheus.terminate)
        watched = Scene(f"http://{address}", f"http://127.0.0.1:{ports['admin']}")
        until(lambda: watched.query("sluis_build_info"))
        traffic(smtp, ports["public"], sink)
        # Rates need the sample before the traffic and one after it.
        until(lambda: watched.query("sum(increase(sluis_smtp_replies_total[1m])) > 0"))
        until(lambda: watched.query("sum(increase(sluis_optouts_total[1m])) > 0"))
        yield watched


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS, ids=[x for x, _ in EXPRESSIONS])
def test_every_panel_shows_data(scene: Scene, title: str, expression: str) -> None:
    result = scene.query(expression)
    assert result, title
    assert all(sample["value"][1] != "NaN" for sample in result), title


def test_panels_show_what_happened(scene: Scene) -> None:
    def number(title: str) -> float:
        expression = next(expr for name, expr in EXPRESSIONS if name == title)
        return sum(float(sample["value"][1]) for sample in scene.query(expression))

    assert number("Relayed") > 0
    assert number("Blocked") > 0
    assert number("Opt-outs") > 0
    assert number("Upstreams down") == 0
    assert number("Put off (451)") == 0
    assert number("Complaint rate") == 0
    observed = {
        sample["metric"]["stream"]
        for sample in scene.query(
            'increase(sluis_decisions_total{verdict="block", mode="observe"}[1m]) > 0'
        )
    }
    assert observed == {"watched"}
    reasons = {
        sample["metric"]["reason"]
        for sample in scene.query(
            'increase(sluis_decisions_total{verdict="block", mode="enforce"}[1m]) > 0'
        )
    }
    assert reasons == {"suppressed", "no-basis"}


SELECTOR = re.compile(r"\b(sluis_\w+|up)\b(\{[^}]*\})?")


@pytest.mark.parametrize("rule", RULES, ids=[rule.get("alert") or rule["record"] for rule in RULES])
def test_every_selector_of_an_alert_selects_something(scene: Scene, rule: dict[str, Any]) -> None:
    """A metric or label value that does not exist is an alert that can never fire."""
    expression = re.sub(r"stream:\w+:\w+", "", rule["expr"])
    selectors = [match[0] for match in SELECTOR.finditer(expression)]
    assert selectors or "stream:" in rule["expr"]
    for selector in selectors:
        assert scene.query(selector), selector


def test_rules_run_without_error_and_nothing_fires(scene: Scene) -> None:
    def evaluated() -> list[dict[str, Any]]:
        groups = json.loads(get(f"{scene.prometheus}/api/v1/rules"))["data"]["groups"]
        rules: list[dict[str, Any]] = groups[0]["rules"]
        return rules if all(rule["health"] != "unknown" for rule in rules) else []

    rules = until(evaluated)
    assert len(rules) == len(RULES)
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []


def test_only_exposed_metrics_are_named(scene: Scene) -> None:
    exposed = {
        re.sub(r"_created$", "", line.partition("{")[0].partition(" ")[0])
        for line in get(f"{scene.admin}/metrics").decode().splitlines()
        if line and not line.startswith("#")
    }
    text = "\n".join([*(expr for _, expr in EXPRESSIONS), *(rule["expr"] for rule in RULES)])
    named = set(re.findall(r"\b(?:sluis|process)_\w+", re.sub(r"stream:\w+:\w+", "", text)))
    assert named - exposed == set()


def test_metrics_follow_the_naming_rules(scene: Scene) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=get(f"{scene.admin}/metrics"),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
