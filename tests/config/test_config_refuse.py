"""What is refused, and that each refusal names place, key and remedy."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from test_config_load import MINIMAL, write

from proxy.config import load
from proxy.config.values import control_character, split_address
from proxy.errors import ConfigError


def problems(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> list[str]:
    """The problems of `text`; each is one line that says where, which key, and what to do."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path, env or {})
    for line in caught.value.problems:
        assert line.isprintable()
        place, _, rest = line.partition(": ")
        assert place.startswith((str(path), "environment SLUIS_"))
        assert "; " in rest
    return [line.replace(f"{path}: ", "") for line in caught.value.problems]


def refused(tmp_path: Path, old: str, new: str) -> list[str]:
    """The problems after one change in the minimal file."""
    assert old in MINIMAL
    return problems(tmp_path, MINIMAL.replace(old, new))


HOST = 'hostname = "gate.acme.example"'
LISTEN = 'address = "127.0.0.1:2525"'
TRUST = 'trusted_networks = ["127.0.0.0/8"]'
UPSTREAM = 'address = "127.0.0.1:1025"\ntls = "none"'
URL = 'public_url = "https://mail.acme.example/"'
CATEGORY = 'category = "marketing"'
TOKEN = f'[[api_tokens]]\nname = "crm"\ntoken_hash = "{"0" * 64}"\nrole = "reader"\n'
CONTACT = 'contact = "privacy@acme.example"'


@pytest.mark.parametrize(
    ("old", "new", "want"),
    [
        (HOST, "", "server.hostname: is missing; add it to [server]"),
        (HOST, "hostname = 3", "server.hostname: is no domain name"),
        (
            HOST,
            f"{HOST}\ndevelopment = 1",
            "server.development: is a number; must be true or false",
        ),
        (
            UPSTREAM,
            f'{UPSTREAM}\nretry = {{ later = "1m/1h" }}',
            'upstreams.0.retry: names "later", which is no way to fail for now; use temporary',
        ),
        (
            UPSTREAM,
            f'{UPSTREAM}\nretry = {{ full = "1h/1m" }}',
            'upstreams.0.retry: has "1h/1m" for full, which is no first and longest wait; write',
        ),
        (
            UPSTREAM,
            f'{UPSTREAM}\n[delivery]\nattempt_hold = "16m"',
            "delivery.attempt_hold: is longer than every upstream's time-outs",
        ),
        (HOST, f'{HOST}\ndata-dir = "x"', 'data-dir: is no key (did you mean "data_dir"?)'),
        (
            HOST,
            f"{HOST}\nconnections = 5",
            "connections: is no key here (it belongs in [[upstreams]])",
        ),
        (HOST, f"{HOST}\ndrain_timeout = 30", "drain_timeout: is no duration; write a number and"),
        (HOST, f'{HOST}\ndrain_timeout = "0s"', "drain_timeout: is zero"),
        ("[server]", "[sever]\n[server]", 'sever: is no section (did you mean "server"?)'),
        (
            "[[upstreams]]",
            "[upstreams]",
            "upstreams: must be a list of tables; write [[upstreams]]",
        ),
        (LISTEN, 'address = "127.0.0.1"', "listeners.0.address: is no host:port"),
        (LISTEN, 'address = "::1:25"', "listeners.0.address: is no host:port"),
        (
            LISTEN,
            f'{LISTEN}\ntls = "ssl"',
            "listeners.0.tls: is \"ssl\"; must be 'none', 'starttls'",
        ),
        (
            LISTEN,
            f'{LISTEN}\nstream = "news"',
            'there is no [[streams]] with id "news"; use one of',
        ),
        (LISTEN, f'{LISTEN}\nstream = "newsletter"\nmay_set_stream = true', "contradicts stream"),
        (LISTEN, f'{LISTEN}\nauth = "required"', "listeners.0.auth: there are no credentials"),
        (LISTEN, f'{LISTEN}\ncertificate = "x.pem"', 'is not used while tls is "none"'),
        (
            LISTEN,
            f'{LISTEN}\ntls = "starttls"',
            'listeners.0.key: is missing with tls = "starttls"',
        ),
        (TRUST, "", "listeners.0.trusted_networks: nobody may send mail here"),
        (
            TRUST,
            'trusted_networks = ["0.0.0.0/0"]',
            "trusted_networks.0: would make this an open relay",
        ),
        (TRUST, 'trusted_networks = ["::/0"]', "would make this an open relay"),
        (
            TRUST,
            'trusted_networks = ["0.0.0.0/1", "128.0.0.0/1"]',
            "1: would make this an open relay",
        ),
        (TRUST, 'trusted_networks = ["2000::/3"]', "would make this an open relay"),
        (TRUST, 'trusted_networks = ["::ffff:0:0/96"]', "covers IPv4 addresses in IPv6 form"),
        (TRUST, 'trusted_networks = ["127.0.0.1/8"]', 'write the network "127.0.0.0/8"'),
        (TRUST, "trusted_networks = [2130706433]", "trusted_networks.0: is no network"),
        (TRUST, 'trusted_networks = "127.0.0.0/8"', "trusted_networks: is text; must be a list"),
        (UPSTREAM, 'address = "127.0.0.1:2525"', "upstreams.0.address: is this very server"),
        (UPSTREAM, 'address = "localhost:2525"', "upstreams.0.address: is this very server"),
        (UPSTREAM, 'address = "relay.example:0"', "upstreams.0.address: has no port"),
        (UPSTREAM, f'{UPSTREAM}\nusername = "x"', "upstreams.0.password_file: is missing while"),
        (UPSTREAM, f'{UPSTREAM}\npassword = "x"', "upstreams.0.username: is missing while"),
        (
            UPSTREAM,
            'address = "relay.example:25"\ntls = "none"\nusername = "x"\npassword = "y"',
            "upstreams.0.tls: the password would cross the network in clear",
        ),
        (
            UPSTREAM,
            f'{UPSTREAM}\npassword_file = "none"',
            "password_file: cannot be read (No such file",
        ),
        (UPSTREAM, f'{UPSTREAM}\nca_file = "none.pem"', "ca_file: cannot be read (No such file"),
        (UPSTREAM, f"{UPSTREAM}\nconnections = 0", "connections: is 0; must be at least 1"),
        (
            UPSTREAM,
            f'{UPSTREAM}\nconnections = "10"',
            "connections: is text; must be a whole number",
        ),
        (URL, 'public_url = "http://mail.acme.example"', "http.public_url: is not https"),
        (URL, 'public_url = "mail.acme.example"', "http.public_url: is no base URL"),
        (URL, 'public_url = "https://u:p@mail.acme.example"', "http.public_url: is no base URL"),
        (URL, f'{URL}\nadmin = "127.0.0.1:8080"', "http.admin: is the same as http.public"),
        (
            URL,
            f'{URL}\nadmin = "127.0.0.1:2525"',
            "http.admin: is the same as listeners.0.address",
        ),
        (
            URL,
            f'{URL}\nadmin = "0.0.0.0:8080"',
            "http.admin: has the port of http.public, 127.0.0.1:8080: 0.0.0.0 is every address",
        ),
        (
            URL,
            f'{URL}\nadmin = "0.0.0.0:2525"',
            "http.admin: has the port of listeners.0.address, 127.0.0.1:2525: 0.0.0.0 is every",
        ),
        (
            URL,
            f'{URL}\nadmin = "[::]:2525"',
            "http.admin: has the port of listeners.0.address, 127.0.0.1:2525: [::] of HTTP is",
        ),
        (
            URL,
            f'{URL}\nadmin = "[::]:8080"',
            "http.admin: has the port of http.public, 127.0.0.1:8080: [::] of HTTP is",
        ),
        (
            "[[upstreams]]",
            '[[listeners]]\naddress = "0.0.0.0:2525"\ntls = "none"\n'
            'trusted_networks = ["10.0.0.0/8"]\n[[upstreams]]',
            "listeners.1.address: has the port of listeners.0.address, 127.0.0.1:2525",
        ),
        (
            'country = "NL"',
            'country = "UK"',
            'senders.0.country: is no ISO 3166-1 code; write "GB"',
        ),
        ('country = "NL"', 'country = "nl"', "senders.0.country: is no ISO 3166-1 code"),
        ('country = "NL"', 'country = "NK"', "senders.0.country: is no ISO 3166-1 code"),
        ('country = "NL"', 'country = "ZZ"', "senders.0.country: is no country: ISO 3166-1"),
        (
            CONTACT,
            f'{CONTACT}\ncandidate_countries = ["NL", "XA"]',
            "senders.0.candidate_countries.1: is no country: ISO 3166-1",
        ),
        (CONTACT, f'{CONTACT}\nsimilar = [["a"]]', "senders.0.similar.0: names fewer than two"),
        (CONTACT, f'{CONTACT}\nsimilar = [["a", "B c"]]', "senders.0.similar.0: is no slug"),
        (CONTACT, f'{CONTACT}\nsimilar = [{{products = ["a", "b"], by = "x"}}]', "by: is no key"),
        (CONTACT, f'{CONTACT}\ncolour = "red"', 'senders.0.colour: is "red"; must match'),
        (
            CONTACT,
            f"{CONTACT}\nlifetimes = {{ shoes = 0 }}",
            "lifetimes.shoes: is 0; must be at least 1",
        ),
        ('name = "Acme Schoenen B.V."', 'name = " "', "senders.0.name: is empty"),
        (
            'sender = "acme"',
            'sender = "acmo"',
            'streams.0.sender: there is no [[senders]] with id "acmo"',
        ),
        ('id = "newsletter"', 'id = "other"', 'streams.0.id: "other" is taken by Sluis itself'),
        ('id = "newsletter"', 'id = "unknown"', 'streams.0.id: "unknown" is taken by Sluis itself'),
        ('id = "newsletter"', 'id = "News letter"', "streams.0.id: is no id"),
        (CATEGORY, 'category = "marketng"', 'streams.0.category: is "marketng"; must be'),
        (
            CATEGORY,
            f'{CATEGORY}\ndelivery = "later"',
            "'queued'",
        ),
        (
            CATEGORY,
            f'{CATEGORY}\nlist_unsubscribe = "keep"',
            "streams.0.list_unsubscribe_hosts: is empty, so nothing can be kept",
        ),
        (
            CATEGORY,
            f'{CATEGORY}\nlist_unsubscribe_hosts = ["click.esp.example"]',
            "streams.0.list_unsubscribe_hosts: is only used to keep",
        ),
        (CATEGORY, f'{CATEGORY}\nfooter = "always"', 'streams.0.footer: is "always"; must be'),
        (CATEGORY, f"{CATEGORY}\nimplicit = true", "streams.0.implicit: is no key"),
        (CATEGORY, f'{CATEGORY}\nlist_id = "a b"', "streams.0.list_id: is no domain name"),
    ],
)
def test_one_problem_is_named_with_its_remedy(
    tmp_path: Path, old: str, new: str, want: str
) -> None:
    found = refused(tmp_path, old, new)
    assert any(want in line for line in found), found


STREAM_B = '[[streams]]\nid = "b"\nsender = "{sender}"\ncategory = "marketing"\n'
SENDER_B = (
    '[[senders]]\nid = "{id}"\nname = "B"\ncountry = "BE"\npostal_address = "x"\ncontact = "y"\n'
)
LISTENER_B = '[[listeners]]\naddress = "{address}"\ntrusted_networks = ["10.0.0.0/8"]\n'


@pytest.mark.parametrize(
    ("more", "want"),
    [
        (SENDER_B.format(id="acme"), 'senders.1.id: "acme" is also that of senders.0'),
        (
            STREAM_B.format(sender="acme").replace('"b"', '"newsletter"'),
            "is also that of streams.0",
        ),
        (LISTENER_B.format(address="127.0.0.1:2525"), "is also that of listeners.0"),
        (
            SENDER_B.format(id="b")
            + STREAM_B.format(sender="b")
            + 'from_domains = ["NEWS.acme.example"]\n',
            'streams.1.from_domains: "news.acme.example" is claimed by streams.0 of sender "acme"',
        ),
        ('[delivery]\ndedupe_window = "2d"\n', "dedupe_window: is shorter than delivery.expiry"),
        (
            '[delivery]\ndedupe_window = "5m"\nexpiry = "1m"\n',
            "dedupe_window: is shorter than an hour",
        ),
        (
            '[delivery]\ndedupe_window = "9999d"\n',
            "dedupe_window: is longer than retention.evidence",
        ),
        ('[delivery]\nmode = "later"\n', "'queued'"),
        ('[delivery]\npartial = "drop"\n', 'delivery.partial: is "drop"; must be'),
        ("[feedback]\nverp = true\n", "feedback.verp: asks for true, which this version cannot do"),
        ('[dkim]\nselector = "s1"\n', "dkim.selector: is no key; correct or remove it"),
        ('[dkim]\nverify = "dns"\n', "dkim.verify: is \"dns\"; must be 'never' or 'files'"),
        ('[dkim]\nverify = "files"\n', "dkim.records_dir: is missing; name it, or leave out"),
        ('[dkim]\nrecords_dir = "none"\n', "dkim.records_dir: is no directory"),
        ('[policy]\npacks_dir = "none"\n', "policy.packs_dir: is no directory"),
        ('[store]\nurl = "postgresql://u@h/db"\n', "store.url: asks for PostgreSQL, which this"),
        ('[store]\nurl = "sqlite:///:memory:"\n', "store.url: names no file"),
        ('[credentials]\nusername = "x"\n', "credentials: must be a list of tables"),
        ('[[credentials]]\nusername = "x"\n', "credentials.0.password_file: there is no password"),
        (
            '[[credentials]]\nusername = "x"\npassword_hash = "hunter2"\n',
            "credentials.0.password_hash: is no Argon2 hash",
        ),
        (
            '[[credentials]]\nusername = "x"\npassword_hash = "y"\npassword_file = "z"\n',
            "credentials.0.password_file: is given beside password_hash",
        ),
        (
            '[[credentials]]\nusername = "x"\nstream = "newsletter"\n'
            'default_stream = "newsletter"\n',
            "credentials.0.stream: forces one stream while others may be chosen",
        ),
        (
            '[[api_tokens]]\nname = "a"\ntoken_hash = "sluis_x"\nrole = "reader"\n',
            "api_tokens.0.token_hash: is no SHA-256 in hex; make the token with",
        ),
        (TOKEN + TOKEN, 'api_tokens.1.name: "crm" is also that of api_tokens.0'),
        (TOKEN + TOKEN, "api_tokens.1.token_hash:"),
        (TOKEN + 'senders = ["nobody"]\n', "api_tokens.0.senders.0: there is no [[senders]]"),
        ('[limits]\nmessage_size = "25 megs"\n', "limits.message_size: is no size"),
        ('[limits]\nmemory = "1MiB"\n', "limits.memory: has no room for one large message"),
        ('[limits]\nspool = "1MiB"\n', "limits.spool: has no room for a message of message_size"),
    ],
)
def test_problems_between_tables(tmp_path: Path, more: str, want: str) -> None:
    found = problems(tmp_path, MINIMAL + more)
    assert any(want in line for line in found), found


def test_plaintext_auth_beyond_loopback_is_refused(tmp_path: Path) -> None:
    hashed = '[[credentials]]\nusername = "x"\npassword_file = "secret"\n'
    (tmp_path / "secret").write_text("hunter2")
    open_auth = MINIMAL.replace(LISTEN, 'address = "0.0.0.0:2525"\nauth = "required"') + hashed
    found = problems(tmp_path, open_auth)
    assert [line.split(";")[0] for line in found] == [
        "listeners.0.auth: passwords would cross the network in clear"
    ]
    loopback = MINIMAL.replace(LISTEN, f'{LISTEN}\nauth = "required"') + hashed
    assert load(write(tmp_path, loopback), {}).listeners[0].auth == "required"


def test_certificates_are_tried_before_any_mail(tmp_path: Path) -> None:
    authority = trustme.CA()
    one, other = authority.issue_cert("gate.acme.example"), authority.issue_cert("b.example")
    one.cert_chain_pems[0].write_to_path(tmp_path / "one.pem")
    one.private_key_pem.write_to_path(tmp_path / "one.key")
    other.private_key_pem.write_to_path(tmp_path / "other.key")
    (tmp_path / "empty.pem").write_text("")

    def with_tls(certificate: str, key: str) -> str:
        tls = f'tls = "starttls"\ncertificate = "{certificate}"\nkey = "{key}"'
        return MINIMAL.replace(LISTEN, f"{LISTEN}\n{tls}")

    got = load(write(tmp_path, with_tls("one.pem", "one.key")), {}).listeners[0]
    assert got.certificate == tmp_path / "one.pem"
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(got.certificate, got.key)
    for certificate, key in (("one.pem", "other.key"), ("empty.pem", "one.key")):
        (found,) = problems(tmp_path, with_tls(certificate, key))
        assert found.startswith("listeners.0.certificate: does not load with its key (")
    (found,) = problems(tmp_path, with_tls("one.pem", "gone.key"))
    assert found.startswith("listeners.0.key: cannot be read (No such file or directory)")


def test_development_allows_http(tmp_path: Path) -> None:
    text = MINIMAL.replace(URL, 'public_url = "http://127.0.0.1:8080"')
    text = text.replace("[server]", "[server]\ndevelopment = true")
    assert load(write(tmp_path, text), {}).http.public_url == "http://127.0.0.1:8080"


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    text = (
        MINIMAL.replace(HOST, f"{HOST}\ndevlopment = true")
        .replace(TRUST, 'trusted_networks = ["0.0.0.0/0"]')
        .replace(URL, 'public_url = "http://mail.acme.example"')
        .replace('sender = "acme"', 'sender = "acmo"')
        .replace('"Acme Schoenen B.V."', '"Acme\\r\\nBcc: x"')
    )
    found = problems(tmp_path, text, {"SLUIS_LIMITS__ERRORS": "many"})
    keys = {line.split(": ")[-2 if "environment" in line else 0] for line in found}
    assert keys == {
        "server.devlopment",
        "listeners.0.trusted_networks.0",
        "http.public_url",
        "streams.0.sender",
        "senders.0.name",
        "limits.errors",
    }


def test_missing_sections_are_named(tmp_path: Path) -> None:
    found = problems(tmp_path, "")
    assert {line.split(":")[0] for line in found} == {
        "server.hostname",
        "http.public_url",
        "listeners",
        "upstreams",
        "senders",
        "streams",
    }


@pytest.mark.parametrize("character", ["\\r", "\\n", "\\u0000", "\\u001b", "\\u0085", "\\u2028"])
def test_control_characters_are_refused_everywhere(tmp_path: Path, character: str) -> None:
    for old in ("Keizersgracht 1", "privacy@", "https://mail", "NL", "127.0.0.1:1025"):
        found = refused(tmp_path, old, old + character)
        assert any("holds the control character U+" in line for line in found), found


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[server]\nhostname = "a\n', ":2:"),
        ("[server\n", ":1:"),
        ("a = 1\nb = 2\na = 3\n", ":3:"),
        ("[server]\n\n\nhostname = nonsense\n", ":4:"),
        ('[server]\nhostname = "', ":2:"),
    ],
)
def test_toml_errors_have_their_line(tmp_path: Path, text: str, where: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    (line,) = caught.value.problems
    assert line.startswith(f"{path}{where}"), line
    assert line.endswith("correct the TOML there")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: not found; name the file with --config"):
        load(tmp_path / "gone.toml", {})
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load(tmp_path, {})
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'[server]\nname = "caf\xe9"\n')
    with pytest.raises(ConfigError, match=r"latin\.toml:2: is not UTF-8"):
        load(latin, {})


@pytest.mark.parametrize(
    ("name", "value", "want"),
    [
        ("SLUIS_SERVER__HOSTNAM", "x", 'server.hostnam: is no key (did you mean "hostname"?)'),
        ("SLUIS_SEVER__HOSTNAME", "x", "sever.hostname: is no key"),
        (
            "SLUIS_LISTENERS__3__ADDRESS",
            "x",
            "names no entry of the list; give an index from 0 to 1",
        ),
        ("SLUIS_LISTENERS__ADDRESS", "x", "names no entry of the list"),
        ("SLUIS_LISTENERS__\u00b2__ADDRESS", "x", "names no entry of the list"),
        ("SLUIS_LISTENERS__0", "x", "names a table, not a key"),
        ("SLUIS_LISTENERS__", "x", "names no entry of the list"),
        ("SLUIS_SERVER__HOSTNAME__X", "x", "goes deeper than the key does"),
        ("SLUIS_LISTENERS__0__TLS", "ssl", 'listeners.0.tls: is "ssl"'),
        ("SLUIS_LISTENERS__0__TRUSTED_NETWORKS", "0.0.0.0/0", "would make this an open relay"),
        ("SLUIS_HTTP_PUBLIC_URL", "x", "has no effect in this form; write SLUIS_HTTP__PUBLIC_URL"),
        ("SLUIS_LISTENERS_0_ADDRESS", "x", "write SLUIS_LISTENERS__0__KEY"),
        ("SLUIS_STREAMS", "[]", "has no effect in this form"),
        ("SLUIS_LIMITS__ERRORS", "\u00b2", "limits.errors: is text; must be a whole number"),
        ("SLUIS_SERVER__DEVELOPMENT", "yes", "development: is text; must be true or false"),
    ],
)
def test_variables_are_named_in_their_problems(
    tmp_path: Path, name: str, value: str, want: str
) -> None:
    found = problems(tmp_path, MINIMAL, {name: value})
    assert any(line.startswith(f"environment {name}: ") and want in line for line in found), found


def test_a_secret_is_in_no_problem(tmp_path: Path) -> None:
    text = MINIMAL.replace(UPSTREAM, 'address = "r.example:25"\ntls = "none"\npassword = "canary"')
    text += '[[credentials]]\nusername = "x"\npassword_hash = "canary"\npasword = "canary"\n'
    text += '[[credentials]]\nusername = "y"\npassword_hash = ["canary"]\n'
    text += '[[api_tokens]]\nname = "a"\ntoken_hash = "sluis_canary"\nrole = "reader"\n'
    env = {"SLUIS_UPSTREAMS__0__PASSWORD": "canary\x07", "SLUIS_SERVER__PASSWORD": "canary"}
    assert "canary" not in " ".join(problems(tmp_path, text, env))


@given(st.text(max_size=40))
def test_an_accepted_address_never_hides_a_port(text: str) -> None:
    try:
        host, port = split_address(text)
    except ValueError:
        return
    assert 0 <= port <= 65535
    assert host
    assert re.search(r":0*" + str(port) + "$", text)


@given(st.text())
def test_a_text_without_control_characters_is_one_line(text: str) -> None:
    if not control_character(text):
        assert len(text.splitlines()) <= 1
