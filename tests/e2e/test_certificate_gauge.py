"""The ends of certificates are on `/metrics`: of a listener's, which follows a renewal, and of an
upstream's authorities."""

from __future__ import annotations

import asyncio
import math
import re
import urllib.request
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from running_sluis import World

from proxy.delivery.authority import ends_of, next_end
from proxy.smtp import certificates

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

FAMILY = re.compile(r'^sluis_(\w+)_expires_timestamp_seconds\{\w+="(.+)"\} (\S+)$', re.M)


def issue(tmp_path: Path, days: int) -> float:
    """A certificate that ends so many days from now; the Unix time of that."""
    until = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    issued = trustme.CA().issue_cert("localhost", not_after=until)
    (tmp_path / "cert.pem").write_bytes(b"".join(p.bytes() for p in issued.cert_chain_pems))
    (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
    return until.timestamp()


def authority(tmp_path: Path, days: int) -> float:
    """Another certificate of an authority in `ca.pem`, and its end as above."""
    until = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"Acme {days}")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(days)
        .not_valid_before(until - timedelta(days=1000))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    with (tmp_path / "ca.pem").open("ab") as file:
        file.write(made.public_bytes(serialization.Encoding.PEM))
    return until.timestamp()


async def gauge(world: World, kind: str = "certificate") -> list[tuple[str, float]]:
    url = f"http://127.0.0.1:{world.sluis.admin_port}/metrics"
    read = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=30).read().decode())
    return [(name, float(value)) for what, name, value in FAMILY.findall(read) if what == kind]


async def test_the_end_is_told_and_follows_a_renewal(world: Make, tmp_path: Path) -> None:
    first = issue(tmp_path, 10)
    tls = 'address = "127.0.0.1:0"\ntls = "starttls"\ncertificate = "cert.pem"\nkey = "key.pem"\n'
    plain = 'address = "127.0.0.1:0"\ntrusted'
    w = await world(edit=lambda t: t.replace(plain, f"{tls}trusted", 1))
    assert await gauge(w) == [("127.0.0.1:0", first)]
    second = issue(tmp_path, 90)
    assert await gauge(w) == [("127.0.0.1:0", first)], "what is in use, not what is on disk"
    assert certificates.renew(w.sluis.listeners)
    assert await gauge(w) == [("127.0.0.1:0", second)]


async def test_without_tls_there_is_none(world: Make) -> None:
    w = await world()
    assert await gauge(w) == await gauge(w, "authority") == []


async def test_the_next_end_of_an_authority_is_told(world: Make, tmp_path: Path) -> None:
    """Of a new one beside an old one: first the old one's, and once that is over the new one's."""
    ends = [authority(tmp_path, days) for days in (400, 20)]
    now = datetime.now(UTC)
    later = timedelta()
    w = await world(
        edit=lambda t: t.replace('tls = "none"', 'tls = "starttls"\nca_file = "ca.pem"', 1),
        clock=lambda: datetime.now(UTC) + later,
    )
    assert ends[0] > ends[1] > now.timestamp()
    name = w.settings.upstreams[0].name
    assert await gauge(w, "authority") == [(name, ends[1])]
    later = timedelta(days=21)
    assert await gauge(w, "authority") == [(name, ends[0])]
    later = timedelta(days=500)
    assert await gauge(w, "authority") == [(name, ends[0])], "ended: the alert's time is negative"


async def test_where_nothing_is_verified_no_authority_counts(world: Make, tmp_path: Path) -> None:
    authority(tmp_path, 20)
    told = 'tls = "starttls"\nverify = false\nca_file = "ca.pem"'
    w = await world(edit=lambda t: t.replace('tls = "none"', told, 1))
    assert await gauge(w, "authority") == []


def test_a_file_that_holds_none_tells_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    assert ends_of(tmp_path / "ca.pem") == ends_of(tmp_path / "missing.pem") == ()
    assert math.isnan(next_end((), 0.0))
