"""Gates: who and what a rule is for. A rule with a shut gate is no candidate.

Nothing here reads the ledger, the time, or the address: what a gate says holds for everybody of
one sort (`docs/decision.md`, basis).
"""

from __future__ import annotations

from policy.model import Answer, Kind, Message, Recipient
from policy.pack import Gates, Packs

_NATURAL = {Kind.CONSUMER: False, Kind.SOLE_TRADER: False}
_NO, _UNKNOWN = Answer.NO, Answer.UNKNOWN

#: The first gate that is shut: its name, the answer, and the fact in words.
Shut = tuple[str, Answer, str]


def shut(
    gates: Gates,
    recipient: Recipient,
    message: Message,
    packs: Packs,
    *,
    local_allowed: bool,
    early: bool,
) -> Shut | None:
    """The first gate that is not met, or None.

    `local_allowed`: the law of the recipient's country allows. `early`: what the message may still
    say is taken as met.
    """
    if gates.kinds is not None and recipient.kind not in gates.kinds:
        unknown = recipient.kind is Kind.UNKNOWN
        return "kind", _UNKNOWN if unknown else _NO, f"kind {recipient.kind}"
    if gates.legal_person is not None:
        legal = recipient.legal_person
        if legal is None and recipient.kind is not Kind.UNKNOWN:
            legal = _NATURAL.get(recipient.kind, True)
        if legal is not gates.legal_person:
            return "legal-person", *_told("legal person", legal)
    if gates.outside_eea:
        country = recipient.country
        if not country:
            return "outside-eea", _UNKNOWN, "country unknown"
        if packs.in_eea(country):
            return "outside-eea", _NO, f"country {country}"
    if gates.local_rules_met and not (recipient.local_rules_met or local_allowed):
        return "local-rules-met", *_told("local rules met", recipient.local_rules_met)
    if gates.business_only:
        if not recipient.address_mainly_business:
            words = "address mainly business"
            return "business-only", *_told(words, recipient.address_mainly_business)
        if not message.business_only and not early:
            return "business-only", *_told("message business only", message.business_only)
    if gates.purposes is not None and message.purpose not in gates.purposes:
        known = message.purpose is not None
        return "purpose", _NO if known else _UNKNOWN, f"purpose {message.purpose or 'unknown'}"
    if early:
        return None
    if gates.charity_registered_in is not None:
        registered = message.charity_registered_in
        if registered is None or registered.upper() != gates.charity_registered_in:
            answer = _UNKNOWN if registered is None else _NO
            return "charity-registered-in", answer, f"registered in {registered or 'unknown'}"
    if gates.primary_purpose_fundraising and not message.primary_purpose_fundraising:
        words = "primary purpose fundraising"
        return "fundraising", *_told(words, message.primary_purpose_fundraising)
    return None


def _told(words: str, value: bool | None) -> tuple[Answer, str]:
    if value is None:
        return _UNKNOWN, f"{words} unknown"
    return _NO, f"{words} {'yes' if value else 'no'}"
