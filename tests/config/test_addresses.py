"""What `check` says of two addresses is what the system says of them."""

from __future__ import annotations

import asyncio
import errno
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.app import _bind
from proxy.config import Settings
from proxy.config.checks import _clash
from proxy.errors import ConfigError

HOSTS = ("127.0.0.1", "0.0.0.0", "[::1]", "[::]")


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


def _http(address: str) -> socket.socket:
    """Listen as HTTP does."""
    settings = SimpleNamespace(http=SimpleNamespace(public=address), source="test")
    bound = _bind(cast(Settings, settings), "http.public")
    bound.listen()
    return bound


async def _smtp(address: str) -> asyncio.Server:
    """Listen as a listener does."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    return await loop.create_server(asyncio.Protocol, host.strip("[]"), int(port))


async def _together(first: str, second: str, *, smtp: bool) -> bool:
    """Whether both can be listened on, the second as SMTP or as HTTP."""
    bound = _http(first)
    port = bound.getsockname()[1]
    opened: Any = None
    try:
        at = f"{second.rpartition(':')[0]}:{port}"
        opened = await _smtp(at) if smtp else _http(at)
    except (OSError, ConfigError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        assert isinstance(cause, OSError)
        assert cause.errno == errno.EADDRINUSE
        return False
    finally:
        bound.close()
        if opened is not None:
            opened.close()
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize("smtp", [True, False], ids=["smtp", "http"])
@pytest.mark.parametrize("two", HOSTS)
@pytest.mark.parametrize("one", HOSTS)
async def test_check_knows_which_addresses_go_together(one: str, two: str, smtp: bool) -> None:
    first, second = f"{one}:8080", f"{two}:8080"
    http = (first,) if smtp else (first, second)
    clash = _clash(first, second, "http.public", http=http)
    assert await _together(f"{one}:0", second, smtp=smtp) is (not clash), clash
