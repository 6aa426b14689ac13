"""A Postfix of its own in a folder: queue, port and log there; the system's own is not touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.race.postfix import SERVICES

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
POSTFIX = shutil.which("postfix", path=PATH)
USABLE = POSTFIX is not None and os.geteuid() == 0  # its master must be started by root
PATIENCE = 20.0

MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = postfix.example
mydestination =
alias_maps =
local_recipient_maps =
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
relayhost = [{host}]:{relay}
smtp_dns_support_level = disabled
smtp_host_lookup = native
minimal_backoff_time = 300s
{more}
"""


@dataclass(frozen=True)
class Postfix:
    """A running one, that relays what comes in on `port`."""

    port: int
    folder: Path

    @property
    def log(self) -> str:
        """What it said so far."""
        return (self.folder / "log").read_text("utf-8", "replace")


@contextlib.contextmanager
def postfix(relay: int, *, host: str = "127.0.0.1", more: str = "") -> Iterator[Postfix]:
    """Relays everything to the port `relay` of `host`, by the settings `more` too."""
    # Not in pytest's folders, which Postfix's own user may not enter.
    with (
        tempfile.TemporaryDirectory(prefix="sluis-postfix-") as folder,
        _running(Path(folder), relay, host, more) as running,
    ):
        yield running


@contextlib.contextmanager
def _running(folder: Path, relay: int, host: str, more: str) -> Iterator[Postfix]:
    folder.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    for name in ("etc", "queue", "data"):
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(0o755)  # whatever the umask of whoever ran before in this process
    shutil.chown(folder / "data", "postfix")
    (folder / "etc" / "main.cf").write_text(
        MAIN.format(folder=folder, relay=relay, host=host, more=more)
    )
    (folder / "etc" / "master.cf").write_text(SERVICES.format(port=port))
    for file in (folder / "etc").iterdir():
        file.chmod(0o644)
    command(folder, "start")
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "Postfix does not listen"
        yield Postfix(port, folder)
    finally:
        command(folder, "abort")


def command(folder: Path, word: str) -> None:
    """`postfix -c FOLDER/etc WORD`."""
    assert POSTFIX is not None
    done = subprocess.run(
        [POSTFIX, "-c", str(folder / "etc"), word],
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        umask=0o022,
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
