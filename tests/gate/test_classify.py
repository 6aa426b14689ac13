"""Which stream a message belongs to: the design's order of trust, as a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from policy.model import Category
from proxy.config import Settings, load
from proxy.message.classify import Chooser, Class, Signals, Unclassified, certain_stream, classify

CHOOSERS: dict[int, Chooser] = {}

CONFIG = """
[server]
hostname = "gate.acme.example"
data_dir = "/tmp/unused"
development = true
[[listeners]]
address = "127.0.0.1:2525"
trusted_networks = ["127.0.0.0/8"]
[[listeners]]
address = "127.0.0.1:2526"
trusted_networks = ["127.0.0.0/8"]
may_set_stream = true
[[listeners]]
address = "127.0.0.1:2527"
trusted_networks = ["127.0.0.0/8"]
stream = "orders"
[[listeners]]
address = "127.0.0.1:2528"
trusted_networks = ["127.0.0.0/8"]
stream = "newsletter"
[[upstreams]]
address = "127.0.0.1:1025"
tls = "none"
[http]
public_url = "http://127.0.0.1:8080"
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
list_id = "weekly.news.acme.example"
from_domains = ["news.acme.example"]
[[streams]]
id = "watched"
sender = "acme"
category = "marketing"
mode = "observe"
from_domains = ["watched.acme.example"]
[[streams]]
id = "orders"
sender = "acme"
category = "transactional"
from_domains = ["orders.acme.example"]
[[streams]]
id = "desk"
sender = "acme"
category = "personal"
[[credentials]]
username = "shop"
password_hash = "HASH"
stream = "orders"
[[credentials]]
username = "crm"
password_hash = "HASH"
default_stream = "newsletter"
may_set_stream = true
[[credentials]]
username = "jan"
password_hash = "HASH"
default_stream = "desk"
"""
HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$2N5cKzZ7Ue0MmqGvcbmH2w"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    path: Path = tmp_path_factory.mktemp("config") / "sluis.toml"
    path.write_text(CONFIG.replace("HASH", HASH))
    return load(path, {})


@dataclass
class Case:
    name: str
    expected: str  # "stream category" or "refused"
    source: str = ""
    port: int = 2525
    credential: str = ""
    header: str = ""
    mail: str = ""
    null: bool = False
    recipients: int = 1
    used_up: bool = False
    signals: dict[str, Any] = field(default_factory=dict)


NEWS, ORDERS = "news.acme.example", "orders.acme.example"
CASES = [
    Case("nothing names it: marketing", "unknown marketing", "none", mail="other.example"),
    Case("envelope domain", "orders transactional", "envelope domain", mail=ORDERS),
    Case(
        "From domain",
        "orders transactional",
        "From domain",
        mail="other.example",
        signals={"from_domain": ORDERS},
    ),
    Case(
        "envelope and From disagree: the stricter",
        "newsletter marketing",
        "From domain, stricter than envelope domain",
        mail=ORDERS,
        signals={"from_domain": NEWS},
    ),
    Case(
        "the other way round too",
        "newsletter marketing",
        "envelope domain",
        mail=NEWS,
        signals={"from_domain": ORDERS},
    ),
    Case(
        "an enforced stream is stricter than an observed one",
        "newsletter marketing",
        "From domain, stricter than envelope domain",
        mail="watched.acme.example",
        signals={"from_domain": NEWS},
    ),
    Case(
        "List-Id is the weakest",
        "newsletter marketing",
        "List-Id",
        mail="other.example",
        signals={"list_id": "weekly.news.acme.example", "list_fields": True},
    ),
    Case(
        "List-Id makes stricter",
        "newsletter marketing",
        "List-Id, stricter than envelope domain",
        mail=ORDERS,
        signals={"list_id": "weekly.news.acme.example", "list_fields": True},
    ),
    Case("listener forces", "orders transactional", "listener", port=2527, mail="other.example"),
    Case(
        "a weaker input may make a forced class stricter",
        "newsletter marketing",
        "envelope domain, stricter than listener",
        port=2527,
        mail=NEWS,
    ),
    Case(
        "and never looser",
        "newsletter marketing",
        "listener",
        port=2528,
        mail=ORDERS,
        signals={"from_domain": ORDERS},
    ),
    Case(
        "credential forces, before the listener",
        "orders transactional",
        "credential",
        credential="shop",
        mail="other.example",
    ),
    Case(
        "header where the listener may",
        "orders transactional",
        "Sluis-Stream",
        port=2526,
        header="orders",
        mail="other.example",
    ),
    Case(
        "header where it may, against the From domain: the stricter",
        "newsletter marketing",
        "envelope domain, stricter than Sluis-Stream",
        port=2526,
        header="orders",
        mail=NEWS,
    ),
    Case(
        "header where it may not cannot loosen",
        "unknown marketing",
        "none",
        header="orders",
        mail="other.example",
    ),
    Case(
        "header where it may not can tighten",
        "newsletter marketing",
        "Sluis-Stream, stricter than envelope domain",
        header="newsletter",
        mail=ORDERS,
    ),
    Case(
        "header of a credential that may, instead of its default",
        "orders transactional",
        "Sluis-Stream",
        credential="crm",
        header="orders",
        mail=ORDERS,
    ),
    Case("credential default", "newsletter marketing", "credential default", credential="crm"),
    Case("personal", "desk personal", "credential default", credential="jan", mail="acme.example"),
    Case(
        "personal, list header",
        "desk marketing",
        "credential default, beyond personal",
        credential="jan",
        signals={"list_fields": True},
    ),
    Case("personal, bulk", "desk marketing", credential="jan", signals={"bulk": True}),
    Case("personal, ten recipients", "desk personal", credential="jan", recipients=10),
    Case("personal, eleven", "desk marketing", credential="jan", recipients=11),
    Case("personal, allowance spent", "desk marketing", credential="jan", used_up=True),
    Case(
        "bounce passes",
        "unknown transactional null",
        "null sender",
        null=True,
        signals={"report": True},
    ),
    Case(
        "auto-reply passes",
        "orders transactional null",
        null=True,
        signals={"auto_submitted": True, "from_domain": ORDERS},
    ),
    Case(
        "null sender, two recipients: as any mail, and marketing is refused",
        "refused",
        null=True,
        recipients=2,
        signals={"report": True},
    ),
    Case(
        "null sender with a list header",
        "refused",
        null=True,
        signals={"report": True, "list_fields": True},
    ),
    Case("null sender, neither report nor automatic", "refused", null=True),
    Case(
        "null sender on a marketing stream",
        "refused",
        null=True,
        port=2528,
        signals={"report": True},
    ),
    Case(
        "null sender on a transactional stream",
        "orders transactional",
        null=True,
        recipients=2,
        signals={"from_domain": ORDERS},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_class(settings: Settings, case: Case) -> None:
    listener = next(entry for entry in settings.listeners if entry.port == case.port)
    found = classify(
        settings,
        listener=listener,
        credential=settings.credential(case.credential) if case.credential else None,
        header_stream=case.header,
        mail_domain=case.mail,
        null_sender=case.null,
        recipients=case.recipients,
        signals=Signals(**case.signals),
        personal_used_up=case.used_up,
    )
    if isinstance(found, Unclassified):
        assert case.expected == "refused", found.why
        return
    assert isinstance(found, Class)
    words = f"{found.stream.id} {found.category.value}{' null' if found.null else ''}"
    assert words == case.expected
    if case.source:
        assert found.source == case.source


def test_an_unclassified_mail_of_several_senders_names_the_domain_and_the_key(
    settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "two.toml"
    other = CONFIG.replace("HASH", HASH).replace(
        "[[streams]]",
        '[[senders]]\nid = "bmart"\nname = "B-Mart"\ncountry = "NL"\n'
        'postal_address = "Dam 1, Amsterdam"\ncontact = "x@bmart.example"\n[[streams]]',
        1,
    )
    path.write_text(other)
    two = load(path, {})
    found = classify(
        two,
        listener=two.listeners[0],
        credential=None,
        header_stream="",
        mail_domain="other.example",
        null_sender=False,
        recipients=1,
        signals=Signals(),
    )
    assert isinstance(found, Unclassified)
    assert "other.example" in found.why
    assert "from_domains" in found.why


@pytest.mark.parametrize(
    ("port", "credential", "mail", "expected"),
    [
        (2525, "", NEWS, "newsletter"),  # From can only lead to a class as strict
        (2525, "", "watched.acme.example", None),  # From may lead to an enforced stream
        (2525, "", ORDERS, None),
        (2525, "", "other.example", None),
        (2526, "", NEWS, None),  # the header may still choose
        (2528, "", ORDERS, "newsletter"),
        (2527, "", NEWS, None),
        (2525, "shop", NEWS, None),
        (2525, "crm", NEWS, None),
    ],
)
def test_what_is_certain_at_rcpt(
    settings: Settings, port: int, credential: str, mail: str, expected: str | None
) -> None:
    stream = certain_stream(
        settings,
        listener=next(entry for entry in settings.listeners if entry.port == port),
        credential=settings.credential(credential) if credential else None,
        mail_domain=mail,
    )
    assert (stream.id if stream else None) == expected
    if expected:
        assert stream is not None
        assert stream.category is Category.MARKETING


DOMAINS = ["", "news.acme.example", "watched.acme.example", "orders.acme.example", "x.example"]


@hypothesis_settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_choice_that_is_kept_is_the_same(settings: Settings, data: st.DataObject) -> None:
    chooser = CHOOSERS.setdefault(id(settings), Chooser(settings))
    draw = data.draw
    asked: dict[str, Any] = {
        "listener": draw(st.sampled_from(settings.listeners)),
        "credential": draw(st.sampled_from([None, *settings.credentials])),
        "header_stream": draw(st.sampled_from(["", *(s.id for s in settings.streams)])),
        "mail_domain": draw(st.sampled_from([*DOMAINS, "y" * 600])),
        "null_sender": draw(st.booleans()),
        "recipients": draw(st.integers(1, 12)),
        "signals": Signals(
            from_domain=draw(st.sampled_from(DOMAINS)),
            list_id=draw(st.sampled_from(["", "weekly.news.acme.example", "z" * 600])),
            report=draw(st.booleans()),
        ),
    }
    assert classify(settings, **asked, chooser=chooser) == classify(settings, **asked)
    place = {name: asked[name] for name in ("listener", "credential", "mail_domain")}
    assert chooser.certain(**place) == certain_stream(settings, **place)


def test_what_is_kept_is_bounded(settings: Settings) -> None:
    chooser = Chooser(settings)
    for n in range(Chooser._MOST + 10):
        chooser.choose(settings.listeners[0], None, "", f"d{n}.example", Signals())
        chooser.certain(settings.listeners[0], None, f"d{n}.example")
    assert 0 < len(chooser._kept) <= Chooser._MOST
    assert 0 < len(chooser._certain) <= Chooser._MOST
    chooser.choose(settings.listeners[0], None, "", "d" * 600, Signals())
    assert max(sum(map(len, key)) for key in chooser._kept) < 512
