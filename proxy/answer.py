"""One honest reply for a transaction, from what became of each recipient (design section 2, "Reply
semantics").

Pure: a table from endings to one SMTP reply. With one recipient it is the upstream's own reply plus
our reference; with several, what an RFC 5321 client can act on without losing or repeating
anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from proxy.replies import Reply, our_fault

#: Characters of another's text in our reply, so that the reference after it is not cut off.
_SAID = 340


class End(StrEnum):
    """How a recipient's mail ended as far as this submission is concerned."""

    RELAYED = "relayed"  # upstream accepted, now or when the same mail came before
    BLOCKED = "blocked"  # policy says no
    DEFERRED = "deferred"  # policy says not now
    FAILED = "failed"  # upstream said 5xx
    RETURNED = "returned"  # upstream said 4xx, or nothing was sent
    UNKNOWN = "unknown"  # the dot was written and no reply came
    QUEUED = "queued"  # durable here: ours to finish


@dataclass(frozen=True, slots=True)
class Ending:
    """One recipient's end; `reply` is the upstream's line, or for a block the line that explains
    it."""

    end: End
    reply: str
    ref: str


_REPLY = re.compile(r"(\d{3})[ -]?(?:(\d\.\d{1,3}\.\d{1,3}) ?)?(.*)", re.DOTALL)


def parse_reply(line: str) -> Reply | None:
    """An upstream's line as a `Reply`; None when it is none (garbage becomes our fault, never a
    pass)."""
    match = _REPLY.fullmatch(line.strip())
    if match is None or match[1][0] not in "245":
        return None
    return Reply(int(match[1]), match[2] or "", match[3])


def answer(ref: str, endings: Sequence[Ending]) -> Reply:
    """The reply to end-of-data for the transaction `ref`.

    250 where the mail is upstream's or ours for somebody and nobody's is left to the client; what
    then is blocked or failed is reported. 451 where somebody's is: nothing that a client was told
    is done may be left undone, and its retry does not repeat what was relayed. Where every answer
    comes from the journal, nothing is on record under `ref`: the first one's reference is given.
    """
    if len(endings) == 1:
        return _single(endings[0])
    if not any(ending.ref.startswith(ref) for ending in endings):
        ref = endings[0].ref
    count = {end: sum(1 for e in endings if e.end is end) for end in End}
    relayed, queued, total = count[End.RELAYED], count[End.QUEUED], len(endings)
    open_ = count[End.RETURNED] + count[End.UNKNOWN] + count[End.DEFERRED]
    if open_:
        left = open_ + count[End.FAILED]
        code = "4.7.1" if left == count[End.DEFERRED] else "4.4.5"
        return Reply(
            451, code, f"relayed {relayed} of {total}, {left} to try again, none twice (ref {ref})"
        )
    if not relayed and not queued:
        first = next((e for e in endings if e.end is End.BLOCKED), endings[0])
        if first.end is End.FAILED:
            return _single(first)
        reply = parse_reply(first.reply) or Reply(550, "5.7.1", "blocked")
        return Reply(
            reply.code, reply.enhanced, f"{reply.text[:_SAID]}; none of {total} relayed (ref {ref})"
        )
    said = [f"relayed {relayed} of {total}"]
    said += [
        f"{count[end]} {end.value}"
        for end in (End.QUEUED, End.BLOCKED, End.FAILED)
        if count[end]
    ]
    return Reply(250, "2.0.0", f"{', '.join(said)} (ref {ref})")


def _single(ending: Ending) -> Reply:
    if ending.end is End.QUEUED:
        return Reply(250, "2.0.0", f"queued (ref {ending.ref})")
    if ending.end is End.UNKNOWN:
        # The dot was written: whether it was taken is unknowable, and the client keeps the mail.
        return Reply(451, "4.4.2", f"no reply from upstream after the message (ref {ending.ref})")
    reply = parse_reply(ending.reply)
    if reply is None or (ending.end is End.RELAYED) != reply.positive:
        if ending.end is End.RELAYED:
            return Reply(250, "2.0.0", f"relayed (ref {ending.ref})")
        return our_fault(ending.ref)
    # 421 says that *its* session ends (RFC 5321 3.8); ours with the client goes on.
    code = 451 if reply.code == 421 else reply.code
    return Reply(code, reply.enhanced, f"{reply.text[:_SAID]} (ref {ending.ref})")
