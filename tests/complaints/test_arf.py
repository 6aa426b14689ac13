"""What is read of a feedback report, and what hostile ones cost."""

from __future__ import annotations

import complaints_path  # noqa: F401
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import report

from proxy.feedback.arf import READ, Report, read_report

T = "k1.AbCd_-0123456789AbCd_-0123456789AbCd_-0123456789Z"
ID = T.replace(".", ":")
OTHER = "k12.Zz_-0123456789AbCd_-0123456789"
MAIL = (
    f"List-Unsubscribe: <https://mail.acme.example/u/{T}>,\r\n"
    f" <mailto:u@fb.acme.example?subject=unsubscribe%20{T}>\r\n"
    "Subject: News\r\n\r\nHello\r\n"
).encode()
BARE = f"Message-ID: <1@x.example>\r\nCFBL-Feedback-ID: {ID}\r\n".encode()


@pytest.mark.parametrize("encoding", ["", "base64", "quoted-printable"])
@pytest.mark.parametrize(
    "part",
    ["message/rfc822", "text/rfc822-headers", "Message/RFC822; x=y", "message/global",
     "message/global-headers"],
)  # fmt: skip
@pytest.mark.parametrize("returned", [MAIL, BARE, b"From x Tue\r\n" + MAIL], ids=["a", "b", "c"])
def test_the_mail_it_is_about(part: str, encoding: str, returned: bytes) -> None:
    got = read_report(report(returned, part=part, encoding=encoding))
    assert got == Report("abuse", (T,))


@pytest.mark.parametrize(
    "returned",
    [
        f"CFBL-Feedback-ID:\r\n\t{ID[:20]}\r\n {ID[20:]}\r\n",
        f"cfbl-feedback-id : {ID} \r\n",
        f"X: y\nCFBL-Feedback-ID: {ID}\n",
        f"List-Unsubscribe: <https://mail.acme.example/u/{T[:30]}\r\n {T[30:]}>\r\n",
        f"List-Unsubscribe: <MAILTO:u@fb.acme.example?subject=Unsubscribe%20{T}>\r\n",
    ],
)
def test_folded_and_odd_fields(returned: str) -> None:
    assert read_report(report(returned.encode())) == Report("abuse", (T,))


@pytest.mark.parametrize(
    "returned",
    [
        f"Subject: {T}\r\nX-CFBL-Feedback-ID: {ID}\r\n\r\n",
        f"Subject: x\r\n\r\nCFBL-Feedback-ID: {ID}\r\n",
        f"CFBL-Feedback-ID: x{ID}\r\nCFBL-Feedback-ID: {ID} {T}\r\n",
        f"Comments: a\r\n CFBL-Feedback-ID: {ID}\r\n",
        "List-Unsubscribe: <https://mail.acme.example/u/>\r\n",
        "",
    ],
)
def test_no_token(returned: str) -> None:
    assert read_report(report(returned.encode())) == Report("abuse", ())


def test_only_the_returned_mail_counts() -> None:
    got = read_report(report(b"Subject: x\r\n", fields=f"CFBL-Feedback-ID: {ID}\r\n"))
    assert got == Report("abuse", ())


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [("abuse", True), ("Fraud", True), ("other", True), ("opt-out", True), ("new-word", True),
     ("not-spam", False), ("Not-Spam", False), ("virus", False), ("auth-failure", False),
     ("dmarc", False)],
)  # fmt: skip
def test_what_is_a_complaint(kind: str, complaint: bool) -> None:
    got = read_report(report(MAIL, kind=kind))
    assert got is not None
    assert (got.type, got.complaint) == (kind.lower(), complaint)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"Subject: unsubscribe " + T.encode() + b"\r\n\r\n", MAIL,
        report(MAIL).replace(b"multipart/report", b"multipart/mixed"),
        report(MAIL).replace(b"message/feedback-report", b"message/delivery-status"),
        report(MAIL).replace(b"Feedback-Type: abuse\r\n", b""),
        report(MAIL).replace(b"Feedback-Type:", b"Feedback-Type: other\r\nFeedback-Type:"),
        report(MAIL, kind="a b"), report(MAIL, kind="x" * 65), report(MAIL, kind=""),
        report(MAIL).replace(b'boundary="part0001"', b"x=y"),
        b" " + report(MAIL),
    ],
)  # fmt: skip
def test_what_is_no_report(content: bytes) -> None:
    assert read_report(content) is None


def test_ten_tokens_at_most_each_once() -> None:
    many = "".join(f"CFBL-Feedback-ID: k1:{n:020}\r\n" for n in range(30)).encode()
    got = read_report(report(MAIL + many))
    assert got == Report("abuse", (T,)), "fields below the blank line are no header"
    got = read_report(report(many))
    assert got is not None
    assert got.tokens == tuple(f"k1.{n:020}" for n in range(10))
    both = f"List-Unsubscribe: <https://m.example/u/{T}>, <https://m.example/u/{OTHER}>\r\n"
    got = read_report(report(both.encode() + MAIL))
    assert got is not None
    assert got.tokens == (T, OTHER)


def test_a_long_mail_comes_back_whole_and_its_head_counts() -> None:
    assert read_report(report(MAIL + b"x" * 76 * 40_000)) == Report("abuse", (T,))
    long = b"".join(b"X-%d: y\r\n" % n for n in range(20_000)) + MAIL
    assert read_report(report(long)) == Report("abuse", ())
    late = report(MAIL).replace(b"This is", b"x\r\n" * (READ // 3) + b"This is")
    assert read_report(late) is None


@pytest.mark.parametrize(
    "hostile",
    [
        report(b"--part0001\r\n\r\n" * 20_000),
        report(b"a:" + b" " * 200_000 + b"\r\n"),
        report(b"List-Unsubscribe: " + b"/u/k1.x" * 30_000),
        report(b"List-Unsubscribe: " + b"unsubscribe%20k" * 20_000),
        report(b"CFBL-Feedback-ID: " + b"k1:" * 60_000),
        report(b"\xff" * 200_000, encoding="base64").replace(b"/", b"!"),
        report(b"=" * 200_000).replace(b"Content-Type: message/rfc822",
            b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: quoted-printable"),
    ],
    ids=["parts", "spaces", "links", "words", "ids", "base64", "qp"],
)  # fmt: skip
def test_hostile_reports_end(hostile: bytes) -> None:
    got = read_report(hostile)
    assert got is None or len(got.tokens) <= 10


@given(st.binary(max_size=300), st.sampled_from(["", "base64", "quoted-printable"]))
def test_it_never_raises(octets: bytes, encoding: str) -> None:
    read_report(octets)
    read_report(report(octets).replace(b"\r\n\r\n", b"\r\nX: " + octets[:20] + b"\r\n\r\n"))
    cte = b"message/rfc822\r\nContent-Transfer-Encoding: " + encoding.encode()
    read_report(report(octets).replace(b"message/rfc822", cte))
