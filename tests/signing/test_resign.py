"""Which signatures stay, go and come when we hold an aligned key (docs/dkim.md)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

import dkim
import pytest
import verifiers
from hypothesis import given, settings
from hypothesis import strategies as st
from signing_keys import KEYS, RECORDS, RSA, pem, record, sign, signatures

from proxy.envelope import Envelope, Submitter
from proxy.message.canonical import BodyHash
from proxy.message.dkim import Aligned
from proxy.message.dkim import signatures as signatures_of
from proxy.message.edit import EditPlan, Publication, Site, copy_head, plan, signed
from proxy.message.header import Field, body_of, index
from proxy.message.obligations import cfbl_address
from proxy.message.sign import Key, holds

ANNA = "anna@example.nl"
OWN = frozenset({("acme.example", "s1"), ("acme.example", "e1")})
SITE = Site(hostname="gate.acme.example", instance="i7", public_url="https://mail.acme.example")
NEWS = Publication(stream="newsletter", sender="acme", namespace="news.acme.example")
BASE = (
    b"From: Acme <news@news.acme.example>\r\nTo: anna@example.nl\r\nSubject: Spring\r\n"
    b"Date: Tue, 24 Nov 2026 08:00:00 +0000\r\nMessage-ID: <1@acme.example>\r\n"
)
BODY = b"Hello\r\n"
ESP = {"x._domainkey.esp.example": record(RSA), **RECORDS}


def aligned(*, sound: bool = True) -> Aligned:
    return Aligned("acme.example", OWN, lambda signature: sound)


def planned(
    content: bytes,
    keys: Aligned | None,
    *,
    marketing: bool = True,
    body_edited: bool = False,
    token: str = "",
    site: Site = SITE,
    failed: Collection[Field] = (),
) -> EditPlan:
    envelope = Envelope(
        submitter=Submitter(listener="", peer="", network="n", helo="app.acme.example"),
        ref="01J9ZV3K7Q8M4T",
        received_at=datetime(2026, 11, 24, 8, tzinfo=UTC),
    )
    return plan(
        index(content),
        envelope=envelope,
        site=site,
        publication=NEWS if marketing else None,
        own=lambda there: ANNA if there == token else "",
        body_edited=body_edited,
        aligned=keys,
        failed=failed,
    )


def copy(
    content: bytes, made: EditPlan, *, body: bytes | None = None, token: str = "k1.anna"
) -> bytes:
    """One copy as it leaves."""
    head = copy_head(made, number=1, recipient=ANNA, token=token)
    left = bytes(body_of(content, index(content))) if body is None else body
    if made.signs(ANNA):
        head = signed(made, head, signatures(head, [left]))
    return head + left


def by(domain: bytes, content: bytes, names: list[bytes]) -> bytes:
    """A mail signed by somebody else, also over what RFC 6376 advises not to sign."""
    mail = dkim.DKIM(content)
    mail.should_not_sign = set()
    made: bytes = mail.sign(b"x", domain, pem(RSA), include_headers=names)
    return made + content


def by_esp(fields: bytes, *, include: list[bytes] | None = None) -> bytes:
    """A mail signed by an ESP, which covers each field once and no more."""
    content = fields + BASE + b"\r\n" + BODY
    names = include or [f.name for f in index(content).fields]
    return by(b"esp.example", content, names)


def test_unsigned_mail_is_signed() -> None:
    content = BASE + b"\r\n" + BODY
    made = planned(content, aligned())
    assert made.marks == ()
    assert verifiers.by_dkimpy(copy(content, made), RECORDS) == [True, True]
    assert planned(content, None).marks == ("one_click_unsigned",)
    assert not planned(content, None).signs(ANNA)


def test_a_foreign_signature_that_holds_is_kept_below_ours() -> None:
    content = by_esp(b"")
    made = planned(content, aligned())
    assert made.marks == ()
    assert verifiers.by_dkimpy(copy(content, made), ESP) == [True, True, True]
    without = planned(content, None)
    assert without.refusal(ANNA) is None
    assert without.marks == ("one_click_unsigned",)
    assert verifiers.by_dkimpy(copy(content, without), ESP) == [True]


LIST = b"List-Unsubscribe: <https://esp.example/u>\r\n"


def test_only_the_broken_signature_goes() -> None:
    content = LIST + BASE + b"\r\n" + BODY
    content = by(b"inner.example", content, [b"From", b"Subject"])
    content = by(b"outer.example", content, [b"From", b"List-Unsubscribe"])
    made = planned(content, aligned())
    assert made.marks == ("resigned: outer.example",)
    leaves = copy(content, made)
    assert b"outer.example" not in leaves
    records = {"x._domainkey.inner.example": record(RSA), **RECORDS}
    assert verifiers.by_dkimpy(leaves, records) == [True, True, True]
    refusal = planned(content, None).refusal(ANNA)
    assert str(refusal) == (
        "550 5.7.1 dkim-covered d=outer.example field list-unsubscribe: removes"
    )


def test_one_that_covers_a_broken_one_goes_with_it() -> None:
    content = LIST + BASE + b"\r\n" + BODY
    content = by(b"inner.example", content, [b"From", b"List-Unsubscribe"])
    content = by(b"outer.example", content, [b"From", b"DKIM-Signature"])
    made = planned(content, aligned())
    assert made.marks == ("resigned: outer.example, inner.example",)
    assert verifiers.by_dkimpy(copy(content, made), RECORDS) == [True, True]


@pytest.mark.parametrize("name", [b"List-Id", b"DKIM-Signature", b"Received"])
def test_what_forbids_our_fields_goes(name: bytes) -> None:
    content = by_esp(b"", include=[b"From", name])
    made = planned(content, aligned())
    assert made.marks == ("resigned: esp.example",)
    assert verifiers.by_dkimpy(copy(content, made), RECORDS) == [True, True]


def test_another_body_breaks_every_foreign_signature() -> None:
    content = by_esp(b"")
    made = planned(content, aligned(), body_edited=True)
    assert made.marks == ("resigned: esp.example",)
    leaves = copy(content, made, body=BODY + b"-- \r\nfooter\r\n")
    assert verifiers.by_dkimpy(leaves, ESP) == [True, True]
    refusal = planned(content, None, body_edited=True).refusal(ANNA)
    assert str(refusal) == "550 5.7.1 dkim-covered d=esp.example field body: body"


def test_a_malformed_one_goes() -> None:
    content = b"DKIM-Signature: nonsense\r\n" + BASE + b"\r\n" + BODY
    made = planned(content, aligned())
    assert made.marks == ("resigned: ?",)
    assert b"nonsense" not in copy(content, made)


def test_a_chain_that_breaks_goes_with_what_covers_it() -> None:
    arc = (
        b"ARC-Seal: i=1; d=fw.example; s=x; b=x\r\n"
        b"ARC-Message-Signature: i=1; d=fw.example; s=x; h=from:list-unsubscribe; bh=x; b=x\r\n"
        b"ARC-Authentication-Results: i=1; fw.example; none\r\n"
    )
    content = arc + LIST + BASE + b"\r\n" + BODY
    made = planned(content, aligned())
    assert made.marks == ("arc_removed",)
    assert b"ARC-" not in copy(content, made)
    covering = by(b"esp.example", content, [b"From", b"ARC-Seal"])
    assert planned(covering, aligned()).marks == ("resigned: esp.example", "arc_removed")


# -- other mail ----------------------------------------------------------------------------------


def test_other_mail_is_signed_only_where_a_field_that_goes_was_covered() -> None:
    for content in (by_esp(b""), BASE + b"\r\n" + BODY):
        made = planned(content, aligned(), marketing=False)
        assert not made.signs()
        assert copy(content, made).endswith(content)
    content = by_esp(b"Bcc: cees@example.nl\r\n")
    made = planned(content, aligned(), marketing=False)
    assert made.marks == ("resigned: esp.example",)
    assert verifiers.by_dkimpy(copy(content, made), RECORDS) == [True, True]
    assert str(planned(content, None, marketing=False).refusal()) == (
        "550 5.7.1 dkim-covered d=esp.example field bcc: removes"
    )


# -- a mail of ours that comes back --------------------------------------------------------------


def once(content: bytes = BASE + b"\r\n" + BODY) -> bytes:
    return copy(content, planned(content, aligned()))


def test_a_second_pass_changes_nothing_but_the_trace() -> None:
    first = once()
    made = planned(first, aligned(), token="k1.anna")
    assert not made.signs(ANNA)
    assert made.refusal(ANNA) is None
    second = copy(first, made)
    assert second.count(b"DKIM-Signature:") == 2
    assert verifiers.by_dkimpy(second, RECORDS) == [True, True]
    assert second.count(b"Sluis-Ref:") == 1


def test_a_second_pass_for_another_person_is_signed_again() -> None:
    first = once()
    made = planned(first, aligned())  # the link in it opens for nobody here
    assert made.signs(ANNA)
    assert made.marks == ()
    second = copy(first, made, token="k1.bram")
    assert second.count(b"DKIM-Signature:") == 2
    assert verifiers.by_dkimpy(second, RECORDS) == [True, True]


def test_a_second_pass_with_another_body_is_signed_again() -> None:
    first = once()
    made = planned(first, aligned(), token="k1.anna", body_edited=True)
    assert made.signs(ANNA)
    second = copy(first, made, body=BODY + b"footer\r\n")
    assert verifiers.by_dkimpy(second, RECORDS) == [True, True]


def test_a_signature_that_only_claims_to_be_ours_is_made_again() -> None:
    first = once()
    made = planned(first, aligned(sound=False), token="k1.anna")
    assert made.signs(ANNA)
    assert verifiers.by_dkimpy(copy(first, made), RECORDS) == [True, True]


def test_a_signature_of_ours_without_one_click_does_not_do() -> None:
    first = once()
    weak = first.replace(b"list-unsubscribe-post", b"x-one-click-post")  # in h= only
    assert weak != first
    assert planned(weak, aligned(), token="k1.anna").signs(ANNA)


def test_what_holds_and_what_does_not() -> None:
    content = sign(BASE + b"\r\n" + BODY)
    header = index(content)
    digest = BodyHash().digest([BODY])
    ed, rsa_ = header.named(b"dkim-signature")
    by_name: dict[str, Key] = {key.algorithm: key for key in KEYS}
    assert holds(header, ed, by_name["ed25519"], digest)
    assert holds(header, rsa_, by_name["rsa"], digest)
    assert not holds(header, ed, by_name["rsa"], digest)
    assert not holds(header, ed, by_name["ed25519"], b"x" * 32)
    for old, new in (
        (b"Spring", b"Sprint"),
        (b" b=", b" b=!"),
        (b" t=", b" l=5; t="),
        (b"relaxed/relaxed", b"relaxed/simple"),
        (b"c=relaxed/relaxed", b"z=relaxed/relaxed"),
        (b"h=from:from:", b"h="),
        (b"DKIM-Signature: v=1;", b"DKIM-Signature: nonsense;"),
    ):
        changed = index(content.replace(old, new))
        for field, key in zip(changed.named(b"dkim-signature"), ("ed25519", "rsa"), strict=True):
            assert not holds(changed, field, by_name[key], digest), old


# -- CFBL-Address --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("from_domain", "mailbox", "signed_by", "yes"),
    [
        ("news.acme.example", "fbl@news.acme.example", "news.acme.example", True),
        ("news.acme.example", "fbl@fb.news.acme.example", "acme.example", True),
        ("news.acme.example", "fbl@fb.acme.example", "acme.example", False),
        ("news.acme.example", "fbl@acme.example", "acme.example", False),
        ("news.acme.example", "fbl@xnews.acme.example", "acme.example", False),
        ("acme.example", "fbl@acme.example", "news.acme.example", False),
    ],
)
def test_where_complaints_may_be_asked_for(
    from_domain: str, mailbox: str, signed_by: str, yes: bool
) -> None:
    got = cfbl_address.allowed(from_domain=from_domain, mailbox=mailbox, signed_by=signed_by)
    assert got is yes


def test_complaints_are_asked_for_under_our_signature_only() -> None:
    site = Site(
        hostname=SITE.hostname,
        instance=SITE.instance,
        public_url=SITE.public_url,
        complaints="fbl@fb.news.acme.example",
    )
    content = BASE + b"\r\n" + BODY
    leaves = copy(content, planned(content, aligned(), site=site))
    assert b"\r\nCFBL-Address: fbl@fb.news.acme.example; report=arf\r\n" in leaves
    assert leaves.count(b"cfbl-address") == 2  # in h= of both
    assert verifiers.by_dkimpy(leaves, RECORDS) == [True, True]
    assert b"CFBL" not in copy(content, planned(content, None, site=site))
    assert b"CFBL" not in copy(content, planned(content, aligned()))


# -- a law ---------------------------------------------------------------------------------------

NAMES = [b"From", b"To", b"Subject", b"Bcc", b"List-Unsubscribe", b"List-Id", b"Date", b"Received"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"one.example", b"two.example", b"three.example"]),
            st.lists(st.sampled_from([*NAMES, b"DKIM-Signature"]), max_size=6),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda pair: pair[0],
    ),
    st.booleans(),
    st.booleans(),
)
def test_what_leaves_holds(
    signers: list[tuple[bytes, list[bytes]]], bcc: bool, unsubscribe: bool
) -> None:
    """Whatever signed the mail before: what was sound is sound or gone, and ours is there."""
    content = (b"Bcc: c@example.nl\r\n" if bcc else b"") + (LIST if unsubscribe else b"")
    content += BASE + b"\r\n" + BODY
    records = dict(RECORDS)
    for domain, names in signers:
        records[f"x._domainkey.{domain.decode()}"] = record(RSA)
        content = by(domain, content, [b"From", *names])
    came, left = (
        verdicts(content, records),
        verdicts(copy(content, planned(content, aligned())), records),
    )
    ours = [sound for domain, sound in left if domain == "acme.example"]
    assert ours == [True, True]
    # One that a later signer broke before it came here is not ours to judge.
    broken = {domain for domain, sound in came if not sound}
    assert all(sound for domain, sound in left if domain not in broken)


def verdicts(content: bytes, records: dict[str, str]) -> list[tuple[str, bool]]:
    domains = [s.d for s in signatures_of(index(content))]
    return list(zip(domains, verifiers.by_dkimpy(content, records), strict=True))


def test_a_signature_knows_its_selector() -> None:
    header = index(b"DKIM-Signature: d=A.example; s=S1; h=from; b=x\r\nFrom: a@b\r\n\r\n")
    (found,) = signatures_of(header)
    assert (found.d, found.s) == ("a.example", "s1")


_FIELDS = st.lists(
    st.sampled_from(
        [
            *(b"Reply-To: help@acme.example", b"X-A: one  two\t", b"Feedback-ID: a:b:c:acmeshoes"),
            *(b"List-Id: <old.acme.example>", b"Sender: a@acme.example", b"Cc: b@example.nl"),
            *(b"List-Unsubscribe: <https://esp.example/u>", b"Bcc: c@example.nl"),
            b"List-Unsubscribe-Post: List-Unsubscribe=One-Click",
        ]
    ),
    unique_by=lambda line: line.partition(b":")[0],
    max_size=5,
).map(lambda lines: b"".join(line + b"\r\n" for line in lines))


def without_trace(content: bytes) -> bytes:
    """All but Received and Sluis-Ref, which every pass makes anew."""
    header = index(content)
    fields = [f for f in header.fields if f.name not in (b"received", b"sluis-ref")]
    return b"".join(header.raw[f.start : f.end] for f in fields) + content[header.fields_end :]


@settings(max_examples=40, deadline=None)
@given(fields=_FIELDS, body=st.sampled_from([BODY, b"", b"a \r\n\r\n\r\n"]), keys=st.booleans())
def test_injection_is_idempotent(fields: bytes, body: bytes, keys: bool) -> None:
    own = aligned() if keys else None
    content = fields + BASE + b"\r\n" + body
    first = copy(content, planned(content, own))
    again = planned(first, own, token="k1.anna")
    assert not again.signs(ANNA)
    assert without_trace(copy(first, again)) == without_trace(first)


@settings(max_examples=40, deadline=None)
@given(
    fields=_FIELDS,
    covered=st.sets(st.sampled_from([b"to", b"subject", b"date", b"x-a", b"reply-to", b"sender"])),
    keys=st.booleans(),
)
def test_a_valid_signature_that_is_not_oversigned_stays_valid(
    fields: bytes, covered: set[bytes], keys: bool
) -> None:
    plain = fields + BASE + b"\r\n" + BODY
    there = {f.name for f in index(plain).fields}
    content = by(b"esp.example", plain, [b"from", *sorted(covered & there)])
    made = planned(content, aligned() if keys else None)
    assert made.refusal(ANNA) is None
    verdicts = verifiers.by_dkimpy(copy(content, made), ESP)
    assert verdicts == [True] * (3 if keys else 1)
