"""The process that signs: real ones, that die, hang and are replaced."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import verifiers
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from signing_keys import AT, ED25519, KEYS, RECORDS, RSA

from proxy import signers
from proxy.config.signing import PrivateKey
from proxy.message.sign import Signer, Signing
from proxy.signers import Signers

HEAD = b"From: Acme <news@news.acme.example>\r\nTo: anna@example.nl\r\nSubject: Spring\r\n\r\n"
ALL = list(range(os.cpu_count() or 1))
TWO = [*ALL, *ALL][:2]  # on a machine with one core, too


@pytest.fixture
def helper() -> Iterator[Signers]:
    found = Signers(TWO)
    yield found
    found.close()


def digest(n: int) -> bytes:
    return hashlib.sha256(str(n).encode()).digest()


def both(n: int) -> list[tuple[PrivateKey, bytes]]:
    return [(ED25519, digest(n)), (RSA, digest(n + 1))]


def check(made: list[bytes], n: int) -> None:
    ED25519.public_key().verify(made[0], digest(n))
    RSA.public_key().verify(made[1], digest(n + 1), PKCS1v15(), Prehashed(SHA256()))


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  nobody announces it
            await asyncio.sleep(0.005)


async def ready(helper: Signers) -> int:
    """Its process id, once it can be used; what is asked before is left to the caller."""
    assert helper.begin(both(0)) is None
    await until(lambda: helper.pid)
    return helper.pid


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_it_signs_with_both_keys_in_order(helper: Signers) -> None:
    pid = await ready(helper)
    assert pid != os.getpid()
    begun = [helper.begin(both(n)) for n in range(10)]
    for n, made in enumerate(begun):
        assert made is not None
        check(await made, n)
    other = rsa.generate_private_key(65537, 3072)
    more: list[tuple[PrivateKey, bytes]] = [(other, digest(5)), *both(6)]
    asked = helper.begin(more)
    assert asked is not None
    first, *rest = await asked
    other.public_key().verify(first, digest(5), PKCS1v15(), Prehashed(SHA256()))
    check(rest, 6)
    assert helper.pid == pid


async def test_a_mail_signed_by_it_holds(helper: Signers) -> None:
    await ready(helper)
    body = b"Hello  there \r\n\r\n"
    by_it = await Signer(helper).sign(Signing(KEYS, AT), HEAD, [body])
    # Both algorithms give the same octets for the same mail.
    assert by_it == await Signer().sign(Signing(KEYS, AT), HEAD, [body])
    assert verifiers.by_dkimpy(by_it + HEAD + body, RECORDS) == [True, True]


async def test_what_a_killed_one_owed_is_signed_here(
    helper: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = await ready(helper)
    os.kill(pid, signal.SIGSTOP)
    begun = [helper.begin(both(n)) for n in range(5)]
    os.kill(pid, signal.SIGKILL)
    for n, made in enumerate(begun):
        assert made is not None
        check(await made, n)
    assert not alive(pid)
    assert helper.pid == 0
    assert helper.begin(both(1)) is None  # not before a pause
    assert helper.begin(both(1)) is None
    monkeypatch.setattr(helper, "_not_before", 0.0)
    assert await ready(helper) not in (0, pid)
    made = helper.begin(both(7))
    assert made is not None
    check(await made, 7)


async def test_one_that_hangs_is_given_up(helper: Signers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signers, "_PATIENCE", 0.05)
    pid = await ready(helper)
    os.kill(pid, signal.SIGSTOP)
    made = helper.begin(both(3))
    assert made is not None
    check(await made, 3)
    assert not alive(pid)


async def test_a_long_queue_is_shared_with_the_caller(helper: Signers) -> None:
    pid = await ready(helper)
    os.kill(pid, signal.SIGSTOP)
    begun = [helper.begin(both(n)) for n in range(signers._BACKLOG)]
    assert helper.begin(both(99)) is None
    os.kill(pid, signal.SIGCONT)
    for n, made in enumerate(begun):
        assert made is not None
        check(await made, n)
    assert helper.pid == pid
    assert helper.begin(both(99)) is not None


async def test_who_waits_may_go_away(helper: Signers) -> None:
    pid = await ready(helper)
    os.kill(pid, signal.SIGSTOP)
    begun = [helper.begin(both(n)) for n in range(3)]
    assert begun[1] is not None
    begun[1].cancel()
    os.kill(pid, signal.SIGCONT)
    for n in (0, 2):
        made = begun[n]
        assert made is not None
        check(await made, n)


async def test_a_signal_to_all_processes_ends_only_the_relay(helper: Signers) -> None:
    pid = await ready(helper)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    made = helper.begin(both(1))
    assert made is not None
    check(await made, 1)
    assert helper.pid == pid
    helper.close()
    assert not alive(pid)
    assert helper.begin(both(1)) is None


async def test_none_where_there_is_one_core() -> None:
    alone = Signers([0])
    assert alone.begin(both(1)) is None
    assert alone._process is None
    signed = await Signer(alone).sign(Signing(KEYS, AT), HEAD, [b""])
    assert verifiers.by_dkimpy(signed + HEAD, RECORDS) == [True, True]


async def test_one_that_cannot_start_is_done_without(
    helper: Signers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    assert helper.begin(both(1)) is None
    assert helper._process is None
    monkeypatch.setattr(helper, "_not_before", 0.0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert helper.begin(both(1)) is None
    process = helper._process
    assert process is not None
    await until(lambda: process.gone)
    assert helper.begin(both(1)) is None


async def test_old_keys_are_forgotten_with_the_process(
    helper: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signers, "_MOST_KEYS", 3)
    pid = await ready(helper)
    for n in range(4):
        made = helper.begin([(ed25519.Ed25519PrivateKey.generate(), digest(n))])
        assert made is not None
        assert len((await made)[0]) == 64
    assert helper.begin(both(1)) is None
    assert await ready(helper) != pid
    assert not alive(pid)


_PARENT = """
import asyncio, os, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from proxy.signers import Signers
async def main():
    helper, key = Signers([0, 1]), Ed25519PrivateKey.generate()
    while helper.begin([(key, bytes(32))]) is None:
        await asyncio.sleep(0.01)
    print(helper.pid, flush=True)
    sys.stdin.read()
    os._exit(9)
asyncio.run(main())
"""


async def test_it_ends_with_the_relay_however_that_ends() -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PARENT),
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    await parent.wait()
    await until(lambda: not alive(pid))
