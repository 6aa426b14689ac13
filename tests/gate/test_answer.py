"""The reply table: endings of recipients -> one honest SMTP reply (design section 2)."""

from __future__ import annotations

import itertools

import pytest

from proxy.answer import End, Ending, answer, parse_reply

REF = "01J9ZV3K7Q8M4T00"
BLOCK = "550 5.7.1 no-basis: nobody asked for this; Tw 11.7(1)"


def ends(*kinds: str) -> list[Ending]:
    lines = {
        "relayed": "250 2.0.0 Ok: queued as 4Xyz",
        "blocked": BLOCK,
        "deferred": "451 4.7.1 quiet-hours",
        "failed": "550 5.1.1 no such user",
        "returned": "450 4.2.1 mailbox busy",
        "unknown": "",
        "queued": "",
    }
    return [Ending(End(kind), lines[kind], f"{REF}.{n}") for n, kind in enumerate(kinds, 1)]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("relayed",), f"250 2.0.0 Ok: queued as 4Xyz (ref {REF}.1)"),
        (("blocked",), f"{BLOCK} (ref {REF}.1)"),
        (("deferred",), f"451 4.7.1 quiet-hours (ref {REF}.1)"),
        (("failed",), f"550 5.1.1 no such user (ref {REF}.1)"),
        (("returned",), f"450 4.2.1 mailbox busy (ref {REF}.1)"),
        (("unknown",), f"451 4.4.2 no reply from upstream after the message (ref {REF}.1)"),
        (("relayed", "relayed"), f"250 2.0.0 relayed 2 of 2 (ref {REF})"),
        (("relayed", "blocked", "relayed"), f"250 2.0.0 relayed 2 of 3, 1 blocked (ref {REF})"),
        (("blocked", "blocked"), f"{BLOCK}; none of 2 relayed (ref {REF})"),
        (("blocked", "failed"), f"{BLOCK}; none of 2 relayed (ref {REF})"),
        (("failed", "failed"), f"550 5.1.1 no such user (ref {REF}.1)"),
        (
            ("relayed", "returned", "blocked"),
            f"451 4.4.5 relayed 1 of 3, 1 to try again, none twice (ref {REF})",
        ),
        (
            ("relayed", "failed"),
            f"250 2.0.0 relayed 1 of 2, 1 failed (ref {REF})",
        ),
        (("queued",), f"250 2.0.0 queued (ref {REF}.1)"),
        (
            ("queued", "relayed", "blocked", "failed"),
            f"250 2.0.0 relayed 1 of 4, 1 queued, 1 blocked, 1 failed (ref {REF})",
        ),
        (
            ("queued", "deferred"),
            f"451 4.7.1 relayed 0 of 2, 1 to try again, none twice (ref {REF})",
        ),
        (
            ("deferred", "relayed"),
            f"451 4.7.1 relayed 1 of 2, 1 to try again, none twice (ref {REF})",
        ),
    ],
)
def test_reply(kinds: tuple[str, ...], expected: str) -> None:
    assert str(answer(REF, ends(*kinds))) == expected


@pytest.mark.parametrize("kinds", [("relayed",), ("failed",), ("blocked", "blocked")])
def test_a_long_text_cuts_no_reference_off(kinds: tuple[str, ...]) -> None:
    code = {"relayed": "250 2.0.0", "failed": "550 5.1.1", "blocked": "550 5.7.1"}[kinds[0]]
    endings = [Ending(End(kind), f"{code} {'x' * 600}", REF) for kind in kinds]
    assert str(answer(REF, endings)).endswith(f"(ref {REF})")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_250_leaves_nothing_undone_and_a_5xx_nothing_relayed(size: int) -> None:
    """Over every combination: 2xx only if each is relayed, ours, or reported; 5xx only if none
    is."""
    for kinds in itertools.product([e.value for e in End], repeat=size):
        reply = answer(REF, ends(*kinds))
        if reply.positive:
            assert set(kinds) <= {"relayed", "queued", "blocked", "failed"}, kinds
            assert {"relayed", "queued"} & set(kinds), kinds
        elif not reply.temporary:
            assert set(kinds) <= {"blocked", "failed"}, kinds
        assert "\r" not in str(reply)
        assert "\n" not in str(reply)


@pytest.mark.parametrize("line", ["", "garbage", "354 go ahead", "999 5.0.0 x", "\r\n250 ok\r\n55"])
def test_garbage_from_upstream_is_never_passed_on_as_success(line: str) -> None:
    reply = answer(REF, [Ending(End.RETURNED, line, REF)])
    assert reply.temporary, str(reply)


def test_an_accepted_mail_stays_accepted_whatever_its_reply_looked_like() -> None:
    assert answer(REF, [Ending(End.RELAYED, "", REF)]).code == 250


def test_an_upstream_that_hangs_up_does_not_make_us_hang_up() -> None:
    reply = answer(REF, [Ending(End.RETURNED, "421 4.3.2 shutting down", REF)])
    assert str(reply) == f"451 4.3.2 shutting down (ref {REF})"


def test_a_reply_is_one_line_of_printable_ascii() -> None:
    reply = parse_reply("550 5.1.1 caf\u00e9 \x1b[31m")
    assert reply is not None
    assert str(reply) == "550 5.1.1 caf? ?[31m"


def test_the_reference_is_one_that_is_on_record() -> None:
    first, second = "06H0000000000001", "06H0000000000002"
    known = [Ending(End.RELAYED, "250 2.0.0 ok", first), Ending(End.RELAYED, "", second)]
    assert str(answer(REF, known)) == f"250 2.0.0 relayed 2 of 2 (ref {first})"
    mixed = [*known, Ending(End.RELAYED, "", REF)]
    assert str(answer(REF, mixed)) == f"250 2.0.0 relayed 3 of 3 (ref {REF})"
