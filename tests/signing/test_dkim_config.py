"""The `[dkim]` table: what is taken, and that each refusal names key and remedy."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from proxy.config import DkimKey, load
from proxy.errors import ConfigError

CONFIG = """\
[server]
hostname = "gate.acme.example"
[[listeners]]
address = "127.0.0.1:2525"
trusted_networks = ["127.0.0.0/8"]
[[upstreams]]
address = "127.0.0.1:1025"
tls = "none"
UPSTREAM
[http]
public_url = "https://mail.acme.example"
[[senders]]
id = "acme"
name = "Acme Schoenen B.V."
country = "NL"
postal_address = "Keizersgracht 1, 1015 AA Amsterdam"
contact = "privacy@acme.example"
[[streams]]
id = "newsletter"
sender = "acme"
category = "marketing"
from_domains = ["news.acme.example"]
"""

SECOND = """\
[[senders]]
id = "beta"
name = "Beta B.V."
country = "NL"
postal_address = "Dam 1, Amsterdam"
contact = "privacy@beta.example"
[[streams]]
id = "beta"
sender = "beta"
category = "marketing"
from_domains = ["news.beta.example", "b.acme.example"]
"""


def pem(key: object, password: bytes | None = None) -> bytes:
    assert isinstance(
        key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
    )
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption(),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    good = rsa.generate_private_key(65537, 2048)
    for name, content in {
        "rsa": pem(good),
        "ed": pem(ed25519.Ed25519PrivateKey.generate()),
        "short": pem(rsa.generate_private_key(65537, 1024)),
        "curve": pem(ec.generate_private_key(ec.SECP256R1())),
        "locked": pem(good, b"secret"),
        "text": b"no key",
    }.items():
        (folder / f"{name}.pem").write_bytes(content)
    return folder


def write(folder: Path, keys: str, upstream: str = "", more: str = "") -> Path:
    path = folder / "sluis.toml"
    path.write_text(CONFIG.replace("UPSTREAM", upstream) + more + f"[dkim]\n{keys}\n")
    return path


def key(
    file: str = "rsa", selector: str = "s1", domain: str = "acme.example", more: str = ""
) -> str:
    return (
        f'[[dkim.keys]]\ndomain = "{domain}"\nselector = "{selector}"\n'
        f'key_file = "{file}.pem"\n{more}\n'
    )


def test_keys_load_with_paths_from_the_folder_of_the_file(files: Path) -> None:
    text = key() + key("ed", "e1", more='active_from = 2026-12-01T01:00:00+01:00\nsender = "acme"')
    upstream = 'dkim_keys = ["rsa"]\ndkim_omit = ["message-id", "date"]'
    settings = load(write(files, text, upstream), {})
    assert settings.dkim.keys == (
        DkimKey(domain="acme.example", selector="s1", key_file=files / "rsa.pem"),
        DkimKey(
            domain="acme.example",
            selector="e1",
            key_file=files / "ed.pem",
            sender="acme",
            active_from=datetime(2026, 12, 1, tzinfo=UTC),
        ),
    )
    assert settings.upstreams[0].dkim_keys == ("rsa",)
    assert settings.upstreams[0].dkim_omit == ("message-id", "date")


def test_a_variable_names_a_key_of_the_list(files: Path) -> None:
    env = {
        "SLUIS_DKIM__KEYS__0__SELECTOR": "s2",
        "SLUIS_DKIM__KEYS__1__DOMAIN": "acme.example",
        "SLUIS_DKIM__KEYS__1__SELECTOR": "e1",
        "SLUIS_DKIM__KEYS__1__KEY_FILE": str(files / "ed.pem"),
    }
    keys = load(write(files, key()), env).dkim.keys
    assert [(k.selector, k.key_file.name) for k in keys] == [("s2", "rsa.pem"), ("e1", "ed.pem")]
    assert load(write(files, ""), {"SLUIS_DKIM__KEYS": "[]"}).dkim.keys == ()


@pytest.mark.parametrize(
    ("keys", "want"),
    [
        (key("none"), "dkim.keys.0.key_file: cannot be read (No such file"),
        (key("short"), "dkim.keys.0.key_file: holds an RSA key of 1024 bits; make one with"),
        (key("curve"), "dkim.keys.0.key_file: holds a key that is neither RSA nor Ed25519"),
        (key("locked"), "dkim.keys.0.key_file: is encrypted"),
        (key("text"), "dkim.keys.0.key_file: holds no private key in PEM form"),
        (key(more='algorithm = "ed25519"'), "dkim.keys.0.algorithm: the file holds another kind"),
        (
            key(more='sender = "gamma"'),
            'dkim.keys.0.sender: there is no [[senders]] with id "gamma"',
        ),
        (key(selector="S 1"), "dkim.keys.0.selector: is no selector"),
        (key(domain="co.uk"), "dkim.keys.0.domain: is a public suffix"),
        (key() + key("ed"), 'dkim.keys.1.selector: "s1" is also that of dkim.keys.0'),
        (key(more="active_from = 2026-12-01"), "dkim.keys.0.active_from: is no instant"),
        (key(more='active_from = "2026-12-01T00:00:00"'), "dkim.keys.0.active_from: is no instant"),
        ('[[dkim.keys]]\nselector = "s"\nkey_file = "rsa.pem"', "dkim.keys.0.domain: is missing"),
        (key(more='path = "x"'), "dkim.keys.0.path: is no key"),
        ("keys = 3", "dkim.keys: is a number; must be a list"),
    ],
)
def test_what_is_refused(files: Path, keys: str, want: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(files, keys), {})
    assert any(f": {want}" in line for line in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(
    ("upstream", "want"),
    [
        ("dkim_keys = []", "upstreams.0.dkim_keys: is empty"),
        ('dkim_keys = ["ed25519"]', "upstreams.0.dkim_keys: leaves acme.example without a key"),
        ('dkim_omit = ["from"]', 'upstreams.0.dkim_omit.0: is "from"; must be'),
        ('dkim_omit = ["list-unsubscribe"]', "upstreams.0.dkim_omit.0: is "),
    ],
)
def test_no_upstream_gets_unsigned_mail(files: Path, upstream: str, want: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(files, key(), upstream), {})
    assert any(f": {want}" in line for line in caught.value.problems), caught.value.problems


def test_a_key_belongs_to_one_sender(files: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(files, key(), more=SECOND), {})
    assert "acme.example is that of acme and beta; name the one sender" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load(write(files, key(domain="gamma.example"), more=SECOND), {})
    assert "gamma.example is of no stream's sender" in str(caught.value)
    both = key(more='sender = "acme"') + key(more='sender = "beta"')
    assert len(load(write(files, both, more=SECOND), {}).dkim.keys) == 2
    assert load(write(files, key(domain="news.beta.example"), more=SECOND), {}).dkim.keys
