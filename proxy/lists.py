"""A campaign's list: CSV with an address column, one address a line, or JSONL; read row by row.

Any other columns are kept as they are, for the files that `sluis preflight` writes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from policy.address import AddressError, parse
from proxy.imports import FileError

#: Names under which an address column is found, in lower case.
ADDRESS_NAMES = (
    *("address", "email", "e-mail", "mail", "email_address", "email-address", "emailaddress"),
    *("email address", "e-mail address", "e-mailadres", "emailadres", "mailadres", "recipient"),
)

#: What a JSONL line has beside the keys of the first line, as JSON.
MORE = "sluis_more"


@dataclass(frozen=True, slots=True)
class Line:
    """One row. `address` is its text, not yet read as one; `problem` why the row cannot be read."""

    number: int
    address: str
    cells: tuple[str, ...]
    problem: str = ""


class ListFile(AbstractContextManager["ListFile"]):
    """An open list. `columns` are its own names; a list without a header has one, `address`.

    `address` is the place of the address column. `read` octets of `size` were read so far.
    Raises `FileError` when it cannot be read as a whole.
    """

    columns: tuple[str, ...] = ("address",)
    address = 0

    def __init__(self, path: Path, column: str | None = None) -> None:
        self._wanted = column
        try:
            self._raw = path.open("rb", buffering=0)
            self.size = path.stat().st_size
            self._file = io.BufferedReader(self._raw, 1 << 18)
            start = self._file.peek(4)[:4]
        except OSError as error:
            raise FileError(error.strerror or str(error)) from error
        try:
            if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise FileError("line 1: the file is UTF-16; save it as UTF-8")
            if path.suffix.lower() in {".jsonl", ".ndjson"}:
                self._lines = self._jsonl()
            else:
                self._lines = self._text()
        except BaseException:
            self._file.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __iter__(self) -> Iterator[Line]:
        return self._lines

    @property
    def read(self) -> int:
        """Octets read so far."""
        return self._raw.tell()

    def _find(self, names: Sequence[str]) -> int:
        """The place of the address column among `names`."""
        if self._wanted is not None:
            if self._wanted not in names:
                raise FileError(f"line 1: no column {self._wanted!r}; there are: {_listed(names)}")
            return names.index(self._wanted)
        lower = [name.strip().lower() for name in names]
        places = [lower.index(name) for name in ADDRESS_NAMES if name in lower]
        if not places:
            raise FileError(
                f"line 1: no address column among {_listed(names)}; name it with --column"
            )
        return places[0]

    def _text(self) -> Iterator[Line]:
        # Undecodable bytes become surrogates, so that one bad cell costs one row and not the file.
        text = io.TextIOWrapper(
            self._file, encoding="utf-8-sig", errors="surrogateescape", newline=""
        )
        first = text.readline()
        if not first.strip():
            raise FileError("line 1: nothing there; the first line must be a header or an address")
        delimiter = max(",;\t", key=first.count)
        if self._wanted is None and not first.count(delimiter) and _is_address(first):
            return self._plain(first, text)
        rows = csv.reader(_chain(first, text), delimiter=delimiter, strict=True)
        try:
            header = tuple(next(rows))
        except csv.Error as error:
            raise FileError(f"line 1: {error}") from error
        self.address = self._find([name.strip() for name in header])
        self.columns = header
        return self._csv(rows, len(header))

    def _plain(self, first: str, rest: io.TextIOWrapper) -> Iterator[Line]:
        for number, text in enumerate(_chain(first, rest), start=1):
            address = text.strip()
            if address:
                yield Line(number, address, (address,), _undecodable(address))

    def _csv(self, rows: Any, width: int) -> Iterator[Line]:
        nothing = ("",) * width
        while True:
            number = rows.line_num + 1
            try:
                cells = tuple(next(rows))
            except StopIteration:
                return
            except csv.Error as error:
                yield Line(number, "", nothing, f"not CSV: {error}")
                continue
            if not any(cells):
                continue
            if len(cells) != width:
                problem = f"{len(cells)} cells where the header has {width}"
                yield Line(number, "", (cells + nothing)[:width], problem)
                continue
            address = cells[self.address].strip()
            yield Line(number, address, cells, _undecodable(address))

    def _jsonl(self) -> Iterator[Line]:
        lines = enumerate(self._file, start=1)
        for number, raw in lines:
            if raw.strip():
                first = _object(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw)
                break
        else:
            raise FileError("line 1: nothing there")
        if isinstance(first, str):
            raise FileError(f"line {number}: {first}")
        keys = tuple(name for name in first if name != MORE)
        self.address = self._find(keys)
        self.columns = (*keys, MORE)
        return self._objects(keys, number, first, lines)

    def _objects(
        self,
        keys: tuple[str, ...],
        number: int,
        first: dict[str, object],
        lines: Iterator[tuple[int, bytes]],
    ) -> Iterator[Line]:
        yield self._line(keys, number, first)
        for place, raw in lines:
            if raw.strip():
                yield self._line(keys, place, _object(raw))

    def _line(self, keys: tuple[str, ...], number: int, found: dict[str, object] | str) -> Line:
        if isinstance(found, str):
            return Line(number, "", ("",) * (len(keys) + 1), found)
        more = {name: value for name, value in found.items() if name not in keys}
        cells = (*(_cell(found.get(key)) for key in keys), _cell(more) if more else "")
        address = found.get(keys[self.address])
        problem = "" if isinstance(address, str) else "no address"
        return Line(number, cells[self.address].strip(), cells, problem)


def _chain(first: str, rest: io.TextIOWrapper) -> Iterator[str]:
    yield first
    yield from rest


def _is_address(text: str) -> bool:
    try:
        parse(text.strip(), smtputf8=True)
    except AddressError:
        return "@" in text  # a list whose first address is misspelt
    return True


def _object(raw: bytes) -> dict[str, object] | str:
    """A line of JSONL, or what is wrong with it."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return f"not JSON: {error}"
    return value if isinstance(value, dict) else "not a JSON object"


def _cell(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return orjson.dumps(value).decode()


def _undecodable(text: str) -> str:
    return "not UTF-8" if any("\ud800" <= c <= "\udfff" for c in text) else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:20]) + (", ..." if len(names) > 20 else "")
