"""A private PostgreSQL on a socket of its own, and sessions that may wait for each other.

Each session is a `psql` on pipes: what is sent in one line goes to the server as one simple query,
statements within it separated by `\\;`.
"""

from __future__ import annotations

import getpass
import os
import pwd
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PATIENCE = 20.0


class Session:
    """One connection. `send` does not wait; `result` gives the rows of what was sent, as text."""

    def __init__(self, psql: Path, socket: Path, user: str) -> None:
        self._process = subprocess.Popen(
            [
                "stdbuf", "-oL", str(psql), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align",
                "--set=VERBOSITY=terse", f"--host={socket}", f"--username={user}", "postgres",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._sent = 0
        [pid] = self.run("SELECT pg_backend_pid();")
        self.pid = int(pid)

    def send(self, sql: str) -> None:
        """Hand one line to the server."""
        assert self._process.stdin is not None
        assert "\n" not in sql
        self._sent += 1
        self._process.stdin.write(f"{sql}\n\\echo done {self._sent}\n")
        self._process.stdin.flush()

    def result(self) -> list[str]:
        """The rows, or lines that begin with ERROR; waits until the server has answered."""
        rows: list[str] = []
        deadline = time.monotonic() + _PATIENCE
        while True:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            if line == f"done {self._sent}":
                return [row for row in rows if row]
            rows.append(line)

    def answered(self) -> bool:
        """Whether the server has answered what was sent, or begun to."""
        return not self._lines.empty()

    def run(self, sql: str) -> list[str]:
        """Both."""
        self.send(sql)
        return self.result()

    def close(self) -> None:
        """End it, whatever it waits for."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with suppress(ValueError):
            for line in self._process.stdout:
                self._lines.put(line.rstrip("\n"))


class Server:
    """The cluster; makes sessions."""

    def __init__(self, binaries: Path, socket: Path, user: str) -> None:
        self._psql = binaries / "psql"
        self._socket = socket
        self._user = user
        self._open: list[Session] = []
        self._watcher = Session(self._psql, socket, user)

    def session(self) -> Session:
        """Another connection, closed by `forget`."""
        made = Session(self._psql, self._socket, self._user)
        self._open.append(made)
        return made

    def forget(self) -> None:
        """Close every session that `session` made."""
        for session in self._open:
            session.close()
        self._open.clear()

    def run(self, sql: str) -> list[str]:
        """Something that waits for nobody."""
        return self._watcher.run(sql)

    def waits(self, session: Session) -> bool:
        """Come back once the session waits for a lock; False if that does not happen."""
        asked = f"SELECT count(*) FROM pg_locks WHERE pid = {session.pid} AND NOT granted;"
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if self.run(asked) != ["0"]:
                return True
        return False

    def freed(self, *sessions: Session) -> Session:
        """The first of these, which wait for each other, that waits no more."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            for session in sessions:
                if session.answered():
                    return session
            time.sleep(0.005)
        raise TimeoutError("all of them wait")


def find_binaries() -> Path | None:
    """Where the newest PostgreSQL lies, or None."""
    places = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    versions = sorted(places, key=lambda path: float(path.parts[-3]))
    found = versions[-1] if versions else shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@contextmanager
def server(binaries: Path) -> Iterator[Server]:
    """A cluster that lives as long as the block. PostgreSQL refuses to run as root."""
    who = _user()
    # Not below the tests' folder: a socket's path is short, and the other user must reach it.
    folder = Path(tempfile.mkdtemp(prefix="sluis-pg-"))
    try:
        if who is not None:
            os.chown(folder, who.pw_uid, who.pw_gid)
        data, name = folder / "data", who.pw_name if who else getpass.getuser()
        _run(who, binaries / "initdb", "-D", str(data), "-A", "trust", "-E", "UTF8", "--no-sync")
        settings = (
            f"-k {folder} -c listen_addresses='' -c fsync=off -c deadlock_timeout=100ms"
            " -c max_connections=30"
        )
        control, log = binaries / "pg_ctl", str(folder / "log")
        _run(who, control, "-D", str(data), "-l", log, "-w", "-o", settings, "start")
        try:
            made = Server(binaries, folder, name)
            yield made
            made.forget()
            made._watcher.close()
        finally:
            _run(who, control, "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> pwd.struct_passwd | None:
    """Who runs the server: None is ourselves."""
    if os.geteuid() != 0:
        return None
    with suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _run(who: pwd.struct_passwd | None, program: Path, *arguments: str) -> None:
    done = subprocess.run(
        [str(program), *arguments],
        user=who.pw_uid if who else None,
        group=who.pw_gid if who else None,
        extra_groups=[] if who else None,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stdout
