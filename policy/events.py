"""One codec between the ledger's details and plain fields.

Vectors, import, store and API all read and write events through it, so a field means one thing
everywhere. It is strict: an unknown key, a wrong type or a value outside its list raises
`FieldError`; it fills in nothing but the defined defaults of `policy.model`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any, cast

from policy.model import (
    Bounce,
    Box,
    Complaint,
    ComplaintVia,
    Contact,
    ContactVia,
    Detail,
    Kind,
    Objection,
    ObjectionOffered,
    OptIn,
    Published,
    PublishedPurpose,
    Registry,
    Relationship,
    Scope,
    Severity,
    Stage,
    Via,
)

Reader = Callable[[object], object]

CLOCK_SKEW = timedelta(minutes=5)
_TEXT_MAX = 2000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_UNDECODED = re.compile(r"[\ud800-\udfff]")


class FieldError(ValueError):
    """A field of an event or recipient cannot be read; `key` names it, `str()` says why."""

    def __init__(self, key: str, words: str) -> None:
        super().__init__(f"{key}: {words}" if key else words)
        self.key = key
        self.words = words


def text(value: object) -> str:
    """A string without control characters, at most 2000 characters."""
    if not isinstance(value, str):
        raise FieldError("", f"expected text, not {_kind(value)}")
    if len(value) > _TEXT_MAX:
        raise FieldError("", f"longer than {_TEXT_MAX} characters")
    if _CONTROL.search(value):
        raise FieldError("", "contains a control character")
    if _UNDECODED.search(value):
        raise FieldError("", "not UTF-8")
    return value


def truth(value: object) -> bool:
    """A boolean; nothing else stands for one."""
    if not isinstance(value, bool):
        raise FieldError("", f"expected true or false, not {_kind(value)}")
    return value


def whole(value: object) -> int:
    """A whole number of zero or more."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldError("", f"expected a whole number, not {_kind(value)}")
    if value < 0:
        raise FieldError("", "may not be negative")
    return value


def zone_name(value: object) -> str:
    """The form of a name of the IANA time zone database: `Europe/Amsterdam`, `UTC`."""
    name = text(value)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}", name):
        raise FieldError("", "not the name of a time zone, such as Europe/Amsterdam")
    return name


def texts(value: object) -> tuple[str, ...]:
    """A list of non-empty strings."""
    if not isinstance(value, list | tuple):
        raise FieldError("", f"expected a list of texts, not {_kind(value)}")
    items = tuple(text(item) for item in value)
    if not all(items):
        raise FieldError("", "contains an empty text")
    return items


def instant(value: object) -> datetime:
    """An aware time, as a `datetime` or in ISO 8601; returned in UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise FieldError("", "not a time in ISO 8601") from None
    if not isinstance(value, datetime):
        raise FieldError("", f"expected a time, not {_kind(value)}")
    if value.tzinfo is None:
        raise FieldError("", "time without a zone")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise FieldError("", "time out of range") from None


def until(value: object) -> datetime | date:
    """A date (which includes that day) or an instant."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise FieldError("", "not a date in ISO 8601") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    return instant(value)


def one_of(choices: type[StrEnum]) -> Reader:
    """A reader of one word of a closed list."""

    def read(value: object) -> StrEnum:
        try:
            return choices(text(value))
        except ValueError as error:
            if isinstance(error, FieldError):
                raise
            raise FieldError("", "expected one of " + ", ".join(choices)) from None

    return read


def country(value: object) -> str:
    """An ISO 3166-1 alpha-2 code, upper-cased."""
    code = text(value).upper()
    if code == "UK":
        raise FieldError("", "the country code of the United Kingdom is GB")
    if re.fullmatch(r"[A-Z]{2}", code) is None:
        raise FieldError("", "expected a country code of two letters")
    return code


_TYPES: dict[str, type[Detail]] = {
    "opt-in": OptIn,
    "relationship": Relationship,
    "published": Published,
    "objection": Objection,
    "contact": Contact,
    "bounce": Bounce,
    "complaint": Complaint,
    "registry": Registry,
}
_NAMES = {class_: name for name, class_ in _TYPES.items()}
_FIELDS = {
    class_: tuple((field.name, field.default) for field in dataclasses.fields(class_))
    for class_ in _NAMES
}

_READERS: dict[str, dict[str, Reader]] = {
    "opt-in": {
        "box": one_of(Box),
        "topics": texts,
        "products": texts,
        "confirmed_at": instant,
        "text_version": text,
        "source": text,
        "ip": text,
        "valid_until": until,
        "third_parties": texts,
        "channels": texts,
        "withdrawal_info_given": truth,
    },
    "relationship": {
        "stage": one_of(Stage),
        "paid": truth,
        "indirect_remuneration": truth,
        "products": texts,
        "address_from_customer": truth,
        "informed": truth,
        "objection_offered": one_of(ObjectionOffered),
        "ended_at": instant,
        "text_version": text,
        "source": text,
        "ip": text,
    },
    "published": {
        "purpose": one_of(PublishedPurpose),
        "no_spam_notice": truth,
        "informed_at_collection": truth,
    },
    "objection": {
        "scope": one_of(Scope),
        "topics": texts,
        "stream": text,
        "via": one_of(Via),
    },
    "contact": {"via": one_of(ContactVia)},
    "bounce": {"severity": one_of(Severity), "status": text},
    "complaint": {"via": one_of(ComplaintVia)},
    "registry": {"registry": text},
}

EVENT_FIELDS: Mapping[str, tuple[str, ...]] = {
    name: tuple(readers) for name, readers in _READERS.items()
}

_RECIPIENT: dict[str, Reader] = {
    "country": country,
    "kind": one_of(Kind),
    "language": text,
    "timezone": zone_name,
    "legal_person": truth,
    "function": text,
    "address_mainly_business": truth,
    "account_abandoned": truth,
    "last_marketing_at": instant,
}
RECIPIENT_FIELDS: tuple[str, ...] = tuple(_RECIPIENT)


def read_fields(fields: Mapping[str, object], readers: Mapping[str, Reader]) -> dict[str, object]:
    """Each field through its reader. Raises `FieldError` naming the first key that fails."""
    typed: dict[str, object] = {}
    for key, value in fields.items():
        reader = readers.get(key)
        if reader is None:
            raise FieldError(key, "unknown field")
        try:
            typed[key] = reader(value)
        except FieldError as error:
            raise FieldError(key, error.words) from None
    return typed


def detail_from(type_: str, fields: Mapping[str, object]) -> Detail:
    """Read the fields of one event. Raises `FieldError`.

    Values are str, bool, list of str, aware datetime (or ISO 8601 text) and date.
    """
    if type_ not in _TYPES:
        raise FieldError("type", "expected one of " + ", ".join(_TYPES))
    typed = read_fields(fields, _READERS[type_])
    if type_ == "registry" and not typed.get("registry"):
        raise FieldError("registry", "names no list")
    return _TYPES[type_](**cast(dict[str, Any], typed))


def type_of(detail: Detail) -> str:
    """The ledger's word for a detail: "opt-in", "relationship", ..."""
    return _NAMES[type(detail)]


def fields_of(detail: Detail) -> dict[str, object]:
    """JSON-able fields that `detail_from` reads back; unknown and default values are left out."""
    plain: dict[str, object] = {}
    for name, default in _FIELDS[type(detail)]:
        value = getattr(detail, name)
        if value is None or value is default or value == default:
            continue
        if isinstance(value, datetime):
            plain[name] = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        elif isinstance(value, date):
            plain[name] = value.isoformat()
        elif isinstance(value, tuple):
            plain[name] = list(value)
        elif isinstance(value, StrEnum):
            plain[name] = value.value
        else:
            plain[name] = value
    return plain


def recipient_from(fields: Mapping[str, object]) -> dict[str, object]:
    """Read attributes of a recipient into their types. Raises `FieldError`."""
    return read_fields(fields, _RECIPIENT)


def check_at(at: datetime, recorded_at: datetime) -> None:
    """Refuse an event more than five minutes ahead of the clock that records it (`FieldError`)."""
    if at - recorded_at > CLOCK_SKEW:
        raise FieldError("at", "more than five minutes in the future")


def _kind(value: object) -> str:
    return type(value).__name__
