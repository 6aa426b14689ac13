"""The relay of the benches and of many tests, as TOML: one invented shop, put together from tables.

    relay_toml("/tmp/x", serves=True) + ACME + NEWSLETTER + stream_toml("sales", "s.acme.example")

A table can be followed by more of its keys: `ACME + 'max_per_person = "2/7d"\\n'`.
"""

from __future__ import annotations

ACME = """\
[[senders]]
id = "acme"
name = "Acme Schoenen B.V."
country = "NL"
postal_address = "Keizersgracht 1, 1015 AA Amsterdam"
contact = "privacy@acme.example"
"""
GLOBEX = """\
[[senders]]
id = "globex"
name = "Globex N.V."
country = "NL"
postal_address = "Coolsingel 2, 3011 AD Rotterdam"
contact = "privacy@globex.example"
"""


def relay_toml(
    data_dir: object = ".",
    *,
    listener: str = "127.0.0.1:2525",
    upstream: str = "127.0.0.1:1025",
    upstream_more: str = "",
    development: bool = False,
    serves: bool = False,
) -> str:
    """Everything but senders and streams, on loopback: one listener, one upstream, no TLS.

    With `development` links are http://; one that `serves` has its own ports for HTTP, too.
    """
    ports = 'public = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n' if serves else ""
    return f"""\
[server]
hostname = "gate.acme.example"
data_dir = "{data_dir}"
development = {str(development or serves).lower()}
[[listeners]]
address = "{listener}"
trusted_networks = ["127.0.0.0/8"]
[[upstreams]]
address = "{upstream}"
tls = "none"
{upstream_more}
[http]
public_url = "{"http" if development or serves else "https"}://mail.acme.example"
{ports}"""


def stream_toml(
    name: str, domain: str = "", *more: str, sender: str = "acme", category: str = "marketing"
) -> str:
    """A stream that sends from `domain` ("": from none); `more` are lines of its table."""
    lines = [
        "[[streams]]",
        f'id = "{name}"',
        f'sender = "{sender}"',
        f'category = "{category}"',
        *([f'from_domains = ["{domain}"]'] if domain else []),
        *more,
    ]
    return "\n".join(lines) + "\n"


#: The two that most have.
NEWSLETTER = stream_toml("newsletter", "news.acme.example", 'topics = ["newsletter"]')
ORDERS = stream_toml("orders", "orders.acme.example", category="transactional")


def key_toml(selector: str) -> str:
    """A key of acme.example in the file of its selector."""
    return f"""\
[[dkim.keys]]
domain = "acme.example"
selector = "{selector}"
key_file = "{selector}.pem"
"""
