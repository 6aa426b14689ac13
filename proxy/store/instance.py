"""The data directory, its instance id, and the lock that only one `serve` can hold."""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from proxy.errors import StoreUnavailable

_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700


class InstanceLocked(StoreUnavailable):
    """Another `serve` runs on this data directory."""


def prepare(data_dir: Path) -> None:
    """Make `data_dir` (mode 0700) if missing, and keep this process's files private (umask 077).

    Raises `StoreUnavailable` when it cannot be made or written.
    """
    os.umask(0o077)
    try:
        made = []
        directory = data_dir
        while not directory.exists():
            made.append(directory)
            directory = directory.parent
        for directory in reversed(made):
            directory.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
            sync_directory(directory.parent)
    except OSError as error:
        raise StoreUnavailable(f"cannot make {data_dir}: {error.strerror}") from error
    if not data_dir.is_dir() or not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        raise StoreUnavailable(f"{data_dir} is no directory that this user can write")


def instance_id(data_dir: Path) -> str:
    """The id of this data directory (32 hex digits), made at the first call and kept in `instance`.

    Safe against two processes that start at once. Raises `StoreUnavailable`.
    """
    path = data_dir / "instance"
    new = data_dir / f".instance.{secrets.token_hex(4)}.new"
    try:
        if not path.exists():
            create_file(new, f"{secrets.token_hex(16)}\n".encode())
            try:
                with suppress(FileExistsError):
                    os.link(new, path)
                sync_directory(data_dir)
            finally:
                new.unlink()
        found = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreUnavailable(f"cannot read or make {path}: {error}") from error
    if len(found) != 32 or set(found) - set("0123456789abcdef"):
        raise StoreUnavailable(f"{path} does not hold an instance id (32 hex digits)")
    return found


class InstanceLock:
    """An exclusive lock on `data_dir/lock`, held until `release` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, data_dir: Path) -> InstanceLock:
        """Raises `InstanceLocked` naming the holder's process id."""
        path = data_dir / "lock"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path, flags, _FILE_MODE)
        except OSError as error:
            raise StoreUnavailable(f"cannot open {path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise StoreUnavailable(f"cannot lock {path}: {error.strerror}") from error
            raise InstanceLocked(
                f"another sluis serve (process {holder}) runs on {data_dir}; stop it, or give"
                " this one its own server.data_dir"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let another process in. The file stays: removing it would let two hold "the" lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> InstanceLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def create_file(path: Path, content: bytes) -> None:
    """Write a new private file (mode 0600) and sync it; `FileExistsError` if it exists."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, _FILE_MODE)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
