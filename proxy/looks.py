"""What was found in a body, kept for the next mail with the same one.

A campaign is one body to thousands of people. What its displayed parts show, and what may be done
to them, rests on the body and a few fields: a mail that has these is looked at in their stead, and
whoever sends the same octets again gets the same answer. Nothing is taken for equal but equal
octets; of mail that is large, or that readers may read in several ways, nothing is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.message.body import BodyPlan
from proxy.message.canonical import BodyHash
from proxy.message.header import Header, index
from proxy.message.inspect import Shown

#: Content up to this is kept, in octets; and so many octets of bodies and plans, and bodies, of all
#: mails together.
LONGEST = 64 * 1024
ALL = 8 * 1024 * 1024
MOST = 512

#: The fields beside the body that inspection and plan rest on, but for those that tell a reply.
_FIELDS = frozenset(
    (b"from", b"content-type", b"content-transfer-encoding", b"content-disposition")
)


@dataclass(slots=True)
class Look:
    """A body with its fields (`content`, `header`), and what is known of it.

    `plans` are by the length of the longest link and by whom a signature binds; `hash` is what the
    signed copies of all mails with this body share.
    """

    content: bytes
    header: Header
    shown: Shown
    plans: dict[tuple[int, str], BodyPlan] = field(default_factory=dict)
    hash: BodyHash = field(default_factory=BodyHash)


class Looks:
    """The bodies seen last, by stream. For one thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, bytes], Look] = OrderedDict()
        self._octets = 0

    def of(
        self, stream: str, content: bytes, header: Header, inspect: Callable[[bytes, Header], Shown]
    ) -> Look | None:
        """What is known of a body, inspected where it is new; None for a mail that is looked at by
        itself.
        """
        same = reduced(content, header)
        if same is None:
            return None
        key = (stream, same)
        look = self._kept.get(key)
        if look is not None:
            self._kept.move_to_end(key)
            return look
        short = index(same, max_bytes=len(same) + 1, max_fields=len(header.fields))
        look = self._kept[key] = Look(same, short, inspect(same, short))
        self._takes(len(same))
        return look

    def plan(
        self, look: Look, longest_url: int, signed_by: str, make: Callable[[], BodyPlan]
    ) -> BodyPlan:
        """The plan for links of this length; made where it is not known."""
        found = look.plans.get((longest_url, signed_by))
        if found is None:
            found = look.plans[longest_url, signed_by] = make()
            self._takes(len(look.content))
        return found

    def _takes(self, octets: int) -> None:
        self._octets += octets
        while len(self._kept) > MOST or self._octets > ALL:
            _, look = self._kept.popitem(last=False)
            self._octets -= len(look.content) * (1 + len(look.plans))


def reduced(content: bytes, header: Header) -> bytes | None:
    """The mail without all that inspection and plan do not rest on; None where that is not sure."""
    if len(content) > LONGEST or not header.complete or header.problems or not header.ascii:
        return None
    fields = [header.raw[f.start : f.end] for f in header.fields if f.name in _FIELDS]
    return b"".join((*fields, b"\r\n", content[header.end :])) if fields else None
