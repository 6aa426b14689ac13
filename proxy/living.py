"""Who may be written to now, on which basis, and until when: over the whole ledger, page by page.

For the gauges (`census.py`) and the forecast (`sluis report expiring`), so that the two agree.
"""

from __future__ import annotations

import time as clock
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from policy.address import Address, AddressError, parse
from policy.engine import living_basis
from policy.model import Decision
from policy.pack import Packs
from proxy.config import Settings
from proxy.facts import person_facts, sender_facts
from proxy.inquiry import Inquiry
from proxy.store.model import Known, Store, Subject

#: Judged in one go where somebody may wait for the loop: about a millisecond.
_BREATH = 50

#: Whoever was erased, or never had an address on record.
_NOBODY = Address(local="", domain="", exact="", wide="", utf8=False)


@dataclass(frozen=True, slots=True)
class Living:
    """One (sender, address) pair with a basis that holds. `address` "" where it was erased."""

    subject: Subject
    address: str
    basis: Decision

    @property
    def ends_at(self) -> datetime | None:
        """The moment from which the basis no longer holds, None where it has no end."""
        return moment_of(self.basis.expires_at)


def moment_of(expires_at: datetime | date | None) -> datetime | None:
    """A day as the moment after it, in UTC."""
    if expires_at is None or isinstance(expires_at, datetime):
        return expires_at
    return datetime.combine(expires_at + timedelta(days=1), time.min, UTC)


async def living(
    settings: Settings,
    store: Store,
    packs: Packs,
    at: datetime,
    *,
    page: int,
    inquiry: Inquiry | None = None,
    rest: Callable[[float], Awaitable[None]] | None = None,
) -> AsyncIterator[list[Living]]:
    """Pages of at most `page` pairs, those without a basis left out; an empty page is a page too.

    Without `inquiry`: whatever the sender's marketing mail says. With it: for such a mail, and of
    its sender only. `rest` is awaited after every few people, with the CPU seconds that they took.
    Raises `StoreError`.
    """
    senders = {s.id: sender_facts(s) for s in settings.senders}
    if inquiry is not None:
        senders = {id_: s for id_, s in senders.items() if id_ == inquiry.stream.sender}
    after = 0
    while found := await store.subjects(after=after, limit=page):
        after = found[-1][0]
        subjects = [subject for _, subject in found if subject.sender in senders]
        pairs: list[Living] = []
        if subjects:
            known = (await store.lookup(subjects)).known
            addresses = await store.addresses([subject.exact for subject in subjects])
            began = clock.thread_time()
            for n, subject in enumerate(subjects, start=1):
                address = addresses.get(subject.exact, "")
                if inquiry is not None:
                    basis = _for_mail(inquiry, address, known[subject], at)
                else:
                    facts = person_facts(senders[subject.sender], address, known[subject], at)
                    basis = living_basis(facts, packs)
                if basis is not None:
                    pairs.append(Living(subject, address, basis))
                if rest is not None and (n % _BREATH == 0 or n == len(subjects)):
                    await rest(clock.thread_time() - began)
                    began = clock.thread_time()
        elif rest is not None:
            await rest(0.0)
        yield pairs


def _for_mail(inquiry: Inquiry, text: str, known: Known, at: datetime) -> Decision | None:
    try:
        address = parse(text, smtputf8=True) if text else _NOBODY
    except AddressError:
        address = _NOBODY
    decision = inquiry.basis(address, known, at)
    return decision if decision.allowed else None
