"""Where a message is while it comes in: in memory while small, then in a file without a name.

So what a connection holds is the same for a slow upload of a hundred megabytes as for a letter. All
that the process holds of messages counts against one budget.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO

SPOOL_AT = 256 * 1024  # octets of one message kept in memory while it comes in


class Memory:
    """Octets of messages that the process may hold in memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.taken = 0

    def take(self, octets: int) -> bool:
        """Whether there is room for so many more; then they count until given back."""
        if self.taken + octets > self._limit:
            return False
        self.taken += octets
        return True

    def give(self, octets: int) -> None:
        """They are not held any more."""
        self.taken -= octets


class Spool:
    """Octets to be read back once. The file lies in `directory` and goes with the process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._octets = bytearray()
        self._file: IO[bytes] | None = None

    def write(self, octets: bytes) -> None:
        """Append. Raises `OSError` when the disk has no room."""
        if self._file is None:
            self._octets += octets
            if len(self._octets) <= SPOOL_AT:
                return
            # Closed by `close`, or with the process.
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115
            octets, self._octets = bytes(self._octets), bytearray()
        view = memoryview(octets)
        while view:
            view = view[self._file.write(view) :]

    def take(self) -> bytes:
        """All of it, once. Raises `OSError`."""
        if self._file is None:
            whole = bytes(self._octets)
        else:
            self._file.seek(0)
            whole = self._file.read()
        self.close()
        return whole

    def close(self) -> None:
        """Keep nothing."""
        self._octets = bytearray()
        if self._file is not None:
            self._file.close()
            self._file = None
