"""The messages of CPython's own e-mail tests through index, plan, splice and scan."""

from __future__ import annotations

import email
import re
import sysconfig
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path

import pytest

from proxy.envelope import Envelope, Submitter
from proxy.message.edit import Publication, Site, copy_head, plan
from proxy.message.header import HeaderRefused, body_of, check_marketing, index
from proxy.message.inspect import Wanted, inspect
from proxy.message.mime import OpaqueError, Part, scan
from proxy.message.obligations import list_id

CORPUS = Path(sysconfig.get_path("stdlib")) / "test" / "test_email" / "data"
_FILES = sorted(CORPUS.glob("msg_*.txt"))
if not _FILES:
    raise FileNotFoundError(
        f"no mails in {CORPUS}: run these tests with a Python that has its own test suite "
        "(on Debian: install libpython3-testsuite)"
    )
MAILS = {path.stem: re.sub(rb"\r\n|\r|\n", b"\r\n", path.read_bytes()) for path in _FILES}
ENVELOPE = Envelope(
    submitter=Submitter(listener="", peer="", network="n", helo="app.acme.example"),
    ref="01J9ZV3K7Q8M4T",
    received_at=datetime(2026, 11, 24, 8, tzinfo=UTC),
)
SITE = Site(hostname="gate.acme.example", instance="i7", public_url="https://mail.acme.example")
NEWS = Publication(stream="newsletter", sender="acme", namespace="news.acme.example")


def mails() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("content", MAILS.values(), ids=MAILS.keys())


def test_which_are_refused_and_why() -> None:
    refused: dict[str, str] = {}
    for name, content in MAILS.items():
        try:
            reply = check_marketing(index(content))
        except HeaderRefused as error:
            reply = error.reply
        if reply is not None:
            refused[name] = reply.text
    assert refused == {
        "msg_05": "header-from without an address",
        "msg_11": "header-from missing",
        "msg_18": "header-from missing",
        "msg_19": "header-malformed line 1",
        "msg_20": "header-duplicate Cc",
        "msg_25": "header-duplicate To",
        "msg_35": "header-malformed line 4",
        "msg_37": "header-from missing",
        "msg_38": "header-from missing",
        "msg_39": "header-from missing",
        "msg_40": "header-from missing",
        "msg_43": "header-from empty address",
    }


@mails()
@pytest.mark.parametrize("marketing", [True, False], ids=["marketing", "other"])
def test_body_and_kept_fields_are_byte_identical(content: bytes, marketing: bool) -> None:
    try:
        header = index(content)
    except HeaderRefused:
        return
    planned = plan(header, envelope=ENVELOPE, site=SITE, publication=NEWS if marketing else None)
    head = copy_head(planned, number=1, recipient="anna@example.nl", token="k1.x")
    body = bytes(body_of(content, header))
    assert content[: header.end] + body == content
    gone = {b"bcc", b"resent-bcc"}
    if marketing:
        gone |= {b"list-unsubscribe", b"list-unsubscribe-post"}
        gone |= set() if list_id.kept(header) else {b"list-id"}
    kept = [header.raw[f.start : f.end] for f in header.fields if f.name not in gone]
    blank = b"\r\n" if marketing else header.raw[header.fields_end :]
    assert head.endswith(b"".join(kept) + blank)
    copy = index(head + body)
    assert bytes(body_of(head + body, copy)) == body
    assert len(copy.named(b"sluis-ref")) == 1
    if marketing:
        assert copy.values(b"list-unsubscribe") == [b"<https://mail.acme.example/u/k1.x>"]
        assert len(copy.named(b"list-id")) == 1


def _tree(part: Part) -> object:
    if not part.multipart or not part.children:
        return part.type.word
    return [part.type.word, *[_tree(child) for child in part.children]]


def _library_tree(message: Message) -> object:
    # What lies inside a forwarded message is no part of this one.
    if message.get_content_maintype() != "multipart" or not message.is_multipart():
        return message.get_content_type()
    parts = message.get_payload()
    assert isinstance(parts, list)
    children = [_library_tree(m) for m in parts if isinstance(m, Message)]
    return [message.get_content_type(), *children]


def test_tree_equals_that_of_the_standard_library() -> None:
    opaque: dict[str, str] = {}
    different: list[str] = []
    for name, content in MAILS.items():
        try:
            header = index(content)
            ours = _tree(scan(content, header))
        except HeaderRefused:
            continue
        except OpaqueError as error:
            opaque[name] = str(error)
            continue
        if ours != _library_tree(email.message_from_bytes(content[header.start :])):
            different.append(name)
    # Delimiters in a row: empty parts for us, one delimiter for the library.
    assert different == ["msg_37"]
    assert opaque == {
        "msg_15": "boundary used again inside itself",
        "msg_25": "multipart without a clear boundary",
        "msg_33": "multipart without a clear boundary",
        "msg_39": "boundary used again inside itself",
        "msg_41": "multipart without a clear boundary",
    }


def test_what_stops_an_inspection() -> None:
    opaque: dict[str, str] = {}
    for name, content in MAILS.items():
        try:
            header = index(content)
        except HeaderRefused:
            continue
        shown = inspect(content, header, Wanted(names=("x",), postal_address="y", own_url="z"))
        assert bool(shown.opaque) == (shown.unsubscribe is None) == (shown.postal_address is None)
        if shown.opaque:
            opaque[name] = shown.opaque
    assert opaque == {
        "msg_05": "multipart/report",
        "msg_06": "a forwarded message is shown",
        "msg_11": "a forwarded message is shown",
        "msg_14": "content type or encoding is not clear",
        "msg_15": "boundary used again inside itself",
        "msg_16": "multipart/report",
        "msg_17": "multipart is not closed",
        "msg_25": "multipart without a clear boundary",
        "msg_28": "multipart/digest",
        "msg_30": "multipart/digest",
        "msg_31": "multipart is not closed",
        "msg_33": "multipart without a clear boundary",
        "msg_34": "multipart/digest",
        "msg_38": "multipart is not closed",
        "msg_39": "boundary used again inside itself",
        "msg_41": "multipart without a clear boundary",
        "msg_43": "multipart/report",
        "msg_45": "multipart/signed",
        "msg_46": "a forwarded message is shown",
    }
