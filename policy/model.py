"""The nouns of the decision: facts in, one decision out.

Every value here is frozen. Times are aware UTC datetimes; a naive one is a programming error and
raises `ValueError`. `None` in a fact means *unknown*, and unknown never helps (see
`docs/decision.md`): no unknown fact yields an allow that a known one would deny.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from typing import overload


class Category(StrEnum):
    """What a message is, before its content is looked at."""

    MARKETING = "marketing"
    TRANSACTIONAL = "transactional"
    PERSONAL = "personal"


class Purpose(StrEnum):
    """Why a marketing message is sent; Dutch law treats all three alike (Tw 11.7(1))."""

    COMMERCIAL = "commercial"
    CHARITABLE = "charitable"
    IDEAL = "ideal"


class Kind(StrEnum):
    """Who stands behind a recipient's address."""

    CONSUMER = "consumer"
    SOLE_TRADER = "sole-trader"
    COMPANY_NAMED = "company-named"
    COMPANY_GENERIC = "company-generic"
    PUBLIC_BODY = "public-body"
    UNKNOWN = "unknown"


class Box(StrEnum):
    """The state of the control with which a person opted in (Planet49, C-673/17)."""

    UNTICKED = "unticked"
    PRETICKED = "preticked"
    NONE = "none"
    PAPER = "paper"
    ORAL = "oral"


class Stage(StrEnum):
    """How far a relationship went; which of them count as a sale is the pack's to say."""

    PURCHASE = "purchase"
    SUBSCRIPTION = "subscription"
    DONATION = "donation"
    SUPPORT = "support"
    NEGOTIATION = "negotiation"
    INQUIRY = "inquiry"
    CONTEST = "contest"
    CART = "cart"


class ObjectionOffered(StrEnum):
    """How the possibility to object was offered when the address was collected."""

    BOX = "box"
    PRETICKED_BOX = "preticked-box"
    SENTENCE = "sentence"
    TERMS_ONLY = "terms-only"
    NONE = "none"


class PublishedPurpose(StrEnum):
    """For which kind of message its owner designated a published address (Tw 11.7(3))."""

    SUPPLIER_OFFERS = "supplier-offers"
    CHARITY_APPEALS = "charity-appeals"
    GENERAL_CONTACT = "general-contact"
    TRADE_REGISTER = "trade-register"
    ROLE_CONTACT = "role-contact"
    PROFESSIONAL_CONTACT = "professional-contact"
    PRESS = "press"
    JOB_APPLICATIONS = "job-applications"


class Scope(StrEnum):
    """How far an objection reaches, narrowest first."""

    TOPIC = "topic"
    STREAM = "stream"
    MARKETING = "marketing"
    EVERYTHING = "everything"


class Via(StrEnum):
    """The channel by which an objection came."""

    ONE_CLICK = "one-click"
    PAGE = "page"
    FORM = "form"
    MAILTO = "mailto"
    REPLY = "reply"
    ACCOUNT_TOGGLE = "account-toggle"
    API = "api"
    IMPORT = "import"
    ERASURE = "erasure"
    STAFF = "staff"


#: An objection that came by one of these was taken by Sluis itself, or recorded in it by somebody
#: who heard it: it blocks also in observe mode. What another system knew is only imported.
TAKEN_HERE = frozenset({Via.ONE_CLICK, Via.PAGE, Via.MAILTO, Via.STAFF})


class ContactVia(StrEnum):
    """By which act a person was in contact. Opening a mail is no act: recorded, it never counts."""

    CLICK = "click"
    LOGIN = "login"
    ORDER = "order"
    REPLY = "reply"
    OPEN = "open"


class Severity(StrEnum):
    """How final a bounce is; an unknown severity counts as hard."""

    HARD = "hard"
    SOFT = "soft"


class ComplaintVia(StrEnum):
    """How a complaint reached us."""

    ARF = "arf"
    STAFF = "staff"


class Unsubscribe(StrEnum):
    """The opt-out that a message itself shows to its reader."""

    LINK = "link"
    REPLY = "reply"
    LOGIN = "login"
    PHONE = "phone"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptIn:
    """An act by which a person asked for mail. Empty `products` means all of the sender's."""

    box: Box | None = None
    topics: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    confirmed_at: datetime | None = None
    text_version: str | None = None
    source: str | None = None
    ip: str | None = None
    valid_until: datetime | date | None = None
    third_parties: tuple[str, ...] = ()
    channels: tuple[str, ...] = ("email",)
    withdrawal_info_given: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Relationship:
    """A dealing between sender and person from which a soft opt-in may follow (Tw 11.7(4))."""

    stage: Stage | None = None
    paid: bool | None = None
    indirect_remuneration: bool | None = None
    products: tuple[str, ...] = ()
    address_from_customer: bool | None = None
    informed: bool | None = None
    objection_offered: ObjectionOffered | None = None
    ended_at: datetime | None = None
    text_version: str | None = None
    source: str | None = None
    ip: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """An address that its owner made public for a kind of message (Tw 11.7(3)(a))."""

    purpose: PublishedPurpose | None = None
    no_spam_notice: bool | None = None
    informed_at_collection: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """A person said no (GDPR 7(3), 21(2))."""

    scope: Scope = Scope.MARKETING
    topics: tuple[str, ...] = ()
    stream: str | None = None
    via: Via | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """The person acted."""

    via: ContactVia | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounce:
    """The address did not take mail. `status` is an enhanced status code (RFC 3463)."""

    severity: Severity = Severity.HARD
    status: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """The person reported a mail as spam; an objection to all marketing of the sender."""

    via: ComplaintVia | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """The address stands on a national opt-out list."""

    registry: str


Detail = OptIn | Relationship | Published | Objection | Contact | Bounce | Complaint | Registry


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Event:
    """One entry of the ledger.

    `at` is when it happened, `recorded_at` when our clock saw it. `evidence` is a reference or
    digest ("" = none). `exact` tells whether it was recorded for the recipient's exact address; an
    event that only matches a widened key may block and never permits. `uid` identifies the entry
    for ever.
    """

    at: datetime
    recorded_at: datetime
    sender: str
    detail: Detail
    evidence: str = ""
    uid: str = ""
    exact: bool = True

    # Ledgers are read by the million, and the usual way to fill a frozen class takes twice as long.
    def __init__(
        self,
        *,
        at: datetime,
        recorded_at: datetime,
        sender: str,
        detail: Detail,
        evidence: str = "",
        uid: str = "",
        exact: bool = True,
    ) -> None:
        if at.tzinfo is None or recorded_at.tzinfo is None:
            raise ValueError("an event needs aware times")
        _set_at(self, at)
        _set_recorded_at(self, recorded_at)
        _set_sender(self, sender)
        _set_detail(self, detail)
        _set_evidence(self, evidence)
        _set_uid(self, uid)
        _set_exact(self, exact)


_set_at, _set_recorded_at, _set_sender, _set_detail, _set_evidence, _set_uid, _set_exact = (
    vars(Event)[slot.name].__set__ for slot in fields(Event)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """At most `most` marketing mails to one person within any `window` of elapsed time."""

    most: int
    window: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietHours:
    """Hours on the wall in which no marketing leaves: from `start` up to, not including, `end`.

    They run over midnight where `end` is the earlier. `zone` serves where the recipient's own is
    not known.
    """

    start: time
    end: time
    zone: tzinfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """What an operator forbids beyond the law; nothing in it can allow.

    `valid_months` is an own term, by what a rule allows: so many calendar months after the person's
    last act. `blocked_products` are slugs; what lies within one is blocked.
    """

    cap: Cap | None = None
    quiet_hours: QuietHours | None = None
    valid_months: Mapping[str, int] = field(default_factory=dict)
    blocked_products: tuple[str, ...] = ()


NO_OVERLAY = Overlay()


@dataclass(frozen=True, slots=True)
class Sent:
    """A marketing mail of the sender to this person that left, or may have left, or is leaving."""

    stream: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarGroup:
    """Products that the operator declared similar, with who decided and when."""

    products: tuple[str, ...]
    reviewer: str | None = None
    reviewed_on: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """The legal entity on whose behalf mail goes.

    `names` are its legal names (compared casefolded when an opt-in names third parties);
    `lifetimes` maps a product slug to the months that its customers expect to be written to.
    """

    id: str
    names: tuple[str, ...] = ()
    country: str | None = None
    similar: tuple[SimilarGroup, ...] = ()
    lifetimes: Mapping[str, int] = field(default_factory=dict)
    candidate_countries: tuple[str, ...] = ()
    overlay: Overlay = NO_OVERLAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """What is known of the person behind an address.

    `country` is ISO 3166-1 alpha-2, `timezone` an IANA name.
    """

    address: str = ""
    country: str | None = None
    kind: Kind = Kind.UNKNOWN
    legal_person: bool | None = None
    function: str | None = None
    address_mainly_business: bool | None = None
    account_abandoned: bool | None = None
    language: str | None = None
    timezone: str | None = None
    last_marketing_at: datetime | None = None
    local_rules_met: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is known of the message: from the stream's config, its headers, and its real MIME.

    `topics` None means unknown; an empty tuple of products means unknown products.
    `visible_recipients_allowed` is the stream's setting: the duty is waived or done by rewriting.
    `overlay` is the stream's.
    """

    stream: str = ""
    campaign: str | None = None
    category: Category | None = None
    purpose: Purpose | None = None
    products: tuple[str, ...] = ()
    topics: tuple[str, ...] | None = None
    template: str | None = None
    promotion: bool | None = None
    sender_identity: bool | None = None
    postal_address: bool | None = None
    unsubscribe: Unsubscribe | None = None
    unsubscribe_valid_days: int | None = None
    advertisement_label: bool | None = None
    fake_reply: bool | None = None
    visible_recipients: int | None = None
    visible_recipients_allowed: bool = False
    can_inject: frozenset[str] = frozenset()
    sole_charitable_purpose: bool | None = None
    charity_registered_in: str | None = None
    primary_purpose_fundraising: bool | None = None
    business_only: bool | None = None
    relevant_functions: tuple[str, ...] | None = None
    overlay: Overlay = NO_OVERLAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a decision may depend on. `at` is the moment of sending.

    `sent` is what the caps count: at least what lies within the longest window, this very mail not
    among it. `zone` is the zone of `recipient.timezone`, None where that is not known.
    """

    at: datetime
    sender: Sender
    recipient: Recipient
    message: Message
    events: tuple[Event, ...] = ()
    sent: tuple[Sent, ...] = ()
    zone: tzinfo | None = None

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ValueError("the moment of sending needs an aware time")


class Verdict(StrEnum):
    """What happens to one recipient's mail."""

    ALLOW = "allow"
    BLOCK = "block"
    DEFER = "defer"


class Reason(StrEnum):
    """Why; a closed public list, each documented with its remedy in `docs/reasons.md`."""

    CONSENT = "consent"
    SOFT_OPT_IN = "soft-opt-in"
    PUBLISHED_ADDRESS = "published-address"
    BUSINESS_FUNCTION = "business-function"
    LEGAL_PERSON = "legal-person"
    FOREIGN_BUSINESS = "foreign-business"
    IMPLIED_CONSENT = "implied-consent"
    OPT_OUT_REGIME = "opt-out-regime"
    EXEMPT = "exempt"
    NOT_MARKETING = "not-marketing"

    SUPPRESSED = "suppressed"
    REGISTRY = "registry"
    NO_BASIS = "no-basis"
    PRETICKED_CONSENT = "preticked-consent"
    UNCONFIRMED = "unconfirmed"
    PROOF_MISSING = "proof-missing"
    SCOPE_MISMATCH = "scope-mismatch"
    THIRD_PARTY_UNNAMED = "third-party-unnamed"
    NOT_OWN_ENTITY = "not-own-entity"
    NOT_A_SALE = "not-a-sale"
    NO_OBJECTION_OFFERED = "no-objection-offered"
    ADDRESS_NOT_FROM_CUSTOMER = "address-not-from-customer"
    NOT_SIMILAR = "not-similar"
    EXPIRED = "expired"
    DORMANT = "dormant"
    NOT_IN_FORCE = "not-in-force"
    PURPOSE_MISMATCH = "purpose-mismatch"
    WITHDRAWAL_INFO_MISSING = "withdrawal-info-missing"
    PERMISSION_REQUEST = "permission-request"
    MIXED_PURPOSE = "mixed-purpose"
    NO_IDENTITY = "no-identity"
    NO_POSTAL_ADDRESS = "no-postal-address"
    NO_UNSUBSCRIBE = "no-unsubscribe"
    UNSUBSCRIBE_NOT_EASY = "unsubscribe-not-easy"
    MISLEADING_SUBJECT = "misleading-subject"
    VISIBLE_RECIPIENTS = "visible-recipients"
    UNKNOWN_JURISDICTION = "unknown-jurisdiction"
    INVALID_ADDRESS = "invalid-address"
    NOT_AUTHORISED = "not-authorised"

    FREQUENCY_CAP = "frequency-cap"
    QUIET_HOURS = "quiet-hours"
    HELD = "held"
    STORE_UNAVAILABLE = "store-unavailable"


class Answer(StrEnum):
    """A condition is met, is not, or cannot be told; the last counts as no."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the trace: which pack and rule asked what, of which event, and the answer.

    `detail` is a short fact in words ("box preticked"), never an address.
    """

    pack: str
    rule: str
    condition: str
    answer: Answer
    event: str = ""
    detail: str = ""


class Trace(Sequence[Step]):
    """The steps of a decision; it is asked again for them when somebody reads them.

    `ask` gives all of them, the same each time.
    """

    __slots__ = ("_ask", "_steps")

    def __init__(self, ask: Callable[[], tuple[Step, ...]]) -> None:
        self._ask = ask
        self._steps: tuple[Step, ...] | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps, in the order in which they were asked."""
        if self._steps is None:
            self._steps = self._ask()
        return self._steps

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Step, ...]: ...
    def __getitem__(self, index: int | slice) -> Step | tuple[Step, ...]:
        return self.steps[index]

    def __len__(self) -> int:
        return len(self.steps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.steps == tuple(other)

    def __hash__(self) -> int:
        return hash(self.steps)

    def __repr__(self) -> str:
        return repr(self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """The ledger entry on which an allowed mail rests."""

    rule: str
    event: str = ""
    evidence: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of facts that would flip the verdict: which fact, from what, to what."""

    fact: str
    now: str
    needed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer for one recipient.

    `pack` is `id@version#digest`; `cite` the article; `event` the entry that decided a block;
    `obligations` what must be injected before sending; `expires_at` the moment from which the basis
    no longer holds (for a term in days, the midnight after its last permitted day in the pack's
    zone), in UTC; `jurisdiction` the id of the first pack that applied. A deferred mail keeps the
    basis that it would leave on; `until` is when that may be tried, in UTC.
    """

    verdict: Verdict
    reason: Reason
    cite: str = ""
    pack: str = ""
    rule: str = ""
    jurisdiction: str = ""
    basis: Basis | None = None
    event: str = ""
    obligations: tuple[str, ...] = ()
    expires_at: datetime | date | None = None
    until: datetime | None = None
    needs_review: bool = False
    trace: Sequence[Step] = ()
    counterfactual: tuple[Change, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether the mail may leave now."""
        return self.verdict is Verdict.ALLOW
