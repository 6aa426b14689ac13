"""The DNS record of a key (RFC 6376 section 3.6.1, RFC 8463 section 4): made, and compared."""

from __future__ import annotations

import base64
import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from proxy.config.signing import PrivateKey, algorithm_of

_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_SPACE = re.compile(r"\s+")
_WEAKEST = 1024  # bits of an RSA key that verifiers may take (RFC 8301 section 3.2)
_CHUNK = 255  # octets of one string of a TXT record (RFC 1035 section 3.3)


def name(domain: str, selector: str) -> str:
    """Where the record of a key is looked for."""
    return f"{selector}._domainkey.{domain}"


def text(key: PrivateKey) -> str:
    """The record of a private key, as one text."""
    return f"v=DKIM1; k={algorithm_of(key)}; p={_public(key)}"


def zone_line(domain: str, selector: str, key: PrivateKey) -> str:
    """The record as a zone file has it, cut into strings that fit."""
    whole = text(key)
    strings = [whole[at : at + _CHUNK] for at in range(0, len(whole), _CHUNK)]
    shown = " ".join(f'"{string}"' for string in strings)
    return f"{name(domain, selector)}. IN TXT ( {shown} )"


def joined(published: str) -> str:
    """The text of a record given as a zone line, as quoted strings, or plain."""
    strings = _STRING.findall(published)
    return "".join(strings).replace("\\;", ";") if strings else published.strip()


def problems(published: str, key: PrivateKey) -> list[str]:
    """Why verifiers would not take our signatures under this record; empty where they do."""
    tags = _tags(published)
    if tags is None:
        return ["is no list of tags"]
    found = []
    if tags.get("v", "DKIM1") != "DKIM1" or ("v" in tags and next(iter(tags)) != "v"):
        found.append("v= is not DKIM1, or not first")
    kind = tags.get("k", "rsa")
    if kind != algorithm_of(key):
        found.append(f"k={kind}, but the key file holds {algorithm_of(key)}")
    public = _SPACE.sub("", tags.get("p", ""))
    if "p" not in tags:
        found.append("p= is missing")
    elif not public:
        found.append("p= is empty: the key is revoked")
    elif public not in _publics(key):
        found.append("p= is another key than that of the file")
    hashes = _SPACE.sub("", tags.get("h", "sha256")).split(":")
    if "sha256" not in hashes:
        found.append("h= does not allow sha256")
    services = _SPACE.sub("", tags.get("s", "*")).split(":")
    if not {"*", "email"} & set(services):
        found.append("s= does not allow e-mail")
    if "y" in _SPACE.sub("", tags.get("t", "")).split(":"):
        found.append("t=y: testing, verifiers may treat the mail as unsigned")
    return found


def public_key(published: str, kind: str) -> RSAPublicKey | Ed25519PublicKey | None:
    """The key of a record, for signatures of this kind (`rsa`, `ed25519`).

    None where the record lets none of them pass: revoked, of another kind, for other hashes or
    services, too weak. Raises `ValueError` where it cannot be read.
    """
    tags = _tags(published)
    if tags is None or "p" not in tags:
        raise ValueError("no record of a key")
    public = _SPACE.sub("", tags["p"])
    hashes = _SPACE.sub("", tags.get("h", "sha256")).split(":")
    services = _SPACE.sub("", tags.get("s", "*")).split(":")
    if (
        tags.get("v", "DKIM1") != "DKIM1"
        or tags.get("k", "rsa") != kind
        or not public
        or "sha256" not in hashes
        or not {"*", "email"} & set(services)
    ):
        return None
    octets = base64.b64decode(public, validate=True)
    if kind == "ed25519":
        return Ed25519PublicKey.from_public_bytes(octets)
    try:
        key = load_der_public_key(octets)
    except UnsupportedAlgorithm as error:
        raise ValueError("no RSA key") from error
    if not isinstance(key, RSAPublicKey):
        raise ValueError("no RSA key")
    return key if key.key_size >= _WEAKEST else None


def _public(key: PrivateKey) -> str:
    public = key.public_key()
    if isinstance(public, RSAPublicKey):
        octets = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    else:
        octets = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return base64.b64encode(octets).decode("ascii")


def _publics(key: PrivateKey) -> set[str]:
    """The forms that verifiers read; RFC 6376 names the shorter one for RSA, most publish ours."""
    public = key.public_key()
    forms = {_public(key)}
    if isinstance(public, RSAPublicKey):
        octets = public.public_bytes(Encoding.DER, PublicFormat.PKCS1)
        forms.add(base64.b64encode(octets).decode("ascii"))
    return forms


def _tags(published: str) -> dict[str, str] | None:
    tags: dict[str, str] = {}
    for item in joined(published).split(";"):
        if not item.strip():
            continue
        tag, equals, value = item.partition("=")
        if not equals or not tag.strip() or tag.strip() in tags:
            return None
        tags[tag.strip()] = value.strip()
    return tags or None
