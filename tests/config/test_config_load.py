"""What a configuration comes to, layer by layer."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from pydantic import ValidationError

from policy.model import Category, SimilarGroup
from proxy.config import Settings, find_config, load, read
from proxy.errors import ConfigError

MINIMAL = """
[server]
hostname = "gate.acme.example"
[[listeners]]
address = "127.0.0.1:2525"
trusted_networks = ["127.0.0.0/8"]
[[upstreams]]
address = "127.0.0.1:1025"
tls = "none"
[http]
public_url = "https://mail.acme.example/"
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
from_domains = ["News.Acme.example", "bücher.example"]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sluis.toml"
    path.write_text(text, encoding="utf-8")
    return path


def settings(tmp_path: Path, more: str = "", env: dict[str, str] | None = None) -> Settings:
    return load(write(tmp_path, MINIMAL + more), env or {})


def test_a_minimal_file_has_the_defaults_of_the_design(tmp_path: Path) -> None:
    got = settings(tmp_path)
    assert got.source == tmp_path / "sluis.toml"
    assert got.http.public_url == "https://mail.acme.example"
    assert got.http.admin == "127.0.0.1:9464"
    assert got.delivery.dedupe_window == timedelta(days=5)
    assert got.limits.message_size == 25 * 1024 * 1024
    assert got.upstreams[0].final_timeout == timedelta(minutes=10)
    assert got.streams[0].mode == "enforce"
    assert got.store.sqlite_path(Path("/x")) == Path("/x/sluis.db")


def test_lookups_find_what_mail_brings(tmp_path: Path) -> None:
    got = settings(tmp_path)
    newsletter = got.stream("newsletter")
    assert newsletter.category is Category.MARKETING
    assert got.sender(newsletter.sender).name == "Acme Schoenen B.V."
    assert got.streams_of_domain("news.acme.example") == (newsletter,)
    assert got.streams_of_domain("xn--bcher-kva.example") == (newsletter,)
    assert got.streams_of_domain("acme.example") == ()
    assert got.find_stream("newsletters") is None
    assert got.credential("shop") is None
    with pytest.raises(KeyError):
        got.stream("newsletters")


def test_one_sender_gives_an_implicit_marketing_stream(tmp_path: Path) -> None:
    got = settings(tmp_path, '[delivery]\npartial = "all-or-nothing"\n')
    assert got.implicit is not None
    assert got.implicit.implicit
    assert got.implicit is got.stream("unknown") is got.streams[-1]
    assert (got.implicit.sender, got.implicit.category) == ("acme", Category.MARKETING)
    assert got.implicit.mode == "enforce"
    assert got.implicit.partial == "all-or-nothing"
    assert not got.stream("newsletter").implicit


def test_two_senders_give_no_implicit_stream(tmp_path: Path) -> None:
    other = (
        '[[senders]]\nid = "b"\nname = "B"\ncountry = "BE"\npostal_address = "x"\ncontact = "y"\n'
    )
    got = settings(tmp_path, other)
    assert got.implicit is None
    assert [s.id for s in got.streams] == ["newsletter"]


def test_settings_cannot_change(tmp_path: Path) -> None:
    got = settings(tmp_path)
    with pytest.raises(ValidationError):
        got.server.hostname = "x.example"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        got.streams = ()  # type: ignore[misc]
    with pytest.raises(TypeError):
        got.senders[0].lifetimes["x"] = 1  # type: ignore[index]


def test_a_stream_has_the_partial_of_delivery_unless_its_own(tmp_path: Path) -> None:
    more = (
        '[[streams]]\nid = "b"\nsender = "acme"\ncategory = "marketing"\n'
        'partial = "accept-and-drop"\n[delivery]\npartial = "all-or-nothing"\n'
    )
    got = settings(tmp_path, more)
    assert got.stream("newsletter").partial == "all-or-nothing"
    assert got.stream("b").partial == "accept-and-drop"


def test_kosovo_has_a_code(tmp_path: Path) -> None:
    text = MINIMAL.replace('country = "NL"', 'country = "XK"\ncandidate_countries = ["XK", "AL"]')
    [sender] = load(write(tmp_path, text), {}).senders
    assert (sender.country, sender.candidate_countries) == ("XK", ("XK", "AL"))


def test_similar_groups_are_short_or_whole(tmp_path: Path) -> None:
    text = MINIMAL.replace(
        'contact = "privacy@acme.example"',
        'contact = "privacy@acme.example"\n'
        'similar = [["a", "b/c"], '
        '{products = ["d", "e"], reviewer = "M", reviewed_on = 2026-03-01}]\n'
        'lifetimes = { mattresses = 120, "shoes/running" = 12 }',
    )
    sender = load(write(tmp_path, text), {}).senders[0]
    assert sender.similar[0] == SimilarGroup(products=("a", "b/c"))
    assert sender.similar[1].reviewer == "M"
    assert sender.similar[1].reviewed_on is not None
    assert dict(sender.lifetimes) == {"mattresses": 120, "shoes/running": 12}


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    env = {
        "SLUIS_STREAMS__0__MODE": "observe",
        "SLUIS_STREAMS__0__TOPICS": "newsletter, offers",
        "SLUIS_STREAMS__0__LOCAL_RULES_MET": "true",
        "SLUIS_LISTENERS__1__ADDRESS": "[::1]:0",
        "SLUIS_LISTENERS__1__TRUSTED_NETWORKS": '["::1/128", "10.0.0.0/8"]',
        "SLUIS_LIMITS__RECIPIENTS": "50",
        "SLUIS_LIMITS__MESSAGE_SIZE": "1MiB",
        "SLUIS_DELIVERY__INLINE_WAIT": "1500ms",
        "SLUIS_SENDERS__0__LIFETIMES__SHOES": "24",
        "SLUIS_SENDERS__0__SIMILAR": '[["x", "y"]]',
        "SLUIS_POLICY__SUBADDRESS": '{"acme.example" = "-"}',
        "SLUIS_CONFIG": "/nowhere",
        "SLUIS_PORT": "tcp://10.0.0.1:2525",
        "SLUIS_SERVICE_HOST": "10.0.0.1",
        "SLUIS_PORT_2525_TCP_ADDR": "10.0.0.1",
    }
    got = settings(tmp_path, env=env)
    assert got.streams[0].mode == "observe"
    assert got.streams[0].topics == ("newsletter", "offers")
    assert got.streams[0].local_rules_met is True
    assert (got.listeners[1].host, got.listeners[1].port) == ("::1", 0)
    assert got.listeners[1].trusted_networks[1] == ip_network("10.0.0.0/8")
    assert got.limits.recipients == 50
    assert got.limits.message_size == 1 << 20
    assert got.delivery.inline_wait == timedelta(seconds=1.5)
    assert dict(got.senders[0].lifetimes) == {"shoes": 24}
    assert got.senders[0].similar == (SimilarGroup(products=("x", "y")),)
    assert dict(got.policy.subaddress) == {"acme.example": "-"}


def test_list_entries_of_the_environment_come_in_numeric_order(tmp_path: Path) -> None:
    env = {}
    for n in range(12):
        env[f"SLUIS_UPSTREAMS__{n}__ADDRESS"] = f"127.0.0.1:{5000 + n}"
        env[f"SLUIS_UPSTREAMS__{n}__TLS"] = "none"
    got = settings(tmp_path, env=env)
    assert [u.port for u in got.upstreams] == list(range(5000, 5012))


def test_an_empty_variable_unsets_an_optional_key(tmp_path: Path) -> None:
    more = '[feedback]\ndomain = "fb.acme.example"\n'
    assert settings(tmp_path, more).feedback.domain == "fb.acme.example"
    assert settings(tmp_path, more, {"SLUIS_FEEDBACK__DOMAIN": ""}).feedback.domain is None


def test_variables_alone_may_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("proxy.config.SYSTEM_CONFIG", tmp_path / "none.toml")
    env = {
        "SLUIS_SERVER__HOSTNAME": "gate.acme.example",
        "SLUIS_LISTENERS__0__ADDRESS": "127.0.0.1:2525",
        "SLUIS_LISTENERS__0__TRUSTED_NETWORKS": "127.0.0.0/8",
        "SLUIS_UPSTREAMS__0__ADDRESS": "relay.acme.example:587",
        "SLUIS_HTTP__PUBLIC_URL": "https://mail.acme.example",
        "SLUIS_SENDERS__0__ID": "acme",
        "SLUIS_SENDERS__0__NAME": "Acme",
        "SLUIS_SENDERS__0__COUNTRY": "NL",
        "SLUIS_SENDERS__0__POSTAL_ADDRESS": "Keizersgracht 1, Amsterdam",
        "SLUIS_SENDERS__0__CONTACT": "privacy@acme.example",
        "SLUIS_STREAMS__0__ID": "news",
        "SLUIS_STREAMS__0__SENDER": "acme",
        "SLUIS_STREAMS__0__CATEGORY": "marketing",
    }
    got = load(None, env)
    assert got.source == Path("environment")
    assert got.upstreams[0].tls == "starttls"


def test_the_file_is_looked_for_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    system = tmp_path / "system.toml"
    monkeypatch.setattr("proxy.config.SYSTEM_CONFIG", system)
    with pytest.raises(ConfigError, match="not found; name the file with --config"):
        find_config(None, {})
    system.write_text("")
    assert find_config(None, {}) == system
    assert find_config(None, {"SLUIS_CONFIG": "/a.toml"}) == Path("/a.toml")
    assert find_config(Path("/b.toml"), {"SLUIS_CONFIG": "/a.toml"}) == Path("/b.toml")


def test_paths_count_from_the_file_or_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)
    text = MINIMAL.replace("[server]", '[server]\ndata_dir = "var"')
    assert load(write(tmp_path, text), {}).server.data_dir == tmp_path / "var"
    got = load(write(tmp_path, text), {"SLUIS_SERVER__DATA_DIR": "run"})
    assert got.server.data_dir == here / "run"


def test_systemd_gives_the_data_directory(tmp_path: Path) -> None:
    env = {"STATE_DIRECTORY": "/var/lib/sluis-b:/var/lib/more"}
    loaded = read(write(tmp_path, MINIMAL), env)
    assert loaded.settings.server.data_dir == Path("/var/lib/sluis-b")
    assert loaded.sources["server.data_dir"] == "environment STATE_DIRECTORY"


def test_secrets_come_from_files_and_are_never_printed(tmp_path: Path) -> None:
    (tmp_path / "relay").write_text("canary-upstream\n")
    (tmp_path / "shop").write_text("canary-shop\n")
    hashed = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("canary-hash")
    (tmp_path / "hash").write_text(hashed + "\n")
    more = f"""
[[credentials]]
username = "shop"
password_file = "shop"
stream = "newsletter"
[[credentials]]
username = "crm"
password_hash = '{hashed}'
[[credentials]]
username = "pos"
password_file = "hash"
"""
    text = MINIMAL.replace(
        'tls = "none"', 'tls = "none"\nusername = "acme"\npassword_file = "relay"'
    )
    got = load(write(tmp_path, text + more), {})
    password = got.upstreams[0].password
    assert password is not None
    assert password.get_secret_value() == "canary-upstream"
    for name, clear in (("shop", "canary-shop"), ("crm", "canary-hash"), ("pos", "canary-hash")):
        credential = got.credential(name)
        assert credential is not None
        assert credential.password_hash is not None
        assert PasswordHasher().verify(credential.password_hash.get_secret_value(), clear)
    shown = f"{got!r} {got} {got.model_dump()!s} {got.model_dump_json()}"
    assert "canary" not in shown
    assert "$argon2" not in shown


@pytest.mark.parametrize(
    ("delivery", "listener", "stream", "mode"),
    [
        ("", "", "", "inline"),
        ("queued", "", "", "queued"),
        ("", "queued", "", "queued"),
        ("queued", "inline", "", "inline"),
        ("", "queued", "inline", "inline"),
        ("queued", "inline", "queued", "queued"),
    ],
)
def test_a_streams_own_mode_wins_then_the_listeners_then_that_of_delivery(
    tmp_path: Path, delivery: str, listener: str, stream: str, mode: str
) -> None:
    text = MINIMAL
    if listener:
        text = text.replace("[[listeners]]", f'[[listeners]]\ndelivery = "{listener}"')
    if stream:
        text = text.replace("[[streams]]", f'[[streams]]\ndelivery = "{stream}"')
    if delivery:
        text += f'[delivery]\nmode = "{delivery}"\n'
    got = load(write(tmp_path, text), {})
    assert got.delivery_of(got.stream("newsletter"), got.listeners[0].address) == mode
    if not stream:
        assert got.delivery_of(got.stream("unknown"), got.listeners[0].address) == mode
        elsewhere = got.delivery_of(got.stream("newsletter"), "192.0.2.1:25")
        assert elsewhere == (delivery or "inline")
