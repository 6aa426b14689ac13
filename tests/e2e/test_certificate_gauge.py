"""The end of a listener's certificate is on `/metrics`, and follows a renewal."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from running_sluis import World

from proxy.smtp import certificates

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

FAMILY = re.compile(r'^sluis_certificate_expires_timestamp_seconds\{listener="(.+)"\} (\S+)$', re.M)


def issue(tmp_path: Path, days: int) -> float:
    """A certificate that ends so many days from now; the Unix time of that."""
    until = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    issued = trustme.CA().issue_cert("localhost", not_after=until)
    (tmp_path / "cert.pem").write_bytes(b"".join(p.bytes() for p in issued.cert_chain_pems))
    (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
    return until.timestamp()


async def gauge(world: World) -> list[tuple[str, float]]:
    url = f"http://127.0.0.1:{world.sluis.admin_port}/metrics"
    read = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=30).read().decode())
    return [(name, float(value)) for name, value in FAMILY.findall(read)]


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
    assert await gauge(await world()) == []
