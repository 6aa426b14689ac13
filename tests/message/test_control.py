"""Control headers, our trace field, and loops."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.message.control import Control, ControlError, control, control_fields, meant
from proxy.message.header import index
from proxy.message.received import after_trace, check_loop, received, trace_end

AT = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


def _control(fields: bytes) -> Control:
    return control(index(b"From: a@acme.example\r\n" + fields + b"\r\n"))


def test_values() -> None:
    read = _control(
        b"Sluis-Stream: newsletter\r\n"
        b"SLUIS-PRODUCTS : shoes/running,\r\n shoes/socks\r\n"
        b"sluis-topics: news\r\n"
        b"Sluis-Campaign: spring-2026\r\n"
        b"Sluis-Variant: b\r\n"
        b"Sluis-Template: permission-request\r\n"
        b"Sluis-Ref: forged\r\nSluis-Ref: twice\r\n"
    )
    assert read == Control(
        stream="newsletter",
        products=("shoes/running", "shoes/socks"),
        topics=("news",),
        campaign="spring-2026",
        variant="b",
        template="permission-request",
    )
    assert _control(b"") == Control()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (b"Sluis-Straem: newsletter\r\n", "Sluis-Straem"),
        (b"Sluis-: x\r\n", "Sluis-"),
        (b"Sluis-Stream:\r\n", "Sluis-Stream"),
        (b"Sluis-Stream: \r\n", "Sluis-Stream"),
        (b"Sluis-Stream: a\r\nsluis-stream: a\r\n", "Sluis-Stream"),
        (b"Sluis-Stream: a, b\r\n", "Sluis-Stream"),
        (b"Sluis-Stream: Orders\r\n", "Sluis-Stream"),
        (b"Sluis-Stream: -orders\r\n", "Sluis-Stream"),
        (b"Sluis-Stream: or\r\n ders\r\n", "Sluis-Stream"),
        (b"Sluis-Stream: =?utf-8?q?orders?=\r\n", "Sluis-Stream"),
        (b"Sluis-Stream: \xc3\xb6\r\n", "Sluis-Stream"),
        (b"Sluis-Stream: " + b"a" * 65 + b"\r\n", "Sluis-Stream"),
        (b"Sluis-Products: a,,b\r\n", "Sluis-Products"),
        (b"Sluis-Products: a,\r\n", "Sluis-Products"),
        (b"Sluis-Topics: " + b"a," * 500 + b"a\r\n", "Sluis-Topics"),
    ],
)
def test_refused(fields: bytes, name: str) -> None:
    with pytest.raises(ControlError) as caught:
        _control(fields)
    assert str(caught.value.reply).startswith(f"554 5.6.0 control header {name}: ")


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (b"Sluis-Straem", "unknown, did you mean Sluis-Stream?"),
        (b"Sluis-Product", "unknown, did you mean Sluis-Products?"),
        (b"Sluis-Colour", "unknown"),
        (b"Sluis-" + b"x" * 900, "unknown"),
    ],
    ids=["letters", "plural", "far", "long"],
)
def test_a_name_that_is_near_a_known_one_is_told(field: bytes, said: str) -> None:
    with pytest.raises(ControlError) as caught:
        _control(field + b": a\r\n")
    assert str(caught.value).endswith(f": {said}")


def test_what_is_compared_is_bounded() -> None:
    assert meant("newsleter", ["newsletter"]) == ", did you mean newsletter?"
    assert meant("newsleter", ["newsletter", *map(str, range(100))]) == ""


def test_all_control_fields_are_found_to_be_removed() -> None:
    header = index(b"sluis-ref: 1\r\nSluis-Straem : x\r\nX-Sluis: y\r\n\r\n")
    assert [f.name for f in control_fields(header)] == [b"sluis-ref", b"sluis-straem"]


def _received(helo: str = "app.acme.example", client_ip: str = "") -> bytes:
    return received(
        helo=helo,
        hostname="gate.acme.example",
        instance="i7",
        protocol="ESMTPSA",
        ref="01J9ZV3K7Q8M4T",
        at=AT,
        client_ip=client_ip,
    )


def test_received() -> None:
    assert _received() == (
        b"Received: from app.acme.example by gate.acme.example (sluis i7) with ESMTPSA\r\n"
        b" id 01J9ZV3K7Q8M4T; Tue, 24 Nov 2026 08:00:00 +0000\r\n"
    )
    assert b"from [IPv6:::1] ([192.0.2.1]) by" in _received("[IPv6:::1]", "192.0.2.1")


@pytest.mark.parametrize(
    "helo", ["", "a b", "x;y", "evil\r\nBcc: a", "a_b.example", "(c)", "[x]", "a" * 300, "ö"]
)
def test_received_names_no_doubtful_client(helo: str) -> None:
    assert _received(helo).startswith(b"Received: from unknown by gate.acme.example ")


def test_loop() -> None:
    other = b"Received: from a by b; Tue, 24 Nov 2026 08:00:00 +0000\r\n"
    ours = _received().replace(b"gate.acme", b"GATE.acme").replace(b" (sluis", b"\r\n\t(sluis")
    foreign = _received().replace(b"i7", b"i8")

    def reply(*trace: bytes) -> str:
        header = index(b"".join(trace) + b"Subject: x\r\n\r\n")
        refusal = check_loop(header, hostname="gate.acme.example", instance="i7")
        return str(refusal or "")

    assert reply() == ""
    assert reply(*[other] * 50) == ""
    assert reply(*[other] * 51) == "554 5.4.6 mail loop: 51 Received fields"
    assert reply(ours, other, foreign, foreign) == ""
    assert reply(ours, other, _received()) == "554 5.4.6 mail loop: has passed here twice"


def test_content_after_the_trace_is_the_same_for_a_retry() -> None:
    content = b"From x\r\nReceived: a\r\n b\r\nReceived: c\r\nSubject: x\r\nReceived: d\r\n\r\n"
    header = index(content)
    assert content[after_trace(header) :] == b"Subject: x\r\nReceived: d\r\n\r\n"
    assert after_trace(index(b"Subject: x\r\n\r\n")) == 0


@given(
    st.lists(
        st.sampled_from(
            [
                *(b"Received: a", b"received : b\r\n\tc", b"RECEIVED:\r\n d\r\n e", b"Received:"),
                *(b"Received-SPF: pass", b"Subject: x", b"To: y\r\n Received: z", b"X-Received: a"),
            ]
        ),
        min_size=1,
        max_size=5,
    ),
    st.binary(max_size=20),
)
def test_where_the_trace_ends_is_told_from_the_first_octets(
    fields: list[bytes], body: bytes
) -> None:
    content = b"\r\n".join([*fields, b"", body])
    assert trace_end(content) == trace_end(memoryview(content)) == after_trace(index(content))
