"""What is removed, added and left (docs/message.md), planned once and applied per copy."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.envelope import Envelope, Submitter
from proxy.message.edit import EditPlan, Publication, Site, copy_head, plan
from proxy.message.fold import FoldError, fold
from proxy.message.header import check_marketing, index
from proxy.message.obligations import feedback_id, list_id, list_unsubscribe
from proxy.message.obligations.list_unsubscribe import Forward, Links, Post

AT = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
SITE = Site(hostname="gate.acme.example", instance="i7", public_url="https://mail.acme.example")
FB = Site(
    hostname="gate.acme.example",
    instance="i7",
    public_url="https://mail.acme.example",
    feedback_domain="fb.acme.example",
)
NEWS = Publication(
    stream="newsletter",
    sender="acme",
    title="Acme Schoenen B.V. newsletter",
    namespace="news.acme.example",
    feedback_id="acmeshoes",
)
ANNA, BRAM = "anna@example.nl", "bram@example.nl"
TOKENS = {"k1.anna": ANNA, "k1.bram": BRAM}
BASE = b"From: Acme <news@news.acme.example>\r\nDate: now\r\nMessage-ID: <m@x>\r\n"


def envelope(ref: str = "01J9ZV3K7Q8M4T") -> Envelope:
    submitter = Submitter(
        listener="127.0.0.1:2525",
        peer="127.0.0.1",
        network="127.0.0.0/8",
        helo="app.acme.example",
        protocol="ESMTPSA",
    )
    return Envelope(submitter=submitter, ref=ref, received_at=AT)


def marketing(
    fields: bytes, *, site: Site = SITE, template: str = "", upstream_signs: bool = False
) -> EditPlan:
    return plan(
        index(BASE + fields + b"\r\n"),
        envelope=envelope(),
        site=site,
        publication=NEWS,
        campaign="spring-2026",
        template=template,
        upstream_signs=upstream_signs,
        own=lambda token: TOKENS.get(token, ""),
    )


def head(planned: EditPlan, recipient: str = ANNA, token: str = "k1.anna") -> bytes:
    return copy_head(planned, number=2, recipient=recipient, token=token)


def names(block: bytes) -> list[str]:
    return [f.name.decode() for f in index(block).fields]


def test_a_marketing_copy_byte_for_byte() -> None:
    content = (
        b"Bcc: cees@example.nl\r\nFrom: Acme <news@news.acme.example>\r\n"
        b"Sluis-Stream: newsletter\r\nTo: anna@example.nl\r\nSubject:  two\r\n  lines \r\n\r\n"
    )
    planned = plan(
        index(content),
        envelope=envelope(),
        site=FB,
        publication=NEWS,
        campaign="spring-2026",
    )
    assert copy_head(planned, number=2, recipient=ANNA, token="k1." + "A" * 60) == (
        b"Received: from app.acme.example by gate.acme.example (sluis i7) with ESMTPSA\r\n"
        b" id 01J9ZV3K7Q8M4T; Tue, 24 Nov 2026 08:00:00 +0000\r\n"
        b"Sluis-Ref: 01J9ZV3K7Q8M4T.2\r\n"
        b'List-Id: "Acme Schoenen B.V. newsletter" <newsletter.news.acme.example>\r\n'
        b"List-Unsubscribe:\r\n"
        b" <https://mail.acme.example/u/k1." + b"A" * 60 + b">,\r\n"
        b" <mailto:u@fb.acme.example?subject=unsubscribe%20k1." + b"A" * 60 + b">\r\n"
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
        b"Feedback-ID: spring-2026:newsletter:acme:acmeshoes\r\n"
        b"Date: Tue, 24 Nov 2026 08:00:00 +0000\r\n"
        b"Message-ID: <01J9ZV3K7Q8M4T@gate.acme.example>\r\n"
        b"From: Acme <news@news.acme.example>\r\n"
        b"To: anna@example.nl\r\nSubject:  two\r\n  lines \r\n\r\n"
    )
    assert planned.message_id == "<01J9ZV3K7Q8M4T@gate.acme.example>"
    assert planned.marks == ("one_click_unsigned",)
    assert planned.refusal(ANNA) is None


def test_the_page_for_users_shows_a_real_copy() -> None:
    page = (Path(__file__).parents[2] / "docs" / "message.md").read_text(encoding="utf-8")
    example = page.split("```\n")[1].replace("\n", "\r\n").encode()
    planned = plan(
        index(
            b"From: Acme <news@news.acme.example>\r\nBcc: c@example.nl\r\nSubject: Spring\r\n\r\n"
        ),
        envelope=envelope(),
        site=FB,
        publication=NEWS,
        campaign="spring-2026",
    )
    assert copy_head(planned, number=2, recipient=ANNA, token="k1.AAAA") == example + b"\r\n"


def test_other_mail_gets_a_trace_and_loses_control_fields_and_bcc() -> None:
    content = (
        b"Sluis-Stream: orders\r\nFrom: o@acme.example\r\nBCC : x@example.nl\r\n"
        b"Resent-Bcc: y@example.nl\r\nList-Unsubscribe: <https://x.example/1>\r\nTo: a@b\r\n\r\n"
    )
    kept = b"From: o@acme.example\r\nList-Unsubscribe: <https://x.example/1>\r\nTo: a@b\r\n\r\n"
    for enforce, ours in ((True, ["received", "sluis-ref"]), (False, ["received"])):
        planned = plan(index(content), envelope=envelope(), site=SITE, enforce=enforce)
        copy = copy_head(planned, number=1)
        assert copy.endswith(kept)
        assert names(copy[: -len(kept)] + b"\r\n") == ours
        assert planned.message_id == ""
        assert planned.marks == ()


def test_blank_line_is_added_for_marketing_only() -> None:
    content = b"From: a@acme.example\r\nSubject: x\r\n"
    header = index(content)
    assert copy_head(plan(header, envelope=envelope(), site=SITE), number=1).endswith(content)
    made = plan(header, envelope=envelope(), site=SITE, publication=NEWS)
    assert head(made).endswith(content + b"\r\n")


def test_mbox_line_is_dropped_and_marked() -> None:
    content = b"From me Mon\r\nFrom: a@acme.example\r\n\r\n"
    planned = plan(index(content), envelope=envelope(), site=SITE)
    assert planned.marks == ("mbox_line",)
    assert copy_head(planned, number=1).endswith(b"\r\nFrom: a@acme.example\r\n\r\n")


def test_fields_that_are_there_are_left() -> None:
    left = (
        b"Return-Path: <x@acme.example>\r\nPrecedence: bulk\r\nX-Mailer: y\r\n"
        b"Authentication-Results: z\r\nAuto-Submitted: auto-generated\r\nFeedback-ID: a:b:c:d\r\n"
        b"ARC-Seal: i=1\r\nReceived: from q\r\n"
    )
    copy = head(marketing(left))
    assert copy.endswith(BASE + left + b"\r\n")
    assert [n for n in names(copy) if n in {"feedback-id", "date", "message-id"}] == [
        "date",
        "message-id",
        "feedback-id",
    ]


# -- List-Id -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "stays"),
    [
        (b"List-Id: Acme news <news.acme.example>\r\n", True),
        (b"List-Id: <news.acme.example>\r\n", True),
        (b"List-Id: news.acme.example\r\n", False),
        (b"List-Id: <news>\r\n", False),
        (b"List-Id: <news..example>\r\n", False),
        (b"List-Id: <a.example> trailing\r\n", False),
        (b"List-Id:\r\n", False),
        (b"List-Id: <a.example>\r\nList-ID: <b.example>\r\n", False),
        (b"List-Id: " + b"x" * 250 + b" <a.example>\r\n", False),
    ],
)
def test_list_id_one_valid_is_kept(fields: bytes, stays: bool) -> None:
    copy = index(head(marketing(fields)))
    if stays:
        assert fields in copy.raw
        assert len(copy.named(b"list-id")) == 1
    else:
        assert copy.values(b"list-id") == [
            b'"Acme Schoenen B.V. newsletter" <newsletter.news.acme.example>'
        ]


def test_list_id_namespace_falls_back_to_the_author() -> None:
    planned = plan(
        index(BASE + b"\r\n"),
        envelope=envelope(),
        site=SITE,
        publication=Publication(stream="a b/c", sender="acme"),
    )
    assert index(head(planned)).values(b"list-id") == [b"<a-b-c.news.acme.example>"]


@given(
    st.text("abc-_/ é", min_size=1, max_size=80),
    st.lists(st.text("abc", min_size=1, max_size=60), min_size=2, max_size=6).map(".".join),
    st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), max_size=120),
)
def test_list_id_is_always_valid(stream: str, namespace: str, title: str) -> None:
    field = list_id.field(stream=stream, namespace=namespace, title=title)
    header = index(b"From: a@acme.example\r\n" + field + b"\r\n")
    assert list_id.kept(header)
    # An identifier cannot be folded; all else stays within 78.
    assert all(len(line) <= 78 or line.startswith(b" <") for line in field.split(b"\r\n"))


# -- Feedback-ID ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("campaign", "feedback", "field"),
    [
        ("", "acmeshoes", b"Feedback-ID: -:newsletter:acme:acmeshoes\r\n"),
        ("a/b.c:d", "", b"Feedback-ID: a-b-c-d:newsletter:acme:acme-mail\r\n"),
    ],
)
def test_feedback_id(campaign: str, feedback: str, field: bytes) -> None:
    made = feedback_id.field(
        campaign=campaign, stream="newsletter", sender="acme", feedback_id=feedback
    )
    assert made == field


@given(*[st.text(max_size=100)] * 4)
def test_feedback_id_has_four_sound_parts(a: str, b: str, c: str, d: str) -> None:
    field = feedback_id.field(campaign=a, stream=b, sender=c, feedback_id=d)
    text = index(field + b"\r\n").values(b"feedback-id")[0].decode().replace(" ", "")
    assert re.fullmatch(r"([A-Za-z0-9_-]{1,64}:){3}[A-Za-z0-9_-]{5,15}", text)


# -- List-Unsubscribe, column `replace` ----------------------------------------------------------

POST = b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
OURS = (
    b"List-Unsubscribe: <https://mail.acme.example/u/k1.anna>,\r\n"
    b" <mailto:u@fb.acme.example?subject=unsubscribe%20k1.anna>\r\n"
)


@pytest.mark.parametrize(
    ("fields", "forward"),
    [
        (b"", None),
        (
            b"List-Unsubscribe: <https://esp.example/u?1>\r\n" + POST,
            Forward("https://esp.example/u?1", True),
        ),
        (b"List-Unsubscribe: <https://esp.example/u>\r\n", Forward("https://esp.example/u", False)),
        (
            b"List-Unsubscribe: (c) <mailto:u@esp.example>, <https://esp.example/\r\n u>\r\n"
            + POST,
            Forward("https://esp.example/u", True),
        ),
        (
            b"List-Unsubscribe: <https://esp.example/u>, <mailto:u@esp.example>\r\n",
            Forward("mailto:u@esp.example", False),
        ),
        (b"List-Unsubscribe: <http://esp.example/u>\r\n", None),
        (b"List-Unsubscribe: <mailto:u@esp.example>\r\n", Forward("mailto:u@esp.example", False)),
        (
            b"List-Unsubscribe: <ftp://x>, garbage\r\nList-Unsubscribe: <mailto:u@esp.example>\r\n",
            Forward("mailto:u@esp.example", False),
        ),
        (b"List-Unsubscribe: https://esp.example/u\r\n", None),
        (b"List-Unsubscribe: <https://esp.example/u\r\n", None),
        (b"List-Unsubscribe:\r\n", None),
        (POST, None),
        (b"List-Unsubscribe-Post: yes\r\n" + POST, None),
        (b"List-Unsubscribe: <mailto:u@esp.example?body=a%0D%0ABcc:x>\r\n", None),
        (b"List-Unsubscribe: <https://esp.example/\xc3\xb6>\r\n", None),
        (b"List-Unsubscribe: <https://" + b"a" * 2_000 + b".example/u>\r\n", None),
        # Another person's link of ours: never kept, never passed on.
        (b"List-Unsubscribe: <https://mail.acme.example/u/k1.bram>\r\n" + POST, None),
        (b"List-Unsubscribe: <HTTPS://Mail.acme.example/u/other>\r\n" + POST, None),
        (b"List-Unsubscribe: <mailto:u@fb.acme.example?subject=unsubscribe%20k1.bram>\r\n", None),
        # Ours, but not as a sound pair for this person.
        (OURS, None),
        (OURS + OURS + POST, None),
        (OURS + b"List-Unsubscribe-Post: no\r\n", None),
        (
            OURS.replace(b">,\r\n", b">, <https://esp.example/u>,\r\n") + POST,
            Forward("https://esp.example/u", True),
        ),
        (OURS.replace(b"20k1.anna", b"20k1.bram") + POST, None),
        (OURS.replace(b"20k1.anna", b"20k1.bram%20k1.anna") + POST, None),
        (b"List-Unsubscribe: <https://mail.acme.example./u/k1.bram>\r\n" + POST, None),
        (b"List-Unsubscribe: <mailto:u%40fb.acme.example?subject=unsubscribe%20k1.bram>\r\n", None),
    ],
)
def test_one_pair_of_ours_and_the_foreign_target_kept(
    fields: bytes, forward: Forward | None
) -> None:
    planned = marketing(fields, site=FB)
    assert planned.forward == forward
    copy = index(head(planned, token="k1.new"))
    assert copy.values(b"list-unsubscribe") == [
        b"<https://mail.acme.example/u/k1.new>,"
        b" <mailto:u@fb.acme.example?subject=unsubscribe%20k1.new>"
    ]
    assert copy.values(b"list-unsubscribe-post") == [b"List-Unsubscribe=One-Click"]
    assert copy.raw.endswith(BASE + b"\r\n")


def test_http_only_is_logged() -> None:
    planned = marketing(b"List-Unsubscribe: <http://esp.example/u>\r\n")
    assert "http_unsubscribe_dropped" in planned.marks


def test_our_pair_stays_for_its_own_recipient_only() -> None:
    planned = marketing(OURS + POST, site=FB)
    assert planned.own_recipient == ANNA
    copy = head(planned, ANNA, "k1.new")
    assert copy.endswith(BASE + OURS + POST + b"\r\n")
    assert b"k1.new" not in copy
    for recipient in (BRAM, ""):
        other = head(planned, recipient, "k1.new")
        assert b"k1.anna" not in other
        assert other.count(b"k1.new") == 2


def test_without_feedback_domain_there_is_no_mailto() -> None:
    copy = index(head(marketing(b"")))
    assert copy.values(b"list-unsubscribe") == [b"<https://mail.acme.example/u/k1.anna>"]


def test_a_confirmation_of_a_sign_up_has_no_unsubscribe() -> None:
    there = b"List-Unsubscribe: <mailto:u@esp.example>\r\n"
    assert b"nsubscribe" not in head(marketing(b"", template="doi-confirmation"))
    assert head(marketing(there, template="doi-confirmation")).endswith(there + b"\r\n")


def test_marks_of_an_unsigned_one_click() -> None:
    signature = b"DKIM-Signature: d=esp.example; h=from; b=x\r\n"
    assert marketing(b"").marks == ("one_click_unsigned",)
    assert marketing(b"", upstream_signs=True).marks == ()
    assert marketing(signature, upstream_signs=True).marks == ("one_click_unsigned",)


def test_bounds_of_the_field_parser() -> None:
    many = b", ".join(b"<https://esp.example/%d>" % i for i in range(50))
    there = list_unsubscribe.existing(index(b"List-Unsubscribe: " + many + b"\r\n\r\n"))
    assert len(there.uris) == 10
    assert there.post is Post.ABSENT
    flood = index(b"List-Unsubscribe: " + b"(),<" * 60_000 + b"\r\n\r\n")
    assert not list_unsubscribe.existing(flood).readable
    comments = index(b"List-Unsubscribe: " + b"()," * 60_000 + b"\r\n\r\n")
    assert not list_unsubscribe.existing(comments).readable


# -- lines ---------------------------------------------------------------------------------------


@given(
    st.text(max_size=300),
    st.text("abcdefghij-/._", max_size=64),
    st.text("ABCab019-_.", min_size=1, max_size=600),
    st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), max_size=80),
)
def test_no_added_line_is_too_long(helo: str, campaign: str, token: str, title: str) -> None:
    made = envelope()
    submitter = Submitter(listener="", peer="", network="n", helo=helo, protocol="UTF8SMTPSA")
    made.submitter = submitter
    planned = plan(
        index(b"From: a@acme.example\r\n\r\n"),
        envelope=made,
        site=FB,
        publication=Publication(
            stream="newsletter",
            sender="acme",
            title=title,
            namespace="news.acme.example",
            feedback_id="acmeshoes",
        ),
        campaign=campaign,
    )
    copy = head(planned, token=token)
    assert check_marketing(index(copy)) is None
    for line in copy.split(b"\r\n"):
        assert len(line) <= 998
        # RFC 5322 has "should" for 78 and "must" for 998: a single word may be longer.
        one_word = len(line.split()) == 1 or line.startswith((b" from ", b"Received: from "))
        assert len(line) <= 78 or one_word or line.startswith(b"Feedback-ID: ")
        assert line == b"" or line.strip() != b""


@pytest.mark.parametrize("word", ["a\r\nBcc: x", "a\nb", "a\x00", "é", "x" * 1_000])
def test_a_field_of_ours_that_is_no_field_is_our_fault(word: str) -> None:
    with pytest.raises(FoldError):
        fold("X-Ours", [word])


def test_links_tell_ours_from_foreign() -> None:
    links = Links(url="https://mail.acme.example/u/", mailbox="u@fb.acme.example")
    assert links.own("https://MAIL.acme.example/u/x")
    assert links.own("MAILTO:U@fb.acme.example?subject=x")
    for same in ("mail.acme.example:443/u/x", "mail.acme.example./u/x", "mail.acme.example/%75/x"):
        assert links.own(f"https://{same}")
    assert links.own("https://x@mail.acme.example/u/x")
    assert links.own("mailto:u%40fb.acme.example?subject=x")
    assert not links.own("https://mail.acme.example.evil/u/x")
    assert not links.own("https://mail.acme.example/other")
    assert not links.own("https://mail.acme.example:99999/u/x")
    assert not Links(url="https://mail.acme.example/u/").own("mailto:?subject=x")
