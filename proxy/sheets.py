"""CSV files for people: written row by row, whole or not at all, and harmless in a spreadsheet."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from policy.address import Address

#: A cell that begins with one of these is a formula to some spreadsheet: full-width forms too.
_FORMULA = re.compile(r"\s*[=+\-@\u2212\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)*")


def harmless(cell: str) -> str:
    """The cell, with an apostrophe before what a spreadsheet would calculate (OWASP).

    A number stays one, its sign too.
    """
    if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def harmless_address(cell: str, address: Address | None) -> str:
    """The same for an address, which must stay the same address: its local part is quoted."""
    if address is None or not _FORMULA.match(cell):
        return harmless(cell)
    if address.exact.startswith('"'):
        return address.exact
    return f'"{address.local}"@{address.domain}'


class Sheet:
    """One CSV file in the making (RFC 4180, UTF-8), readable for its owner only.

    It stands under its name once `finish` was called; before, and after `abandon`, it does not.
    """

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        mode = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        self._file: TextIO = os.fdopen(
            os.open(self._part, mode, 0o600),
            "w",
            encoding="utf-8",
            errors="surrogateescape",
            newline="",
            buffering=1 << 16,
        )
        self._writer = csv.writer(self._file)
        self.write([harmless(name) for name in header])

    def write(self, cells: Sequence[str]) -> None:
        """One row, as it is given."""
        self._writer.writerow(cells)

    def finish(self) -> None:
        """Put the whole file in its place."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self._path)

    def abandon(self) -> None:
        """Leave nothing behind; nothing happens after `finish`."""
        if not self._file.closed:
            self._file.close()
            self._part.unlink(missing_ok=True)
