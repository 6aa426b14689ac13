"""Plays `tests/dialogs/*.smtp`; its README has the language."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path
from typing import Any

import pytest
from front_door import Client, Door, RecordingGate, front_door

from policy.address import Address
from proxy.content import Content
from proxy.envelope import Envelope
from proxy.replies import Reply

DIALOGS = sorted((Path(__file__).parent.parent / "dialogs").glob("*.smtp"))
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|\{[0-9]+\}.|.)")
_ESCAPES = {b"r": b"\r", b"n": b"\n", b"0": b"\0", b"t": b"\t", b"\\": b"\\"}


def octets(text: str) -> bytes:
    """A line of a dialogue with its escapes resolved."""

    def resolve(found: re.Match[bytes]) -> bytes:
        escape = found[1]
        if escape[:1] == b"{":
            return escape[-1:] * int(escape[1:-2])
        return bytes([int(escape[1:], 16)]) if escape[:1] == b"x" else _ESCAPES[escape]

    return _ESCAPE.sub(resolve, text.encode())


class Witness(RecordingGate):
    """Accepts everything and writes down what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes] = []

    async def mail(self, envelope: Envelope) -> Reply | None:
        said = b"".join(b" " + s.encode() for s in (envelope.ret, envelope.envid) if s)
        sender = envelope.mail_from.wire if envelope.mail_from else b""
        self.seen.append(b"mail " + sender + said)
        return await super().mail(envelope)

    async def admit(self, envelope: Envelope, recipient: Address) -> Reply | None:
        self.seen.append(b"rcpt " + recipient.wire)
        return await super().admit(envelope, recipient)

    async def submit(self, envelope: Envelope, content: Content) -> Reply:
        self.seen.append(b"data " + bytes(content))
        return await super().submit(envelope, content)


def listener(lines: list[tuple[str, str]]) -> dict[str, Any]:
    """Arguments for `front_door` from the `L:` lines."""
    found: dict[str, Any] = {}
    for mark, text in lines:
        if mark == "L:":
            key, _, value = text.partition("=")
            yes_no = {"yes": True, "no": False}
            found[key] = yes_no.get(value, int(value) if value.isdigit() else value)
    return found


def play(lines: list[tuple[str, str]], door: Door, client: Client) -> None:
    """Send and expect, line by line."""
    for number, (mark, text) in enumerate(lines, 1):
        match mark:
            case "C:":
                client.send(octets(text) + b"\r\n")
            case "C|":
                client.send(octets(text))
            case "S:":
                line = client.line()
                assert line is not None, f"step {number}: closed instead of {text}"
                assert fnmatch.fnmatchcase(line, text.replace("[", "[[]")), f"step {number}: {line}"
            case "E:":
                code, *keywords = text.split(" ")
                said = client.lines()
                assert " ".join(said).startswith(code), f"step {number}: {said}"
                missing = set(keywords) - {line[4:].split(" ")[0] for line in said}
                assert not missing, f"step {number}: no {missing} in {said}"
            case "T:":
                client.start_tls(door.client_tls)
            case "X:":
                assert client.at_end(), f"step {number}: still open"
            case _:
                assert mark in ("L:", "G:", "#")


@pytest.mark.parametrize("path", DIALOGS, ids=lambda p: p.stem)
def test_dialogue(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8").rstrip("\n")
    lines = [(line[:2].rstrip(" "), line[3:]) for line in text.split("\n")]
    assert lines[0][0] == "#", "the first line is the title"
    gate = Witness()
    arguments = listener(lines)
    gate.notices = arguments.pop("dsn", True)
    keys = ("xclient_networks", "proxy_protocol", "bare_newline")
    more = {key: arguments.pop(key) for key in keys if key in arguments}
    more = {k: v if k == "bare_newline" else tuple(v.split(" ")) for k, v in more.items()}
    with (
        front_door(tmp_path, gate=gate, more=more, **arguments) as door,
        door.connect(greet=False) as client,
    ):
        play(lines, door, client)
        if ("X:", "") not in lines:
            client.send(
                b"QUIT\r\n"
            )  # its reply is the next one: nothing more came than was written
            assert client.reply().startswith("221 ")
    want = [octets(line) for mark, line in lines if mark == "G:"]
    assert gate.seen == [line + b" " if line in (b"mail", b"data") else line for line in want]


def test_there_are_dialogues() -> None:
    assert len(DIALOGS) > 25
