"""Every message of a corpus through a whole Sluis, as marketing and as a receipt: `make corpus`.

The corpus is that of CPython's own e-mail tests and of the source distributions in `sdists.txt`,
which `make corpus` fetches to the folder that `SLUIS_CORPUS` names. Not collected by `make test`,
which has the messages of CPython (`tests/e2e/test_corpus_relayed.py`).
"""

from __future__ import annotations

import os
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / area) for area in ("e2e", "signing", "message")]

import verifiers  # noqa: E402
from running_sluis import OPT_IN, Make, World, world  # noqa: E402, F401
from signing_keys import ED25519, KEYS, RSA, pem, record  # noqa: E402
from test_corpus_footer import footed  # noqa: E402
from test_corpus_relayed import corpus, kept  # noqa: E402

from proxy.config.signing import organisational  # noqa: E402
from proxy.message.header import HeaderRefused, from_domain, index  # noqa: E402

ANNA = "anna@example.nl"
_MESSAGES = re.compile(
    r"[^/]+/(?:tests/data/[^/]*\.txt|tests/mails/mail_(?!outlook)[^/]*"
    r"|dkim/tests/data/[^/]*(?:msg|message|baddomain|mbox)|authheaders/test/[^/]*message[^/]*)"
)
_DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z0-9-]*[a-z0-9]")


def messages() -> Iterator[tuple[str, bytes]]:
    """Name and octets, each content once; line ends made CRLF, NUL cut out."""
    seen = set()
    for name, octets in _files():
        content = re.sub(rb"\r\n|\r|\n", b"\r\n", octets).replace(b"\0", b"")
        if content not in seen:
            seen.add(content)
            yield name, content


def _files() -> Iterator[tuple[str, bytes]]:
    for path in corpus():
        yield f"cpython/{path.name}", path.read_bytes()
    archives = sorted(Path(os.environ["SLUIS_CORPUS"]).glob("*.tar.gz"))
    assert len(archives) == 4, "run `make corpus`"
    for archive in archives:
        with tarfile.open(archive) as opened:
            for member in opened:
                file = opened.extractfile(member) if _MESSAGES.fullmatch(member.name) else None
                if file is not None:
                    yield member.name, file.read()


def signing_domain(content: bytes) -> str:
    """Of which a key is configured; "" where there can be none."""
    try:
        domain = from_domain(index(content)) or ""
    except HeaderRefused:
        return ""
    found = organisational(domain)
    return found if _DOMAIN.fullmatch(found) else ""


async def send(w: World, content: bytes, stream: str) -> tuple[str, bytes]:
    """The reply, and what the upstream got ("" for nothing)."""
    before = w.sink.total
    reply = await w.send(ANNA, content, stream=stream)
    assert re.match(r"250 |5\d\d ", reply), reply
    assert w.sink.total == before + reply.startswith("250 ")
    return reply, w.sink.messages[-1].content if reply.startswith("250 ") else b""


def kind(reply: str) -> str:
    """A refusal without what is of one message only."""
    return re.sub(r"line \d+|NAME|\(ref .*|; .*|d=\S+", "", reply).strip()


def show(title: str, counts: Counter[str]) -> None:
    print(f"\n{title}:", *(f"\n  {n:4} {words}" for words, n in counts.most_common()))  # noqa: T201


async def test_receipts_pass_with_every_octet_of_theirs(world: Make) -> None:  # noqa: F811
    w = await world()
    counts: Counter[str] = Counter()
    for name, content in messages():
        reply, left = await send(w, content, "orders")
        counts["relayed" if left else kind(reply)] += 1
        if left:
            ours = content if content.endswith(b"\r\n") else content + b"\r\n"
            if ours.startswith((b"From ", b">From ")):
                ours = ours.partition(b"\r\n")[2]
            added, _, rest = left.partition(b"Sluis-Ref: ")
            assert added.startswith(b"Received: from "), name
            assert kept(rest.partition(b"\r\n")[2]) == kept(ours), name
    show(f"as receipts, {counts.total()} messages", counts)


async def test_marketing_is_signed_with_its_footer(
    world: Make,  # noqa: F811
    tmp_path: Path,
) -> None:
    (tmp_path / "s1.pem").write_bytes(pem(RSA))
    (tmp_path / "e1.pem").write_bytes(pem(ED25519))
    mails = dict(messages())
    domains = sorted({signing_domain(content) for content in mails.values()} - {""})
    keys = "".join(
        f'[[dkim.keys]]\ndomain = "{domain}"\nselector = "{key.selector}"\nsender = "acme"\n'
        f'key_file = "{key.selector}.pem"\n'
        for domain in domains
        for key in KEYS
    )
    records = {
        f"{key.selector}._domainkey.{domain}": record(key.private)
        for domain in domains
        for key in KEYS
    }
    w = await world(edit=visible, more=keys)
    await w.know(ANNA, "opt-in", **OPT_IN)
    counts: Counter[str] = Counter()
    signed: dict[str, bytes] = {}
    for name, content in mails.items():
        reply, left = await send(w, content, "newsletter")
        ours = left.count(b"\r\nDKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;")
        if ours:
            signed[name] = left
            again, twice = await send(w, left, "newsletter")
            assert again.startswith("250 "), (name, again)
            # A second pass adds nothing to what readers see.
            assert twice.partition(b"\r\n\r\n")[2] == left.partition(b"\r\n\r\n")[2], name
            assert _one_click(twice) == _one_click(left) or not _one_click(left), name
        counts["signed" if ours else "relayed unsigned" if left else kind(reply)] += 1
    show(f"as marketing, {len(mails)} messages", counts)
    contents = list(signed.values())
    dkimpy = {name: verifiers.by_dkimpy(left, records)[:2] for name, left in signed.items()}
    perl = verifiers.by_mail_dkim(tmp_path, contents, records)
    opendkim = verifiers.by_opendkim(tmp_path, contents, records)
    verified = Counter(
        {
            "dkimpy, both": sum(v == [True, True] for v in dkimpy.values()),
            "Mail::DKIM, RSA": sum(v[1] == "rsa-sha256=pass" for v in perl),
            "OpenDKIM": sum(opendkim),
        }
    )
    show(f"valid, of {len(signed)} signed", verified)
    assert [name for name, v in dkimpy.items() if v != [True, True]] == []
    names = list(signed)
    assert [names[n] for n, v in enumerate(perl) if v[1] != "rsa-sha256=pass"] == []
    assert [names[n] for n, valid in enumerate(opendkim) if not valid] == []


def visible(config: str) -> str:
    """Mail that shows several people is taken as it is."""
    return config.replace(
        'id = "newsletter"\n', 'id = "newsletter"\nvisible_recipients = "allow"\n'
    )


def _one_click(content: bytes) -> list[bytes]:
    return index(content, max_bytes=1 << 20).values(b"list-unsubscribe")


def test_footers_keep_tree_and_octets() -> None:
    counts: Counter[str] = Counter(footed(name, content) for name, content in messages())
    show("footers", counts)
