"""The inverse of `facts.journal_json`: the facts of a decision, read back from the journal.

Every version that was ever written stays readable. What is not recorded (the sender's names and
similar products, the stream's settings) is the caller's: a back-test takes it from the settings it
tries.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

import orjson

from policy import model
from policy.events import detail_from
from policy.model import Event, Facts, Message, Recipient, Sent
from proxy import config
from proxy.config.overlay import zone
from proxy.facts import HELD_ELSEWHERE, RECORD_VERSION

Read = Callable[[Any], object]


class RecordError(ValueError):
    """A record of the journal cannot be read: damaged, or of a newer version."""


def facts_from_record(text: str, sender: Callable[[str], model.Sender]) -> Facts:
    """The facts that `journal_json` wrote as `text`. Raises `RecordError`.

    `sender` gives the sender's facts by id and may raise `KeyError`. The recipient's address is
    not known any more; one of the same top-level domain stands for it.
    """
    try:
        record = orjson.loads(text)
        version = record["v"]
        if version not in range(1, RECORD_VERSION + 1):
            raise RecordError(f"version {version} of a record is not known here")
        recipient = dict(record["recipient"])
        tld = recipient.pop("tld", "") if version == 1 else record["tld"]
        return Facts(
            at=datetime.fromisoformat(record["at"]),
            sender=sender(record["sender"]),
            recipient=_made(Recipient, recipient, address=f"?@?.{tld}" if tld else ""),
            message=_made(Message, record["message"]),
            events=tuple(_event(e, record["sender"], version) for e in record["events"]),
            sent=tuple(Sent(s, datetime.fromisoformat(at)) for s, at in record.get("sent", ())),
            zone=zone(recipient.get("timezone")),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"a record cannot be read: {type(error).__name__} {error}") from error


def under_settings(facts: Facts, stream: config.Stream) -> Facts:
    """The same case where the stream's own settings are those of `stream`."""
    return replace(
        facts,
        recipient=replace(facts.recipient, local_rules_met=stream.local_rules_met),
        message=replace(
            facts.message,
            visible_recipients_allowed=stream.visible_recipients != "refuse",
            overlay=stream.overlay,
        ),
    )


def _event(record: Mapping[str, Any], own: str, version: int) -> Event:
    evidence = record["evidence"]
    if version == 1 and record["sender"] != own:
        evidence = HELD_ELSEWHERE  # version 1 did not say whether there was any
    return Event(
        at=datetime.fromisoformat(record["at"]),
        recorded_at=datetime.fromisoformat(record["recorded_at"]),
        sender=record["sender"],
        detail=detail_from(record["type"], record["fields"]),
        evidence=evidence,
        uid=record["uid"],
        exact=record["exact"],
    )


def _made(class_: type[Any], record: Mapping[str, Any], **more: object) -> Any:
    readers = _READERS[class_]
    return class_(**{name: readers[name](value) for name, value in record.items()}, **more)


def _readers(class_: type[Any]) -> dict[str, Read]:
    """A reader for each field of a class of facts, by its declared type.

    A field of a type that has none is no part of the record.
    """
    return {
        name: reader
        for name, hint in get_type_hints(class_).items()
        if (reader := _reader(hint)) is not None
    }


def _reader(hint: Any) -> Read | None:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        [inner] = [a for a in arguments if a is not types.NoneType]
        read = _reader(inner)
        return read and (lambda value: None if value is None else read(value))
    if origin in (tuple, frozenset):
        item = _reader(arguments[0])
        make = cast(Callable[[Any], object], origin)
        return item and (lambda value: make(item(one) for one in _list(value)))
    if hint in (str, int, bool):
        return lambda value: _plain(value, hint)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint
    if hint in (datetime, date):
        return cast(Read, hint.fromisoformat)
    return None


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise RecordError("a record has no list where one belongs")
    return value


def _plain(value: object, type_: type) -> object:
    if type(value) is not type_:
        raise RecordError(f"a record has {type(value).__name__} where {type_.__name__} belongs")
    return value


_READERS: dict[type[Any], dict[str, Read]] = {
    class_: _readers(class_) for class_ in (Recipient, Message)
}
