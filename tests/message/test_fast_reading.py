"""Short cuts in reading a mail give what the long way gives."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config.models import Promotion
from proxy.envelope import Envelope, Submitter
from proxy.message import dkim, edit, encoded, header, inspect, mailboxes, mime, promotion, received
from proxy.message.dates import rfc5322
from proxy.message.fold import FoldError
from proxy.message.fold import fold as folded
from proxy.message.header import index
from proxy.message.inspect import fold
from proxy.message.obligations.list_unsubscribe import Mode
from proxy.message.promotion import PHRASES, SIGNS, Score, score
from proxy.message.words import OPT_OUT, Words, _pattern

WEIGHTS = {sign: int(getattr(Promotion(), sign)) for sign in SIGNS}

# The same signs as one pattern each, tried at every character.
PATTERNS = {
    **{
        sign: re.compile(rf"\b(?:{'|'.join(phrases)})".replace("(", "(?:").replace("(?:?:", "(?:"))
        for sign, phrases in PHRASES.items()
    },
    "discount": promotion._DISCOUNT,
}
OPT_OUT_PATTERNS = [re.compile(_pattern(p)) for phrases in OPT_OUT.values() for p in phrases]

ANCHORS = [anchor for groups in promotion._LOOKED_FOR.values() for anchor, _ in groups]
PATCHED = [HealthCheck.function_scoped_fixture]
NEVER = re.compile(rb"(?!)")

WORDS = sorted(
    {
        word
        for phrases in (*PHRASES.values(), *OPT_OUT.values(), promotion._CUTS)
        for phrase in phrases
        for word in re.split(r"[ ()|?]+", phrase)
        if word
    }
)
PIECES = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from([phrase for phrases in OPT_OUT.values() for phrase in phrases]),
    st.sampled_from(
        [text for phrases in PHRASES.values() for p in phrases for text in promotion._spelled(p)]
    ),
    st.sampled_from([" ", " ", " ", "_", "-", "1", "20", "%", " %", ".", "\u00e9", "x", "\u0301"]),
    st.sampled_from(["\t", "\r\n"]),
    st.text(max_size=12),
)
TEXTS = st.lists(PIECES, max_size=40).map("".join)


@settings(deadline=None, max_examples=300)
@given(TEXTS)
def test_signs_are_those_of_the_patterns(text: str) -> None:
    for shown in (text, text.encode("ascii", "ignore").decode()):
        for sign, pattern in PATTERNS.items():
            found = promotion._there(sign, promotion._Text(shown))
            assert found is (pattern.search(fold(shown)) is not None), sign
        looked_at = promotion._Text(shown)
        assert all(anchor in looked_at.words for anchor in ANCHORS if anchor in looked_at.folded)
        assert looked_at.folded == fold(shown)


def test_every_phrase_has_its_sign() -> None:
    for sign, phrases in PHRASES.items():
        for phrase in phrases:
            for text in promotion._spelled(phrase):
                assert PATTERNS[sign].fullmatch(text)
                assert promotion._there(sign, promotion._Text(f"so, {text}s"))
                assert not promotion._there(sign, promotion._Text(f"so{text}"))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(["1%", " ", "off", "x off", ".", "5 %", "e" * 40]), max_size=120))
def test_a_discount_is_found_wherever_it_stands(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert promotion._discounted(text) is (promotion._DISCOUNT.search(text) is not None)


@settings(deadline=None, max_examples=400)
@given(TEXTS, st.booleans(), st.integers(1, 300))
def test_a_threshold_changes_nothing_from_it_on(text: str, listed: bool, threshold: int) -> None:
    fields = "List-Id: <a.example>\r\n" if listed else ""
    head = f"From: a@acme.example\r\n{fields}Content-Type: text/plain; charset=utf-8\r\n\r\n"
    content = (head + text).encode("utf-8", "replace")
    whole = score(content, index(content), WEIGHTS)
    short = score(content, index(content), WEIGHTS, threshold=threshold)
    assert whole.total == sum(WEIGHTS[sign] for sign in whole.signs)
    assert short == (whole if whole.total >= threshold else Score(0, ()))


SUBJECTS = st.lists(
    st.sampled_from(
        [
            *("Re", "fwd", "r\u00e9p", ":", " ", "\uff1a", "\u200b", "[2]", "spring", "sale"),
            *("=?utf-8?q?Re=3A?=", "=?utf-8?b?UmU6IA==?=", "=?", "?="),
        ]
    ),
    max_size=8,
).map("".join)


@settings(deadline=None, max_examples=400)
@given(SUBJECTS, st.booleans())
def test_a_subject_that_plays_a_reply_is_known_alike(subject: str, answers: bool) -> None:
    more = "References: <1@acme.example>\r\n" if answers else ""
    mail = index(f"From: a@acme.example\r\nSubject: {subject}\r\n{more}\r\n".encode())
    said = fold(inspect._INVISIBLE.sub("", encoded.decode(mail.first(b"subject") or b"")))
    plays = inspect._REPLY.match(said.lstrip()) is not None
    assert inspect.fake_reply(mail) is (plays and not answers)


MARKUP = st.sampled_from(
    [
        *("<b>", "</b>", "<style>off 10% = </style>", '<a href="x=op">', "<p class = x>", "<", ">"),
        *("op = op", "op  =<i>op", "op=op", "don't miss", "jusqu'\u00e0 ", "20% ", "off"),
        *("\u00a0", "\u202f", "\u0301", "e\u0301", "\ufb03", "\u2028", ". ", "\r\n", "\n", " "),
    ]
)
PAGES = st.lists(st.one_of(PIECES, MARKUP), max_size=30).map("".join)
# Lines that come again in the next mail.
MAILS = st.lists(PAGES, min_size=1, max_size=6).flatmap(
    lambda pages: st.lists(
        st.lists(st.sampled_from(pages), min_size=1, max_size=4).map("\r\n".join),
        min_size=1,
        max_size=6,
    )
)


@settings(deadline=None, max_examples=400)
@given(MAILS, st.booleans(), st.sampled_from([0, 1, 60, 100, 150]), st.booleans(), st.booleans())
def test_lines_of_earlier_mails_change_no_sign(
    mails: list[str], listed: bool, threshold: int, small: bool, in_subject: bool
) -> None:
    lines = promotion.Lines()
    lines.ROOM = 100 if small else lines.ROOM
    for text in mails:
        subject = "".join(c for c in text if c.isascii() and c.isprintable()) if in_subject else ""
        fields = "List-Id: <a.example>\r\n" if listed else ""
        head = f"From: a@acme.example\r\nSubject: {subject}\r\n{fields}"
        kind = "Content-Type: text/html; charset=utf-8\r\n\r\n"
        content = (head + kind + text).encode("utf-8", "replace")
        shown = index(content)
        found = score(content, shown, WEIGHTS, threshold=threshold, lines=lines)
        assert found == score(content, shown, WEIGHTS, threshold=threshold)


@pytest.mark.parametrize("sign", PHRASES)
def test_every_phrase_needs_one_of_the_words(sign: str) -> None:
    assert not any(c.isspace() or c in "<>" for word in promotion._NEEDED[sign] for c in word)
    for phrase in PHRASES[sign]:
        for text in promotion._spelled(phrase):
            for spaced in (text, text.replace(" ", "\r\n"), text.replace(" ", "<b\n> ")):
                assert sign not in promotion.Lines().lack([sign], [f"so, {spaced}s"])


@settings(deadline=None, max_examples=300)
@given(TEXTS)
def test_opt_out_words_are_those_of_the_patterns(text: str) -> None:
    text = fold(text)
    assert Words().found_in(text) is any(p.search(text) for p in OPT_OUT_PATTERNS)


@pytest.mark.parametrize("language", sorted(OPT_OUT))
def test_every_opt_out_word_is_found(language: str) -> None:
    for phrase in OPT_OUT[language]:
        plain = "".join(c for c in phrase if c.isascii())
        assert Words([language]).found_in(phrase)
        assert Words().found_in(f"a {phrase.replace(' ', '-')}s")
        if len(plain) == len(phrase):
            assert Words().found_in(plain)


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=300), st.booleans())
def test_folded_text_is_split_and_joined(text: str, ascii_only: bool) -> None:
    text = text.encode("ascii", "ignore").decode() if ascii_only else text
    folded = fold(text)
    assert folded == " ".join(folded.split())
    if ascii_only:
        assert folded == " ".join(text.casefold().split())


LETTERS = st.one_of(
    st.sampled_from("aB \n\t\x1c\x85\xa0\u00ad\u00e9\u00c9\u0130\u0131\u00df\u1e9e\u2026\u2011"),
    st.sampled_from("e\u0301\u0308\u0390\u03c2\u03a3\u1f80\u2126\u212b\u2460\ufb03\u1161\u1100"),
    st.sampled_from("\uac00\u3099\u304b\u20ac\u2028"),
    st.characters(codec="utf-8"),
    st.characters(max_codepoint=0x2C00, categories=["L", "N", "S", "P", "Z"]),
)


@settings(deadline=None, max_examples=1000)
@given(st.lists(LETTERS, max_size=40).map("".join), st.sampled_from([1, 3, 100]))
def test_text_is_folded_by_character_as_by_piece(text: str, times: int) -> None:
    text *= times
    short = fold(text) if text.isascii() else inspect._folded_by_character(text)
    if short is not None:
        joined = unicodedata.normalize("NFKC", text).casefold()
        squeezed = inspect._squeezed(short)
        assert squeezed == " ".join(joined.split()) == inspect._folded_by_piece(text)
        assert inspect._bare(short) == inspect._bare(squeezed)


def test_every_character_that_joins_no_other_is_folded_alike() -> None:
    short = 0
    for char in map(chr, (n for first, end in inspect._APART_FROM for n in range(first, end))):
        for text in (char, f"a{char}{char} Z{char.upper()}\n{char.lower()}"):
            folded = None if text.isascii() else inspect._folded_by_character(text)
            if folded is not None:
                assert inspect._squeezed(folded) == inspect._folded_by_piece(text), hex(ord(char))
                short += 1
    assert short > 10_000
    usual = "Caf\u00e9 \u2013 \u20ac\xa010\u2026"
    assert inspect._folded_by_character(usual) == "caf\u00e9 \u2013 \u20ac 10..."


def test_every_white_space_is_one() -> None:
    for char in map(chr, range(sys.maxunicode + 1)):
        if char.isspace():
            assert fold(f"a{char}{char}b{char}") == "a b"


@settings(deadline=None, max_examples=400)
@given(st.lists(st.sampled_from([b"=?", b"?=", b"utf-8?q?", b"a=20b", b" ", b"\xc3\xa9", b"x"])))
def test_a_value_without_encoded_words_is_decoded_alike(pieces: list[bytes]) -> None:
    value = b"".join(pieces)
    slow = "".join(
        encoded._decode_word(part) if part.startswith(b"=?") else encoded._plain(part)
        for part in encoded._split(encoded._BETWEEN.sub(rb"\1", value))
    )
    assert encoded.decode(value) == slow


FIELD_PIECES = st.sampled_from(
    [
        *(b"From", b"To", b"X-A", b":", b": ", b" :", b"a@acme.example", b"\r\n", b"\r\n "),
        *(b"\r\n\t", b"\r", b"\n", b" ", b"\t", b"\r\n\r\n", b"x", b"\xff", b"\x00"),
        *(b"From x\r\n", b"X:" + b"\r\n y" * 101 + b"\r\n"),
    ]
)


def _outcome(content: bytes, most: int, fields: int) -> object:
    try:
        return index(content, max_bytes=most, max_fields=fields)
    except header.HeaderRefused as refused:
        return str(refused)


@settings(deadline=None, max_examples=800, suppress_health_check=PATCHED)
@given(st.lists(FIELD_PIECES, max_size=30).map(b"".join), st.integers(1, 400), st.integers(1, 9))
def test_fields_are_those_of_the_long_way(
    monkeypatch: pytest.MonkeyPatch, content: bytes, most: int, fields: int
) -> None:
    short = _outcome(content, most, fields), _outcome(content, 10_000, 100)
    with monkeypatch.context() as patch:
        patch.setattr(header, "_FIELD", NEVER)
        assert short == (_outcome(content, most, fields), _outcome(content, 10_000, 100))


MAILBOX_PIECES = st.sampled_from(
    [
        *(b"anna", b"@", b"example.nl", b"<", b">", b" ", b",", b";", b":", b'"', b"(", b")"),
        *(b"\\", b"[", b"]", b'"A, B"', b"Anna <anna@example.nl>", b"x@y.nl", b"\t", b"."),
        *(b"\xc3\xa9", b"\r\n ", b"@a,@b:"),
    ]
)


@settings(deadline=None, max_examples=1000)
@given(st.lists(MAILBOX_PIECES, max_size=8).map(b"".join), st.integers(1, 101))
def test_mailboxes_are_those_of_the_long_way(value: bytes, most: int) -> None:
    def outcome(read: Callable[[], object]) -> object:
        try:
            return read()
        except mailboxes.AmbiguousError as error:
            return str(error)

    assert outcome(lambda: mailboxes.count(value, most)) == outcome(
        lambda: mailboxes._counted(value, most)
    )
    assert outcome(lambda: mailboxes.single(value)) == outcome(lambda: mailboxes._single(value))


def test_long_values_are_not_remembered() -> None:
    before = mailboxes._remembered.cache_info().currsize, mime._remembered.cache_info().currsize
    assert mailboxes.single(b"x" * 600 + b" <a@acme.example>").address.domain == "acme.example"
    content = b"Content-Type: text/plain; x=" + b"y" * 600 + b"\r\n\r\n"
    assert mime.scan(content, index(content)).type.word == "text/plain"
    after = mailboxes._remembered.cache_info().currsize, mime._remembered.cache_info().currsize
    assert before == after


@pytest.mark.parametrize("twice", [False, True])
def test_a_type_that_is_there_twice_is_not_sound(twice: bool) -> None:
    line = b"Content-Type: text/plain; charset=utf-8\r\n"
    content = line * (1 + twice) + b"\r\n"
    for _ in range(2):
        assert mime.scan(content, index(content)).type.sound is not twice


NAMES = st.frozensets(st.sampled_from([b"to", b"bcc", b"list-id", b"list-unsubscribe"]))


@settings(deadline=None)
@given(NAMES, NAMES, st.booleans(), st.booleans(), st.booleans())
def test_what_nobody_signed_is_settled_as_the_long_way_does(
    removed: frozenset[bytes], added: frozenset[bytes], body: bool, key: bool, wanted: bool
) -> None:
    block = index(b"From: a@acme.example\r\nTo: b@example.nl\r\nBcc: c@example.nl\r\n\r\n")
    aligned = dkim.Aligned("acme.example", frozenset({("acme.example", "s")}), lambda _: True)
    edit = dkim._Edit(block, removed, added, body, ())
    trace = (b"received",)
    assert dkim.settle(
        block,
        removed=removed,
        added=added,
        body_edited=body,
        trace=trace,
        aligned=aligned if key else None,
        wanted=wanted,
    ) == (
        dkim._settle_signed(edit, trace, aligned, wanted=wanted)
        if key
        else dkim._settle_unsigned(edit)
    )


@settings(deadline=None)
@given(
    st.text(st.characters(codec="ascii"), max_size=300),
    st.sampled_from(["", "192.0.2.1", "2001:db8::1"]),
    st.datetimes(timezones=st.just(UTC)),
)
def test_a_trace_is_folded_as_a_whole(helo: str, client_ip: str, at: datetime) -> None:
    given_ = {"helo": helo, "hostname": "gate.acme.example", "instance": "i1", "protocol": "ESMTP"}
    got = received.received(**given_, ref="01J9ZV3K7Q8M4T00", at=at, client_ip=client_ip)
    name = helo if len(helo) <= 255 and received._HELO.fullmatch(helo) else "unknown"
    words = [f"from {name}", *([f"([{client_ip}])"] if client_ip else [])]
    words += ["by gate.acme.example", "(sluis i1)", "with ESMTP", "id 01J9ZV3K7Q8M4T00;"]
    assert got == folded("Received", [*words, rfc5322(at)])
    assert rfc5322(at).split(" ")[4] == f"{at:%H:%M:%S}"


LINES = st.lists(
    st.sampled_from(
        [
            *(b"To: b@example.nl\r\n", b"Bcc: c@example.nl\r\n", b"Resent-Bcc: d@example.nl\r\n"),
            *(b"Subject: x\r\n y\r\n", b"Sluis-Ref: 1\r\n", b"Sluis-Stream: orders\r\n"),
            *(b"List-Unsubscribe: <https://x.example>\r\n", b"ARC-Seal: i=1\r\n"),
            b"DKIM-Signature: v=1; d=x.example; s=a; h=from:bcc; b=x\r\n",
            b"Message-ID: <1@x>\r\n",
            *(b"ARC-Message-Signature: i=1; d=x.example; s=a; h=from:bcc; b=x\r\n", b"X: \xff\r\n"),
        ]
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=400, suppress_health_check=PATCHED)
@given(LINES, st.sampled_from([b"", b"From x\r\n"]), st.sampled_from([b"\r\nbody", b"", b"junk"]))
def test_a_block_of_which_nothing_goes_is_planned_as_the_long_way_does(
    monkeypatch: pytest.MonkeyPatch, lines: list[bytes], mbox: bytes, rest: bytes
) -> None:
    block = index(mbox + b"From: a@acme.example\r\n" + b"".join(lines) + rest)
    at = datetime(2026, 11, 24, tzinfo=UTC)
    client = Submitter(listener="l", peer="127.0.0.1", helo="app")
    envelope = Envelope(submitter=client, ref="R" * 16, received_at=at)
    site = edit.Site(hostname="gate.acme.example", instance="i1", public_url="https://m.example")
    key = dkim.Aligned("acme.example", frozenset(), lambda _: True)
    for aligned in (None, key):
        for enforce in (True, False):
            for rewrite_to in (False, True):
                with monkeypatch.context() as patch:
                    asked: dict[str, Any] = {
                        **{"envelope": envelope, "site": site, "enforce": enforce},
                        **{"aligned": aligned, "rewrite_to": rewrite_to},
                    }
                    short = edit.plan(block, **asked)
                    patch.setattr(edit, "_touched", lambda _: True)
                    assert short == edit.plan(block, **asked)


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=200), st.booleans())
def test_letters_and_digits_are_those_of_the_pattern(text: str, ascii_only: bool) -> None:
    text = text.encode("ascii", "ignore").decode() if ascii_only else text
    assert inspect._bare(text) == inspect._NO_LETTER_OR_DIGIT.sub("", text)
    assert inspect._bare("".join(map(chr, range(128)))) == inspect._NO_LETTER_OR_DIGIT.sub(
        "", "".join(map(chr, range(128)))
    )


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *("http", "https://x.nl", ":", "MAILTO:a@b.nl", " ", "\n", "stop", "\r\n"),
                *("http\u017f:", "ma\u0130lto:", "\u2028", "\xa0", "<", '"', "HTTPS:y", "s:"),
                *("week: ", "::"),
            ]
        )
    ).map("".join)
)
def test_urls_and_words_are_those_of_every_line(text: str) -> None:
    expected = []
    before = ""
    for line in text.splitlines():
        urls = inspect._URL.findall(line)
        if urls:
            words = f"{before}{inspect._APART}{inspect._URL.sub(' ', line)}"
            expected.append((urls, words))
        before = line if line.strip() else before
    assert list(inspect._text_places(text)) == expected


@given(st.lists(st.sampled_from(["unsubscribe", "afmelden", "opt-out", "x", "d\u00e9sabonner"])))
def test_what_was_found_last_is_looked_for_first(texts: list[str]) -> None:
    words = Words()
    for text in texts:
        assert words.found_in(text) is (text != "x")
        assert sorted(words._groups, key=str) == sorted(Words()._groups, key=str)


@settings(deadline=None, max_examples=300)
@given(LINES, st.sampled_from([b"", b"X-List-Id: 1\r\n", b"list-id: <a.example>\r\n"]))
def test_names_of_a_block_are_told_alike(lines: list[bytes], more: bytes) -> None:
    block = index(b"From: a@acme.example\r\n" + b"".join(lines) + more + b"\r\n")
    for prefix in (b"list-", b"sluis-", b"from", b"id"):
        begins = any(name.startswith(prefix) for name in block.by_name)
        assert (b"\n" + prefix in block.names) is begins
    touched = any(n in edit._TOUCHED or n.startswith(b"sluis-") for n in block.by_name)
    assert edit._touched(block) is touched


@settings(deadline=None, max_examples=300)
@given(LINES, st.sampled_from(list(Mode)), st.booleans())
def test_nobody_is_refused_where_the_plan_refuses_nobody(
    lines: list[bytes], mode: Mode, ours: bool
) -> None:
    listed = b"List-Unsubscribe: <https://m.example/u/k1.abc>\r\n" if ours else b""
    block = index(b"From: a@acme.example\r\n" + listed + b"".join(lines) + b"\r\n")
    made = edit.plan(
        block,
        envelope=Envelope(
            submitter=Submitter(listener="l", peer="127.0.0.1", helo="app"),
            ref="R" * 16,
            received_at=datetime(2026, 11, 24, tzinfo=UTC),
        ),
        site=edit.Site(hostname="gate.acme.example", instance="i1", public_url="https://m.example"),
        publication=edit.Publication(stream="news", sender="acme", unsubscribe=mode),
        own=lambda token: "anna@example.nl",
    )
    refused = [made.refusal(address) for address in ("anna@example.nl", "bram@example.nl")]
    assert made.refuses is any(refused)


@pytest.mark.parametrize("ref", ["", "a b", "\u00e9", "x\r\n", "A" * 999])
def test_a_reference_that_is_none_writes_no_trace(ref: str) -> None:
    with pytest.raises(FoldError):
        received.received(
            helo="app",
            hostname="gate.acme.example",
            instance="i1",
            protocol="ESMTP",
            ref=ref,
            at=datetime(2026, 11, 24, tzinfo=UTC),
        )
