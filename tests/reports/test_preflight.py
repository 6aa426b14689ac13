"""Lists in, counts and files out."""

from __future__ import annotations

import csv
import json
import stat
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shop import NOW, OPT_IN, SALE, Shop
from typer.testing import CliRunner

from policy.address import AddressError, parse
from proxy.cli.main import app
from proxy.imports import FileError
from proxy.lists import Line, ListFile
from proxy.preflight import COLUMNS, Files, Preflight, Seen, Tally
from proxy.sheets import Sheet, harmless, harmless_address

pytest_plugins = ("shop",)

# -- reading ---------------------------------------------------------------------------------------


def read(path: Path, content: bytes | str, name: str = "list.csv", **options: str) -> list[Line]:
    file = path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with ListFile(file, **options) as list_:
        return list(list_)


def addresses(lines: list[Line]) -> list[tuple[int, str]]:
    return [(line.number, line.address) for line in lines]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("a@example.nl\n\n b@example.nl \r\nc@example.nl", "list.txt"),
        ("\ufeffa@example.nl\n\nb@example.nl\nc@example.nl\n", "list.csv"),
    ],
)
def test_one_address_a_line(tmp_path: Path, content: str, name: str) -> None:
    found = read(tmp_path, content, name)
    assert addresses(found) == [(1, "a@example.nl"), (3, "b@example.nl"), (4, "c@example.nl")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["email", "E-mail", "E-mailadres", "address", " Email Address "])
def test_a_column_of_addresses(tmp_path: Path, delimiter: str, name: str) -> None:
    rows = [("n", name), ("1", "a@example.nl"), ("", ""), ('"2\n2"', " b@example.nl")]
    content = "\n".join(delimiter.join(row) for row in rows)
    file = tmp_path / "list.csv"
    file.write_text("\ufeff" + content, "utf-8")
    with ListFile(file) as list_:
        assert list_.address == 1
        assert list_.columns == ("n", name)
        found = list(list_)
    assert addresses(found) == [(2, "a@example.nl"), (4, "b@example.nl")]
    assert found[1].cells == ("2\n2", " b@example.nl")


def test_a_column_that_is_named(tmp_path: Path) -> None:
    content = "email,second\na@example.nl,b@example.nl\n"
    assert addresses(read(tmp_path, content, column="second")) == [(2, "b@example.nl")]
    with pytest.raises(FileError, match="no column 'third'; there are: 'email', 'second'"):
        read(tmp_path, content, column="third")


def test_jsonl_keeps_what_the_first_line_lacks(tmp_path: Path) -> None:
    objects = [
        {"email": "a@example.nl", "n": 1},
        {"email": "b@example.nl", "n": None, "tags": ["x"]},
        {"n": 2},
    ]
    content = "\n\n".join(json.dumps(item) for item in objects) + "\n[1]\n{"
    file = tmp_path / "list.jsonl"
    file.write_text(content, "utf-8")
    with ListFile(file) as list_:
        assert list_.columns == ("email", "n", "sluis_more")
        found = list(list_)
    assert [line.cells for line in found[:2]] == [
        ("a@example.nl", "1", ""),
        ("b@example.nl", "", '{"tags":["x"]}'),
    ]
    assert [(line.number, bool(line.problem)) for line in found] == [
        (1, False), (3, False), (5, True), (6, True), (7, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("", "list.csv", "line 1: nothing there"),
        ("\n", "list.jsonl", "line 1: nothing there"),
        ("name,city\nA,B\n", "list.csv", "no address column among 'name', 'city'; name it with"),
        ('"unclosed\n', "list.csv", "line 1"),
        (b"\xff\xfea\x00", "list.csv", "UTF-16"),
        ("[]\n", "list.jsonl", "line 1: not a JSON object"),
        ('{"name":"A"}\n', "list.jsonl", "no address column"),
    ],
)
def test_a_file_that_is_no_list(
    tmp_path: Path, content: bytes | str, name: str, words: str
) -> None:
    with pytest.raises(FileError, match=words):
        read(tmp_path, content, name)


def test_a_bad_row_costs_that_row(tmp_path: Path) -> None:
    content = b"email,n\na@example.nl,1\nb@example.nl\n\xe9@example.nl,3\nc@example.nl,\xe9\n"
    found = read(tmp_path, content)
    assert [(line.number, line.problem) for line in found] == [
        (2, ""), (3, "1 cells where the header has 2"), (4, "not UTF-8"), (5, ""),
    ]  # fmt: skip


# -- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"), ("\t=1", "'\t=1"), (" =1", "' =1"), ("\r1", "'\r1"),
        ("\uff1d1", "'\uff1d1"),
        ("+31612345678", "+31612345678"), ("-1.5", "-1.5"), ("Anna", "Anna"), ("", ""),
        ("a=b", "a=b"), ("'=1", "'=1"),
    ],
)  # fmt: skip
def test_no_cell_is_a_formula(cell: str, written: str) -> None:
    assert harmless(cell) == written


@given(st.text(max_size=30))
def test_no_cell_begins_as_a_formula(cell: str) -> None:
    written = harmless(cell)
    first = written.lstrip()[:1]
    if first in ("=", "+", "-", "@") and written:
        float(written.replace(",", ".").replace(".", "", written.count(".") - 1) or "0")
    assert harmless(written) == written


@pytest.mark.parametrize(
    "text", ["=1+1@example.nl", "+a@example.nl", '"=a b"@example.nl', "anna@example.nl"]
)
def test_an_address_stays_the_same_address(text: str) -> None:
    address = parse(text)
    written = harmless_address(text, address)
    assert written[0] not in "=+-@"
    assert parse(written).exact == address.exact


def test_a_sheet_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    sheet = Sheet(path, ["=a", "b"])
    sheet.write(["1", 'say "hi", you'])
    assert not path.exists()
    sheet.finish()
    assert path.read_bytes() == b'\'=a,b\r\n1,"say ""hi"", you"\r\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    left = Sheet(path, ["c"])
    left.abandon()
    assert path.read_bytes().startswith(b"'=a")
    assert [item.name for item in tmp_path.iterdir()] == ["x.csv"]


# -- the whole -------------------------------------------------------------------------------------


async def crowd(shop: Shop) -> None:
    await shop.know("anna@example.nl", "opt-in", **OPT_IN)
    await shop.know("bram@example.nl", "opt-in", **OPT_IN)
    await shop.know("bram@example.nl", "objection", at=NOW - timedelta(days=1), via="form")
    # A sale whose 36 months end in 20 days.
    sold = NOW - timedelta(days=3 * 365 + 1 - 20)
    await shop.know("cees@example.nl", "relationship", at=sold, **SALE)


async def fly(shop: Shop, path: Path, content: str, **options: object) -> Tally:
    file = path / "list.csv"
    file.write_text(content, "utf-8")
    stream = str(options.pop("stream", "newsletter"))
    preflight = Preflight(
        inquiry=shop.inquiry(stream), keys=shop.keys, store=shop.store, now=NOW,
        **{"at": NOW, **options},  # type: ignore[arg-type]
    )  # fmt: skip
    with ListFile(file) as list_, Files(path / "out", list_) as files:
        return await preflight.run(list_, files)


def rows(path: Path, name: str) -> list[dict[str, str]]:
    with (path / "out" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


LIST = """\
who;email
Anna;anna@example.nl
Bram;bram@example.nl
=Fatma;fatma@example.nl
Anna again;"anna@example.nl"
nobody;not an address
"""


async def test_every_row_is_counted_once_and_stands_in_one_file(shop: Shop, tmp_path: Path) -> None:
    await crowd(shop)
    tally = await fly(shop, tmp_path, LIST)
    assert (tally.rows, tally.allowed, tally.blocked) == (5, 1, 2)
    assert (tally.duplicates, tally.invalid, tally.deferred) == (1, 1, 0)
    assert tally.bases == {"consent": 1}
    assert sum(tally.stopped.values()) == 2
    assert {reason for reason, _ in tally.stopped} == {"suppressed", "no-basis"}
    [anna] = rows(tmp_path, "allowed")
    assert (anna["who"], anna["email"]) == ("Anna", "anna@example.nl")
    assert (anna["sluis_verdict"], anna["sluis_reason"]) == ("allow", "consent")
    assert anna["sluis_cite"].startswith("Tw 11.7(1)")
    blocked = rows(tmp_path, "blocked")
    assert [(row["who"], row["sluis_reason"]) for row in blocked] == [
        ("Anna again", "duplicate"),
        ("nobody", "invalid-address"),
        ("Bram", "suppressed"),
        ("'=Fatma", "no-basis"),
    ]
    assert "line 2" in blocked[0]["sluis_remedy"]
    assert all(row["sluis_remedy"] for row in blocked)
    assert "GDPR 21(3)" in blocked[2]["sluis_cite"]


async def test_a_basis_that_ends_before_the_mail_goes(shop: Shop, tmp_path: Path) -> None:
    await crowd(shop)
    content = "email\ncees@example.nl\nanna@example.nl\nbram@example.nl\n"
    today = await fly(shop, tmp_path, content, stream="offers")
    assert (today.allowed, today.blocked, today.expiring) == (1, 2, 0)
    [cees] = [r for r in rows(tmp_path, "allowed") if r["email"] == "cees@example.nl"]
    then = await fly(shop, tmp_path, content, stream="offers", at=NOW + timedelta(days=30))
    assert then.expiring == 1
    [late] = [r for r in rows(tmp_path, "blocked") if r["email"] == "cees@example.nl"]
    assert late["sluis_reason"] == "expired"
    assert late["sluis_expires_at"] == cees["sluis_expires_at"] != ""
    assert then.needs_review >= 1  # the term is our default, so a person may look at it


async def test_as_it_was_then(shop: Shop, tmp_path: Path) -> None:
    await crowd(shop)
    content = "email\nbram@example.nl\nanna@example.nl\n"
    past = await fly(shop, tmp_path, content, at=NOW - timedelta(days=2))
    assert (past.allowed, past.blocked) == (2, 0)
    older = await fly(shop, tmp_path, content, at=NOW - timedelta(days=20))
    assert (older.allowed, older.blocked) == (0, 2)


async def test_its_own_files_can_be_its_list(shop: Shop, tmp_path: Path) -> None:
    await crowd(shop)
    await fly(shop, tmp_path, LIST)
    first = (tmp_path / "out" / "allowed.csv").read_text("utf-8")
    again = await fly(shop, tmp_path, first)
    assert (again.rows, again.allowed) == (1, 1)
    assert (tmp_path / "out" / "allowed.csv").read_text("utf-8") == first
    assert rows(tmp_path, "allowed")[0].keys() == {"who", "email", *COLUMNS}


async def test_memory_does_not_grow_with_the_list(shop: Shop, tmp_path: Path) -> None:
    await crowd(shop)

    async def peak(count: int) -> int:
        content = "email\n" + "".join(f"p{n}@example.nl\n" for n in range(count))
        tracemalloc.start()
        try:
            tally = await fly(shop, tmp_path, content)
            assert (tally.rows, tally.blocked) == (count, count)
            # The list's own text is held by this test.
            return tracemalloc.get_traced_memory()[1] - 3 * len(content)
        finally:
            tracemalloc.stop()

    small, large = await peak(1500), await peak(4500)
    assert large < small * 1.3


def test_seen_tells_the_first_line() -> None:
    with Seen() as seen:
        assert seen.first("00" * 16, 4) == 0
        assert seen.first("01" * 16, 5) == 0
        assert seen.first("00" * 16, 6) == 4


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_invalid(text: str) -> None:
    try:
        address = parse(text.strip(), smtputf8=True)
    except AddressError:
        assert harmless_address(text, None) == harmless(text)
    else:
        assert parse(harmless_address(text, address).strip(), smtputf8=True).exact == address.exact


# -- the command -----------------------------------------------------------------------------------


async def test_the_command(shop: Shop, tmp_path: Path) -> None:
    await crowd(shop)
    await shop.store.close()
    file = tmp_path / "list.csv"
    file.write_text(LIST, "utf-8")

    def run(*more: str) -> tuple[int, str, str]:
        arguments = ["preflight", str(file), "--config", str(shop.path), *more]
        with ThreadPoolExecutor(1) as pool:  # the command has a loop of its own
            ran = pool.submit(CliRunner().invoke, app, arguments).result()
        return ran.exit_code, ran.stdout, ran.stderr

    code, out, _ = run("--stream", "newsletter", "--json", "--out", str(tmp_path / "out"))
    assert code == 0
    data = json.loads(out)
    assert {k: data[k] for k in ("rows", "allowed", "blocked", "duplicates", "invalid")} == {
        "rows": 5, "allowed": 1, "blocked": 2, "duplicates": 1, "invalid": 1,
    }  # fmt: skip
    assert {row["reason"] for row in data["stopped"]} == {"suppressed", "no-basis"}
    assert all(row["remedy"] and row["cite"] for row in data["stopped"])
    assert len(rows(tmp_path, "blocked")) == 4

    code, out, _ = run("--stream", "newsletter", "--lang", "nl")
    assert code == 0
    assert "may be mailed" in out
    assert "Niet versturen" in out.replace("\n", " ")

    code, out, err = run("--stream", "newsletter", "--column", "nope")
    assert (code, out) == (65, "")
    assert "no column 'nope'" in err
    file.unlink()
    assert run("--stream", "newsletter")[0] == 66
