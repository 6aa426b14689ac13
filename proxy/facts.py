"""Rows + message + config -> `Facts`: the only builder, so that SMTP, `explain` and preflight
cannot differ.

Nothing is filled in that is not known: a fact nobody recorded stays None, and the engine lets
unknown help nobody. The canonical JSON kept in the journal holds the facts that a decision used,
without the address.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any

import orjson

from policy import model
from policy.address import Address
from policy.events import fields_of, recipient_from, type_of
from policy.model import (
    NO_OVERLAY,
    Category,
    Facts,
    Message,
    Purpose,
    Recipient,
    Sent,
    SimilarGroup,
)
from policy.overlay import caps
from proxy import config
from proxy.config.overlay import zone
from proxy.message.control import Control
from proxy.message.inspect import Shown
from proxy.store.model import Known, Room


def sender_facts(sender: config.Sender) -> model.Sender:
    """The legal entity as the engine sees it."""
    return model.Sender(
        id=sender.id,
        names=(sender.name, *sender.known_as),
        country=sender.country,
        similar=tuple(
            SimilarGroup(products=g.products, reviewer=g.reviewer, reviewed_on=g.reviewed_on)
            for g in sender.similar
        ),
        lifetimes=dict(sender.lifetimes),
        candidate_countries=tuple(sender.candidate_countries),
        overlay=sender.overlay,
    )


def message_facts(
    stream: config.Stream,
    category: Category,
    control: Control,
    shown: Shown | None,
    visible_recipients: int | None,
    *,
    can_inject: frozenset[str] = frozenset(),
    promotion: bool = False,
) -> Message:
    """What is known of the message. `shown` is None where its MIME was not looked at (no duty is
    owed); `can_inject` are duties that Sluis can meet itself; `promotion` tells that transactional
    mail is declared promotional, or counts as it."""
    return Message(
        stream=stream.id,
        campaign=control.campaign or None,
        category=category,
        purpose=Purpose(stream.purpose),
        products=control.products or tuple(stream.products),
        topics=control.topics or tuple(stream.topics) or None,
        template=control.template or None,
        promotion=promotion if category is not Category.MARKETING else None,
        sender_identity=shown.sender_identity if shown else None,
        postal_address=shown.postal_address if shown else None,
        unsubscribe=shown.unsubscribe if shown else None,
        unsubscribe_valid_days=shown.unsubscribe_valid_days if shown else None,
        fake_reply=shown.fake_reply if shown else None,
        visible_recipients=visible_recipients,
        visible_recipients_allowed=stream.visible_recipients != "refuse",
        can_inject=can_inject,
        overlay=stream.overlay,
    )


def assumed_message(
    stream: config.Stream, products: tuple[str, ...] = (), topics: tuple[str, ...] = ()
) -> Message:
    """A message of `stream` that meets every duty: for `explain`, where there is no MIME to look
    at."""
    marketing = stream.category is Category.MARKETING
    return Message(
        stream=stream.id,
        category=Category(stream.category),
        purpose=Purpose(stream.purpose),
        products=products or tuple(stream.products),
        topics=topics or tuple(stream.topics) or None,
        promotion=None if marketing else False,
        sender_identity=True,
        postal_address=True,
        unsubscribe=model.Unsubscribe.LINK,
        unsubscribe_valid_days=0,
        advertisement_label=True,
        fake_reply=False,
        visible_recipients=1,
        overlay=stream.overlay,
    )


def recipient_facts(address: Address, known: Known, stream: config.Stream) -> Recipient:
    """The person behind an address, from the columns recorded for this sender."""
    return Recipient(
        address=address.exact, local_rules_met=stream.local_rules_met, **_columns(known)
    )


def _attributes(known: Known) -> dict[str, Any]:
    items = known.attributes.items()
    try:
        return dict(_typed(tuple([(key, value, type(value)) for key, value in items])))
    except TypeError:  # a list: it cannot be a key
        return recipient_from(known.attributes)


@lru_cache(maxsize=4096)
def _typed(items: tuple[tuple[str, object, type], ...]) -> dict[str, object]:
    """`recipient_from`, remembered: the columns of a ledger are a few values repeated.

    The types are part of what is asked, as 1 equals True.
    """
    return recipient_from({key: value for key, value, _ in items})


def _columns(known: Known) -> dict[str, Any]:
    values = _attributes(known) if known.attributes else {}
    last = known.last_marketing_at
    imported = values.pop("last_marketing_at", None)
    if imported is not None and last is not None:
        # An imported value only shortens: without a mail in our own journal it starts no clock.
        last = min(last, imported)
    values["last_marketing_at"] = last
    return values


_SOME_MARKETING = Message(category=Category.MARKETING, purpose=Purpose.COMMERCIAL)


def person_facts(sender: model.Sender, address: str, known: Known, at: datetime) -> Facts:
    """A person and some marketing mail of `sender`: for counting who may be written to.

    `address` "" where it was erased: the country of its domain is not among the candidates then.
    """
    return facts_for(
        at=at,
        sender=sender,
        recipient=Recipient(address=address, **_columns(known)),
        message=_SOME_MARKETING,
        known=known,
    )


def facts_for(
    *,
    at: datetime,
    sender: model.Sender,
    recipient: Recipient,
    message: Message,
    known: Known,
    copy_key: str = "",
) -> Facts:
    """Everything one decision may depend on.

    What is on its way, or may have arrived, under `copy_key` is this very mail, and not counted.
    """
    sent: tuple[Sent, ...] = ()
    if known.mails:
        sent = tuple(
            [Sent(m.stream, m.at) for m in known.mails if m.relayed or m.copy_key != copy_key]
        )
    return Facts(
        at=at,
        sender=sender,
        recipient=recipient,
        message=message,
        events=known.events,
        sent=sent,
        zone=None if recipient.timezone is None else zone(recipient.timezone),
    )


def mails_since(stream: config.Stream, sender: config.Sender, at: datetime) -> datetime | None:
    """From when on a mail of `stream` at `at` must know what a person had; None where no cap is."""
    window = cap_window(stream, sender)
    return None if window is None else at - window


def cap_window(stream: config.Stream, sender: config.Sender) -> timedelta | None:
    """The longest time that a frequency cap looks back on; None where no cap is."""
    windows = [o.cap.window for o in (stream.overlay, sender.overlay) if o.cap is not None]
    return max(windows, default=None)


def room_for(facts: Facts) -> tuple[Room, ...]:
    """What the caps ask of the commit that starts this marketing mail."""
    if facts.message.overlay is NO_OVERLAY and facts.sender.overlay is NO_OVERLAY:
        return ()
    return tuple(
        Room(stream=stream, since=facts.at - cap.window, most=cap.most)
        for stream, cap in caps(facts)
    )


#: The version of what `journal_json` writes; `proxy/recorded.py` reads this and the older ones.
RECORD_VERSION = 2

#: Stands in the journal for another sender's evidence, which is theirs to show; that there is some
#: is a fact of the decision.
HELD_ELSEWHERE = "(held by another sender)"

#: Not recorded: the address, and settings, of which a back-test takes those it tries.
_UNRECORDED = frozenset({"address", "overlay"})


def journal_message(message: Message) -> orjson.Fragment:
    """The part of `journal_json` that all recipients of a mail have in common."""
    return orjson.Fragment(_dumps(_known_fields(message)))


def journal_json(facts: Facts, message: orjson.Fragment | None = None) -> str:
    """The facts as canonical JSON for the journal: no address, and no other sender's evidence.

    What has its default is left out. Of the address its top-level domain is kept, as a country.
    `message` is `journal_message` of the same facts, where that is known.
    """
    domain = facts.recipient.address.rpartition("@")[2]
    own = facts.sender.id
    events = [
        {
            "uid": e.uid,
            "type": type_of(e.detail),
            "at": e.at,
            "recorded_at": e.recorded_at,
            "sender": e.sender,
            "exact": e.exact,
            "evidence": e.evidence if e.sender == own or not e.evidence else HELD_ELSEWHERE,
            "fields": _recorded(e.detail),
        }
        for e in facts.events
    ]
    record: dict[str, object] = {
        "v": RECORD_VERSION,
        "at": facts.at,
        "sender": own,
        "recipient": _known_fields(facts.recipient),
        "tld": domain.rpartition(".")[2] if "." in domain else "",
        "message": message or _known_fields(facts.message),
        "events": events,
    }
    if facts.sent:
        record["sent"] = [[mail.stream, mail.at] for mail in facts.sent]
    return _dumps(record).decode()


def _dumps(record: object) -> bytes:
    return orjson.dumps(record, default=_plain, option=orjson.OPT_SORT_KEYS)


#: By id of a detail: the detail, which keeps the id from being another's, and its fields as JSON.
#: The store gives one detail for each text that it holds.
_DETAILS: dict[int, tuple[model.Detail, orjson.Fragment]] = {}
_MOST_DETAILS = 1024


def _recorded(detail: model.Detail) -> orjson.Fragment:
    known = _DETAILS.get(id(detail))
    if known is None:
        if len(_DETAILS) >= _MOST_DETAILS:
            _DETAILS.clear()
        fragment = orjson.Fragment(_dumps(fields_of(detail)))
        known = _DETAILS[id(detail)] = detail, fragment
    return known[1]


def _recorder(
    kind: type[Recipient | Message],
) -> tuple[attrgetter[Any], tuple[tuple[str, Any], ...]]:
    defaults = {f.name: f.default for f in fields(kind) if f.name not in _UNRECORDED}
    return attrgetter(*defaults), tuple(defaults.items())


_RECORDED = {kind: _recorder(kind) for kind in (Recipient, Message)}


def _known_fields(value: Recipient | Message) -> dict[str, object]:
    values, defaults = _RECORDED[type(value)]
    known: dict[str, object] = {}
    for held, (name, default) in zip(values(value), defaults, strict=True):
        if held is not default and held != default:
            known[name] = held
    return known


def _plain(value: object) -> object:
    if isinstance(value, frozenset):
        return sorted(str(v) for v in value)
    raise TypeError(type(value).__name__)
