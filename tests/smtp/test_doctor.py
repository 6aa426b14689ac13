"""`sluis doctor` against real listeners and upstreams: open to strangers, or in order?"""

from __future__ import annotations

import asyncio
import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from front_door import Door, RecordingGate, front_door, settings_for

from proxy.cli import doctor as command
from proxy.cli import examination as doctor
from proxy.cli.examination import Finding, Verdict
from proxy.config import Limits, Listener, Settings, Upstream
from proxy.replies import Reply
from proxy.sink import Sink

LOCAL = ("127.0.0.0/8",)


def asked(port: int, *upstreams: Upstream, **listener: Any) -> Settings:
    """What the configuration says of the listener on `port`."""
    entry = Listener(address=f"127.0.0.1:{port}", **listener)
    settings = settings_for(entry, Limits())
    return settings.model_copy(update={"upstreams": upstreams})


async def findings(settings: Settings) -> list[Finding]:
    return [finding async for finding in doctor.examine(settings)]


def look(settings: Settings) -> dict[str, Finding]:
    """The last finding of each subject, without the address."""
    return {f.subject.rpartition(" ")[0]: f for f in asyncio.run(findings(settings))}


def test_a_closed_listener_refuses_strangers_in_every_way() -> None:
    with front_door(trusted=False) as door:
        found = look(asked(door.port))
        assert found["listener"].verdict is Verdict.OK
        assert found["relay through"].verdict is Verdict.OK
        tried = [m.mail_from.exact if m.mail_from else "" for m in door.gate.mails]
        assert len(tried) > 6
        assert "" in tried
        assert door.gate.admitted == []


def test_a_listener_that_trusts_more_than_it_should_is_an_open_relay() -> None:
    with front_door() as door:  # trusts the whole of loopback, and the configuration does not
        found = look(asked(door.port))["relay through"]
        assert found.verdict is Verdict.FAILED
        assert found.words.startswith("OPEN RELAY: from ")
        assert door.gate.submitted == []


def other_address() -> str:
    return next((a for a in doctor.own_addresses() if ":" not in a and a[:4] != "127."), "")


@pytest.mark.skipif(not other_address(), reason="this machine has no address but loopback")
def test_a_listener_on_loopback_is_tried_from_another_address_of_the_machine() -> None:
    with front_door() as door:
        found = look(asked(door.port, trusted_networks=LOCAL))["relay through"]
        assert found.verdict is Verdict.OK
        assert "refused to strangers (" in found.words
        assert {m.submitter.network for m in door.gate.mails} == {""}
        assert other_address() in found.words


def test_what_cannot_be_tried_is_not_taken_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "own_addresses", lambda: ["127.0.0.1", "::1"])
    with front_door() as door:
        found = look(asked(door.port, trusted_networks=LOCAL))["relay through"]
        assert found.verdict is Verdict.UNTRIED
        assert door.gate.mails == []


def test_a_relay_that_puts_everybody_off_was_not_tried() -> None:
    gate = RecordingGate(on_mail=lambda _: Reply(452, "4.3.1", "the outbox is full, try again"))
    with front_door(gate=gate, trusted=False) as door:
        found = look(asked(door.port))["relay through"]
        assert found.verdict is Verdict.UNTRIED
        assert "every MAIL was refused for now" in found.words


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_tls_shows_its_certificate(tmp_path: Path, tls: Any) -> None:
    with front_door(tmp_path, tls=tls, trusted=False) as door:
        found = look(asked(door.port, tls=tls))
        assert found["listener"].verdict is Verdict.OK
        assert found["listener"].words.startswith("certificate valid until ")
        assert found["relay through"].verdict is Verdict.OK


@pytest.mark.parametrize(
    ("days", "verdict"), [(100, Verdict.OK), (3, Verdict.WARNING), (-1, Verdict.FAILED)]
)
def test_a_certificate_that_ends_soon_is_told(days: int, verdict: Verdict) -> None:
    until = datetime.now(UTC) + timedelta(days=days)
    issued = trustme.CA().issue_cert("mail.example", not_after=until)
    pem = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
    assert doctor._certificate("x", pem.public_bytes(Encoding.DER)).verdict is verdict


def test_starttls_that_is_configured_and_not_offered_fails() -> None:
    with front_door(trusted=False) as door:
        found = asyncio.run(findings(asked(door.port, tls="starttls")))
        assert found[0].verdict is Verdict.FAILED
        assert "STARTTLS" in found[0].words


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = look(asked(port, Upstream(address=f"127.0.0.1:{port}", tls="none")))
    assert found["listener"].verdict is Verdict.FAILED
    assert found["relay through"].verdict is Verdict.UNTRIED
    assert found["upstream"].verdict is Verdict.FAILED


async def test_an_upstream_and_what_it_lacks() -> None:
    sink = Sink(extensions=("SIZE 1000", "8BITMIME"))
    await sink.start()
    upstream = Upstream(address=f"127.0.0.1:{sink.smtp_port}", tls="none")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = [f for f in await findings(asked(port, upstream)) if f.subject.startswith("upstream")]
    await sink.close()
    assert [f.verdict for f in found] == [Verdict.OK] + [Verdict.WARNING] * 4
    said = " ".join(f.words for f in found)
    assert all(word in said for word in ("SMTPUTF8", "DSN", "PIPELINING", "takes 1000 octets"))


def test_a_broken_authority_file_fails_its_upstream_only(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("half a renewal")
    with front_door(trusted=False) as door:
        broken = Upstream(address="127.0.0.1:9", ca_file=tmp_path / "ca.pem")
        found = look(asked(door.port, broken))
    assert found["listener"].verdict is Verdict.OK
    assert found["upstream"].verdict is Verdict.FAILED
    assert "ca_file" in found["upstream"].words


def run(door: Door, monkeypatch: pytest.MonkeyPatch, *, json: bool) -> int:
    monkeypatch.setattr("proxy.config.load", lambda _, **__: asked(door.port))
    return command.run(None, json=json)


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with front_door(trusted=False) as door:
        assert run(door, monkeypatch, json=False) == 0
        said = capsys.readouterr()
        assert f"ok       relay through 127.0.0.1:{door.port}: refused to strangers" in said.out
        assert "2 ok" in said.err
    with front_door() as door:
        assert run(door, monkeypatch, json=True) == 1
        rows = json.loads(capsys.readouterr().out.partition("\n{")[0])
        assert [row["verdict"] for row in rows] == ["ok", "failed"]
