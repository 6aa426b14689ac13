"""What no single value can tell: references, doubles, open doors.

Every check yields (key, what, remedy).
"""

from __future__ import annotations

import ssl
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from proxy.config.models import (
    RESERVED_IDS,
    ApiToken,
    Credential,
    Delivery,
    Dkim,
    DkimKey,
    Http,
    Limits,
    Listener,
    PolicyConfig,
    Retention,
    Sender,
    Server,
    Stream,
    Upstream,
)
from proxy.config.secrets import usable_hash
from proxy.config.signing import (
    ALGORITHMS,
    algorithm_of,
    organisational,
    owners,
    read_private_key,
)
from proxy.config.timing import before_the_dot
from proxy.config.values import is_loopback
from proxy.errors import KeysError

Finding = tuple[str, str, str]

_ANY = ("0.0.0.0", "[::]")  # noqa: S104  looked for, not listened on

# Octets in memory that a message on disk takes while it is relayed, and more.
_ONE_MESSAGE = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The tables that are sound in themselves, each list by index, and all ids that were written.

    A reference to an entry that has its own problem is not reported a second time.
    """

    server: Server | None
    http: Http | None
    delivery: Delivery | None
    retention: Retention | None
    limits: Limits | None
    policy: PolicyConfig | None
    dkim: Dkim | None
    listeners: Mapping[int, Listener]
    upstreams: Mapping[int, Upstream]
    senders: Mapping[int, Sender]
    streams: Mapping[int, Stream]
    credentials: Mapping[int, Credential]
    api_tokens: Mapping[int, ApiToken]
    sender_ids: frozenset[str]
    stream_ids: frozenset[str]
    counts: Mapping[str, int]


def findings(parts: Parts, *, files: bool) -> Iterator[Finding]:
    """All problems between values, section by section; with `files`, also what those named hold."""
    yield from _present(parts)
    for n, listener in parts.listeners.items():
        yield from _listener(f"listeners.{n}", listener, parts, files)
    yield from _doubles(
        "listeners", "address", [(n, x.address) for n, x in parts.listeners.items()]
    )
    for n, listener in parts.listeners.items():
        for m, other in parts.listeners.items():
            what = _clash(listener.address, other.address, f"listeners.{m}.address")
            if m < n and what and listener.address != other.address:
                yield f"listeners.{n}.address", what, "give each its own address"
    for n, upstream in parts.upstreams.items():
        yield from _upstream(f"upstreams.{n}", upstream, parts, files)
    yield from _doubles(
        "upstreams", "address", [(n, x.address) for n, x in parts.upstreams.items()]
    )
    yield from _http(parts)
    yield from _doubles("senders", "id", [(n, x.id) for n, x in parts.senders.items()])
    yield from _streams(parts)
    for n, credential in parts.credentials.items():
        yield from _credential(f"credentials.{n}", credential, parts)
    names = [(n, x.username) for n, x in parts.credentials.items()]
    yield from _doubles("credentials", "username", names)
    yield from _api_tokens(parts)
    yield from _delivery(parts)
    yield from _limits(parts)
    yield from _caps(parts)
    yield from _dkim(parts, files)
    packs = parts.policy.packs_dir if parts.policy else None
    if files and packs is not None and not packs.is_dir():
        yield "policy.packs_dir", "is no directory", "name one with packs (*.toml), or remove it"


def _present(parts: Parts) -> Iterator[Finding]:
    needed = {
        "listeners": "say where mail comes in",
        "upstreams": "say which relay takes the mail",
        "senders": "say on whose behalf mail goes",
        "streams": "say which kinds of mail go",
    }
    for section, why in needed.items():
        if not parts.counts[section]:
            yield section, "there is none", f"add a [[{section}]] table to {why}"


def _doubles(section: str, key: str, values: Sequence[tuple[int, str]]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for n, value in values:
        if key == "address" and value.endswith(":0"):
            continue
        if value in first:
            what = f'"{value}" is also that of {section}.{first[value]}'
            yield f"{section}.{n}.{key}", what, f"give each its own {key}"
        first.setdefault(value, n)


def _reference(key: str, id_: str | None, known: frozenset[str], table: str) -> Iterator[Finding]:
    if id_ is not None and id_ not in known:
        ids = ", ".join(sorted(known)) or "none yet"
        yield key, f'there is no [[{table}]] with id "{id_}"', f"use one of: {ids}"


def _listener(key: str, listener: Listener, parts: Parts, files: bool) -> Iterator[Finding]:
    yield from _reference(f"{key}.stream", listener.stream, parts.stream_ids, "streams")
    if listener.stream and listener.may_set_stream:
        remedy = "remove stream, or may_set_stream"
        yield f"{key}.may_set_stream", "contradicts stream, which forces one", remedy
    yield from _certificate(key, listener, files)
    if listener.auth == "none" and not listener.trusted_networks:
        remedy = 'set trusted_networks, or auth = "required" with tls and credentials'
        yield f"{key}.trusted_networks", "nobody may send mail here", remedy
    if listener.auth == "none":
        return
    if listener.tls == "none" and not is_loopback(listener.host):
        remedy = 'set tls = "starttls" or "implicit", with certificate and key, or use 127.0.0.1'
        yield f"{key}.auth", "passwords would cross the network in clear", remedy
    if not parts.counts["credentials"]:
        remedy = 'add a [[credentials]] table, or set auth = "none"'
        yield f"{key}.auth", "there are no credentials to check", remedy


def _certificate(key: str, listener: Listener, files: bool) -> Iterator[Finding]:
    given = {"certificate": listener.certificate, "key": listener.key}
    if listener.tls == "none":
        for name, path in given.items():
            if path is not None:
                remedy = f'set tls = "starttls" or "implicit", or remove {name}'
                yield f"{key}.{name}", 'is not used while tls is "none"', remedy
        return
    sound = files
    for name, path in given.items():
        if path is None:
            sound = False
            yield f"{key}.{name}", f'is missing with tls = "{listener.tls}"', "name the PEM file"
        elif files and (problem := _unreadable(path)):
            sound = False
            yield f"{key}.{name}", problem, "name a PEM file that this user can read"
    if sound and listener.certificate:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(listener.certificate, listener.key, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            remedy = "use a certificate chain and its own unencrypted key, both in PEM form"
            yield f"{key}.certificate", f"does not load with its key ({reason})", remedy


def _unreadable(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return f"cannot be read ({error.strerror or type(error).__name__})"
    return ""


def _upstream(key: str, upstream: Upstream, parts: Parts, files: bool) -> Iterator[Finding]:
    if upstream.port == 0:
        yield f"{key}.address", "has no port", "write the relay's port, such as 25 or 587"
    for listener in parts.listeners.values():
        same_host = is_loopback(upstream.host) and is_loopback(listener.host)
        anywhere = listener.host in ("0.0.0.0", "::") and is_loopback(upstream.host)  # noqa: S104
        if (
            upstream.port
            and upstream.port == listener.port
            and (same_host or anywhere or upstream.host == listener.host)
        ):
            remedy = "name the relay behind us, not one of our own listeners"
            yield f"{key}.address", "is this very server: mail would go in a circle", remedy
            break
    unread = not files and upstream.password_file is not None
    if upstream.username and not upstream.password and not unread:
        remedy = "add password_file, a file that holds it"
        yield f"{key}.password_file", "is missing while username is set", remedy
    if upstream.password and not upstream.username:
        yield f"{key}.username", "is missing while a password is set", "add it"
    if upstream.username and upstream.tls == "none" and not is_loopback(upstream.host):
        remedy = 'set tls = "starttls" or "implicit"'
        yield f"{key}.tls", "the password would cross the network in clear", remedy
    if files and upstream.ca_file is not None and (problem := _unreadable(upstream.ca_file)):
        yield f"{key}.ca_file", problem, "name a PEM file with the authority's certificate"


def _clash(one: str, two: str, key: str, *, http: Collection[str] = ()) -> str:
    """How the address of `key`, `two`, keeps `one` from being listened on; "" where it does not.

    `0.0.0.0` is every IPv4 address of the machine, `[::]` every IPv6 address, and where it is one
    of `http` every IPv4 address, too.
    """
    (host, _, port), (other, _, other_port) = one.rpartition(":"), two.rpartition(":")
    if port != other_port or port == "0":
        return ""
    if host == other:
        return f"is the same as {key}"
    everywhere = next((h for h in (host, other) if h in _ANY), "")
    if everywhere and ("[" in host) is ("[" in other):
        return f"has the port of {key}, {two}: {everywhere} is every address of the machine"
    if any(address in http and address.startswith("[::]:") for address in (one, two)):
        return f"has the port of {key}, {two}: [::] of HTTP is every IPv4 address, too"
    return ""


def _http(parts: Parts) -> Iterator[Finding]:
    http = parts.http
    if http is None:
        return
    development = parts.server is not None and parts.server.development
    if not development and not http.public_url.startswith("https://"):
        remedy = "write https:// (RFC 8058 demands it), or set server.development = true"
        yield "http.public_url", "is not https", remedy
    if what := _clash(
        http.admin, http.public, "http.public", http=(http.admin, http.public)
    ):
        remedy = "give them two ports: metrics and health are not for the public"
        yield "http.admin", what, remedy
    for key, address in (("http.public", http.public), ("http.admin", http.admin)):
        for n, listener in parts.listeners.items():
            of = f"listeners.{n}.address"
            if what := _clash(address, listener.address, of, http=(address,)):
                yield key, what, "give SMTP and HTTP ports of their own"


def _streams(parts: Parts) -> Iterator[Finding]:
    yield from _doubles("streams", "id", [(n, x.id) for n, x in parts.streams.items()])
    owners: dict[str, tuple[int, Stream]] = {}
    for n, stream in parts.streams.items():
        key = f"streams.{n}"
        yield from _reference(f"{key}.sender", stream.sender, parts.sender_ids, "senders")
        if stream.id in RESERVED_IDS:
            yield f"{key}.id", f'"{stream.id}" is taken by Sluis itself', "choose another id"
        if stream.list_unsubscribe == "keep" and not stream.list_unsubscribe_hosts:
            remedy = "name the hosts whose one-click links may stay"
            yield f"{key}.list_unsubscribe_hosts", "is empty, so nothing can be kept", remedy
        if stream.list_unsubscribe_hosts and stream.list_unsubscribe != "keep":
            remedy = 'set list_unsubscribe = "keep", or remove it'
            yield f"{key}.list_unsubscribe_hosts", "is only used to keep", remedy
        if stream.quiet_hours is not None and stream.timezone is None:
            remedy = 'add timezone, such as "Europe/Amsterdam", for recipients of unknown zone'
            yield f"{key}.timezone", "is not set, and there are quiet_hours", remedy
        if len(set(stream.from_domains)) < len(stream.from_domains):
            yield f"{key}.from_domains", "names a domain twice", "write it once"
        for domain in sorted(set(stream.from_domains)):
            first, other = owners.setdefault(domain, (n, stream))
            if other.sender != stream.sender:
                what = f'"{domain}" is claimed by streams.{first} of sender "{other.sender}"'
                remedy = "a From domain belongs to one sender: remove it from one of them"
                yield f"{key}.from_domains", what, remedy


def _credential(key: str, credential: Credential, parts: Parts) -> Iterator[Finding]:
    yield from _reference(f"{key}.stream", credential.stream, parts.stream_ids, "streams")
    yield from _reference(
        f"{key}.default_stream", credential.default_stream, parts.stream_ids, "streams"
    )
    if credential.stream and (credential.default_stream or credential.may_set_stream):
        remedy = "remove stream, or remove default_stream and may_set_stream"
        yield f"{key}.stream", "forces one stream while others may be chosen", remedy
    if credential.password_hash is None:
        if credential.password_file is None:
            remedy = "add password_file, or password_hash with an Argon2 hash"
            yield f"{key}.password_file", "there is no password", remedy
    elif not usable_hash(credential.password_hash.get_secret_value()):
        remedy = 'write an Argon2 hash ("$argon2id$..."), or put the password in password_file'
        yield f"{key}.password_hash", "is no Argon2 hash", remedy


def _dkim(parts: Parts, files: bool) -> Iterator[Finding]:
    if parts.dkim is None:
        return
    records = parts.dkim.records_dir
    if files and records is not None and not records.is_dir():
        remedy = "name one with records (selector._domainkey.domain), or remove it"
        yield "dkim.records_dir", "is no directory", remedy
    if records is None and parts.dkim.verify == "files":
        yield "dkim.records_dir", "is missing", 'name it, or leave out verify = "files"'
    first: dict[tuple[str, str, str | None], int] = {}
    held: dict[str, set[str]] = {}
    for n, entry in enumerate(parts.dkim.keys):
        key = f"dkim.keys.{n}"
        yield from _reference(f"{key}.sender", entry.sender, parts.sender_ids, "senders")
        yield from _owner(key, entry, parts)
        if not organisational(entry.domain):
            remedy = "name the domain of From, or its registered domain"
            yield f"{key}.domain", "is a public suffix", remedy
        other = first.setdefault((entry.domain, entry.selector, entry.sender), n)
        if other != n:
            what = f'"{entry.selector}" is also that of dkim.keys.{other}'
            yield f"{key}.selector", what, "give each key of a domain its own selector"
        kinds = held.setdefault(entry.domain, set())
        if not files:
            kinds.update([entry.algorithm] if entry.algorithm else ALGORITHMS)
            continue
        try:
            algorithm = algorithm_of(read_private_key(entry.key_file))
        except KeysError as error:
            remedy = "make one with `sluis dkim generate`, readable for this user only"
            yield f"{key}.key_file", str(error), remedy
            continue
        if entry.algorithm not in (None, algorithm):
            yield f"{key}.algorithm", f"the file holds another kind: {algorithm}", "correct it"
        kinds.add(algorithm)
    for n, upstream in parts.upstreams.items():
        for name, algorithms in held.items():
            if algorithms and algorithms.isdisjoint(upstream.dkim_keys):
                remedy = f"make a key of that kind for {name}, or allow the other here"
                yield f"upstreams.{n}.dkim_keys", f"leaves {name} without a key", remedy


def _owner(key: str, entry: DkimKey, parts: Parts) -> Iterator[Finding]:
    found = owners(entry, parts.streams.values(), parts.sender_ids)
    if entry.sender is None and len(found) != 1 and parts.sender_ids:
        which = f"is that of {' and '.join(sorted(found))}" if found else "is of no stream's sender"
        yield f"{key}.sender", f"{entry.domain} {which}", "name the one sender that signs with it"


def _api_tokens(parts: Parts) -> Iterator[Finding]:
    for n, token in parts.api_tokens.items():
        for place, id_ in enumerate(token.senders):
            key = f"api_tokens.{n}.senders.{place}"
            yield from _reference(key, id_, parts.sender_ids, "senders")
    for name in ("name", "token_hash"):
        values = [(n, str(getattr(token, name))) for n, token in parts.api_tokens.items()]
        yield from _doubles("api_tokens", name, values)


def _limits(parts: Parts) -> Iterator[Finding]:
    limits = parts.limits
    if limits is not None and limits.memory < _ONE_MESSAGE:
        yield "limits.memory", "has no room for one large message", "make it 2MiB at least"
    if limits is not None and limits.spool < limits.message_size:
        remedy = "make it at least as large, better several times that"
        yield "limits.spool", "has no room for a message of message_size", remedy


def _caps(parts: Parts) -> Iterator[Finding]:
    """Mails are counted in the journal: a window cannot reach beyond what is kept."""
    kept = parts.retention.evidence if parts.retention is not None else timedelta.max
    tables = [(f"senders.{n}", x.overlay) for n, x in parts.senders.items()]
    tables += [(f"streams.{n}", x.overlay) for n, x in parts.streams.items()]
    for key, overlay in tables:
        if overlay.cap is not None and overlay.cap.window > kept:
            remedy = "a mail can only be counted while its record is kept"
            yield f"{key}.max_per_person", "looks back further than retention.evidence", remedy


def _delivery(parts: Parts) -> Iterator[Finding]:
    delivery, retention = parts.delivery, parts.retention
    if delivery is None:
        return
    key = "delivery.dedupe_window"
    if delivery.dedupe_window < delivery.expiry:
        remedy = "make it at least as long: a retry of mail that is still owed would be sent twice"
        yield key, "is shorter than delivery.expiry", remedy
    if delivery.dedupe_window < timedelta(hours=1):
        yield key, "is shorter than an hour", "clients retry for days; 5d is the default"
    if parts.upstreams and delivery.attempt_hold > before_the_dot(parts.upstreams.values()):
        what = "is longer than every upstream's time-outs of the stages before the dot together"
        remedy = "shorten it: by then another process may have taken the attempt over"
        yield "delivery.attempt_hold", what, remedy
    if retention is not None and delivery.dedupe_window > retention.evidence:
        remedy = "a copy can only be known again while its record is kept"
        yield key, "is longer than retention.evidence", remedy
