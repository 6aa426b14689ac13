"""New certificates without a restart: on SIGHUP, or because their files have changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from proxy import log
from proxy.errors import ConfigError
from proxy.smtp.server import RunningListener

#: Seconds between two looks at the files.
PERIOD = 60.0


def renew(listeners: Sequence[RunningListener]) -> bool:
    """Put the certificates as they are on disk to use, all or none; False, and logged, for none.

    Only handshakes to come see the new ones.
    """
    uses: list[Callable[[], None]] = []
    try:
        for listener in listeners:
            uses.append(listener.certificate.read())
    except ConfigError as error:
        log.certificate_failed(error=str(error))
        return False
    for use in uses:
        use()
    log.certificate_renewed(listeners=[f"{x.host}:{x.port}" for x in listeners])
    return True


async def watch(listeners: Sequence[RunningListener], *, period: float = PERIOD) -> None:
    """Renew when a file has changed: whoever renews a certificate need not tell us.

    A certificate and a key that do not fit (one is written, the other not yet) are tried again.
    """
    while True:
        await asyncio.sleep(period)
        if any(listener.certificate.changed for listener in listeners):
            renew(listeners)
