"""Which signatures an edit breaks, as predicted and as dkimpy verifies."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from datetime import UTC, datetime

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from proxy.envelope import Envelope, Submitter
from proxy.message.dkim import ARC, Broken, How, broken_by, oversigned, signatures
from proxy.message.edit import EditPlan, Publication, Site, copy_head, plan
from proxy.message.header import index, splice

AT = datetime(2026, 11, 24, 8, tzinfo=UTC)
SIG = b"DKIM-Signature: v=1; a=rsa-sha256; d=esp.example; s=x; h=%s; bh=eA==; b=eA==\r\n"
FIELDS = b"From: a@acme.example\r\nTo: b@example.nl\r\nSubject: x\r\n"


def _broken(
    h: bytes,
    fields: bytes = b"",
    *,
    removed: tuple[bytes, ...] = (),
    added: tuple[bytes, ...] = (),
    body: bool = False,
) -> list[Broken]:
    header = index(SIG % h + FIELDS + fields + b"\r\n")
    return broken_by(header, removed=removed, added=added, body_edited=body)


def test_the_rule() -> None:
    assert _broken(b"from:to", added=(b"list-unsubscribe",)) == []
    assert _broken(b"from:bcc", removed=(b"bcc",)) == []
    removes = Broken("esp.example", "bcc", How.REMOVES)
    assert _broken(b"from:BCC", b"Bcc: c@d\r\n", removed=(b"bcc",)) == [removes]
    oversigns = Broken("esp.example", "list-id", How.OVERSIGNED)
    assert _broken(b"from: list-id", added=(b"list-id",)) == [oversigns]
    assert _broken(b"from:list-id", b"List-Id: x\r\n", added=(b"list-id",)) == []
    assert _broken(b"from:list-id:list-id", b"List-Id: x\r\n", added=(b"list-id",)) == [oversigns]
    assert _broken(b"from", body=True) == [Broken("esp.example", "body", How.BODY)]
    assert _broken(b"from") == []


def test_a_signature_never_covers_itself() -> None:
    # One listing, no other signature: there is none to remove, and adding one is oversigned.
    assert _broken(b"from:dkim-signature", removed=(b"dkim-signature",)) == []
    oversigns = [Broken("esp.example", "dkim-signature", How.OVERSIGNED)]
    assert _broken(b"from:dkim-signature", added=(b"dkim-signature",)) == oversigns


@pytest.mark.parametrize(
    "value",
    [
        b"d=esp.example; h=from",
        b"d=esp.example; b=eA==",
        b"d=esp.example; h=; b=eA==",
        b"d=esp.example; h=from:; b=eA==",
        b"h=from; b=eA==",
        b"d=localhost; h=from; b=eA==",
        b"d=-x-.example; h=from; b=eA==",
        b"d=esp.example; d=esp.example; h=from; b=eA==",
        b"d=esp.example; h=from; b=eA==; nonsense",
        b"",
        b";;",
        b"d=esp.example; h=" + b"from:" * 3_000 + b"to; b=eA==",
    ],
)
def test_malformed_counts_as_broken_by_any_edit(value: bytes) -> None:
    header = index(b"DKIM-Signature: " + value + b"\r\n" + FIELDS + b"Bcc: c@d\r\n\r\n")
    assert broken_by(header) == []
    assert broken_by(header, removed=(b"sluis-stream",)) == []
    for edit in (
        broken_by(header, removed=(b"bcc",)),
        broken_by(header, added=(b"list-id",)),
        broken_by(header, body_edited=True),
    ):
        assert [b.how for b in edit] == [How.MALFORMED]
    assert not oversigned(header, b"date")


def test_folded_tags_and_arc() -> None:
    value = SIG.replace(b"; ", b";\r\n\t ") % b"from :\r\n  subject : Subject"
    header = index(value + value.replace(b"DKIM", b"ARC-Message") + FIELDS + b"\r\n")
    (signature,) = signatures(header)
    assert signature.names is not None
    assert signature.names == {b"from": 1, b"subject": 2}
    assert broken_by(header, added=(b"subject",), name=ARC)[0].how is How.OVERSIGNED


# -- in the plan ---------------------------------------------------------------------------------


def _plan(fields: bytes, *, marketing: bool = True, recipient: str = "") -> EditPlan:
    return plan(
        index(fields + FIELDS + b"\r\n"),
        envelope=Envelope(
            submitter=Submitter(listener="", peer="", network="n", helo="x"),
            ref="01J9ZV3K7Q8M4T",
            received_at=AT,
        ),
        site=Site(hostname="h.example", instance="i", public_url="https://mail.acme.example"),
        publication=Publication(stream="n", sender="acme") if marketing else None,
        own=lambda token: recipient,
    )


LIST_UNSUBSCRIBE = b"List-Unsubscribe: <https://esp.example/u>\r\n"


@pytest.mark.parametrize(
    ("fields", "marketing", "words"),
    [
        (b"", True, None),
        (SIG % b"from:to:subject", True, None),
        (SIG % b"from:to:date:date:message-id:feedback-id", True, None),
        (
            SIG % b"from:list-unsubscribe" + LIST_UNSUBSCRIBE,
            True,
            "field list-unsubscribe: removes",
        ),
        (SIG % b"from:list-unsubscribe", True, "field list-unsubscribe: oversigned"),
        (SIG % b"from:list-unsubscribe-post", True, "field list-unsubscribe-post: oversigned"),
        (SIG % b"from:list-id", True, "field list-id: oversigned"),
        (SIG % b"from:list-id" + b"List-Id: <a.example>\r\n", True, None),
        (SIG % b"from:list-unsubscribe", False, None),
        (SIG % b"from:bcc" + b"Bcc: c@d.example\r\n", False, "field bcc: removes"),
        (SIG % b"from:sluis-stream" + b"Sluis-Stream: a\r\n", False, "field sluis-stream: removes"),
        (SIG % b"from:bcc" + b"Resent-Bcc: c@d.example\r\n", False, None),
        (b"DKIM-Signature: nonsense\r\n", False, None),
        (b"DKIM-Signature: d=esp.example\r\nBcc: c@d.example\r\n", False, "field bcc: malformed"),
    ],
)
def test_without_a_key_a_broken_signature_is_refused(
    fields: bytes, marketing: bool, words: str | None
) -> None:
    refusal = _plan(fields, marketing=marketing).refusal()
    expected = words and f"550 5.7.1 dkim-covered d=esp.example {words}"
    assert (str(refusal) if refusal else None) == expected


def test_fields_that_nobody_is_owed_are_left_out_where_oversigned() -> None:
    planned = _plan(SIG % b"from:date:message-id:feedback-id")
    head = index(copy_head(planned, number=1, token="k1.x"))
    assert not any(head.named(n) for n in (b"date", b"message-id", b"feedback-id"))
    assert planned.message_id == ""


def test_a_signature_that_forbids_received_is_marked() -> None:
    planned = _plan(SIG % b"from:received", marketing=False)
    assert planned.refusal() is None
    assert planned.marks == ("trace_oversigned",)


def test_a_chain_that_breaks_goes_as_a_whole() -> None:
    arc = b"".join(
        b"ARC-%s: i=1; d=esp.example; h=from:list-unsubscribe; b=eA==\r\n" % name
        for name in (b"Seal", b"Message-Signature", b"Authentication-Results")
    )
    kept = _plan(arc, marketing=False)
    assert arc in copy_head(kept, number=1)
    assert kept.marks == ()
    broken = _plan(arc)
    assert b"ARC-" not in copy_head(broken, number=1, token="k1.x")
    assert "arc_removed" in broken.marks
    assert broken.refusal() is None
    assert _plan(SIG % b"from:arc-seal" + arc).refusal() is not None


def test_our_own_pair_covered_by_a_signature_stays_for_its_recipient() -> None:
    pair = (
        b"List-Unsubscribe: <https://mail.acme.example/u/k1.a>\r\n"
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    )
    planned = _plan(SIG % b"from:list-unsubscribe" + pair, recipient="anna@example.nl")
    assert planned.refusal("anna@example.nl") is None
    assert planned.refusal("bram@example.nl") is not None


# -- against dkimpy ------------------------------------------------------------------------------

_NAMES = [
    *("from", "to", "subject", "date", "bcc", "list-id", "list-unsubscribe", "feedback-id"),
    "dkim-signature",
]


@pytest.fixture(scope="module")
def key() -> tuple[bytes, Callable[..., bytes]]:
    private = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
    return pem, lambda name, timeout=5: record


def _sign(message: bytes, pem: bytes, domain: bytes, rng: random.Random) -> bytes:
    listed = ["from", *rng.choices(_NAMES, k=rng.randrange(8))]
    rng.shuffle(listed)
    signer = dkim.DKIM(message)
    signer.should_not_sign = set()
    signed: bytes = signer.sign(
        b"s",
        domain,
        pem,
        canonicalize=(rng.choice([b"simple", b"relaxed"]), rng.choice([b"simple", b"relaxed"])),
        include_headers=[name.encode() for name in listed],
    )
    return signed + message


def _verifies(message: bytes, position: int, dns: Callable[..., bytes]) -> bool:
    try:
        return bool(dkim.DKIM(message).verify(idx=position, dnsfunc=dns))
    except dkim.ValidationError:
        return False


def test_prediction_equals_verification(key: tuple[bytes, Callable[..., bytes]]) -> None:
    pem, dns = key
    rng = random.Random(6376)
    outcomes = {True: 0, False: 0}
    for case in range(300):
        present = ["from", *rng.choices(_NAMES[1:-1], k=rng.randrange(7))]
        rng.shuffle(present)
        message = b"".join(
            f"{n.title()}: a@acme.example\r\n  {i}\t x \r\n".encode() for i, n in enumerate(present)
        )
        message += b"\r\nbody \r\nof  it\r\n\r\n"
        count = rng.randrange(1, 3)
        for n in range(count):
            message = _sign(message, pem, b"d%d.example" % n, rng)
        header = index(message)
        removed = {n.encode() for n in rng.sample(_NAMES[1:-1], k=rng.choice([0, 0, 1, 2]))}
        added = {n.encode() for n in rng.sample(_NAMES[1:], k=rng.choice([0, 1, 2]))}
        body_edited = rng.random() < 0.1
        new = [b"%s: d=junk.example; case %d\r\n" % (name, case) for name in sorted(added)]
        gone = [f for f in header.fields if f.name in removed]
        edited = b"".join(splice(header, remove=gone, add=new)) + message[header.end :]
        if body_edited:
            edited += b"more\r\n"
        broken = broken_by(header, removed=removed, added=added, body_edited=body_edited)
        predicted = {b.d for b in broken}
        shift = b"dkim-signature" in added
        for n in range(count):
            domain = f"d{count - 1 - n}.example"
            if not _verifies(message, n, dns):
                continue  # the second signature broke the first, which oversigned its field
            verified = _verifies(edited, n + shift, dns)
            assert verified == (domain not in predicted), (case, domain, broken, edited)
            outcomes[verified] += 1
    assert min(outcomes.values()) > 100
