"""Sluis-Ref: by which a copy is found again in replies and journal."""

from __future__ import annotations

from proxy.message.fold import fold


def field(ref: str, number: int) -> bytes:
    """The reference of the transaction and the number of the copy (1-based)."""
    return fold("Sluis-Ref", [f"{ref}.{number}"])
