"""An Exim of its own in a folder, unpacked by scripts/setup, as Debian does not install it beside
Postfix."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

EXIM = Path(__file__).parents[2] / ".venv" / "exim" / "usr" / "sbin" / "exim4"
PATIENCE = 20.0

CONFIG = """\
primary_hostname = exim.example
exim_path = {exim}
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
pid_file_path = {folder}/pid
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
{tls}
keep_environment =
smtp_accept_queue_per_connection = 0
acl_smtp_rcpt = take
acl_smtp_data = take
begin acl
take:
  accept
known:
  accept authenticated = *
  deny message = log in first
begin routers
relay:
  driver = manualroute
  transport = out
  route_list = * 127.0.0.1
  self = send
begin transports
out:
  driver = smtp
  port = {relay}
  allow_localhost
begin retry
* * F,1h,5m
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_condition = ${{if and{{{{eq{{$auth2}}{{app}}}}{{eq{{$auth3}}{{correct horse}}}}}}}}
"""
#: `{folder}` has the certificate and its key; only who logged in may send.
SECURE = """\
tls_advertise_hosts = *
tls_certificate = {folder}/cert.pem
tls_privatekey = {folder}/key.pem
auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}
acl_smtp_mail = known"""


def usable() -> bool:
    """Whether it is there, runs here, and may be started."""
    if os.geteuid() != 0 or not EXIM.exists():
        return False
    done = subprocess.run([EXIM, "-C", "/dev/null", "-bV"], capture_output=True, check=False)
    return b"Exim version" in done.stdout


@contextlib.contextmanager
def exim(relay: int, secure: Path | None = None) -> Iterator[int]:
    """The port of one that relays everything to `relay` on this machine.

    With `secure`, a folder with cert.pem and key.pem, only over STARTTLS and after AUTH.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="sluis-exim-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "spool").mkdir()
        for path in (folder, folder / "spool"):
            shutil.chown(path, "Debian-exim", "Debian-exim")
        tls = "tls_advertise_hosts ="
        if secure:
            tls = SECURE.format(folder=folder)
            for file in ("cert.pem", "key.pem"):
                shutil.copy(secure / file, folder / file)
                shutil.chown(folder / file, "Debian-exim", "Debian-exim")
        config = folder / "conf"
        config.write_text(CONFIG.format(exim=EXIM, folder=folder, port=port, relay=relay, tls=tls))
        config.chmod(0o644)
        with (folder / "out").open("wb") as out:
            process = subprocess.Popen(
                [EXIM, "-C", config, "-bdf"], stdout=out, stderr=out, umask=0o022
            )
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline, (folder / "out").read_text()
            yield port
        finally:
            process.terminate()
            process.wait(PATIENCE)
