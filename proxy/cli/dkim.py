"""`sluis dkim`: make signing keys, and compare them with what the DNS says."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from proxy.errors import ConfigError, KeysError, SluisError

if TYPE_CHECKING:
    from proxy.config import DkimKey, Settings
    from proxy.config.signing import PrivateKey

app = typer.Typer(help="Signing keys: make one, compare all with their DNS records.")

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class LookupFailed(SluisError):
    """The DNS gave no answer; whether there is a record is not known."""


@app.command()
def generate(
    domain: Annotated[str, typer.Argument(help="d=: the From domain, or its registered domain.")],
    selector: Annotated[str, typer.Option(help="s=: new for each key, such as s2026a.")],
    out: Annotated[Path, typer.Option(help="The directory for the key file.")],
    ed25519: Annotated[
        bool, typer.Option("--ed25519/--rsa", help="RSA has 2048 bits. Best have one of each.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a private key (readable for you alone) and print the DNS record to publish."""
    from proxy.config.values import domain as as_domain
    from proxy.message import dkim_record

    try:
        domain = as_domain(domain)
    except ValueError:
        raise typer.BadParameter("not a domain name", param_hint="DOMAIN") from None
    if not _NAME.fullmatch(selector) or len(selector) > 63:
        raise typer.BadParameter('use lower-case letters, digits and "-"', param_hint="--selector")
    key, pem = _new(ed25519)
    path = out / f"{selector}.{domain}.pem"
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        # O_EXCL: a key that signs must not be overwritten by a slip.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
    except FileExistsError:
        typer.echo(f"{path} exists; choose another selector", err=True)
        raise typer.Exit(os.EX_CANTCREAT) from None
    except OSError as error:
        typer.echo(f"{path}: cannot be written ({error.strerror})", err=True)
        raise typer.Exit(os.EX_CANTCREAT) from None
    if json:
        made = {
            "domain": domain,
            "selector": selector,
            "algorithm": "ed25519" if ed25519 else "rsa",
            "key_file": str(path),
            "name": dkim_record.name(domain, selector),
            "record": dkim_record.text(key),
        }
        typer.echo(orjson.dumps(made, option=orjson.OPT_INDENT_2).decode())
        return
    typer.echo(dkim_record.zone_line(domain, selector, key))
    flag, kind = ("--rsa", "RSA") if ed25519 else ("--ed25519", "Ed25519")
    other = f"Best have a key of each kind: {flag} makes the {kind} one, under another selector."
    typer.echo(
        f"wrote {path}\n1. Publish the record.\n2. Add the key to the configuration:\n"
        f'[[dkim.keys]]\ndomain = "{domain}"\nselector = "{selector}"\nkey_file = "{path}"\n'
        "3. Once `sluis dkim check` says that it matches, restart `sluis serve`: it signs then.\n"
        f"{other}",
        err=True,
    )


@app.command()
def check(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="The file; else $SLUIS_CONFIG, /etc/sluis/sluis.toml."),
    ] = None,
    domain: Annotated[str | None, typer.Option(help="Only keys of this domain.")] = None,
    selector: Annotated[str | None, typer.Option(help="Only keys of this selector.")] = None,
    record: Annotated[
        str | None, typer.Option(help="The record's text, instead of asking the DNS: for one key.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare each key with its record: exit 0 if all match, 1 if one does not, 69 without DNS."""
    from proxy.config import load

    raise typer.Exit(
        compare(
            load(config, files=False),
            domain=domain,
            selector=selector,
            record=record,
            json=json,
            lookup=by_dns,
        )
    )


def compare(
    settings: Settings,
    *,
    domain: str | None,
    selector: str | None,
    record: str | None,
    json: bool,
    lookup: Callable[[str], list[str]],
) -> int:
    """The work of `check`; `lookup` gives the TXT records of a name, or raises `LookupFailed`."""
    keys = [
        key
        for key in settings.dkim.keys
        if domain in (None, key.domain) and selector in (None, key.selector)
    ]
    if not keys:
        raise ConfigError([f"{settings.source}: dkim.keys: has no such key; see docs/dkim.md"])
    if record is not None and len(keys) > 1:
        raise typer.BadParameter("is for one key: name it by --domain and --selector")
    try:
        found = [_found(key, record, lookup) for key in keys]
    except KeysError as error:
        raise ConfigError([f"{settings.source}: dkim.keys: {error}"]) from error
    if json:
        typer.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    for item in [] if json else found:
        typer.echo(f"{item['name']} ({item['algorithm']}): {item['result']}")
        for problem in item["problems"]:
            typer.echo(f"  {problem}")
    if any(item["result"] == "differs" for item in found):
        return 1
    return os.EX_UNAVAILABLE if any(item["result"] == "unknown" for item in found) else 0


def by_dns(name: str) -> list[str]:
    """The TXT records of a name, each as one text; [] for none. Raises `LookupFailed`."""
    import dns.exception
    import dns.resolver

    try:
        answer = dns.resolver.resolve(name, "TXT", lifetime=10.0)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    except dns.exception.DNSException as error:
        raise LookupFailed(f"no answer from the DNS: {type(error).__name__}") from error
    return [b"".join(item.strings).decode("utf-8", "replace") for item in answer]


def _found(
    key: DkimKey, record: str | None, lookup: Callable[[str], list[str]]
) -> dict[str, str | list[str]]:
    from proxy.config.signing import algorithm_of, read_private_key
    from proxy.message import dkim_record

    try:
        private = read_private_key(key.key_file)
    except KeysError as error:
        raise KeysError(
            f"{key.key_file} {error}; put back the one whose record is published, or make one with "
            "`sluis dkim generate`, readable for this user only"
        ) from error
    name = dkim_record.name(key.domain, key.selector)
    result, problems = "matches", []
    try:
        published = lookup(name) if record is None else [record]
        if len(published) == 1:
            problems = dkim_record.problems(published[0], private)
        else:
            # Which of several a verifier takes is undefined (RFC 6376 section 3.6.2.2).
            problems = ["there is no record" if not published else "there are several records"]
        result = "differs" if problems else "matches"
    except LookupFailed as error:
        result, problems = "unknown", [str(error)]
    return {
        "name": name,
        "algorithm": algorithm_of(private),
        "result": result,
        "problems": problems,
        "record": dkim_record.text(private),
    }


def _new(ed25519: bool) -> tuple[PrivateKey, bytes]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = Ed25519PrivateKey.generate() if ed25519 else generate_private_key(65537, 2048)
    return key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
