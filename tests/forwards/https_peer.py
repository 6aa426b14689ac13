"""An HTTPS server on loopback that keeps what it is sent and answers as it is told."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from pathlib import Path

import trustme

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answer(status: int, *fields: str, body: str = "") -> bytes:
    """An HTTP answer with that status."""
    lines = [f"HTTP/1.1 {status} X", *fields, f"Content-Length: {len(body)}", "", body]
    return "\r\n".join(lines).encode()


class Peer:
    """Answers requests from `answers`, then with 200. b"" drops the connection; None is silent."""

    def __init__(self, authority: trustme.CA, *names: str) -> None:
        self.requests: list[bytes] = []
        self.names: list[str | None] = []
        self.connections = 0
        self.answers: deque[bytes | None] = deque()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*(names or ("127.0.0.1", "localhost"))).configure_cert(self._context)
        self._context.sni_callback = lambda _, name, __: self.names.append(name)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def start(self, port: int = 0) -> None:
        """Listen; port 0 lets the system choose."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", port, ssl=self._context
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and drop what is open."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._open):
                writer.transport.abort()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            size = next(
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            self.requests.append(head + await reader.readexactly(size))
            said = self.answers.popleft() if self.answers else OK
            if said is None:
                await reader.read()
            elif said:
                writer.write(said)
                await writer.drain()
        except (OSError, EOFError, ssl.SSLError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()


def trust(authority: trustme.CA, directory: Path) -> Path:
    """The authority's certificate in a file, for SSL_CERT_FILE."""
    path = directory / "authority.pem"
    authority.cert_pem.write_to_path(path)
    return path
