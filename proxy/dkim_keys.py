"""The keys of the `[dkim]` table while Sluis runs: which of them signs a mail, read from its file,
and the records of others' keys, where signatures on incoming mail are verified.

A file that changes is read again, so that a key can be replaced under a running relay. A key that
is missing or unreadable is our own trouble: `KeysError`, and the mail waits. It never leaves
unsigned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from proxy.config import DkimKey, Settings
from proxy.config.signing import (
    ALGORITHMS,
    PrivateKey,
    organisational,
    owners,
    read_private_key,
)
from proxy.errors import KeysError
from proxy.message import dkim_record
from proxy.message.sign import Key

_ALWAYS = datetime.min.replace(tzinfo=UTC)

# Domain and selector are the client's words: nothing that leaves the folder.
_RECORD_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_MAX_RECORD = 65_536


class Records:
    """Published keys of others, kept as files: one a record, `selector._domainkey.domain`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, selector: str, domain: str) -> str | None:
        """The text of the record as it is in its file now; None where there is none to read."""
        name = dkim_record.name(domain, selector)
        if not _RECORD_NAME.fullmatch(name):
            return None
        try:
            with (self._folder / name).open("rb") as file:
                return file.read(_MAX_RECORD).decode("utf-8", "replace")
        except OSError:
            return None


@dataclass(slots=True)
class _File:
    """A key file as it was when it was read."""

    stamp: tuple[int, int, int]
    key: PrivateKey
    named: dict[tuple[str, str], Key]


class KeyRing:
    """The signing keys, by sender and domain."""

    def __init__(self, settings: Settings) -> None:
        self._files: dict[Path, _File] = {}
        self._all = settings.dkim.keys
        self._entries: dict[str, dict[str, list[DkimKey]]] = {}
        senders = [sender.id for sender in settings.senders]
        for entry in settings.dkim.keys:
            for sender in owners(entry, settings.streams, senders):
                by_domain = self._entries.setdefault(sender, {})
                by_domain.setdefault(entry.domain, []).append(entry)

    def aligned(self, sender: str, from_domain: str, at: datetime) -> tuple[Key, ...]:
        """The keys of a sender that sign for a From domain at this instant; () for none.

        Those of the domain itself, else of its organisational domain (RFC 7489 section 3.1.1), at
        most one of each algorithm: the one last in force. Raises `KeysError` naming domain and
        selector.
        """
        by_domain = self._entries.get(sender)
        if not by_domain:
            return ()
        for domain in (from_domain, organisational(from_domain)):
            active = [e for e in by_domain.get(domain, ()) if (e.active_from or _ALWAYS) <= at]
            if active:
                return self._newest(active)
        return ()

    def of_host(self, hostname: str, at: datetime) -> tuple[Key, ...]:
        """The keys that sign for our own host name, whosever streams they serve; as `aligned`."""
        for domain in (hostname, organisational(hostname)):
            active = [
                e for e in self._all if e.domain == domain and (e.active_from or _ALWAYS) <= at
            ]
            if active:
                return self._newest(active)
        return ()

    def own(self, sender: str) -> frozenset[tuple[str, str]]:
        """(domain, selector) of all keys of a sender, in force or not."""
        by_domain = self._entries.get(sender, {})
        return frozenset((e.domain, e.selector) for entries in by_domain.values() for e in entries)

    def named(self, sender: str, domain: str, selector: str) -> Key | None:
        """The key of that record name, in force or not, if it is this sender's.

        Raises `KeysError`.
        """
        entries: Sequence[DkimKey] = self._entries.get(sender, {}).get(domain, ())
        return next((self._load(e) for e in entries if e.selector == selector), None)

    def _newest(self, entries: Sequence[DkimKey]) -> tuple[Key, ...]:
        newest: dict[str, tuple[datetime, Key]] = {}
        for entry in entries:
            key = self._load(entry)
            since = entry.active_from or _ALWAYS
            # Of two equally new ones, the later in the file.
            if key.algorithm not in newest or since >= newest[key.algorithm][0]:
                newest[key.algorithm] = since, key
        return tuple(newest[name][1] for name in ALGORITHMS if name in newest)

    def _load(self, entry: DkimKey) -> Key:
        path = entry.key_file
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            file = self._files.get(path)
            if file is None or file.stamp != stamp:
                file = self._files[path] = _File(stamp, read_private_key(path), {})
        except OSError as error:
            self._files.pop(path, None)
            why = f"cannot be read ({error.strerror or type(error).__name__})"
            raise KeysError(f"{_named(entry)}: {path} {why}") from error
        except KeysError as error:
            self._files.pop(path, None)
            raise KeysError(f"{_named(entry)}: {path} {error}") from error
        name = entry.domain, entry.selector
        key = file.named.get(name)
        if key is None:
            key = file.named[name] = Key(*name, file.key)
        if entry.algorithm not in (None, key.algorithm):
            raise KeysError(f"{_named(entry)}: {path} holds no {entry.algorithm} key")
        return key


def _named(entry: DkimKey) -> str:
    return f"DKIM key {entry.selector}._domainkey.{entry.domain}"
