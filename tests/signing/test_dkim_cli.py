"""`sluis dkim generate` and `check`, and the records they make and read."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from signing_keys import ED25519, RSA, pem, record
from test_dkim_config import CONFIG

from proxy.cli import main as command_line
from proxy.cli.dkim import LookupFailed, compare
from proxy.config import load
from proxy.config.signing import read_private_key
from proxy.message import dkim_record


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        command_line.main(["dkim", *arguments])
    return int(caught.value.code or 0)


@pytest.mark.parametrize(("flag", "kind"), [("--rsa", "rsa"), ("--ed25519", "ed25519")])
def test_generate_writes_a_key_and_prints_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, kind: str
) -> None:
    out = tmp_path / "new" / "keys"
    assert run("generate", "Acme.example", "--selector", "s1", flag, "--out", str(out)) == 0
    path = out / "s1.acme.example.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    key = read_private_key(path)
    told, err = capsys.readouterr()
    assert told.startswith("s1._domainkey.acme.example. IN TXT ( ")
    assert dkim_record.joined(told) == record(key)
    assert all(len(part) <= 255 for part in told.split('"')[1::2])
    assert f"k={kind};" in told
    assert f'key_file = "{path}"' in err
    order = [err.index(word) for word in ("Publish", "[[dkim.keys]]", "dkim check", "restart")]
    assert order == sorted(order)  # `check` compares the keys that are configured
    assert ("--ed25519 makes" if kind == "rsa" else "--rsa makes") in err
    before = path.read_bytes()
    assert run("generate", "acme.example", "--selector", "s1", flag, "--out", str(out)) == 73
    assert path.read_bytes() == before


def test_generate_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("acme.example", "--selector", "s1", "--out", str(tmp_path), "--json", "--ed25519")
    assert run("generate", *arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == "s1._domainkey.acme.example"
    assert told["record"] == record(read_private_key(Path(told["key_file"])))


@pytest.mark.parametrize(
    "arguments",
    [
        ("not a domain", "--selector", "s1"),
        ("acme.example", "--selector", "../s1"),
        ("acme.example", "--selector", "S1"),
        ("acme.example",),
    ],
)
def test_generate_refuses_what_is_no_name(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert run("generate", *arguments, "--out", str(tmp_path)) == 64
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run("generate", "acme.example", "--selector", "s", "--out", f"{tmp_path}/file") == 73


@pytest.mark.parametrize(
    ("published", "problem"),
    [
        (record(RSA), ""),
        (record(RSA).replace("; ", ";") + ";", ""),
        (record(RSA).replace("k=rsa; ", "n=note; s=email:*; h=sha1 : sha256; "), ""),
        (record(RSA).removeprefix("v=DKIM1; "), ""),
        (dkim_record.zone_line("acme.example", "s1", RSA), ""),
        (f'"{record(RSA)[:200]}" "{record(RSA)[200:]}"', ""),
        (record(RSA).replace("p=", "p=\t "), ""),
        (record(ED25519), "k=ed25519, but the key file holds rsa"),
        (record(RSA).replace("p=MIIB", "p=MIIC"), "another key"),
        ("v=DKIM1; k=rsa; p=", "the key is revoked"),
        ("v=DKIM1; k=rsa", "p= is missing"),
        ("k=rsa; v=DKIM1; p=x", "v= is not DKIM1, or not first"),
        (record(RSA) + "; h=sha1", "h= does not allow sha256"),
        (record(RSA) + "; s=tlsrpt", "s= does not allow e-mail"),
        (record(RSA) + "; t=s:y", "t=y: testing"),
        ("v=spf1 -all", "p= is missing"),
        ("", "is no list of tags"),
        ("v=DKIM1; v=DKIM1; p=x", "is no list of tags"),
    ],
    ids=[f"record{n}" for n in range(18)],  # keys are new each run, names are not
)
def test_what_verifiers_would_make_of_a_record(published: str, problem: str) -> None:
    found = dkim_record.problems(published, RSA)
    assert bool(found) == bool(problem)
    assert problem in "; ".join(found)


def test_the_shorter_form_of_an_rsa_key_is_the_same_key() -> None:
    import base64

    raw = RSA.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.PKCS1
    )
    assert dkim_record.problems(f"p={base64.b64encode(raw).decode()}", RSA) == []


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "s1.pem").write_bytes(pem(RSA))
    (tmp_path / "e1.pem").write_bytes(pem(ED25519))
    keys = "".join(
        f'[[dkim.keys]]\ndomain = "acme.example"\nselector = "{s}"\nkey_file = "{s}.pem"\n'
        for s in ("s1", "e1")
    )
    path = tmp_path / "sluis.toml"
    path.write_text(CONFIG.replace("UPSTREAM", "") + keys)
    return path


def published(records: dict[str, list[str]]) -> Callable[[str], list[str]]:
    def lookup(name: str) -> list[str]:
        if name not in records:
            raise LookupFailed("no answer from the DNS: LifetimeTimeout")
        return records[name]

    return lookup


@pytest.mark.parametrize(
    ("s1", "e1", "code", "line"),
    [
        ([record(RSA)], [record(ED25519)], 0, "e1._domainkey.acme.example (ed25519): matches"),
        ([record(RSA)], [], 1, "  there is no record"),
        ([record(RSA)] * 2, [record(ED25519)], 1, "  there are several records"),
        ([record(RSA)], [record(RSA)], 1, "  p= is another key than that of the file"),
        ([record(RSA)], None, 69, "e1._domainkey.acme.example (ed25519): unknown"),
        ([], None, 1, "s1._domainkey.acme.example (rsa): differs"),
    ],
)
def test_check_compares_every_key(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    s1: list[str],
    e1: list[str] | None,
    code: int,
    line: str,
) -> None:
    records = {"s1._domainkey.acme.example": s1}
    if e1 is not None:
        records["e1._domainkey.acme.example"] = e1
    got = compare(
        load(config, {}),
        domain=None,
        selector=None,
        record=None,
        json=False,
        lookup=published(records),
    )
    assert got == code
    assert line in capsys.readouterr().out.splitlines()


def test_check_against_a_text(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("check", "-c", str(config), "--record", record(RSA))
    assert run(*arguments, "--selector", "s1", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["result"] == "matches"
    assert told["record"] == record(RSA)
    assert run(*arguments, "--selector", "e1") == 1
    assert run(*arguments) == 64
    assert run("check", "-c", str(config), "--domain", "other.example") == 78


def test_check_needs_the_keys_it_compares_and_no_others(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "e1.pem").write_text("half a renewal")
    arguments = ("check", "-c", str(config), "--record", record(RSA))
    assert run(*arguments, "--selector", "s1") == 0
    assert run(*arguments, "--selector", "e1") == 78
    err = capsys.readouterr().err
    assert f"{config.parent / 'e1.pem'} holds no private key in PEM form; put back" in err
