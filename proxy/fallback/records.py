"""What is written into the fallback file, as JSON, and read back.

Pseudonyms stand for people, as in the ledger. The recipient's address is in none of it; an envelope
sender is, as in the journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from policy.events import FieldError, detail_from, fields_of, type_of
from proxy.errors import StoreDown
from proxy.store.codec import instant, micros
from proxy.store.merge import Ended, Intent
from proxy.store.model import NewEvent, Outcome, Result, Subject

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Opposed:
    """An opt-out that was, or was about to be, answered."""

    event: NewEvent


Record = Opposed | Intent | Ended


def encoded(record: Record) -> bytes:
    """One record as a payload of the file."""
    if isinstance(record, Opposed):
        e = record.event
        body: dict[str, Any] = {
            "opposed": e.uid,
            "sender": e.subject.sender,
            "exact": e.subject.exact,
            "wide": e.subject.wide,
            "type": type_of(e.detail),
            "fields": fields_of(e.detail),
            "at": micros(e.at),
            "recorded_at": micros(e.recorded_at),
            "evidence": e.evidence,
            "unless_in_force": e.unless_in_force,
            "forward": e.forward,
        }
    elif isinstance(record, Intent):
        body = {
            "intent": record.submission,
            "row": record.row,
            "decision": record.decision,
            "at": record.at,
        }
    else:
        o = record.outcome
        body = {
            "ended": record.copy_key,
            "ref": record.ref,
            "row": o.row,
            "attempt": o.attempt,
            "result": o.result.value,
            "reply": o.reply,
            "at": micros(o.at),
            "next_try": micros(o.next_try) if o.next_try else None,
        }
    return orjson.dumps({"v": _VERSION, **body})


def decoded(payloads: Sequence[bytes]) -> list[Record]:
    """What an earlier process wrote. Raises `StoreDown` for a record of another version."""
    try:
        return [_decoded(orjson.loads(payload)) for payload in payloads]
    except (ValueError, KeyError, TypeError, FieldError) as error:
        raise StoreDown(f"the fallback file cannot be read by this version: {error}") from error


def _decoded(body: dict[str, Any]) -> Record:
    if body["v"] != _VERSION:
        raise ValueError(f"version {body['v']}")
    if "opposed" in body:
        return Opposed(
            NewEvent(
                uid=body["opposed"],
                subject=Subject(body["sender"], body["exact"], body["wide"]),
                detail=detail_from(body["type"], body["fields"]),
                at=instant(body["at"]),
                recorded_at=instant(body["recorded_at"]),
                evidence=body["evidence"],
                unless_in_force=body["unless_in_force"],
                forward=body["forward"],
            )
        )
    if "intent" in body:
        return Intent(body["intent"], body["row"], body["decision"], body["at"])
    next_try = body["next_try"]
    return Ended(
        body["ended"],
        body["ref"],
        Outcome(
            row=body["row"],
            attempt=body["attempt"],
            result=Result(body["result"]),
            reply=body["reply"],
            at=instant(body["at"]),
            next_try=instant(next_try) if next_try is not None else None,
        ),
    )
