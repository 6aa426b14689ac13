"""The tables of `sluis.toml` as frozen models.

Names, defaults and units are public: `config/sluis.toml` annotates each key, and a test compares
the two. A duration is a `timedelta`, a size an `int` of bytes. Nothing here reads a file; see
`proxy.config.load`.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    StrictInt,
    StrictStr,
)

from policy.model import Category, Overlay, Purpose, SimilarGroup
from proxy.config.overlay import CapText, HoursText, Terms, ZoneName, overlay
from proxy.config.signing import ALGORITHMS, Algorithm, Covered, Instant, Selector
from proxy.config.timing import Retry
from proxy.config.values import (
    BaseUrl,
    Bool,
    Count,
    Country,
    Domain,
    Duration,
    FilePath,
    FrozenCounts,
    FrozenTexts,
    HostPort,
    Id,
    Mailbox,
    Size,
    Slug,
    Text,
    Trusted,
    WebUrl,
    slug,
    split_address,
    wrong,
)


def _later(value: object) -> object:
    """Refuse what the design knows and this version cannot do, rather than ignore it."""
    if value is True:
        remedy = "use false, or leave the key out"
        raise wrong("asks for true, which this version cannot do", remedy)
    return value


def _some(value: tuple[Algorithm, ...]) -> tuple[Algorithm, ...]:
    if not value:
        raise wrong("is empty", "name at least one, or remove the key: mail never leaves unsigned")
    return value


Tls = Literal["none", "starttls", "implicit"]
Auth = Literal["none", "optional", "required"]
Mode = Literal["enforce", "observe"]
DeliveryMode = Literal["inline", "queued"]
Partial = Literal["accept-and-dsn", "all-or-nothing", "accept-and-drop"]

UNKNOWN_STREAM = "unknown"
"""Id of the implicit marketing stream that takes mail which no stream claims."""

RESERVED_IDS = (UNKNOWN_STREAM, "other")
""""other" is the metric label of streams beyond the tenth."""


class Table(BaseModel):
    """One table of the file: an unknown key is an error, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Server(Table):
    """`hostname` is what we call ourselves in EHLO, Received and Message-ID."""

    hostname: Domain
    data_dir: FilePath = Path("/var/lib/sluis")
    development: Bool = False
    drain_timeout: Duration = timedelta(seconds=30)
    one_core: Bool = True


class Listener(Table):
    """One SMTP port. `stream` forces that stream on everything that comes in here."""

    address: HostPort
    tls: Tls = "none"
    certificate: FilePath | None = None
    key: FilePath | None = None
    auth: Auth = "none"
    trusted_networks: tuple[Trusted, ...] = ()
    proxy_protocol: tuple[Trusted, ...] = ()
    xclient_networks: tuple[Trusted, ...] = ()
    bare_newline: Literal["refuse", "normalise"] = "refuse"
    stream: Id | None = None
    may_set_stream: Bool = False
    delivery: DeliveryMode | None = None

    @property
    def host(self) -> str:
        """Address or name to bind, without brackets."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """0 lets the system choose (tests)."""
        return split_address(self.address)[1]


class Upstream(Table):
    """One relay that takes our mail. The time-outs are those of RFC 5321 section 4.5.3.2."""

    address: HostPort
    tls: Tls = "starttls"
    verify: Bool = True
    ca_file: FilePath | None = None
    username: Text | None = None
    password: SecretStr | None = None
    password_file: FilePath | None = None
    connections: Count = 10
    messages_per_connection: Count = 100
    idle_timeout: Duration = timedelta(seconds=30)
    connect_timeout: Duration = timedelta(seconds=30)
    greeting_timeout: Duration = timedelta(seconds=300)
    command_timeout: Duration = timedelta(seconds=300)
    rcpt_timeout: Duration = timedelta(seconds=300)
    data_timeout: Duration = timedelta(seconds=120)
    block_timeout: Duration = timedelta(seconds=180)
    final_timeout: Duration = timedelta(seconds=600)
    retry: Retry = Field(default={}, validate_default=True)
    upstream_signs: Bool = False
    dkim_keys: Annotated[tuple[Algorithm, ...], AfterValidator(_some)] = ALGORITHMS
    dkim_omit: tuple[Covered, ...] = ()

    @property
    def host(self) -> str:
        """Address or name to connect to, and to verify the certificate against."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """TCP port."""
        return split_address(self.address)[1]

    @property
    def name(self) -> str:
        """What logs, metrics and the journal call it: `host:port` as configured."""
        return self.address


def _sqlite_url(value: object) -> str:
    remedy = 'write url = "sqlite:///sluis.db" (relative to data_dir), or "sqlite:////path/x.db"'
    if isinstance(value, str) and value.startswith(("postgres://", "postgresql")):
        raise wrong("asks for PostgreSQL, which this version cannot use", remedy)
    if not isinstance(value, str) or not value.startswith("sqlite:///") or len(value) <= 10:
        raise wrong("is no store URL", remedy)
    if "?" in value or "#" in value or value.endswith(("/", ":memory:")):
        raise wrong("names no file", remedy)
    return value


class StoreConfig(Table):
    """Where ledger, journal and outbox live."""

    url: Annotated[str, BeforeValidator(_sqlite_url)] = "sqlite:///sluis.db"

    def sqlite_path(self, data_dir: Path) -> Path:
        """The database file; a relative one lies under `data_dir`."""
        return data_dir / self.url.removeprefix("sqlite:///")


class Http(Table):
    """`public_url` (no final slash) is what recipients see; `keys_file` None is `data_dir/keys`."""

    public: HostPort = "127.0.0.1:8080"
    admin: HostPort = "127.0.0.1:9464"
    public_url: BaseUrl
    keys_file: FilePath | None = None


def _similar(value: object) -> object:
    """`["a", "b"]` is short for `{products = ["a", "b"]}`."""
    return {"products": value} if isinstance(value, list | tuple) else value


def _comparable(group: SimilarGroup) -> SimilarGroup:
    if len(set(group.products)) < 2:
        raise wrong("names fewer than two products", "list all that are similar to each other")
    for product in group.products:
        slug(product)
    return group


class Sender(Table):
    """The legal entity on whose behalf mail goes. `lifetimes` maps a product slug to months."""

    id: Id
    name: Text
    known_as: tuple[Text, ...] = ()
    country: Country
    postal_address: Text
    contact: Text
    privacy_url: WebUrl | None = None
    colour: Annotated[StrictStr, Field(pattern=r"^#[0-9a-fA-F]{6}$")] | None = None
    candidate_countries: tuple[Country, ...] = ()
    similar: tuple[
        Annotated[SimilarGroup, BeforeValidator(_similar), AfterValidator(_comparable)], ...
    ] = ()
    lifetimes: FrozenCounts = Field(default={}, validate_default=True)
    feedback_id: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_-]{5,15}$")] | None = None
    max_per_person: CapText | None = None
    valid_months: Terms = Field(default={}, validate_default=True)
    blocked_products: tuple[Slug, ...] = ()

    @property
    def overlay(self) -> Overlay:
        """What the sender forbids beyond the law."""
        months = tuple(self.valid_months.items())
        return overlay(self.max_per_person, None, None, months, self.blocked_products)


class Stream(Table):
    """One kind of mail of one sender. `partial` and `delivery` are `[delivery]`'s `partial` and
    `mode` unless set here."""

    id: Id
    sender: Id
    category: Category
    purpose: Purpose = Purpose.COMMERCIAL
    topics: tuple[Slug, ...] = ()
    products: tuple[Slug, ...] = ()
    from_domains: tuple[Domain, ...] = ()
    mode: Mode = "enforce"
    list_id: Domain | None = None
    one_click: Literal["marketing", "stream"] = "marketing"
    visible_recipients: Literal["refuse", "allow", "rewrite"] = "refuse"
    list_unsubscribe: Literal["replace", "keep", "merge", "refuse"] = "replace"
    list_unsubscribe_hosts: tuple[Domain, ...] = ()
    list_unsubscribe_forward: Bool = True
    footer: Literal["auto", "off", "require"] = "auto"
    every_alternative: Bool = False
    promotion: Literal["observe", "enforce"] = "observe"
    delivery: DeliveryMode = "inline"
    partial: Partial = "accept-and-dsn"
    local_rules_met: Bool | None = None
    headers_8bit: Literal["pass", "refuse"] = "pass"
    max_per_person: CapText | None = None
    quiet_hours: HoursText | None = None
    timezone: ZoneName | None = None
    valid_months: Terms = Field(default={}, validate_default=True)
    blocked_products: tuple[Slug, ...] = ()
    lang: Literal["en", "nl", "de", "fr", "es", "it"] = "en"

    @property
    def overlay(self) -> Overlay:
        """What the stream forbids beyond the law."""
        return overlay(
            self.max_per_person,
            self.quiet_hours,
            self.timezone,
            tuple(self.valid_months.items()),
            self.blocked_products,
        )

    @property
    def implicit(self) -> bool:
        """Whether this is the stream that nobody configured, for mail that no stream claims."""
        return self.id == UNKNOWN_STREAM


class Credential(Table):
    """A user name for AUTH. After loading, `password_hash` is set and an Argon2 hash."""

    username: Text
    password_hash: SecretStr | None = None
    password_file: FilePath | None = None
    stream: Id | None = None
    default_stream: Id | None = None
    may_set_stream: Bool = False
    from_domains: tuple[Domain, ...] = ()


def _digest(value: str) -> str:
    # The value is not repeated in the complaint: it may be the token itself.
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise wrong("is no SHA-256 in hex", "make the token with `sluis token create NAME`")
    return value


Role = Literal["reader", "editor", "auditor"]


class ApiToken(Table):
    """Who may use `/api/v1`. A token is 32 random bytes, so a plain digest of it tells nothing.

    `senders` empty: all of them.
    """

    name: Id
    token_hash: Annotated[StrictStr, AfterValidator(_digest)]
    role: Role
    senders: tuple[Id, ...] = ()


class PolicyConfig(Table):
    """`packs_dir` has packs beside the built-in ones; `subaddress` extra separators per domain."""

    packs_dir: FilePath | None = None
    subaddress: FrozenTexts = Field(default={}, validate_default=True)


class DkimKey(Table):
    """One private key. `algorithm` None takes what the file holds; `sender` None is the one whose
    streams send from this domain or below it; `active_from` None has been in force for ever.
    """

    domain: Domain
    selector: Selector
    key_file: FilePath
    algorithm: Algorithm | None = None
    sender: Id | None = None
    active_from: Instant | None = None


class Dkim(Table):
    """What we sign with: of a domain's keys of one algorithm, the one last in force. Signatures
    that come in are verified by the records (`selector._domainkey.domain`) in `records_dir`, or
    never.
    """

    keys: tuple[DkimKey, ...] = ()
    verify: Literal["never", "files"] = "never"
    records_dir: FilePath | None = None


class Delivery(Table):
    """How the reply relates to the attempt (`delivery.md`)."""

    mode: DeliveryMode = "inline"
    partial: Partial = "accept-and-dsn"
    dedupe_window: Duration = timedelta(days=5)
    expiry: Duration = timedelta(days=5)
    inline_wait: Duration = timedelta(seconds=60)
    attempt_hold: Duration = timedelta(seconds=5)
    snapshot_max_age: Duration = timedelta(hours=24)
    retry_first: Duration = timedelta(minutes=1)
    retry_longest: Duration = timedelta(hours=1)
    ambiguous: Literal["retry", "hold"] = "retry"
    lease_margin: Duration = timedelta(seconds=60)
    outbox_messages: Count = 100_000
    outbox_age: Duration | None = None
    outbox_free: Size = 64 * 1024 * 1024


Weight = Annotated[StrictInt, Field(ge=0, le=1000)]


class Promotion(Table):
    """What each sign of promotion in transactional mail weighs (`proxy.message.promotion`)."""

    threshold: Count = 100
    discount: Weight = 60
    voucher: Weight = 60
    shopping: Weight = 40
    urgency: Weight = 40
    newsletter: Weight = 40
    opt_out: Weight = 30
    list_fields: Weight = 40


class Feedback(Table):
    """`domain` takes mailto opt-outs and complaints; without it links are https only.

    `complaints` is the local part of the mailbox for reports of complaints, "" for none.
    """

    domain: Domain | None = None
    complaints: Mailbox = "fbl"
    verp: Annotated[Literal[False], BeforeValidator(_later)] = False

    @property
    def complaints_mailbox(self) -> str:
        """The address that takes reports of complaints, "" for none."""
        return f"{self.complaints}@{self.domain}" if self.domain and self.complaints else ""

    @property
    def mailboxes(self) -> frozenset[str]:
        """The exact addresses to which anyone may write."""
        opt_outs = f"u@{self.domain}" if self.domain else ""
        return frozenset({opt_outs, self.complaints_mailbox} - {""})


class Limits(Table):
    """Ceilings per process, session and message (promise 8)."""

    connections: Count = 1000
    connections_per_network: Count = 200
    recipients: Count = 1000
    message_size: Size = 25 * 1024 * 1024
    memory: Size = 512 * 1024 * 1024
    spool: Size = 4 * 1024 * 1024 * 1024
    messages_per_connection: Count = 1000
    header_bytes: Size = 262144
    header_fields: Count = 1000
    line: Count = 998
    command_timeout: Duration = timedelta(seconds=300)
    data_timeout: Duration = timedelta(seconds=180)
    session_timeout: Duration = timedelta(hours=1)
    errors: Count = 20


class Retention(Table):
    """The shortest time that evidence and decisions are kept."""

    evidence: Duration = timedelta(days=1827)


class Log(Table):
    """Where and how much: one JSON object per line on stderr, or words for a person."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"
    repeat: Duration = timedelta(seconds=60)


class Settings(Table):
    """The whole configuration, checked. `source` is the file it came from."""

    server: Server
    listeners: tuple[Listener, ...]
    upstreams: tuple[Upstream, ...]
    store: StoreConfig = StoreConfig()
    http: Http
    senders: tuple[Sender, ...]
    streams: tuple[Stream, ...]
    credentials: tuple[Credential, ...] = ()
    api_tokens: tuple[ApiToken, ...] = ()
    policy: PolicyConfig = PolicyConfig()
    dkim: Dkim = Dkim()
    delivery: Delivery = Delivery()
    feedback: Feedback = Feedback()
    promotion: Promotion = Promotion()
    limits: Limits = Limits()
    retention: Retention = Retention()
    log: Log = Log()

    _source: Path = PrivateAttr(default=Path("sluis.toml"))
    _senders: dict[str, Sender] = PrivateAttr(default_factory=dict)
    _streams: dict[str, Stream] = PrivateAttr(default_factory=dict)
    _domains: dict[str, tuple[Stream, ...]] = PrivateAttr(default_factory=dict)
    _credentials: dict[str, Credential] = PrivateAttr(default_factory=dict)
    _own_delivery: frozenset[str] = PrivateAttr(default=frozenset())

    def model_post_init(self, context: object, /) -> None:
        """Build the look-ups that every message uses."""
        self._senders.update((s.id, s) for s in self.senders)
        self._streams.update((s.id, s) for s in self.streams)
        self._credentials.update((c.username, c) for c in self.credentials)
        for stream in self.streams:
            for name in stream.from_domains:
                self._domains[name] = (*self._domains.get(name, ()), stream)

    @property
    def source(self) -> Path:
        """The file, as given; `environment` when there was none."""
        return self._source

    def sender(self, id_: str) -> Sender:
        """The sender of that id. Raises `KeyError`; the ids that streams name always exist."""
        return self._senders[id_]

    def stream(self, id_: str) -> Stream:
        """The stream of that id, the implicit one included. Raises `KeyError`."""
        return self._streams[id_]

    def find_stream(self, id_: str) -> Stream | None:
        """The stream of an id that came from outside, None if there is none."""
        return self._streams.get(id_)

    def delivery_of(self, stream: Stream, listener: str) -> DeliveryMode:
        """The mode of a stream's mail that came in at `listener`: the stream's own, the listener's,
        else that of `[delivery]`."""
        if stream.id in self._own_delivery:
            return stream.delivery
        own = (x.delivery for x in self.listeners if x.address == listener and x.delivery)
        return next(own, stream.delivery)

    def streams_of_domain(self, name: str) -> tuple[Stream, ...]:
        """Streams that list this domain (lower-case A-labels), in order, all of one sender.

        Personal streams are among them; a domain alone never chooses one.
        """
        return self._domains.get(name, ())

    def credential(self, username: str) -> Credential | None:
        """The credential of that user name, None if there is none."""
        return self._credentials.get(username)

    @property
    def implicit(self) -> Stream | None:
        """The stream for mail that no stream claims: exists with exactly one sender."""
        return self._streams.get(UNKNOWN_STREAM)
