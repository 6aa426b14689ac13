"""Which keys sign: alignment, rotation, and files that change under a running relay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from signing_keys import ED25519, RSA, pem
from test_dkim_config import CONFIG, SECOND

from proxy.config import load
from proxy.dkim_keys import KeyRing
from proxy.errors import KeysError

AT = datetime(2026, 11, 24, 8, tzinfo=UTC)


def ring(folder: Path, *keys: str) -> KeyRing:
    (folder / "rsa.pem").write_bytes(pem(RSA))
    (folder / "ed.pem").write_bytes(pem(ED25519))
    tables = "".join(f"[[dkim.keys]]\n{key}\n" for key in keys)
    path = folder / "sluis.toml"
    path.write_text(CONFIG.replace("UPSTREAM", "") + SECOND + tables)
    return KeyRing(load(path, {}))


def key(domain: str, selector: str, file: str = "rsa", more: str = 'sender = "acme"') -> str:
    return f'domain = "{domain}"\nselector = "{selector}"\nkey_file = "{file}.pem"\n{more}'


def names(found: tuple[object, ...]) -> list[str]:
    return [f"{k.selector}.{k.domain}" for k in found]  # type: ignore[attr-defined]


def test_the_from_domain_then_the_organisational_one(tmp_path: Path) -> None:
    keys = ring(
        tmp_path,
        key("news.acme.example", "n"),
        key("acme.example", "o"),
        key("acme.example", "e", "ed"),
        key("mail.acme.co.uk", "no"),
    )
    assert names(keys.aligned("acme", "news.acme.example", AT)) == ["n.news.acme.example"]
    both = ["e.acme.example", "o.acme.example"]
    assert names(keys.aligned("acme", "acme.example", AT)) == both
    assert names(keys.aligned("acme", "a.b.acme.example", AT)) == both
    # A domain between is no organisational one, a neighbour and a longer name are none at all.
    assert keys.aligned("acme", "x.mail.acme.co.uk", AT) == ()
    assert keys.aligned("acme", "xacme.example", AT) == ()
    assert keys.aligned("acme", "example", AT) == ()
    assert keys.aligned("acme", "", AT) == ()


def test_never_the_key_of_another_sender(tmp_path: Path) -> None:
    keys = ring(tmp_path, key("acme.example", "a"), key("beta.example", "b", more=""))
    assert names(keys.aligned("beta", "news.beta.example", AT)) == ["b.beta.example"]
    assert keys.aligned("beta", "b.acme.example", AT) == ()
    assert keys.aligned("acme", "news.beta.example", AT) == ()
    assert keys.aligned("nobody", "acme.example", AT) == ()
    assert keys.own("acme") == {("acme.example", "a")}
    assert keys.named("acme", "acme.example", "a") is not None
    assert keys.named("beta", "acme.example", "a") is None


def test_our_own_host_signs_with_a_key_of_its_domain(tmp_path: Path) -> None:
    keys = ring(
        tmp_path,
        key("acme.example", "a"),
        key("acme.example", "e", "ed", more='sender = "beta"'),
        key("gate.beta.example", "b", more='sender = "beta"'),
    )
    assert names(keys.of_host("gate.acme.example", AT)) == ["e.acme.example", "a.acme.example"]
    assert names(keys.of_host("gate.beta.example", AT)) == ["b.gate.beta.example"]
    assert keys.of_host("mx.beta.example", AT) == ()


def test_rotation_at_an_instant(tmp_path: Path) -> None:
    change = datetime(2026, 12, 1, tzinfo=UTC)
    later = 'sender = "acme"\nactive_from = 2026-12-01T00:00:00Z'
    keys = ring(tmp_path, key("acme.example", "new", more=later), key("acme.example", "old"))
    tick = timedelta(seconds=1)
    assert names(keys.aligned("acme", "acme.example", change - tick)) == ["old.acme.example"]
    assert names(keys.aligned("acme", "acme.example", change)) == ["new.acme.example"]
    assert keys.own("acme") == {("acme.example", "new"), ("acme.example", "old")}
    alone = ring(tmp_path, key("acme.example", "new", more=later))
    assert alone.aligned("acme", "acme.example", change - tick) == ()


def test_a_key_is_read_anew_when_its_file_changes(tmp_path: Path) -> None:
    keys = ring(tmp_path, key("acme.example", "a"))
    (first,) = keys.aligned("acme", "acme.example", AT)
    assert keys.aligned("acme", "acme.example", AT)[0].private is first.private
    other = rsa.generate_private_key(65537, 2048)
    (tmp_path / "next.pem").write_bytes(pem(other))
    (tmp_path / "next.pem").rename(tmp_path / "rsa.pem")
    (second,) = keys.aligned("acme", "acme.example", AT)
    assert second.private.private_numbers() == other.private_numbers()  # type: ignore[union-attr]


def test_a_key_that_cannot_be_used_is_never_passed_over(tmp_path: Path) -> None:
    kind = 'sender = "acme"\nalgorithm = "rsa"'
    keys = ring(tmp_path, key("acme.example", "a", more=kind), key("acme.example", "e", "ed"))
    path = tmp_path / "rsa.pem"
    assert len(keys.aligned("acme", "acme.example", AT)) == 2
    path.unlink()
    with pytest.raises(KeysError, match=r"a\._domainkey\.acme\.example: .* cannot be read"):
        keys.aligned("acme", "acme.example", AT)
    path.write_text("half a fi")
    with pytest.raises(KeysError, match="holds no private key"):
        keys.aligned("acme", "acme.example", AT)
    path.write_bytes(pem(ED25519))
    with pytest.raises(KeysError, match="holds no rsa key"):
        keys.aligned("acme", "acme.example", AT)
    path.write_bytes(pem(RSA))
    assert len(keys.aligned("acme", "acme.example", AT)) == 2
