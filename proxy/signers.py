"""Signatures in a process of its own, so that the event loop goes on meanwhile.

Threads do not serve for that: cryptography lets the interpreter go while it signs, but getting it
back beside a busy event loop costs more than a signature (docs/performance.md). The process is
started with the first signature and helps from when it is ready; whatever it cannot do, the caller
does itself: `Signers.begin` returns None.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from proxy import log
from proxy.config import Settings
from proxy.config.signing import PrivateKey
from proxy.message.sign import Signer, values
from proxy.signing_process import KEY, READY, SIGN

#: Copies that wait for it at most: with more the loop makes signatures, too.
_BACKLOG = 16
#: Seconds after which one that does not answer is given up, and after which there is a new one.
_PATIENCE = 5.0
_PAUSE = 10.0
_START = 30.0  # it may take to load
_MOST_KEYS = 1_000
_AT_ONCE = 65_536

# The path of this interpreter, whatever it was made of; nothing else of the environment counts.
_PROGRAM = "import sys; sys.path[:] = {}; from proxy.signing_process import main; main()"


@dataclass(frozen=True, slots=True)
class _Asked:
    """Signatures of a copy that are being made, since when (time of the loop)."""

    digests: Sequence[tuple[PrivateKey, bytes]]
    made: asyncio.Future[list[bytes]]
    since: float


class _Process:
    """One that runs. Not to be used any more once `gone`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, cores: Sequence[int]) -> None:
        """Raises `OSError` where it cannot be started."""
        self._loop = loop
        self.ready = False
        self.gone = False
        self._begun = loop.time()
        self._waiting: deque[_Asked] = deque()
        self._keys: dict[int, tuple[int, PrivateKey]] = {}  # by identity: number, and kept alive
        self._answer = b""
        self._done: list[bytes] = []
        self._watch: asyncio.TimerHandle | None = None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._popen: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603
                    [
                        *(sys.executable, "-I", "-S", "-B", "-c", _PROGRAM.format(sys.path)),
                        ",".join(map(str, cores)),
                    ],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self._socket = ours
        loop.add_reader(ours, self._read)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def begin(
        self, digests: Sequence[tuple[PrivateKey, bytes]]
    ) -> asyncio.Future[list[bytes]] | None:
        if not self.ready and self._loop.time() - self._begun > _START:
            self.end()
        if self.gone or not self.ready or len(self._waiting) >= _BACKLOG:
            return None
        request = b"".join([self._request(key, digest) for key, digest in digests])
        asked = _Asked(digests, self._loop.create_future(), self._loop.time())
        self._waiting.append(asked)
        try:
            sent = self._socket.send(request)
        except OSError:
            sent = -1
        if sent != len(request):  # it reads no more
            self.end()
        elif self._watch is None:
            self._watch = self._loop.call_later(_PATIENCE, self._look)
        return asked.made

    def _request(self, key: PrivateKey, digest: bytes) -> bytes:
        number, _ = self._keys.get(id(key), (-1, key))
        if number >= 0:
            return SIGN + number.to_bytes(2, "big") + digest
        form = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        # Only now: a number that the process was never told would shift all later ones.
        number = len(self._keys)
        self._keys[id(key)] = number, key
        told = KEY + len(form).to_bytes(2, "big") + form
        return told + SIGN + number.to_bytes(2, "big") + digest

    @property
    def full(self) -> bool:
        """Whether it was told so many keys, old ones among them, that a new one should begin."""
        return len(self._keys) > _MOST_KEYS

    def _read(self) -> None:
        try:
            got = self._socket.recv(_AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            got = b""
        if not got:
            self.end()
            return
        if not self.ready:
            self.ready = got[:1] == READY
            got = got[1:]
        answer = self._answer + got
        at = 0
        while len(answer) >= at + 2:
            end = at + 2 + int.from_bytes(answer[at : at + 2], "big")
            if len(answer) < end:
                break
            self._take(answer[at + 2 : end])
            at = end
        self._answer = answer[at:]

    def _take(self, signature: bytes) -> None:
        self._done.append(signature)
        asked = self._waiting[0]
        if len(self._done) == len(asked.digests):
            self._waiting.popleft()
            if not asked.made.done():  # cancelled
                asked.made.set_result(self._done)
            self._done = []

    def _look(self) -> None:
        self._watch = None
        if not self._waiting:
            return
        left = self._waiting[0].since + _PATIENCE - self._loop.time()
        if left <= 0:
            self.end()
        else:
            self._watch = self._loop.call_later(left, self._look)

    def end(self) -> None:
        """Stop it; what it still owes is signed here."""
        if self.gone:
            return
        self.gone = True
        self._loop.remove_reader(self._socket)
        self._socket.close()
        if self._watch is not None:
            self._watch.cancel()
        self._popen.kill()
        self._popen.wait()
        for asked in self._waiting:
            if asked.made.done():
                continue
            try:
                asked.made.set_result(values(asked.digests))
            except Exception as error:  # of cryptography: it is the caller's
                asked.made.set_exception(error)
        self._waiting.clear()


class Signers:
    """The process that signs, replaced where it is lost. Used from one event loop."""

    def __init__(self, cores: Sequence[int]) -> None:
        """`cores` are those that it may use: where there is but one, there is no process."""
        self._cores = tuple(cores)
        self._process: _Process | None = None
        self._not_before = 0.0
        self._closed = len(self._cores) < 2 or not sys.executable

    @property
    def pid(self) -> int:
        """Of the process that helps; 0 while there is none."""
        process = self._process
        return process.pid if process is not None and process.ready and not process.gone else 0

    def begin(
        self, digests: Sequence[tuple[PrivateKey, bytes]]
    ) -> asyncio.Future[list[bytes]] | None:
        """A signature of each SHA-256, in their order, or None: then the caller makes them."""
        process = self._process
        if process is not None and not process.gone and not process.full:
            return process.begin(digests)
        if not self._closed:
            self._replace(process)
        return None

    def _replace(self, process: _Process | None) -> None:
        loop = asyncio.get_running_loop()
        if process is not None:
            if process.gone:
                log.signer_lost(pid=process.pid)
                self._not_before = loop.time() + _PAUSE
            process.end()
            self._process = None
        if loop.time() < self._not_before:
            return
        try:
            self._process = _Process(loop, self._cores)
        except OSError as error:
            log.signer_lost(pid=0, error=error.strerror or type(error).__name__)
            self._not_before = loop.time() + _PAUSE

    def close(self) -> None:
        """End it."""
        self._closed = True
        if self._process is not None:
            self._process.end()
            self._process = None


@contextmanager
def signing(settings: Settings) -> Iterator[Signer]:
    """What signs while a relay runs: with a process where there are keys and several cores."""
    if not settings.dkim.keys:
        yield Signer()
        return
    signers = Signers(_cores())
    try:
        yield Signer(signers)
    finally:
        signers.close()


def _cores() -> list[int]:
    """Those that this process may use: later the event loop may be held on one of them."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
