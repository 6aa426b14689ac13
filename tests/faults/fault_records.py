"""What is noted while faults are injected: what clients were told, and what upstream received.

Written as it happens, in memory; kept as JSON lines beside the journal when something is wrong.
"""

from __future__ import annotations

import base64
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

#: The last line of every mail's content: what arrived without it was cut.
LAST_LINE = b"-- the whole mail arrived --\r\n"


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as its client sends it, each time the same octets. `id` is its Message-ID with <>."""

    id: str
    stream: str
    mail_from: str
    recipients: tuple[str, ...]
    content: bytes
    marketing: bool
    point: int


@dataclass(frozen=True, slots=True)
class Told:
    """One transaction of a client.

    `code` and `text` are the reply to the end of data, or the one that ended it earlier; code 0:
    the connection was lost, or the client left before a reply. `taken` are the recipients answered
    2xx at RCPT. Times are seconds of the system's clock.
    """

    mail: str
    begun: float
    ended: float
    code: int
    text: str
    taken: tuple[str, ...]

    @property
    def ref(self) -> str:
        """The reference in the reply, or ""."""
        return self.text.rpartition("(ref ")[2].partition(")")[0] if "(ref " in self.text else ""


@dataclass(frozen=True, slots=True)
class OptOut:
    """One answered or lost request to stop; `status` 0 where no answer came."""

    person: str
    begun: float
    ended: float
    status: int
    via: str

    @property
    def answered(self) -> bool:
        """Whether the person was told that it is done."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Arrived:
    """A mail that upstream took: the final dot came, and the script kept it."""

    mail: str
    mail_from: str
    recipients: tuple[str, ...]
    content: bytes
    at: float


@dataclass
class Records:
    """All that one data directory's clients and upstream saw."""

    mails: dict[str, Mail] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    optouts: list[OptOut] = field(default_factory=list)
    arrived: list[Arrived] = field(default_factory=list)

    def newest(self) -> dict[str, Told]:
        """The last answer for each mail that was offered."""
        return {told.mail: told for told in self.told}

    def acknowledged(self) -> Iterator[tuple[Mail, Told]]:
        """Every mail that was answered 250 at least once, with the first such answer."""
        seen: set[str] = set()
        for told in self.told:
            if told.code == 250 and told.mail not in seen:
                seen.add(told.mail)
                yield self.mails[told.mail], told

    def copies(self) -> dict[tuple[str, str], list[Arrived]]:
        """What arrived of each (Message-ID, recipient)."""
        found: dict[tuple[str, str], list[Arrived]] = defaultdict(list)
        for arrived in self.arrived:
            for recipient in arrived.recipients:
                found[arrived.mail, recipient].append(arrived)
        return found

    def keep(self, folder: Path) -> None:
        """Write all of it as JSON lines."""
        for name in ("told", "optouts", "arrived"):
            lines = [json.dumps(asdict(x), default=_text) for x in getattr(self, name)]
            (folder / f"{name}.jsonl").write_text("\n".join([*lines, ""]), "utf-8")
        mails = [json.dumps(asdict(mail), default=_text) for mail in self.mails.values()]
        (folder / "mails.jsonl").write_text("\n".join([*mails, ""]), "utf-8")


def now() -> float:
    """The clock that the relay reads too."""
    return time.time()


def _text(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
