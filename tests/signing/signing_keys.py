"""Two keys of one domain, their records, and mails signed with them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from proxy.config.signing import PrivateKey
from proxy.content import Piece
from proxy.message.header import body_of, index
from proxy.message.sign import Key, Signer, Signing

AT = datetime(2026, 11, 24, 8, tzinfo=UTC)
RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()
KEYS = (Key("acme.example", "s1", RSA), Key("acme.example", "e1", ED25519))


def record(key: PrivateKey) -> str:
    """Made here a second time, so that the tests do not rest on what they test."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        raw = public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return f"v=DKIM1; k=rsa; p={base64.b64encode(raw).decode()}"
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return f"v=DKIM1; k=ed25519; p={base64.b64encode(raw).decode()}"


def pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


RECORDS = {f"{key.selector}._domainkey.{key.domain}": record(key.private) for key in KEYS}


def signatures(
    head: bytes,
    body: Sequence[Piece],
    *,
    keys: tuple[Key, ...] = KEYS,
    algorithms: Sequence[str] = ("ed25519", "rsa"),
    omit: Sequence[str] = (),
) -> bytes:
    signing = Signing(keys, AT)
    return asyncio.run(Signer().sign(signing, head, body, algorithms=algorithms, omit=omit))


def sign(content: bytes, *, keys: tuple[Key, ...] = KEYS) -> bytes:
    """A whole mail with our signatures on top."""
    header = index(content)
    head, body = header.raw[header.start :], body_of(content, header)
    return signatures(head, [body], keys=keys) + head + bytes(body)
