"""Postfix as a peer: a pass-through proxy with a map, a queue, a queue with a milter."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.race.process import PATH, BenchError, free_port, listens, run, stop, until

POSTFIX = shutil.which("postfix", path=PATH)
DEBIAN_PYTHON = "/usr/bin/python3"

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
relayhost = [127.0.0.1]:{upstream}
smtp_dns_support_level = disabled
smtp_host_lookup = native
default_process_limit = 1100
smtpd_error_sleep_time = 0
smtpd_soft_error_limit = 100000000
smtpd_hard_error_limit = 100000000
smtpd_recipient_limit = 1100
message_size_limit = 60000000
smtp_destination_concurrency_limit = 30
initial_destination_concurrency = 30
smtp_connection_cache_on_demand = yes
{more}
"""
SERVICES = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
proxymap unix - - n - - proxymap
scache unix - - n - 1 scache
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
ACCESS = (
    "smtpd_recipient_restrictions = check_recipient_access sqlite:{folder}/etc/access.cf, permit"
)
PROXY = "smtpd_proxy_filter = 127.0.0.1:{upstream}"
MILTER = "smtpd_milters = unix:{folder}/milter\nmilter_default_action = tempfail"
SINGLE = "default_destination_recipient_limit = 1"
MAP = """\
dbpath = {folder}/consent.db
query = SELECT COALESCE((SELECT verdict FROM consent WHERE address = '%s'), 'REJECT no consent')
"""
PREPEND = "PREPEND List-Unsubscribe: <https://news.shop.example/u/1>"
# A map of recipients would prepend once per recipient, to a mail that has many.
ONCE = f"smtpd_data_restrictions = check_client_access static:{{{{ {PREPEND} }}}}"


def usable() -> None:
    """Raises `BenchError` naming what is missing."""
    if POSTFIX is None:
        raise BenchError("Postfix is missing: install Debian's postfix and postfix-sqlite")
    if os.geteuid() != 0:
        raise BenchError("Postfix must be started by root: run this bench as root")


@contextlib.contextmanager
def postfix(kind: str, upstream: int, people: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The port of a Postfix, and the pids under which all its processes are.

    `kind`: `proxy` passes through with a map, `queue` queues with a map, `milter` queues with a
    milter, `refuse` refuses everybody but `people` by the map.
    """
    usable()
    with tempfile.TemporaryDirectory(prefix="sluis-bench-") as name, contextlib.ExitStack() as all_:
        folder = Path(name)
        folder.chmod(0o755)
        _consents(folder / "consent.db", people, "DUNNO" if kind == "queue" else PREPEND)
        more = {
            "proxy": [PROXY, ACCESS],
            "queue": [SINGLE, ACCESS, ONCE],
            "milter": [MILTER],
            "refuse": [ACCESS],
        }[kind]
        # It is no child of Postfix, but of its cost.
        beside = (all_.enter_context(_milter(folder)),) if kind == "milter" else ()
        port = free_port()
        _write(folder, port, upstream, "\n".join(more))
        _command(folder, "start")
        all_.callback(_command, folder, "abort")
        until(lambda: listens(port), f"Postfix ({kind}) listens")
        yield port, (int((folder / "queue" / "pid" / "master.pid").read_text()), *beside)


def _write(folder: Path, port: int, upstream: int, more: str) -> None:
    for name in ("etc", "queue", "data"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name).chmod(0o755)
    shutil.chown(folder / "data", "postfix")
    etc = folder / "etc"
    more = more.format(folder=folder, upstream=upstream)
    (etc / "main.cf").write_text(MAIN.format(folder=folder, upstream=upstream, more=more))
    (etc / "master.cf").write_text(SERVICES.format(port=port))
    (etc / "access.cf").write_text(MAP.format(folder=folder))
    for file in etc.iterdir():
        file.chmod(0o644)
    # Debian's own file of loadable map types, as sqlite is one.
    system = Path("/etc/postfix/dynamicmaps.cf")
    if not system.exists() or "sqlite" not in system.read_text():
        raise BenchError("Postfix cannot read SQLite: install Debian's postfix-sqlite")
    shutil.copy(system, etc / "dynamicmaps.cf")


def _consents(path: Path, people: int, verdict: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE consent (address TEXT PRIMARY KEY, verdict TEXT) WITHOUT ROWID")
        db.executemany(
            "INSERT INTO consent VALUES (?, ?)",
            ((f"{n}person@people.example", verdict) for n in range(1, people + 1)),
        )
    path.chmod(0o644)


@contextlib.contextmanager
def _milter(folder: Path) -> Iterator[int]:
    words = [
        *(DEBIAN_PYTHON, str(Path(__file__).with_name("consent_milter.py"))),
        *(str(folder / "milter"), str(folder / "consent.db")),
    ]
    process = subprocess.Popen(words, umask=0)
    try:
        until((folder / "milter").is_socket, "the milter's socket (Debian's python3-milter)")
        yield process.pid
    finally:
        stop(process)


def _command(folder: Path, word: str) -> None:
    run([str(POSTFIX), "-c", str(folder / "etc"), word])


def version() -> str:
    """Of the Postfix that is installed, as Debian wrote it: "3.7.11"."""
    usable()
    postconf = shutil.which("postconf", path=PATH)
    return run([str(postconf), "-d", "-h", "mail_version"]).strip()
