"""Which packs apply to one recipient (`docs/decision.md`, which packs).

The recipient's law decides, not the sender's; the sender's is added where its pack says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from policy.model import Facts
from policy.pack import Pack, Packs


@dataclass(frozen=True, slots=True)
class Applies:
    """One pack that must allow. `consent_only`: it stands in for a law that is not known here."""

    pack: Pack
    consent_only: bool = False


@dataclass(frozen=True, slots=True)
class Jurisdiction:
    """The packs that must all allow, in order. `elsewhere`: the country is outside what is known.

    Then the alternative to consent is the sender's own rule for foreign businesses, `abroad`.
    """

    applies: tuple[Applies, ...]
    elsewhere: bool = False
    abroad: Pack | None = None


def jurisdiction(facts: Facts, packs: Packs) -> Jurisdiction:
    """The packs for these facts."""
    sender = packs.of(facts.sender.country)
    country = facts.recipient.country
    if country:
        pack = packs.of(country)
        if pack is None:
            return Jurisdiction(_elsewhere(packs, sender), elsewhere=True, abroad=sender)
        if sender is None or sender is pack or not sender.applies_to_sent_from:
            return Jurisdiction((Applies(pack),))
        return Jurisdiction((Applies(pack), Applies(sender)))
    found: dict[str, Applies] = {}
    for applies in _candidates(facts, packs, sender):
        known = found.get(applies.pack.id)
        if known is None or applies.consent_only:
            found[applies.pack.id] = applies
    if sender is not None and sender.applies_to_sent_from:
        found.setdefault(sender.id, Applies(sender))
    return Jurisdiction(tuple(found.values()))


def first(facts: Facts, packs: Packs) -> str:
    """The id of the first pack that applies; "" where none does, or the law is not known."""
    country = facts.recipient.country
    if country:
        pack = packs.of(country)
        return pack.id if pack is not None else ""
    if not facts.sender.candidate_countries and len(packs):
        return next(iter(packs)).id
    applies = jurisdiction(facts, packs).applies
    return applies[0].pack.id if applies else ""


def _elsewhere(packs: Packs, sender: Pack | None) -> tuple[Applies, ...]:
    found = {pack.id: pack for pack in (packs.fallback, sender) if pack is not None}
    return tuple(Applies(pack, consent_only=True) for pack in found.values())


def _candidates(facts: Facts, packs: Packs, sender: Pack | None) -> list[Applies]:
    candidates = facts.sender.candidate_countries
    if not candidates:
        return [Applies(pack) for pack in packs]
    found: list[Applies] = []
    for country in candidates:
        pack = packs.of(country)
        found += _elsewhere(packs, sender) if pack is None else [Applies(pack)]
    pack = by_domain(facts.recipient.address, packs)
    if pack is not None:
        found.append(Applies(pack))
    return found


def by_domain(address: str, packs: Packs) -> Pack | None:
    """The pack of the country that an address's top-level domain is of, if any."""
    tld = address.rpartition(".")[2].upper()
    return packs.fallback if tld == "EU" else packs.of("GB" if tld == "UK" else tld)
