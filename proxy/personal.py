"""How much of the allowance of personal mail is used (design section 2, "Class of a message")."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import date

from policy.address import Address

#: Mail of a `personal` stream per credential and day; beyond it, and for a body that goes to more
#: than ten people a day, it is marketing (design section 2).
PERSONAL_PER_DAY = 200
PERSONAL_BODY_RECIPIENTS = 10


class PersonalUse:
    """How much a submitter used its personal stream today. Kept by this process, bounded, by
    day.

    A body counts people, not tries: mail that an upstream deferred comes again as it was.
    """

    _BODIES = 10_000

    def __init__(self) -> None:
        self._day = date.min
        self._mails: dict[str, int] = {}
        self._bodies: OrderedDict[str, set[str]] = OrderedDict()

    def used_up(self, identity: str, body: str, recipients: Sequence[Address], today: date) -> bool:
        """Whether one more mail would exceed the day's allowance."""
        if today != self._day:
            self._day = today
            self._mails.clear()
            self._bodies.clear()
        people = self._bodies.get(body, set()).union(a.exact for a in recipients)
        return (
            self._mails.get(identity, 0) >= PERSONAL_PER_DAY
            or len(people) > PERSONAL_BODY_RECIPIENTS
        )

    def note(self, identity: str, body: str, recipients: Sequence[Address]) -> None:
        """Count a mail that was personal."""
        self._mails[identity] = self._mails.get(identity, 0) + 1
        self._bodies.setdefault(body, set()).update(a.exact for a in recipients)
        self._bodies.move_to_end(body)
        if len(self._bodies) > self._BODIES:
            self._bodies.popitem(last=False)
