"""Postfix as a client in front of us (`relayhost`); Postfix and Exim as the upstream behind us."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import smtplib
import socket
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
import trustme
from exim import exim, usable
from front_door import PATIENCE, Auth, Tls, authority_file, front_door, settings_for
from grammar_fuzz import _ENDS, Counters, RelayingGate
from postfix import USABLE, postfix
from pydantic import SecretStr

from proxy.config import Limits, Listener, Upstream
from proxy.delivery.upstream import Pool
from proxy.replies import Reply
from proxy.sink import Sink
from proxy.smtp.server import serve_listener

# Their masters must be started by root; as root a missing one is an error, never a skip.
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may start Postfix and Exim")
needs_postfix = needs_exim = root_only


@pytest.fixture(autouse=True)
def both_are_there() -> None:
    assert USABLE, "Postfix is missing: `make setup-test` installs it"
    assert usable(), "Exim is missing: `make setup-test` unpacks it"


TO = ["anna@example.nl", "bram@example.nl"]
MAIL = b"Subject: Hallo\r\n\r\nA letter.\r\n.a line with a dot\r\n..two\r\n"


@needs_postfix
@pytest.mark.parametrize("tls", ["none", "starttls"])
def test_in_front_of_us(tmp_path: Path, tls: Tls) -> None:
    auth: Auth = "required" if tls == "starttls" else "none"
    more = ""
    with front_door(tmp_path, tls=tls, auth=auth) as door:
        if tls == "starttls":
            more = (
                "smtp_tls_security_level = secure\nsmtp_tls_secure_cert_match = localhost\n"
                f"smtp_tls_CAfile = {authority_file(tmp_path)}\nsmtp_sasl_auth_enable = yes\n"
                "smtp_sasl_password_maps = "
                f"inline:{{{{[localhost]:{door.port} = app:correct horse}}}}\n"
                "smtp_sasl_security_options = noanonymous\n"
            )
        with postfix(door.port, host="localhost", more=more) as relay:
            for to in (TO[:1], TO):
                with smtplib.SMTP("127.0.0.1", relay.port, timeout=PATIENCE) as client:
                    options = ["RET=HDRS", "ENVID=QQ1"]
                    words = ["NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;somebody@example.nl"]
                    assert client.sendmail("app@acme.example", to, MAIL, options, words) == {}
                try:
                    door.wait(lambda: bool(door.gate.submitted))
                except TimeoutError:
                    pytest.fail(relay.log)
                got = door.gate.submitted.pop()
                assert [a.exact for a in got.envelope.recipients] == to
                assert got.envelope.submitter.tls is (tls == "starttls")
                assert got.envelope.submitter.credential == ("app" if tls == "starttls" else "")
                assert got.content.endswith(MAIL.partition(b"\r\n\r\n")[2])
                # What the first client wanted to be told came all the way.
                assert (got.envelope.ret, got.envelope.envid) == ("HDRS", "QQ1")
                assert {n.notify for n in got.envelope.notices.values()} == {"FAILURE,DELAY"}
                assert {n.orcpt for n in got.envelope.notices.values()} == {
                    "rfc822;somebody@example.nl"
                }
                assert len(got.envelope.notices) == len(to)


@needs_postfix
def test_a_refusal_reaches_who_handed_in() -> None:
    """A recipient that we refuse is bounced by Postfix with our words."""
    with front_door() as door:
        door.gate.on_admit = lambda a: (
            Reply(550, "5.7.1", "no-basis") if a.local == "anna" else None
        )
        with postfix(door.port) as relay:
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=PATIENCE) as client:
                assert client.sendmail("app@acme.example", TO, MAIL) == {}
            door.wait(lambda: len(door.gate.submitted) == 2)
            kinds = {s.envelope.mail_from is None: s for s in door.gate.submitted}
            assert [a.exact for a in kinds[False].envelope.recipients] == TO[1:]
            bounce = kinds[True]
            assert [a.exact for a in bounce.envelope.recipients] == ["app@acme.example"]
            assert b"Diagnostic-Code: smtp; 550 5.7.1 no-basis" in bounce.content


@contextlib.contextmanager
def behind(kind: str, relay: int) -> Iterator[int]:
    """The port of a server that relays to `relay`."""
    if kind == "exim":
        with exim(relay) as port:
            yield port
    else:
        with postfix(relay) as running:
            yield running.port


@pytest.mark.parametrize("bare", ["refuse", "normalise"])
@pytest.mark.parametrize(
    "kind", [pytest.param("postfix", marks=needs_postfix), pytest.param("exim", marks=needs_exim)]
)
async def test_behind_us_every_smuggling_variant(
    kind: str, bare: Literal["refuse", "normalise"]
) -> None:
    """Postfix as Debian ships it takes bare LF for a line end; it never sees one of ours."""
    sink = Sink()
    await sink.start()
    server = behind(kind, sink.smtp_port)
    port = await asyncio.to_thread(server.__enter__)
    pool = Pool(
        [Upstream(address=f"127.0.0.1:{port}", tls="none")],
        hostname="gate.example",
        telemetry=Counters(),
    )
    gate = RelayingGate(pool)
    listener = Listener(address="127.0.0.1:0", trusted_networks=("127.0.0.0/8",), bare_newline=bare)
    door = await serve_listener(
        listener,
        settings_for(listener, Limits()),
        gate,
        Counters(),
        clock=lambda: datetime.now(UTC),
    )
    try:
        accepted = 0
        for n, end in enumerate(_ENDS):
            evil = (
                b"MAIL FROM:<a@evil.example>\r\nRCPT TO:<smuggled@evil.example>\r\nDATA\r\n"
                b"Subject: evil\r\n\r\nx\r\n.\r\n"
            )
            head = b"Subject: %d\r\n\r\nbody" % n
            accepted += await asyncio.to_thread(hand_in, door.port, head + end + evil)
        # Whatever ends the data for real leaves the rest as commands, which are seen by the gate.
        async with asyncio.timeout(PATIENCE):
            while len(sink.messages) < accepted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        recipients = {r for mail in sink.messages for r in mail.recipients}
        assert recipients == {b"anna@example.nl"}
        assert not any(b"smuggled" in a for asked in gate.asked.values() for a in asked)
        # The forms with an honest CRLF after the dot-stuffing are harmless; NUL never passes.
        assert accepted == (2 if bare == "refuse" else len(_ENDS) - 2)
    finally:
        await door.drain(1)
        door.close()
        await pool.close()
        await asyncio.to_thread(server.__exit__, None, None, None)
        await sink.close()


class PasswordDaemon:
    """The little of Dovecot's authentication protocol (1.1) that Postfix asks of it: one user."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        path.chmod(0o666)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                plug, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(plug,), daemon=True).start()

    @staticmethod
    def _answer(plug: socket.socket) -> None:
        with plug, plug.makefile("rwb") as stream, contextlib.suppress(OSError):
            stream.write(b"VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nDONE\n")
            stream.flush()
            for line in stream:
                words = line.rstrip(b"\n").split(b"\t")
                if words[0] == b"AUTH":
                    given = dict(word.partition(b"=")[::2] for word in words[3:])
                    right = base64.b64decode(given[b"resp"]) == b"\0app\0correct horse"
                    reply = b"OK\t%s\tuser=app\n" if right else b"FAIL\t%s\n"
                    stream.write(reply % words[1])
                    stream.flush()

    def close(self) -> None:
        """Take no more."""
        self._listener.close()


SECURE_POSTFIX = """\
smtpd_tls_security_level = encrypt
smtpd_tls_cert_file = {folder}/cert.pem
smtpd_tls_key_file = {folder}/key.pem
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {folder}/auth
smtpd_sender_restrictions = permit_sasl_authenticated, reject
"""


@contextlib.contextmanager
def secure_behind(kind: str, relay: int, folder: Path) -> Iterator[int]:
    """The port of a server that takes mail only over STARTTLS and after AUTH."""
    if kind == "exim":
        with exim(relay, folder) as port:
            yield port
        return
    with tempfile.TemporaryDirectory(prefix="sluis-auth-") as name:
        place = Path(name)  # not pytest's, which Postfix's own user may not enter
        place.chmod(0o755)
        for file in ("cert.pem", "key.pem"):
            shutil.copy(folder / file, place / file)
        daemon = PasswordDaemon(place / "auth")
        with postfix(relay, more=SECURE_POSTFIX.format(folder=place)) as running:
            yield running.port
        daemon.close()


@pytest.mark.parametrize("password", ["correct horse", "wrong"])
@pytest.mark.parametrize(
    "kind", [pytest.param("postfix", marks=needs_postfix), pytest.param("exim", marks=needs_exim)]
)
async def test_behind_us_over_starttls_and_auth(tmp_path: Path, kind: str, password: str) -> None:
    """Mail to one and to two goes through; with a wrong password none is lost or bounced."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "cert.pem").write_bytes(b"".join(p.bytes() for p in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    sink = Sink()
    await sink.start()
    server = secure_behind(kind, sink.smtp_port, tmp_path)
    port = await asyncio.to_thread(server.__enter__)
    upstream = Upstream(
        address=f"127.0.0.1:{port}",
        tls="starttls",
        ca_file=tmp_path / "ca.pem",
        username="app",
        password=SecretStr(password),
    )
    pool = Pool([upstream], hostname="gate.example", telemetry=Counters())
    listener = Listener(address="127.0.0.1:0", trusted_networks=("127.0.0.0/8",))
    door = await serve_listener(
        listener,
        settings_for(listener, Limits()),
        RelayingGate(pool),
        Counters(),
        clock=lambda: datetime.now(UTC),
    )

    def send(to: list[str]) -> int:
        with smtplib.SMTP("127.0.0.1", door.port, timeout=PATIENCE) as client:
            client.ehlo("client.example")
            client.docmd("MAIL FROM:<app@acme.example>")
            for address in to:
                client.docmd(f"RCPT TO:<{address}>")
            return client.data(MAIL)[0]

    try:
        for to in (TO[:1], TO):
            code = await asyncio.to_thread(send, to)
            if password == "wrong":
                assert 400 <= code < 500
                continue
            assert code == 250
            async with asyncio.timeout(PATIENCE):
                while not {a.encode() for a in to} <= {  # noqa: ASYNC110
                    r for mail in sink.messages for r in mail.recipients
                }:
                    await asyncio.sleep(0.01)
            assert sink.messages[-1].content.endswith(MAIL.partition(b"\r\n\r\n")[2])
            sink.clear()
        assert password != "wrong" or sink.messages == []
    finally:
        await door.drain(1)
        door.close()
        await pool.close()
        await asyncio.to_thread(server.__exit__, None, None, None)
        await sink.close()


def hand_in(port: int, octets: bytes) -> int:
    """One transaction with these octets as its data; 1 when the first answer to them is 250."""
    client = smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE)
    client.helo("client.example")
    client.docmd("MAIL FROM:<app@acme.example>")
    client.docmd("RCPT TO:<anna@example.nl>")
    assert client.docmd("DATA")[0] == 354
    client.send(octets)
    code = client.getreply()[0]
    client.close()
    return int(code == 250)
