"""Which stream a message belongs to, and what kind of mail it is (design section 2, "Class of a
message").

Inputs are taken in a fixed order of trust; the first that names a stream gives it, and a weaker
input may only make the class *stricter*. What no input names is marketing. Nothing here reads the
body.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from policy.model import Category
from proxy.config.models import Credential, Listener, Settings, Stream

#: From the laxest to the strictest; an enforced stream is stricter than an observed one of its
#: category.
_CATEGORY_RANK = {Category.PERSONAL: 0, Category.TRANSACTIONAL: 1, Category.MARKETING: 2}

#: What a `personal` stream may be used for (design section 2); beyond it the mail is marketing.
PERSONAL_RECIPIENTS = 10


class Signals(NamedTuple):
    """What the header block says about the kind of mail, already read from the bytes.

    `from_domain` and `list_id` are lower case, "" when absent; `list_fields` whether any List-*
    field is there; `bulk` whether Precedence says bulk, list or junk; `report` whether the root
    type is multipart/report; `auto_submitted` whether Auto-Submitted is there and is not "no";
    `solicitation` whether its sender calls it a solicitation (RFC 3865 section 2.4).
    """

    from_domain: str = ""
    list_id: str = ""
    list_fields: bool = False
    bulk: bool = False
    report: bool = False
    auto_submitted: bool = False
    solicitation: bool = False


class Class(NamedTuple):
    """The stream of a message, what it counts as, and which input said so.

    `null` marks mail from the null sender that passes untouched (RFC 5321 4.5.5: bounces,
    receipts).
    """

    stream: Stream
    category: Category
    source: str
    null: bool = False


@dataclass(frozen=True, slots=True)
class Unclassified:
    """No stream may be used; `why` names the domain and the key to set."""

    why: str


#: The stream that the inputs choose (None: none of them names one), and which input said so.
Chosen = tuple[Stream | None, str]


class Chooser:
    """Chooses streams under one configuration.

    What the mails of one application say is the same in all of them, so a choice is kept, up to a
    bound.
    """

    _MOST = 1000
    _LONGEST = 512

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._certain: dict[tuple[str, str, str], Stream | None] = {}
        self._kept: dict[tuple[str, str, str, str, str, str], Chosen] = {}

    def certain(
        self, listener: Listener, credential: Credential | None, mail_domain: str
    ) -> Stream | None:
        """As `certain_stream`."""
        key = (listener.address, credential.username if credential is not None else "", mail_domain)
        if key in self._certain:
            return self._certain[key]
        stream = certain_stream(
            self._settings, listener=listener, credential=credential, mail_domain=mail_domain
        )
        if len(self._certain) >= self._MOST:
            self._certain.clear()
        self._certain[key] = stream
        return stream

    def choose(
        self,
        listener: Listener,
        credential: Credential | None,
        header_stream: str,
        mail_domain: str,
        signals: Signals,
    ) -> Chosen:
        """As `classify` says of its parameters. Raises `KeyError`."""
        key = (
            listener.address,
            credential.username if credential is not None else "",
            header_stream,
            mail_domain,
            signals.from_domain,
            signals.list_id,
        )
        chosen = self._kept.get(key)
        if chosen is None:
            chosen = _chosen(
                self._settings, listener, credential, header_stream, mail_domain, signals
            )
            if sum(map(len, key)) <= self._LONGEST:
                if len(self._kept) >= self._MOST:
                    self._kept.clear()
                self._kept[key] = chosen
        return chosen


def classify(
    settings: Settings,
    *,
    listener: Listener,
    credential: Credential | None,
    header_stream: str,
    mail_domain: str,
    null_sender: bool,
    recipients: int,
    signals: Signals,
    personal_used_up: bool = False,
    chooser: Chooser | None = None,
) -> Class | Unclassified:
    """The class of one message.

    `header_stream` is the value of `Sluis-Stream` ("" when absent), `mail_domain` the domain of
    MAIL FROM in lower case ("" for the null sender). `personal_used_up` tells that the credential's
    daily allowance for personal mail, or that of this body, is spent. `chooser` is one of the same
    settings, that remembers. Raises `KeyError` when `header_stream` names no configured stream: a
    typing error must never choose another stream.
    """
    choose = (chooser or Chooser(settings)).choose
    chosen, source = choose(listener, credential, header_stream, mail_domain, signals)
    if null_sender and _passes_as_null(recipients, signals):
        if chosen is None:
            chosen, source = settings.implicit, "null sender"
        if chosen is None:
            return Unclassified(_nobody(mail_domain, signals))
        if chosen.category is not Category.MARKETING or chosen.implicit:
            return Class(chosen, Category.TRANSACTIONAL, source, null=True)
        return Unclassified(f"null sender on marketing stream {chosen.id}")
    if chosen is None:
        chosen, source = settings.implicit, "none"
        if chosen is None:
            return Unclassified(_nobody(mail_domain, signals))
    if null_sender and chosen.category is Category.MARKETING:
        return Unclassified(f"null sender on marketing stream {chosen.id}")
    if chosen.category is Category.PERSONAL and (
        signals.list_fields
        or signals.bulk
        or signals.solicitation
        or recipients > PERSONAL_RECIPIENTS
        or personal_used_up
    ):
        return Class(chosen, Category.MARKETING, f"{source}, beyond personal")
    return Class(chosen, chosen.category, source)


def certain_stream(
    settings: Settings,
    *,
    listener: Listener,
    credential: Credential | None,
    mail_domain: str,
) -> Stream | None:
    """The enforced marketing stream that the message will belong to whatever its header says, if
    any.

    Only then may a recipient be refused at RCPT: nothing that is still to come can loosen the
    class, and no other stream of the same strictness can take its place.
    """
    may_set = listener.may_set_stream or (credential is not None and credential.may_set_stream)
    forced = (credential is not None and credential.stream) or listener.stream
    if may_set and not forced:
        return None
    for _, stream in _inputs(settings, listener, credential, "", mail_domain, Signals()):
        if stream.category is not Category.MARKETING or stream.mode != "enforce":
            return None
        return stream
    return None


def _chosen(
    settings: Settings,
    listener: Listener,
    credential: Credential | None,
    header_stream: str,
    mail_domain: str,
    signals: Signals,
) -> Chosen:
    chosen: Stream | None = None
    source = ""
    for name, stream in _inputs(
        settings, listener, credential, header_stream, mail_domain, signals
    ):
        if chosen is None:
            chosen, source = stream, name
        elif _strictness(stream) > _strictness(chosen):
            chosen, source = stream, f"{name}, stricter than {source}"
    return chosen, source


def _inputs(
    settings: Settings,
    listener: Listener,
    credential: Credential | None,
    header_stream: str,
    mail_domain: str,
    signals: Signals,
) -> Iterator[tuple[str, Stream]]:
    may_set = listener.may_set_stream or (credential is not None and credential.may_set_stream)
    named = settings.stream(header_stream) if header_stream else None
    if credential is not None and credential.stream:
        yield "credential", settings.stream(credential.stream)
    if listener.stream:
        yield "listener", settings.stream(listener.stream)
    if named is not None and may_set:
        yield "Sluis-Stream", named
    forced = (credential is not None and credential.stream) or listener.stream
    if (
        credential is not None
        and credential.default_stream
        and not forced
        and not (named and may_set)
    ):
        # A default stands in for a stream that nobody named; it is no opinion on one that was.
        yield "credential default", settings.stream(credential.default_stream)
    by_envelope = _by_domain(settings, mail_domain)
    by_from = _by_domain(settings, signals.from_domain)
    if by_envelope is not None:
        yield "envelope domain", by_envelope
    if by_from is not None:
        yield "From domain", by_from
    by_list = _by_list_id(settings.streams, signals.list_id)
    if by_list is not None:
        yield "List-Id", by_list
    if named is not None and not may_set:
        # Not allowed to choose; as the weakest input it may still make the class stricter.
        if by_envelope is None and by_from is None and by_list is None:
            implicit = settings.implicit
            if implicit is not None:
                yield "none", implicit
        yield "Sluis-Stream", named


def _strictness(stream: Stream) -> tuple[int, bool]:
    return _CATEGORY_RANK[Category(stream.category)], stream.mode == "enforce"


def _by_domain(settings: Settings, domain: str) -> Stream | None:
    """The strictest stream that lists the domain; `personal` is never chosen by domain."""
    found = [s for s in settings.streams_of_domain(domain) if s.category is not Category.PERSONAL]
    return max(found, key=_strictness, default=None)  # max keeps the first of equals


def _by_list_id(streams: Iterable[Stream], list_id: str) -> Stream | None:
    if not list_id:
        return None
    return next((s for s in streams if s.list_id and s.list_id.lower() == list_id), None)


def _passes_as_null(recipients: int, signals: Signals) -> bool:
    return (
        recipients == 1 and not signals.list_fields and (signals.report or signals.auto_submitted)
    )


def _nobody(mail_domain: str, signals: Signals) -> str:
    domain = mail_domain or signals.from_domain or "(none)"
    return f"no stream has {domain} in from_domains"
