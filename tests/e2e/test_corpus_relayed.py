"""The messages of CPython's own e-mail tests, through a transactional stream, byte for byte."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from running_sluis import World

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]


def corpus() -> list[Path]:
    """`msg_*.txt` of `test.test_email`, of the Python that runs."""
    spec = importlib.util.find_spec("test.test_email")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "this Python has no test.test_email: on Debian install libpython3-testsuite"
        )
    data = Path(next(iter(spec.submodule_search_locations))) / "data"
    return sorted(data.glob("msg_*.txt"))


def with_crlf(raw: bytes) -> bytes:
    return re.sub(rb"\r\n|\r|\n", b"\r\n", raw)


async def test_the_corpus_passes_with_identical_bodies(world: Make) -> None:
    w = await world()
    files = corpus()
    assert len(files) >= 47
    refused = {}
    for path in files:
        content = with_crlf(path.read_bytes())
        before = w.sink.total
        reply = await w.send(
            "anna@example.nl", content, stream="orders", mail_from="a@orders.acme.example"
        )
        if not reply.startswith("250 "):
            refused[path.name] = reply
            continue
        assert w.sink.total == before + 1
        sent = w.sink.messages[-1].content
        ours = content if content.endswith(b"\r\n") else content + b"\r\n"
        if ours.startswith((b"From ", b">From ")):
            ours = ours.partition(b"\r\n")[2]  # an mbox line is no field and is dropped
        # Ours stands on top; below it every byte is the client's own.
        added, _, rest = sent.partition(b"Sluis-Ref: ")
        assert added.startswith(b"Received: from "), path.name
        assert kept(rest.partition(b"\r\n")[2]) == kept(ours), path.name
    print("not relayed:", refused)  # noqa: T201  shown by pytest when the next line fails
    assert set(refused) <= REFUSED, refused


#: No field at all, or several From fields: refused for all mail (message.md section 1).
REFUSED = {"msg_19.txt"}


def kept(content: bytes) -> bytes:
    """Without Bcc, which no copy keeps."""
    head, blank, body = content.partition(b"\r\n\r\n")
    return re.sub(rb"(?im)^bcc:.*\r\n(?:[ \t].*\r\n)*", b"", head + b"\r\n") + blank + body
