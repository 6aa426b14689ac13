"""Reading consents from files: CSV or JSONL, row by row, each bad row with line, column and reason.

Nothing is guessed and nothing is filled in: an absent column is an unknown fact. A row in error is
skipped and told; all others are kept. Importing the same file again adds nothing (design section 4,
"Import columns").
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import orjson
from email_validator import EmailNotValidError, validate_email

from policy.address import Address, AddressError, parse
from policy.events import (
    EVENT_FIELDS,
    RECIPIENT_FIELDS,
    FieldError,
    detail_from,
    recipient_from,
    text,
)
from policy.model import Detail
from proxy.config.overlay import zone
from proxy.keys import Keys
from proxy.store.model import NewAttributes, NewEvent

#: An `at` further ahead than this is refused: an objection or consent of tomorrow is a wrong clock.
FUTURE = timedelta(minutes=5)

_COMMON = ("sender", "address", "type", "at", "evidence")
_KNOWN_COLUMNS = (
    *_COMMON,
    *dict.fromkeys(n for names in EVENT_FIELDS.values() for n in names),
    *RECIPIENT_FIELDS,
)
_TIMES = frozenset({"at", "confirmed_at", "ended_at", "last_marketing_at", "valid_until"})
_LISTS = frozenset({"topics", "products", "third_parties", "channels"})
_BOOLS = frozenset(
    {
        "paid",
        "indirect_remuneration",
        "address_from_customer",
        "informed",
        "withdrawal_info_given",
        "no_spam_notice",
        "informed_at_collection",
        "legal_person",
        "address_mainly_business",
        "account_abandoned",
    }
)
_BLOCKING = frozenset({"objection", "complaint", "bounce"})
_TRUE = frozenset({"true", "yes", "1", "ja"})
_FALSE = frozenset({"false", "no", "0", "nee"})
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


class FileError(ValueError):
    """The file as a whole cannot be read; says line and column where there is one, and the
    remedy."""


@dataclass(frozen=True, slots=True)
class RowError:
    """One row that was skipped. `column` is the file's own name for it, "" for the whole row."""

    line: int
    column: str
    reason: str

    def __str__(self) -> str:
        where = f"line {self.line}" + (f", column {self.column}" if self.column else "")
        return f"{where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One good row: an event, and the recipient's attributes where the row has any."""

    line: int
    event: NewEvent
    attributes: NewAttributes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to read: `senders` the configured ids, `columns` theirs -> ours, `preset` ours -> value.

    `imported` marks opt-ins as coming from a file: such a one lifts no earlier objection.
    """

    senders: frozenset[str]
    sender: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    preset: Mapping[str, str] = field(default_factory=dict)
    timezone: tzinfo | None = None
    imported: bool = True
    subaddress: Mapping[str, str] = field(default_factory=dict)


def event_uid(sender: str, exact: str, type_: str, at: datetime, evidence: str) -> str:
    """The identity of an imported event: the same five values are the same event (design section
    4)."""
    same = "\0".join((sender, exact, type_, at.isoformat(), evidence))
    return hashlib.sha256(same.encode()).hexdigest()[:32]


def read_entries(
    path: Path, options: Options, keys: Keys, clock: Callable[[], datetime]
) -> Iterator[Entry | RowError]:
    """The rows of `path` (JSONL when it ends in .jsonl or .ndjson, else CSV), in order, streaming.

    Raises `FileError` when the file cannot be read as a whole: encoding, header, unknown column.
    """
    jsonl = path.suffix.lower() in {".jsonl", ".ndjson"}
    try:
        with path.open("rb") as file:
            rows = _json_rows(file, options) if jsonl else _csv_rows(file, options)
            for line, row in rows:
                if isinstance(row, RowError):
                    yield row
                    continue
                yield entry_of(line, row, options, keys, clock)
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}") from error


class _Bad(Exception):
    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column = column
        self.reason = reason


_Row = dict[str, object]


def _csv_rows(file: io.BufferedReader, options: Options) -> Iterator[tuple[int, _Row | RowError]]:
    head = file.peek(4)[:4]
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise FileError("line 1: the file is UTF-16; save it as CSV UTF-8")
    # Undecodable bytes become surrogates, so that one bad cell costs one row and not the file.
    file_text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    first = file_text.readline()
    if not first.strip():
        raise FileError("line 1: no header row; the first line must name the columns")
    delimiter = max(",;\t", key=first.count)
    lines = _Lines(first, file_text)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader)]
    except csv.Error as error:
        raise FileError(f"line 1: {error}") from error
    ours = _check_header(header, options)
    while True:
        start = lines.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, RowError(start, "", f"not CSV: {error}")
            lines.hand_back()
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            reason = f"{len(cells)} cells where the header has {len(header)}"
            yield start, RowError(start, "", reason)
            lines.hand_back()
            continue
        named = list(zip(header, ours, (c.strip() for c in cells), strict=True))
        bad = next((theirs for theirs, _, cell in named if _undecodable(cell)), None)
        if bad is not None:
            yield start, RowError(start, bad, "not UTF-8")
            continue
        broken = next((theirs for theirs, n, cell in named if n and len(cell.splitlines()) > 1), "")
        if broken:
            yield start, RowError(start, broken, "a line break; is a quote not closed?")
            lines.hand_back()
            continue
        row: _Row = {n: cell for _, n, cell in named if n and cell}
        yield start, row


class _Lines:
    """The lines of a text, of which those after the first of a row may be read again.

    A quote that is not closed makes the reader take the lines below it for one cell: each of them
    may be a row of its own, an objection too, and none may get lost.
    """

    def __init__(self, first: str, rest: Iterable[str]) -> None:
        self._ahead = deque([first])
        self._rest = iter(rest)
        self._row: list[str] = []
        self._number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._ahead.popleft() if self._ahead else next(self._rest)
        self._row.append(line)
        self._number += 1
        return line

    def begin_row(self) -> int:
        """Start a row; the number of its first line."""
        self._row.clear()
        return self._number + 1

    def hand_back(self) -> None:
        """Read the lines of this row again, without the first."""
        again = self._row[1:]
        self._ahead.extendleft(reversed(again))
        self._number -= len(again)


def _undecodable(cell: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in cell)


def _check_header(header: Sequence[str], options: Options) -> list[str]:
    ours = [options.columns.get(name, name) for name in header]
    for index, (theirs, name) in enumerate(zip(header, ours, strict=True)):
        if name == "-":
            ours[index] = ""
        elif name not in _KNOWN_COLUMNS and name != theirs:
            raise FileError(
                f"line 1, column {theirs!r}: --map makes it {name!r}, which is no column of ours. "
                f"Known: {', '.join(_KNOWN_COLUMNS)}"
            )
        elif name not in _KNOWN_COLUMNS:
            raise FileError(
                f"line 1, column {theirs!r}: no such column; use --map '{theirs}=ours', or "
                f"--map '{theirs}=-' to leave it out. Known: {', '.join(_KNOWN_COLUMNS)}"
            )
    named = [name for name in ours if name]
    double = next((n for n in named if named.count(n) > 1), None)
    if double is not None:
        raise FileError(f"line 1, column {double!r}: named twice")
    _check_required(set(named), options)
    return ours


def _check_required(names: set[str], options: Options) -> None:
    have = names | set(options.preset) | ({"sender"} if options.sender else set())
    for name in ("sender", "address", "type", "at"):
        if name not in have:
            raise FileError(f"line 1: no column {name!r}; add it, or --map or --set it")


def _json_rows(file: io.BufferedReader, options: Options) -> Iterator[tuple[int, _Row | RowError]]:
    for number, raw in enumerate(file, start=1):
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")  # noqa: PLW2901  a BOM is allowed
        if not raw.strip():
            continue
        try:
            value = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            yield number, RowError(number, "", f"not JSON: {error}")
            continue
        if not isinstance(value, dict):
            yield number, RowError(number, "", "a line must be a JSON object")
            continue
        row: _Row = {}
        problem: RowError | None = None
        for theirs, cell in value.items():
            name = options.columns.get(theirs, theirs)
            if name == "-" or cell is None or cell == "":
                continue
            if name not in _KNOWN_COLUMNS:
                problem = RowError(number, theirs, "no such key; --map it, or --map it to -")
                break
            row[name] = cell
        yield number, problem or row


def entry_of(
    line: int,
    row: Mapping[str, object],
    options: Options,
    keys: Keys,
    clock: Callable[[], datetime],
) -> Entry | RowError:
    """One row of columns, read and checked as the rows of a file are."""
    try:
        return _entry(
            line, {n: v for n, v in row.items() if v not in (None, "")}, options, keys, clock
        )
    except _Bad as bad:
        theirs = {ours: name for name, ours in options.columns.items()}
        return RowError(line, theirs.get(bad.column, bad.column), bad.reason)


def _entry(
    line: int, row: _Row, options: Options, keys: Keys, clock: Callable[[], datetime]
) -> Entry:
    row = {**options.preset, **row}
    sender = str(row.get("sender") or options.sender or "")
    if not sender:
        raise _Bad("sender", "missing; give it here or with --sender")
    if sender not in options.senders:
        raise _Bad("sender", f"no sender with id {sender!r} in the configuration")
    address = _address(row.get("address"), options, checked=str(row.get("type")) not in _BLOCKING)
    type_ = str(row.get("type") or "")
    if type_ not in EVENT_FIELDS:
        known = ", ".join(EVENT_FIELDS)
        raise _Bad("type", f"{type_!r} is no event type; one of {known}" if type_ else "missing")
    now = clock()
    if "at" not in row:
        raise _Bad("at", "missing")
    at = _time("at", row["at"], options)
    if not isinstance(at, datetime):
        raise _Bad("at", "a date without a time; write 2026-03-01T12:00:00Z")
    if at > now + FUTURE:
        raise _Bad("at", "lies in the future")
    evidence = _evidence(row.get("evidence"))
    detail = _detail(type_, row, options)
    subject = keys.subject(sender, address)
    values = {n: _value(n, row[n], options) for n in RECIPIENT_FIELDS if n in row}
    try:
        recipient_from(values)
    except FieldError as error:
        raise _Bad(error.key, error.words) from error
    if "timezone" in values and zone(str(values["timezone"])) is None:
        raise _Bad("timezone", f"{values['timezone']!r} is no time zone known here")
    event = NewEvent(
        uid=event_uid(sender, address.exact, type_, at, evidence),
        subject=subject,
        detail=detail,
        at=at,
        recorded_at=now,
        evidence=evidence,
        address=address.exact,
    )
    attributes = (
        NewAttributes(subject=subject, at=at, values=_plain_values(values), address=address.exact)
        if values
        else None
    )
    return Entry(line, event, attributes)


def _address(value: object, options: Options, *, checked: bool) -> Address:
    if not isinstance(value, str) or not value:
        raise _Bad("address", "missing" if value in (None, "") else "must be text")
    try:
        address = parse(value.strip(), smtputf8=True, subaddress=options.subaddress)
    except AddressError as error:
        raise _Bad("address", f"not an address that can be sent to: {error}") from error
    if not checked:
        return address  # whoever can be sent to can say no, also at a name that is in no DNS
    try:
        # A second opinion with words for people: misspelt domains, stray characters.
        validate_email(
            address.exact,
            check_deliverability=False,
            allow_quoted_local=True,
            allow_smtputf8=True,
            test_environment=True,
        )
    except EmailNotValidError as error:
        raise _Bad("address", str(error)) from error
    return address


def _evidence(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # an order number of a JSON file
    try:
        return text(value or "")
    except FieldError as error:
        raise _Bad("evidence", error.words) from error


def _detail(type_: str, row: _Row, options: Options) -> Detail:
    allowed = EVENT_FIELDS[type_]
    fields: dict[str, object] = {}
    for name, cell in row.items():
        if name in _COMMON or (name in RECIPIENT_FIELDS and name not in allowed):
            continue
        if name not in allowed:
            raise _Bad(name, f"does not belong to an event of type {type_}")
        fields[name] = _value(name, cell, options)
    if type_ == "opt-in" and options.imported:
        # An import may not lift an earlier objection (decision.md 4): what came this way stays
        # marked.
        given = fields.get("source")
        fields["source"] = f"import:{given}" if given else "import"
    elif type_ == "objection" and "via" not in fields:
        fields["via"] = "import" if options.imported else "staff"
    try:
        return detail_from(type_, fields)
    except FieldError as error:
        raise _Bad(error.key, error.words) from error


def _value(name: str, cell: object, options: Options) -> object:
    if name in _TIMES:
        return _time(name, cell, options)
    if name in _LISTS and isinstance(cell, str):
        return [part.strip() for part in cell.split("|") if part.strip()]
    if name in _BOOLS and isinstance(cell, str):
        word = cell.lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
        raise _Bad(name, f"{cell!r} is neither true nor false")
    return cell


def _time(name: str, cell: object, options: Options) -> datetime | date:
    if not isinstance(cell, str):
        raise _Bad(name, "must be a time as text: 2026-03-01T12:00:00Z")
    if name == "valid_until" and _DATE.fullmatch(cell):
        try:
            return date.fromisoformat(cell)
        except ValueError as error:
            raise _Bad(name, f"{cell!r} is no date") from error
    try:
        value = datetime.fromisoformat(cell)
    except ValueError as error:
        raise _Bad(name, f"{cell!r} is no ISO 8601 time: write 2026-03-01T12:00:00Z") from error
    if value.tzinfo is None:
        if _DATE.fullmatch(cell):
            raise _Bad(name, "a date without a time; write 2026-03-01T12:00:00Z")
        if options.timezone is None:
            raise _Bad(name, f"{cell!r} has no time zone; add Z or an offset, or use --timezone")
        value = value.replace(tzinfo=options.timezone)
    try:
        return value.astimezone(UTC)  # one moment is one event, whatever zone it is written in
    except OverflowError as error:
        raise _Bad(name, f"{cell!r} is out of range") from error


def _plain_values(values: Mapping[str, Any]) -> dict[str, object]:
    return {n: v.isoformat() if isinstance(v, datetime) else v for n, v in values.items()}
