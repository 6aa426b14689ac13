"""The table of message.md section 3: what becomes of a List-Unsubscribe that is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_edit import ANNA, BASE, NEWS, SITE, TOKENS, envelope

from proxy.message import mailboxes
from proxy.message.edit import EditPlan, copy_head, plan
from proxy.message.header import index
from proxy.message.obligations import list_unsubscribe
from proxy.message.obligations.list_unsubscribe import Links, Mode

HOSTS = frozenset({"click.esp.example"})
ONE_CLICK = b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"


def field(*uris: str) -> bytes:
    return f"List-Unsubscribe: {', '.join(f'<{uri}>' for uri in uris)}\r\n".encode()


HTTPS, OTHER, HTTP = (
    "https://click.esp.example/u/1",
    "https://evil.example/u/1",
    "http://click.esp.example/u/1",
)
MAILTO = "mailto:u@esp.example"
OWN = "https://mail.acme.example/u/k1.anna"
BRAMS = "https://mail.acme.example/u/k1.bram"
OURS = "https://mail.acme.example/u/k1.new"


def planned(fields: bytes, mode: Mode) -> EditPlan:
    publication = type(NEWS)(
        stream=NEWS.stream,
        sender=NEWS.sender,
        namespace=NEWS.namespace,
        unsubscribe=mode,
        unsubscribe_hosts=HOSTS,
    )
    return plan(
        index(BASE + fields + b"\r\n"),
        envelope=envelope(),
        site=SITE,
        publication=publication,
        own=lambda token: TOKENS.get(token, ""),
    )


def result(fields: bytes, mode: Mode) -> str:
    """URIs that leave, in order, or the code of the refusal."""
    edits = planned(fields, mode)
    refusal = edits.refusal(ANNA)
    if refusal is not None:
        return str(refusal.code)
    header = index(copy_head(edits, number=1, recipient=ANNA, token="k1.new"))
    there = list_unsubscribe.existing(header)
    assert (there.fields, there.readable, there.post) == (1, True, list_unsubscribe.Post.VALID)
    assert sum(uri.startswith("http") for uri in there.uris) == 1  # RFC 8058 section 3.1
    assert len(header.named(b"list-unsubscribe-post")) == 1
    return " ".join(there.uris)


BOTH = f"{OURS} {MAILTO}"
KEPT = f"{HTTPS} {MAILTO}"
TABLE = {
    "none": (b"", OURS, OURS, OURS, OURS),
    "ours": (field(OWN) + ONE_CLICK, OWN, OWN, OWN, OWN),
    "ours, for another": (field(BRAMS) + ONE_CLICK, OURS, OURS, OURS, "550"),
    "allowed, one-click": (field(HTTPS, MAILTO) + ONE_CLICK, OURS, KEPT, BOTH, "550"),
    "allowed, no mailto": (field(HTTPS) + ONE_CLICK, OURS, HTTPS, OURS, "550"),
    "other host": (field(OTHER, MAILTO) + ONE_CLICK, OURS, OURS, BOTH, "550"),
    "no -Post": (field(HTTPS, MAILTO), OURS, OURS, BOTH, "550"),
    "http only": (field(HTTP) + ONE_CLICK, OURS, OURS, OURS, "550"),
    "http beside it": (field(HTTPS, HTTP) + ONE_CLICK, OURS, OURS, OURS, "550"),
    "mailto only": (field(MAILTO), OURS, OURS, BOTH, "550"),
    "several": (field(HTTPS) + field(MAILTO) + ONE_CLICK, OURS, OURS, OURS, "554"),
    "unreadable": (b"List-Unsubscribe: click here\r\n" + ONE_CLICK, OURS, OURS, OURS, "554"),
    "-Post alone": (ONE_CLICK, OURS, OURS, OURS, "554"),
    "-Post, other value": (
        field(HTTPS, MAILTO) + b"List-Unsubscribe-Post: yes\r\n",
        *(OURS, OURS, OURS, "554"),
    ),
}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("row", TABLE)
def test_the_table(row: str, mode: Mode) -> None:
    fields, *cells = TABLE[row]
    assert result(fields, mode) == cells[list(Mode).index(mode)]


@pytest.mark.parametrize(
    ("row", "forward"),
    [
        ("none", None),
        ("ours", None),
        ("ours, for another", None),
        ("allowed, one-click", HTTPS),
        ("no -Post", MAILTO),
        ("http only", None),
        ("mailto only", MAILTO),
        ("several", HTTPS),
    ],
)
def test_what_is_passed_on(row: str, forward: str | None) -> None:
    for mode in (Mode.REPLACE, Mode.MERGE):
        got = planned(TABLE[row][0], mode).forward
        assert (got.uri if got else None) == forward
    kept = planned(TABLE["allowed, one-click"][0], Mode.KEEP)
    assert kept.forward is None
    assert "list_unsubscribe_kept" in kept.marks


@pytest.mark.parametrize(
    "uri",
    [
        "https://click.esp.example@evil.example/",
        "https://evil.example/click.esp.example",
        "https://x.click.esp.example/",
        "https://click.esp.example.evil.example/",
        "https://evil.example\\@click.esp.example/",
        "https://click.esp.example:99999999/",
        "https:/click.esp.example/",
    ],
)
def test_a_host_that_only_looks_allowed_is_not_kept(uri: str) -> None:
    there = list_unsubscribe.existing(index(BASE + field(uri) + ONE_CLICK + b"\r\n"))
    links = Links(url="https://mail.acme.example/u/")
    assert not list_unsubscribe.kept(there, links, HOSTS)


def test_a_long_mailto_is_not_merged() -> None:
    fields = field(f"mailto:{'u' * 950}@esp.example")
    assert result(fields, Mode.MERGE) == OURS


# -- To, as it was written -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"a@x.example", {"a@x.example": b"a@x.example"}),
        (
            b' "Vos, Anna" <a@x.example>,\r\n Bram <b@x.example>',
            {"a@x.example": b'"Vos, Anna" <a@x.example>', "b@x.example": b"Bram <b@x.example>"},
        ),
        (
            b"friends: a@x.example, B\r\n\tC <b@x.example>; , c@x.example (C)",
            {
                "a@x.example": b"a@x.example",
                "b@x.example": b"B\r\n\tC <b@x.example>",
                "c@x.example": b"c@x.example (C)",
            },
        ),
        (b"undisclosed-recipients:;", {}),
        (b"a@x.example b@x.example, c@x.example", {"c@x.example": b"c@x.example"}),
        (b'"unclosed <a@x.example>', {}),
    ],
)
def test_mailboxes_as_written(value: bytes, found: dict[str, bytes]) -> None:
    assert mailboxes.as_written([value]) == found


@given(st.lists(st.text('ab<>@,;:"() \\.', max_size=12)))
def test_what_is_found_stands_there_and_is_that_address(pieces: list[str]) -> None:
    value = ",".join(pieces).encode()
    for exact, written in mailboxes.as_written([value]).items():
        assert written in value
        assert mailboxes.single(written).address.exact == exact


# -- a body that is edited -----------------------------------------------------------------------

ARC = b"".join(
    name + b": i=1; a=rsa-sha256; d=fwd.example; s=s; h=from; bh=YQ==; b=YQ==\r\n"
    for name in (b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results")
)


@pytest.mark.parametrize("edited", [False, True])
def test_an_edited_body_breaks_every_chain_and_signature(edited: bool) -> None:
    signature = b"DKIM-Signature: v=1; d=esp.example; s=s; h=from; bh=YQ==; b=YQ==\r\n"
    got = plan(
        index(BASE + ARC + signature + b"\r\n"),
        envelope=envelope(),
        site=SITE,
        publication=NEWS,
        body_edited=edited,
    )
    header = index(copy_head(got, number=1, recipient=ANNA, token="k1.new"))
    assert bool(header.named(b"arc-seal")) is not edited
    assert ("arc_removed" in got.marks) is edited
    refusal = got.refusal(ANNA)
    assert (refusal.text if refusal else "") == (
        "dkim-covered d=esp.example field body: body" if edited else ""
    )


def test_each_copy_names_its_own_recipient_alone() -> None:
    content = BASE + b"To: Anna\r\n <anna@example.nl>, b@x.example\r\nCc: c@x.example\r\n\r\n"
    got = plan(index(content), envelope=envelope(), site=SITE, publication=NEWS, rewrite_to=True)
    for address, shown in {
        ANNA: b"To: Anna\r\n <anna@example.nl>\r\n",
        "b@x.example": b"To: b@x.example\r\n",
        "c@x.example": b"To: c@x.example\r\n",
        "d@x.example": b"To: d@x.example\r\n",
    }.items():
        head = copy_head(got, number=1, recipient=address, token="k1.new")
        assert head.count(b"\r\nTo: ") == 1
        assert shown in head
        assert b"Cc:" not in head
    assert "to_rewritten" in got.marks
    no_to = plan(
        index(BASE + b"Cc: b@x.example, c@x.example\r\n\r\n"),
        envelope=envelope(),
        site=SITE,
        publication=NEWS,
        rewrite_to=True,
    )
    head = copy_head(no_to, number=1, recipient=ANNA, token="k1.new")
    assert b"To:" not in head
    assert b"Cc:" not in head
