"""What was found in a body, kept for the next mail with the same one.

A campaign is one body to thousands of people. What its displayed parts show, and what may be done
to them, rests on the body and a few fields: where a mail has the same, it is not looked at again.
Nothing is taken for equal but equal octets, or for a body that lies in a file an equal SHA-256 of
them; of mail that readers may read in several ways nothing is kept.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

from proxy.content import Content, Piece, Spooled, blocks
from proxy.message.body import BodyPlan
from proxy.message.canonical import BodyHash
from proxy.message.header import Header
from proxy.message.inspect import Shown

#: Octets of bodies and plans that are kept, and bodies, of all mails together.
ALL = 8 * 1024 * 1024
MOST = 512
# What one body takes beside its octets, about.
_LEAST = 2048

#: The fields beside the body that inspection and plan rest on, but for those that tell a reply.
_FIELDS = (b"from", b"content-type", b"content-transfer-encoding", b"content-disposition")

#: The stream, the fields, and the body: its octets, or the digest (hex) of a file's.
Key = tuple[str, bytes, bytes | str]

#: Where a body begins in what is looked at: before it stands the blank line of the mail.
START = 2


@dataclass(slots=True)
class Look:
    """What is known of one body. `plans` are by the length of the longest link and by whom a
    signature binds, without the body where it lies in a file (`BodyPlan.over`); `hash` is what the
    signed copies of all mails with this body share; `octets` what it takes.
    """

    key: Key
    shown: Shown
    plans: dict[tuple[int, str], BodyPlan] = field(default_factory=dict)
    hash: BodyHash = field(default_factory=BodyHash)
    octets: int = 0


class Looks:
    """The bodies seen last, by stream. For one thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, Look] = OrderedDict()
        self._octets = 0

    def find(self, key: Key) -> Look | None:
        """What is known of a body."""
        look = self._kept.get(key)
        if look is not None:
            self._kept.move_to_end(key)
        return look

    def keep(self, key: Key, shown: Shown) -> Look:
        """Know this of a body from now on."""
        before = self._kept.pop(key, None)
        if before is not None:
            self._octets -= before.octets
        look = self._kept[key] = Look(key, shown)
        self._takes(look, _LEAST + len(key[2]))
        return look

    def keep_plan(self, look: Look, longest_url: int, signed_by: str, plan: BodyPlan) -> None:
        """Know a plan of the body, too."""
        look.plans[longest_url, signed_by] = plan
        if self._kept.get(look.key) is look:
            self._takes(look, _LEAST + plan.held)

    def _takes(self, look: Look, octets: int) -> None:
        look.octets += octets
        self._octets += octets
        while len(self._kept) > MOST or self._octets > ALL:
            _, oldest = self._kept.popitem(last=False)
            self._octets -= oldest.octets


def fields_of(header: Header) -> bytes | None:
    """What inspection and plan rest on of a header; None where that is not sure."""
    if not header.complete or header.problems or not header.ascii:
        return None
    by_name, raw = header.by_name, header.raw
    found = [f for name in _FIELDS if name in by_name for f in by_name[name]]
    return b"".join([raw[f.start : f.end] for f in found]) if found else None


def apart(content: Content, header: Header) -> Content:
    """The blank line and the body, for a header that `fields_of` finds sound."""
    if isinstance(content, Spooled):
        return content.part(header.fields_end)
    return content[header.fields_end :]


def digest(body: Piece) -> str:
    """What stands for the octets of a body in a file, in its key. Raises `OSError`."""
    sha = hashlib.sha256()
    for block in blocks(body):
        sha.update(block)
    return sha.hexdigest()
