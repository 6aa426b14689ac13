"""When the authorities end that an upstream's certificate may come from (`ca_file`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path


def ends_of(ca_file: Path) -> tuple[float, ...]:
    """The ends of all certificates in a PEM file (Unix times); none where it cannot be read."""
    from cryptography import x509  # memory that only TLS needs

    try:
        found = x509.load_pem_x509_certificates(ca_file.read_bytes())
    except (OSError, ValueError):
        return ()
    return tuple(one.not_valid_after_utc.timestamp() for one in found)


def next_end(ends: Sequence[float], now: float) -> float:
    """The first end that is still to come; the last one where all are over; NaN where none is.

    Which of several an upstream's certificate comes from is not known, so each is to be replaced
    in time. One that is over while others go on is left out: mail shows that it is not needed.
    """
    return min((end for end in ends if end > now), default=max(ends, default=math.nan))
