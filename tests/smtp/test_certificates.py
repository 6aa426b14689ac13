"""Certificates read anew: whole or not at all, and the old ones kept on an error."""

from __future__ import annotations

import asyncio
import math
import os
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from front_door import Door, front_door

from proxy.smtp import certificates

OTHER = trustme.CA()
SOON = datetime.now(UTC) + timedelta(days=9)
NEW = OTHER.issue_cert("localhost", "127.0.0.1", not_after=SOON)
NEW_PEM = ssl.PEM_cert_to_DER_cert(NEW.cert_chain_pems[0].bytes().decode())


def end_of(der: bytes) -> float:
    """The Unix time at which a certificate ends, as openssl reads it."""
    command = ["openssl", "x509", "-inform", "DER", "-noout", "-enddate"]
    said = subprocess.run(command, input=der, capture_output=True, check=True).stdout.decode()
    return float(ssl.cert_time_to_seconds(said.strip().removeprefix("notAfter=")))


def write(tmp_path: Path, *, certificate: bool = True, key: bool = True) -> None:
    if certificate:
        (tmp_path / "cert.pem").write_bytes(b"".join(p.bytes() for p in NEW.cert_chain_pems))
    if key:
        (tmp_path / "key.pem").write_bytes(NEW.private_key_pem.bytes())


def shown(door: Door) -> bytes:
    """The certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with door.connect() as client:
        assert client.say("STARTTLS").startswith("220 ")
        client.start_tls(context)
        client.hello()
        assert isinstance(client.plug, ssl.SSLSocket)
        return client.plug.getpeercert(binary_form=True) or b""


def test_new_handshakes_see_the_new_certificate_and_old_connections_go_on(tmp_path: Path) -> None:
    with front_door(tmp_path, tls="starttls") as door, door.connect() as client:
        client.say("STARTTLS")
        client.start_tls(door.client_tls)
        before = shown(door)
        write(tmp_path)
        assert door.listener.certificate.changed
        assert door.call(lambda: certificates.renew([door.listener]))
        assert not door.listener.certificate.changed
        assert shown(door) != before
        assert door.listener.certificate.ends == end_of(shown(door))
        client.open("anna@example.nl")


@pytest.mark.parametrize("broken", ["half", "garbage", "missing", "not allowed"])
def test_the_old_one_stays_when_the_new_one_cannot_be_used(tmp_path: Path, broken: str) -> None:
    with front_door(tmp_path, tls="starttls") as door:
        before = shown(door)
        if broken == "half":
            write(tmp_path, key=False)
        elif broken == "garbage":
            (tmp_path / "cert.pem").write_text("garbage")
        elif broken == "missing":
            (tmp_path / "key.pem").unlink()
        else:
            (tmp_path / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
        assert not door.call(lambda: certificates.renew([door.listener]))
        assert shown(door) == before
        assert door.listener.certificate.ends == end_of(before) != end_of(NEW_PEM)
        assert door.listener.certificate.changed  # so that it is tried again
        write(tmp_path)
        assert door.call(lambda: certificates.renew([door.listener]))
        assert shown(door) != before


def test_all_listeners_or_none(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with (
        front_door(tmp_path / "one", tls="starttls") as one,
        front_door(tmp_path / "two", tls="starttls") as two,
    ):
        before = shown(one), shown(two)
        write(tmp_path / "one")
        (tmp_path / "two" / "cert.pem").write_text("garbage")
        assert not certificates.renew([one.listener, two.listener])
        assert (shown(one), shown(two)) == before


def test_a_listener_without_tls_has_nothing_to_renew() -> None:
    with front_door() as door:
        assert not door.listener.certificate.changed
        assert math.isnan(door.listener.certificate.ends)
        assert certificates.renew([door.listener])


def test_a_changed_file_is_noticed_by_itself(tmp_path: Path) -> None:
    with front_door(tmp_path, tls="starttls") as door:
        before = door.listener.certificate.context

        async def start() -> asyncio.Task[None]:
            return asyncio.create_task(certificates.watch([door.listener], period=0.01))

        task = door.run(start())
        write(tmp_path, key=False)
        os.utime(tmp_path / "key.pem")
        write(tmp_path)
        door.wait(lambda: door.listener.certificate.context is not before)
        door.wait(lambda: not door.listener.certificate.changed)
        door.call(task.cancel)
