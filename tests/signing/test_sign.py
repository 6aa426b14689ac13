"""Our signatures: their text, what they cover, and that three other programs agree."""

from __future__ import annotations

import re
import sysconfig
from datetime import UTC, datetime
from pathlib import Path

import pytest
import verifiers
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from signing_keys import AT, ED25519, KEYS, RECORDS, RSA, sign, signatures

from proxy.envelope import Envelope, Submitter
from proxy.message.dkim import Aligned
from proxy.message.edit import Publication, Site, copy_head, plan, signed
from proxy.message.header import HeaderRefused, body_of, check_marketing, index
from proxy.message.sign import COVERED, OVERSIGNED, Key, SigningError, cover, hashed

HEAD = (
    b"From: Acme <news@news.acme.example>\r\nTo: anna@example.nl\r\nSubject: Spring\r\n"
    b"Date: Tue, 24 Nov 2026 08:00:00 +0000\r\nMessage-ID: <1@acme.example>\r\n\r\n"
)
BODY = b"Hello  there\r\n\r\n\tgood bye \r\n\r\n\r\n"
BOTH = [["ed25519-sha256=invalid", "rsa-sha256=pass"]]  # this Mail::DKIM knows RSA only


def tags(field: bytes) -> dict[str, str]:
    value = field.partition(b":")[2].replace(b"\r\n", b"").decode()
    pairs = (item.strip().partition("=") for item in value.split(";"))
    return {name: re.sub(r"\s", "", text) for name, _, text in pairs}


def two(block: bytes) -> list[bytes]:
    return [block[f.start : f.end] for f in index(block + b"\r\n").fields]


def verdicts(folder: Path, content: bytes) -> tuple[list[bool], list[str], bool]:
    return (
        verifiers.by_dkimpy(content, RECORDS),
        verifiers.by_mail_dkim(folder, [content], RECORDS)[0],
        verifiers.by_opendkim(folder, [content], RECORDS)[0],
    )


ALL_PASS = ([True, True], BOTH[0], True)


def test_the_text_of_a_signature() -> None:
    first, second = two(signatures(HEAD, [BODY]))
    h = (
        "from:from:to:to:cc:subject:subject:date:date:message-id:message-id:reply-to:mime-version:"
        "content-type:content-transfer-encoding:list-id:list-unsubscribe:list-unsubscribe-post"
    )
    common = {"v": "1", "c": "relaxed/relaxed", "d": "acme.example", "h": h}
    for field, algorithm, selector in ((first, "ed25519", "e1"), (second, "rsa", "s1")):
        found = tags(field)
        assert found.items() >= common.items()
        assert found["a"] == f"{algorithm}-sha256"
        assert found["s"] == selector
        assert found["t"] == str(int(AT.timestamp()))
        assert list(found) == ["v", "a", "c", "d", "s", "t", "h", "bh", "b"]
        assert all(len(line) <= 78 for line in field.split(b"\r\n"))
        assert all(line.startswith(b" ") for line in field.split(b"\r\n")[1:-1])


def test_what_is_covered_how_often() -> None:
    head = b"".join(
        b"%s: x\r\n" % name
        for name in (*COVERED, b"references", b"received", b"x-mailer", b"sluis-ref")
    )
    names = cover(head + b"\r\n").names
    assert names.count(b"from") == 2
    assert names.count(b"list-unsubscribe") == names.count(b"list-unsubscribe-post") == 2
    assert names.count(b"references") == 2
    assert names.count(b"feedback-id") == names.count(b"list-owner") == 1
    assert not {b"received", b"x-mailer", b"sluis-ref", b"dkim-signature"} & set(names)
    less = cover(head + b"\r\n", ["date", "message-id"]).names
    assert set(names) - set(less) == {b"date", b"message-id"}


NAMES = (b"From", b"fRom", b"To", b"Subject", b"References", b"X-Mailer", b"List-Id", b"Bcc", b"a")
LINE = st.builds(
    lambda name, before, colon, values: name + before + colon + b"\r\n".join(values) + b"\r\n",
    st.sampled_from((*NAMES, b"Two words", b"Tab\tbed", b"\xff", b"")),
    st.sampled_from([b"", b"", b"", b" ", b"\t \t"]),
    st.sampled_from([b":", b":", b": ", b":\t", b""]),
    st.lists(
        st.lists(
            st.sampled_from([b"x", b":", b" ", b"  ", b"\t", b" \t", b"\xe2\x82\xac", b"\n"]),
            max_size=6,
        ).map(lambda parts: b" " + b"".join(parts)),
        min_size=1,
        max_size=3,
    ),
)


@given(
    st.lists(LINE, max_size=8).map(b"".join),
    st.sets(st.sampled_from(["to", "references", "list-id", "date"])),
)
def test_one_pass_covers_what_the_index_says(block: bytes, omit: set[str]) -> None:
    """RFC 6376 section 5.4.2, from the index of the same block."""
    header = index(b"From: a@acme.example\r\n" + re.sub(rb"(?im)^from\b", b"x", block) + b"\r\n")
    covered = cover(header.raw, omit)
    assert covered.data == hashed(header, covered.names)
    for name in COVERED:
        listed = 0 if name.decode() in omit else len(header.named(name)) + (name in OVERSIGNED)
        assert covered.names.count(name) == listed


def test_a_signature_of_a_thousand_references() -> None:
    head = b"References: <a@b>\r\n" * 1_000 + HEAD
    assert cover(head).names.count(b"references") == 1_000
    assert cover(head).data == hashed(index(head, max_fields=1_050), cover(head).names)


def test_an_upstream_that_takes_one_and_rewrites(tmp_path: Path) -> None:
    """Amazon SES: one signature, Message-ID and Date replaced, a Feedback-ID added."""
    fields = signatures(HEAD, [BODY], algorithms=["rsa"], omit=["message-id", "date"])
    assert [tags(field)["a"] for field in two(fields)] == ["rsa-sha256"]
    rewritten = HEAD.replace(b"<1@acme.example>", b"<2@ses.example>").replace(b"08:00", b"09:00")
    content = b"Feedback-ID: ses\r\n" + fields + rewritten + BODY
    assert verdicts(tmp_path, content) == ([True], ["rsa-sha256=pass"], True)


def test_without_a_key_that_may_be_used_nothing_is_signed() -> None:
    with pytest.raises(SigningError, match=r"acme\.example"):
        signatures(HEAD, [BODY], keys=KEYS[:1], algorithms=["ed25519"])


def test_a_domain_that_fills_a_line() -> None:
    label = "a" * 60
    domain = ".".join([label] * 4)
    (field,) = two(signatures(HEAD, [BODY], keys=(Key(domain, "s" * 60, ED25519),)))
    assert tags(field)["d"] == domain
    assert all(len(line) <= 78 for line in field.split(b"\r\n") if b"d=" not in line)


HARD = {
    "plain": HEAD + BODY,
    "empty body": HEAD,
    "blank body": HEAD + b"\r\n\r\n \r\n",
    "8-bit": HEAD.replace(b"Spring", b"Fr\xfchling \xe2\x82\xac") + b"\xc3\xa9 \xff\r\n",
    "long field": HEAD.replace(b"anna@example.nl", b"x" * 900 + b"@example.nl") + BODY,
    "many folds": HEAD.replace(b"Spring", b"\r\n ".join([b"word \t word"] * 300)) + BODY,
    "tabs": HEAD.replace(b": ", b":\t \t") + b"a\t\t b \t\r\n \t \r\n\tc\r\n",
    "space before colon": HEAD.replace(b"Subject:", b"Subject :") + BODY,
    "empty value": HEAD.replace(b"Spring", b"") + BODY,
    "long lines": HEAD + (b"x" * 990 + b"\r\n") * 100,
    "several": b"References: <a@b>\r\nreferences: <c@d>\r\nComments: x\r\n" + HEAD + BODY,
    "dots": HEAD + b".\r\n..\r\n.x\r\n",
    "large": HEAD + b"A line of the size that lines have, more or less.  \r\n" * 12_000,
}


def test_hard_mails_hold_everywhere(tmp_path: Path) -> None:
    contents = [sign(content) for content in HARD.values()]
    perl = verifiers.by_mail_dkim(tmp_path, contents, RECORDS)
    milter = verifiers.by_opendkim(tmp_path, contents, RECORDS)
    for name, content, by_perl, by_milter in zip(HARD, contents, perl, milter, strict=True):
        if name != "space before colon":  # dkimpy cannot read such a field at all
            assert verifiers.by_dkimpy(content, RECORDS) == [True, True], name
        assert by_perl == BOTH[0], name
        assert by_milter, name


TAMPERED = {
    "subject": (b"Subject: Spring", b"Subject: Sprint"),
    "body": (b"good bye", b"good buy"),
    "second from": (b"From: Acme", b"From: Eve <eve@evil.example>\r\nFrom: Acme"),
    "second subject": (b"To: anna", b"Subject: Free\r\nTo: anna"),
    "list-unsubscribe added": (
        b"To: anna",
        b"List-Unsubscribe: <https://evil.example>\r\nTo: anna",
    ),
    "cc added": (b"To: anna", b"Cc: eve@evil.example\r\nTo: anna"),
    "content-type added": (b"To: anna", b"Content-Type: text/html\r\nTo: anna"),
    "to removed": (b"To: anna@example.nl\r\n", b""),
    "body appended": (b"\r\n\r\n\r\n", b"\r\n\r\n\r\nBuy now\r\n"),
    "t=": (b" t=17", b" t=18"),
    "h=": (b"h=from:from:to", b"h=from:from:cc"),
}


def test_tampering_is_refused_everywhere(tmp_path: Path) -> None:
    whole = sign(HEAD + BODY)
    contents = []
    for old, new in TAMPERED.values():
        assert old in whole
        contents.append(whole.replace(old, new))
    perl = verifiers.by_mail_dkim(tmp_path, contents, RECORDS)
    milter = verifiers.by_opendkim(tmp_path, contents, RECORDS)
    for name, content, by_perl, by_milter in zip(TAMPERED, contents, perl, milter, strict=True):
        assert verifiers.by_dkimpy(content, RECORDS) == [False, False], name
        assert by_perl[1] != "rsa-sha256=pass", name
        assert not by_milter, name


def test_added_trace_and_feedback_fields_leave_it_valid(tmp_path: Path) -> None:
    above = (
        b"Received: from x by y; Tue, 24 Nov 2026 08:00:01 +0000\r\nFeedback-ID: z\r\nX-A: b\r\n"
    )
    assert verdicts(tmp_path, above + sign(HEAD + BODY)) == ALL_PASS


def test_the_wrong_key_is_refused(tmp_path: Path) -> None:
    other = rsa.generate_private_key(65537, 2048)
    content = sign(HEAD + BODY, keys=(Key("acme.example", "s1", other),))
    assert verdicts(tmp_path, content) == ([False], ["rsa-sha256=fail"], False)


TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=0x24F), max_size=60)
VALUE = st.lists(TEXT.map(str.strip).filter(bool), min_size=1, max_size=4).map("\r\n\t ".join)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(COVERED - {b"from"})), VALUE), max_size=8),
    st.lists(st.sampled_from(["", " ", "\t", "text  ", " x", "\u00e9", "."]), max_size=20),
)
@example([(b"subject", "")], [""])
def test_generated_mails_hold(fields: list[tuple[bytes, str]], lines: list[str]) -> None:
    head = b"From: a@acme.example\r\n" + b"".join(
        b"%s: %s\r\n" % (name, value.encode()) for name, value in fields
    )
    content = head + b"\r\n" + "".join(f"{line}\r\n" for line in lines).encode()
    assert verifiers.by_dkimpy(sign(content), RECORDS) == [True, True]


# -- the CPython corpus, edited as marketing mail is, then signed --------------------------------

_DATA = Path(sysconfig.get_path("stdlib")) / "test" / "test_email" / "data"
SITE = Site(
    hostname="gate.acme.example",
    instance="i7",
    public_url="https://mail.acme.example",
    feedback_domain="fb.acme.example",
)
NEWS = Publication(stream="newsletter", sender="acme", namespace="news.acme.example")
ALIGNED = Aligned("acme.example", frozenset({("acme.example", "s1")}), lambda signature: False)


def corpus() -> dict[str, bytes]:
    """The mails that marketing accepts, as they leave for one recipient."""
    envelope = Envelope(
        submitter=Submitter(listener="", peer="", network="n", helo="app.acme.example"),
        ref="01J9ZV3K7Q8M4T",
        received_at=datetime(2026, 11, 24, 8, tzinfo=UTC),
    )
    found = {}
    for path in sorted(_DATA.glob("msg_*.txt")):
        content = re.sub(rb"\r\n|\r|\n", b"\r\n", path.read_bytes())
        try:
            header = index(content)
        except HeaderRefused:
            continue
        if check_marketing(header) is not None:
            continue
        planned = plan(header, envelope=envelope, site=SITE, publication=NEWS, aligned=ALIGNED)
        assert planned.signs("anna@example.nl")
        head = copy_head(planned, number=1, recipient="anna@example.nl", token="k1." + "A" * 170)
        body = body_of(content, header)
        if not bytes(body).endswith(b"\r\n"):
            body = memoryview(bytes(body) + b"\r\n")  # as every upstream client sends it
        found[path.stem] = signed(planned, head, signatures(head, [body])) + bytes(body)
    return found


def test_the_corpus_holds_everywhere(tmp_path: Path) -> None:
    mails = corpus()
    assert len(mails) >= 35  # 36 since Python 3.11.3
    contents = list(mails.values())
    perl = verifiers.by_mail_dkim(tmp_path, contents, RECORDS)
    milter = verifiers.by_opendkim(tmp_path, contents, RECORDS)
    for name, content, by_perl, by_milter in zip(mails, contents, perl, milter, strict=True):
        block = index(content)
        order = [field.name for field in block.fields[:4]]
        assert order == [b"received", b"dkim-signature", b"dkim-signature", b"sluis-ref"]
        assert verifiers.by_dkimpy(content, RECORDS) == [True, True], name
        assert by_perl == BOTH[0], name
        assert by_milter, name
    assert RSA.key_size == 2048
