"""What lies in `server.data_dir`, and when it may be made: once, never again by accident."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from proxy.config import Settings
from proxy.errors import ConfigError, KeysError, StoreUnavailable
from proxy.keys import Keys, load_keys
from proxy.store.instance import prepare

#: Files on their way to their name: of the database, instance id, suppressions, and keys.
_DRAFT = re.compile(
    r"\.(?:sluis\.db|instance|suppressions)\.[0-9a-f]{8}\.new(?:-wal|-shm|-journal)?"
    r"|\.keys\.[0-9a-f]{16}"
)
_AT_WORK = 600.0

_OWN = "give it to the user that runs sluis, or set another server.data_dir"


def make_data_dir(settings: Settings) -> None:
    """Create `data_dir`, readable by us alone, or clear it of drafts. Raises `ConfigError` with the
    remedy."""
    try:
        prepare(settings.server.data_dir)
    except StoreUnavailable as error:
        raise ConfigError([f"{settings.source}: server.data_dir: {error}; {_OWN}"]) from error
    clear_drafts(settings.server.data_dir)


def clear_drafts(data_dir: Path) -> int:
    """Remove what an earlier run was killed over while it made a file; how many there were.

    Each was to be linked or renamed into its place, so none is in use; one that is younger than
    ten minutes may still be at work in another process, and stays.
    """
    count = 0
    for path in list(data_dir.iterdir()):
        if _DRAFT.fullmatch(path.name) is None:
            continue
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > _AT_WORK:
                path.unlink()
                count += 1
    return count


def data_dir_trouble(settings: Settings) -> str | None:
    """Why this user could not serve on `data_dir`, with the remedy; None where nothing is known.

    Makes nothing. The user that checks a configuration need not be the one that runs it.
    """
    wanted = settings.server.data_dir
    found = wanted
    while not found.exists() and found != found.parent:
        found = found.parent
    if found.is_dir() and os.access(found, os.R_OK | os.W_OK | os.X_OK):
        return None
    what = "cannot be made" if found != wanted else "is no directory that can be written"
    return f"{settings.source}: server.data_dir: {wanted} {what} by this user; {_OWN}"


def find_data_dir(settings: Settings) -> None:
    """Raise `StoreUnavailable` where there is none: nothing was recorded or sent there yet."""
    data_dir = settings.server.data_dir
    if not data_dir.exists():
        raise StoreUnavailable(
            f"{settings.source}: server.data_dir: there is no {data_dir}; start `sluis serve` or "
            "import consents first, or name the directory of the relay that you ask about"
        )


def may_create_store(settings: Settings) -> bool:
    """Whether a missing database may be made: only where no relay ever ran on this `data_dir`.

    Later a missing one is a lost one, and an empty suppression list must never appear by accident.
    """
    return not (settings.server.data_dir / "instance").exists()


def keys_path(settings: Settings) -> Path:
    """Where the key file lies."""
    return settings.http.keys_file or settings.server.data_dir / "keys"


def open_keys(settings: Settings, *, create: bool) -> Keys:
    """The keys; made only where there is no ledger yet: under new keys no opt-out is found."""
    file = settings.http.keys_file
    if file is not None and not file.exists():
        first = (
            ""
            if _used(settings)
            else "; if there never was one, start once without http.keys_file and move "
            f"{settings.server.data_dir / 'keys'} there"
        )
        raise ConfigError(
            [
                f"{settings.source}: http.keys_file: there is no {file}; put back the copy you "
                f"kept{first}"
            ]
        )
    fresh = create and not settings.store.sqlite_path(settings.server.data_dir).exists()
    with no_new_keys(settings):
        return load_keys(keys_path(settings), create=fresh and file is None)


@contextmanager
def no_new_keys(settings: Settings) -> Iterator[None]:
    """Where the key file is missed on a `data_dir` in use, say what finds its opt-outs again."""
    try:
        yield
    except KeysError as error:
        if not isinstance(error.__cause__, FileNotFoundError) or not _used(settings):
            raise
        raise KeysError(
            f"{keys_path(settings)}: there is none, and under new keys no opt-out on record is "
            "found; put back the copy you kept, or name the file that the other relays on this "
            "store use by http.keys_file"
        ) from error


def _used(settings: Settings) -> bool:
    data_dir = settings.server.data_dir
    known = (data_dir / "instance", settings.store.sqlite_path(data_dir))
    return any(os.path.exists(path) for path in known)  # noqa: PTH110  never raises
