"""The words of decisions in English and Dutch. `policy.explain` puts them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policy.model import Reason


@dataclass(frozen=True, slots=True)
class Phrase:
    """The same thing said in both languages."""

    english: str
    dutch: str


@dataclass(frozen=True, slots=True)
class Words:
    """A reason: `words` short enough for an SMTP reply, `remedy` what to do about it."""

    words: Phrase
    remedy: Phrase


def _words(english: str, dutch: str, remedy: str, oplossing: str) -> Words:
    return Words(Phrase(english, dutch), Phrase(remedy, oplossing))


_NOTHING = ("Nothing to do.", "Er hoeft niets te gebeuren.")

REASONS: Mapping[Reason, Words] = {
    Reason.CONSENT: _words(
        "the recipient gave consent", "de ontvanger gaf toestemming", *_NOTHING
    ),
    Reason.SOFT_OPT_IN: _words(
        "existing customer, similar products",
        "bestaande klant, gelijksoortige producten",
        *_NOTHING,
    ),
    Reason.PUBLISHED_ADDRESS: _words(
        "address published for this kind of mail",
        "adres bekendgemaakt voor dit soort berichten",
        *_NOTHING,
    ),
    Reason.BUSINESS_FUNCTION: _words(
        "concerns the recipient's business function",
        "betreft de zakelijke functie van de ontvanger",
        *_NOTHING,
    ),
    Reason.LEGAL_PERSON: _words(
        "the recipient is a legal person", "de ontvanger is een rechtspersoon", *_NOTHING
    ),
    Reason.FOREIGN_BUSINESS: _words(
        "business outside the EEA, local rules met",
        "bedrijf buiten de EER, aan de regels ter plaatse is voldaan",
        *_NOTHING,
    ),
    Reason.IMPLIED_CONSENT: _words(
        "consent is implied by the relationship", "toestemming volgt uit de relatie", *_NOTHING
    ),
    Reason.OPT_OUT_REGIME: _words(
        "allowed until the recipient objects",
        "toegestaan tot de ontvanger bezwaar maakt",
        *_NOTHING,
    ),
    Reason.EXEMPT: _words(
        "exempt from the consent rule", "vrijgesteld van de toestemmingsregel", *_NOTHING
    ),
    Reason.NOT_MARKETING: _words("not a marketing mail", "geen reclamebericht", *_NOTHING),
    Reason.SUPPRESSED: _words(
        "the recipient objected or mail bounced",
        "de ontvanger maakte bezwaar of mail kwam terug",
        "Do not send. Only a new, affirmative opt-in by the person lifts an objection; a bounce "
        "ends "
        "after 90 days or when the person acts.",
        "Niet versturen. Alleen een nieuwe, actieve aanmelding door de persoon zelf heft een "
        "bezwaar "
        "op; een bounce eindigt na 90 dagen of als de persoon iets van zich laat horen.",
    ),
    Reason.REGISTRY: _words(
        "listed in a national opt-out register",
        "staat in een nationaal bezwaarregister",
        "Ask for consent by another channel; consent outweighs the register.",
        "Vraag langs een andere weg toestemming; toestemming gaat boven het register.",
    ),
    Reason.NO_BASIS: _words(
        "no recorded permission",
        "geen vastgelegde toestemming of klantrelatie",
        "Record the consent or the sale that permits this mail, with its evidence; if there is "
        "none, "
        "do not send.",
        "Leg de toestemming of de verkoop vast die dit bericht toestaat, met bewijs; is die er "
        "niet, "
        "verstuur dan niet.",
    ),
    Reason.PRETICKED_CONSENT: _words(
        "the consent box was ticked beforehand",
        "het toestemmingsvakje stond vooraf aangevinkt",
        "Ask again with a box that is empty until the person ticks it.",
        "Vraag opnieuw, met een vakje dat leeg is tot de persoon het zelf aanvinkt.",
    ),
    Reason.UNCONFIRMED: _words(
        "the opt-in was not confirmed",
        "de aanmelding is niet bevestigd",
        "Send a neutral confirmation mail and record the confirmation (double opt-in).",
        "Stuur een neutrale bevestigingsmail en leg de bevestiging vast (dubbele opt-in).",
    ),
    Reason.PROOF_MISSING: _words(
        "the permission cannot be proved",
        "de toestemming is niet te bewijzen",
        "Add the evidence to the event: form and text version, order number, or a scan of the "
        "paper; "
        "and the state of the box.",
        "Voeg het bewijs toe aan de vastlegging: formulier en tekstversie, ordernummer of een "
        "scan; "
        "en de stand van het vakje.",
    ),
    Reason.SCOPE_MISMATCH: _words(
        "the consent does not cover this mail",
        "de toestemming dekt dit bericht niet",
        "Send only on the topics and products that were asked for, or ask for consent to these. "
        "Set "
        "the message's topics and products if they are unknown.",
        "Verstuur alleen over de onderwerpen en producten waarvoor toestemming is gegeven, of "
        "vraag "
        "die alsnog. Vul onderwerpen en producten van het bericht in als ze ontbreken.",
    ),
    Reason.THIRD_PARTY_UNNAMED: _words(
        "consent was given to another sender",
        "de toestemming is aan een andere afzender gegeven",
        "The consent must name this sender; 'partners' is not enough. Ask for your own.",
        "De toestemming moet deze afzender noemen; 'partners' is niet genoeg. Vraag zelf "
        "toestemming.",
    ),
    Reason.NOT_OWN_ENTITY: _words(
        "the sale was by another company",
        "de verkoop was door een andere onderneming",
        "Only the company that made the sale may write; a sister company needs consent.",
        "Alleen de onderneming die verkocht mag schrijven; een zusterbedrijf heeft toestemming "
        "nodig.",
    ),
    Reason.NOT_A_SALE: _words(
        "there was no sale",
        "er was geen verkoop",
        "An account, quote, contest or abandoned cart is no sale. Ask for consent; if there was a "
        "payment, record it.",
        "Een account, offerte, prijsvraag of verlaten winkelwagen is geen verkoop. Vraag "
        "toestemming; "
        "is er betaald, leg dat dan vast.",
    ),
    Reason.NO_OBJECTION_OFFERED: _words(
        "no way to object was offered at collection",
        "bij het vragen van het adres is geen bezwaar aangeboden",
        "This cannot be repaired by a mail. Offer the choice at the next sale, or ask for consent "
        "there.",
        "Dit is niet met een mail te herstellen. Bied de keuze bij de volgende verkoop aan, of "
        "vraag "
        "daar toestemming.",
    ),
    Reason.ADDRESS_NOT_FROM_CUSTOMER: _words(
        "the address did not come from the customer",
        "het adres kwam niet van de klant zelf",
        "Use only an address that the customer gave in the sale; bought or found ones need "
        "consent.",
        "Gebruik alleen een adres dat de klant bij de verkoop gaf; voor andere is toestemming "
        "nodig.",
    ),
    Reason.NOT_SIMILAR: _words(
        "not similar to what was bought",
        "niet gelijksoortig aan wat is gekocht",
        "Write about products like those bought; if these are alike to a customer, declare the "
        "pair "
        "similar, with reviewer and date.",
        "Schrijf over producten zoals gekocht; vindt een klant deze gelijksoortig, leg het paar "
        "dan "
        "vast met beoordelaar en datum.",
    ),
    Reason.EXPIRED: _words(
        "the permission has run out",
        "de toestemming of klantrelatie is verlopen",
        "Wait for a new order or ask for consent by another channel; a mail asking for it is not "
        "allowed any more.",
        "Wacht op een nieuwe bestelling of vraag langs een andere weg toestemming; een mail die "
        "daarom vraagt mag niet meer.",
    ),
    Reason.DORMANT: _words(
        "the consent has fallen asleep",
        "de toestemming is ingeslapen",
        "The account is abandoned and nothing was sent for long: ask anew where the person signs "
        "in.",
        "Het account is verlaten en er is lang niets verstuurd: vraag opnieuw waar de persoon "
        "inlogt.",
    ),
    Reason.NOT_IN_FORCE: _words(
        "the permission is not in force",
        "de grondslag geldt hiervoor niet in de tijd",
        "The rule or the event starts later, or the rule does not reach back to this event.",
        "De regel of gebeurtenis begint later, of de regel werkt niet terug tot deze gebeurtenis.",
    ),
    Reason.PURPOSE_MISMATCH: _words(
        "not the purpose the address serves",
        "niet het doel waarvoor het adres dient",
        "Write only for the purpose for which the address was published or given, to a function "
        "that "
        "the message concerns.",
        "Schrijf alleen voor het doel waarvoor het adres is bekendgemaakt of gegeven, aan een "
        "functie "
        "die het bericht aangaat.",
    ),
    Reason.WITHDRAWAL_INFO_MISSING: _words(
        "the person was not told of withdrawal",
        "er is niet verteld dat toestemming in te trekken is",
        "Consent must be asked together with the word that it can be withdrawn: ask anew.",
        "Bij het vragen van toestemming hoort de mededeling dat die in te trekken is: vraag "
        "opnieuw.",
    ),
    Reason.PERMISSION_REQUEST: _words(
        "asking for permission is marketing too",
        "vragen om toestemming is ook reclame",
        "Ask on a page, at a sale or on paper, not by mail.",
        "Vraag het op een pagina, bij een verkoop of op papier, niet per mail.",
    ),
    Reason.MIXED_PURPOSE: _words(
        "promotion in a service mail, without basis",
        "reclame in een servicebericht, zonder grondslag",
        "Send the message without its promotional part.",
        "Verstuur het bericht zonder het reclamedeel.",
    ),
    Reason.NO_IDENTITY: _words(
        "the sender's identity is not shown",
        "de identiteit van de afzender ontbreekt",
        "Name the sender in the text or the From name, or let Sluis add the footer.",
        "Noem de afzender in de tekst of de From-naam, of laat Sluis de voettekst toevoegen.",
    ),
    Reason.NO_POSTAL_ADDRESS: _words(
        "the postal address is not shown",
        "het postadres ontbreekt",
        "Put the sender's postal address in the message, or let Sluis add the footer.",
        "Zet het postadres van de afzender in het bericht, of laat Sluis de voettekst toevoegen.",
    ),
    Reason.NO_UNSUBSCRIBE: _words(
        "no way to unsubscribe is shown",
        "een afmeldmogelijkheid ontbreekt",
        "Put an unsubscribe link in the text, or let Sluis add the footer; a header or a telephone "
        "number is not enough.",
        "Zet een afmeldlink in de tekst, of laat Sluis de voettekst toevoegen; een header of een "
        "telefoonnummer is niet genoeg.",
    ),
    Reason.UNSUBSCRIBE_NOT_EASY: _words(
        "unsubscribing is not easy enough",
        "afmelden is niet makkelijk genoeg",
        "Let people unsubscribe without logging in, by a link that keeps working.",
        "Laat mensen zich zonder inloggen afmelden, met een link die blijft werken.",
    ),
    Reason.MISLEADING_SUBJECT: _words(
        "the subject misleads or lacks its label",
        "het onderwerp misleidt of mist zijn aanduiding",
        "Remove the false 'Re:' or 'Fwd:', and label the advertisement where that is owed.",
        "Haal de valse 'Re:' of 'Fwd:' weg, en duid de reclame als zodanig aan waar dat moet.",
    ),
    Reason.VISIBLE_RECIPIENTS: _words(
        "recipients can see each other",
        "ontvangers kunnen elkaar zien",
        "Send one message per recipient, or put only one address in To and Cc.",
        "Stuur elke ontvanger een eigen bericht, of zet maar een adres in To en Cc.",
    ),
    Reason.UNKNOWN_JURISDICTION: _words(
        "the law of the recipient's country is not known",
        "het recht van het land van de ontvanger is niet bekend",
        "Record the recipient's country or get consent; for a business abroad, have the local "
        "rules "
        "checked and set local_rules_met.",
        "Leg het land van de ontvanger vast of vraag toestemming; laat voor een bedrijf in het "
        "buitenland de regels daar nagaan en zet local_rules_met.",
    ),
    Reason.INVALID_ADDRESS: _words(
        "the address is not valid",
        "het adres is niet geldig",
        "Correct the address; it must be written as it will be sent.",
        "Verbeter het adres; het moet geschreven zijn zoals het wordt verstuurd.",
    ),
    Reason.NOT_AUTHORISED: _words(
        "not authorised for this stream or sender",
        "niet gemachtigd voor deze stroom of afzender",
        "Add the domain to the stream's from_domains, or use the credential of that stream. Where "
        "a product is blocked: leave it out, and say what the message is about (Sluis-Products).",
        "Voeg het domein toe aan from_domains van de stroom, of gebruik de inloggegevens daarvan. "
        "Is een product uitgesloten: laat het weg, en meld waarover het bericht gaat "
        "(Sluis-Products).",
    ),
    Reason.FREQUENCY_CAP: _words(
        "the recipient had enough mail for now",
        "de ontvanger kreeg voorlopig genoeg mail",
        "Try again later, or raise max_per_person of the stream or the sender.",
        "Probeer het later, of verhoog max_per_person van de stroom of de afzender.",
    ),
    Reason.QUIET_HOURS: _words(
        "it is the recipient's quiet hours",
        "het zijn de stille uren van de ontvanger",
        "Try again after the quiet hours of the stream.",
        "Probeer het na de stille uren van de stroom.",
    ),
    Reason.HELD: _words(
        "held for a person to look at",
        "vastgehouden voor een beoordeling",
        "Release or drop it with `sluis outbox`.",
        "Geef het vrij of verwijder het met `sluis outbox`.",
    ),
    Reason.STORE_UNAVAILABLE: _words(
        "consent cannot be looked up now",
        "toestemming is nu niet op te zoeken",
        "Nothing to do: the client tries again. Look at the store if it lasts.",
        "Er hoeft niets te gebeuren: de client probeert het opnieuw. Kijk bij aanhouden naar de "
        "opslag.",
    ),
}

# Conditions, gates and other words of the trace.
CONDITIONS: Mapping[str, Phrase] = {
    "named": Phrase("given to or naming this sender", "gegeven aan of noemt deze afzender"),
    "own-entity": Phrase("with this sender itself", "met deze afzender zelf"),
    "affirmative-act": Phrase("affirmative act", "actieve handeling"),
    "sale": Phrase("a sale that counts", "een verkoop die telt"),
    "evidence": Phrase("proof", "bewijs"),
    "address-from-customer": Phrase("address given by the customer", "adres door de klant gegeven"),
    "topics": Phrase("topics covered", "onderwerpen gedekt"),
    "products": Phrase("products covered", "producten gedekt"),
    "channel": Phrase("for e-mail", "voor e-mail"),
    "designated": Phrase("published for this purpose", "voor dit doel bekendgemaakt"),
    "charitable": Phrase("the dealing covers this purpose", "de relatie dekt dit doel"),
    "sole-charitable": Phrase("solely charitable", "uitsluitend voor het goede doel"),
    "function": Phrase("concerns the function", "gaat de functie aan"),
    "no-spam-notice": Phrase("no notice against mail", "geen verbod op reclame vermeld"),
    "withdrawal-info": Phrase("told of withdrawal", "intrekken verteld"),
    "double-opt-in": Phrase("confirmed", "bevestigd"),
    "objection-offered": Phrase("told, and objection offered", "verteld, en bezwaar aangeboden"),
    "informed-at-collection": Phrase("told at collection", "bij verkrijging verteld"),
    "similar": Phrase("similar products", "gelijksoortige producten"),
    "not-listed": Phrase("not in the register", "niet in het register"),
    "in-force": Phrase("in force", "van kracht"),
    "valid-until": Phrase("still valid", "nog geldig"),
    "term": Phrase("within its term", "binnen de termijn"),
    "awake": Phrase("not dormant", "niet ingeslapen"),
    "own-term": Phrase("within the operator's own term", "binnen de eigen termijn"),
    "blocked-products": Phrase("no blocked product", "geen uitgesloten product"),
    "frequency-cap": Phrase("fewer mails than the cap", "minder mails dan het maximum"),
    "quiet-hours": Phrase("outside quiet hours", "buiten de stille uren"),
    "event": Phrase("an entry on record", "een vastlegging"),
    "kind": Phrase("kind of recipient", "soort ontvanger"),
    "legal-person": Phrase("a legal person", "een rechtspersoon"),
    "outside-eea": Phrase("outside the EEA", "buiten de EER"),
    "local-rules-met": Phrase("local rules met", "aan de regels ter plaatse voldaan"),
    "business-only": Phrase("solely about business", "uitsluitend zakelijk"),
    "purpose": Phrase("purpose", "doel"),
    "charity-registered-in": Phrase("registered charity", "geregistreerd goed doel"),
    "fundraising": Phrase("fundraising", "fondsenwerving"),
    "exact-address": Phrase("for this very address", "voor precies dit adres"),
    "not-ended": Phrase("not ended", "niet beëindigd"),
    "not-suppressed": Phrase("not suppressed", "geen bezwaar of bounce"),
}

# What a trace says of an entry, in Dutch: pattern of the English detail, and its Dutch template.
DETAILS: tuple[tuple[str, str], ...] = (
    ("given to this sender", "gegeven aan deze afzender"),
    ("given to another sender", "gegeven aan een andere afzender"),
    ("box unknown", "vakje onbekend"),
    ("box none", "zonder vakje"),
    ("box (paper|oral)", "{}"),
    ("box (.+)", "vakje {}"),
    (
        "stage (.+), paid (.+), indirect remuneration (.+)",
        "stadium {}, betaald {}, indirecte vergoeding {}",
    ),
    ("stage (.+), paid (.+)", "stadium {}, betaald {}"),
    ("stage (.+); message (.+)", "stadium {}; bericht {}"),
    ("stage (.+)", "stadium {}"),
    ("no evidence", "geen bewijs"),
    ("evidence held by another sender", "bewijs bij een andere afzender"),
    ("evidence (.+)", "bewijs {}"),
    ("address from customer (.+)", "adres van de klant {}"),
    ("all topics", "alle onderwerpen"),
    ("topics (.+); message on (.+)", "onderwerpen {}; bericht over {}"),
    ("all products", "alle producten"),
    (
        "products (.+); message on (.+), declared similar by (.+) on (.+)",
        "producten {}; bericht over {}, gelijksoortig verklaard door {} op {}",
    ),
    (
        "products (.+); message on (.+), declared similar by (.+)",
        "producten {}; bericht over {}, gelijksoortig verklaard door {}",
    ),
    ("products (.+); message on (.+)", "producten {}; bericht over {}"),
    ("channels (.+)", "kanalen {}"),
    ("published for (.+); message (.+)", "bekendgemaakt voor {}; bericht {}"),
    ("sole charitable purpose (.+)", "uitsluitend goed doel {}"),
    ("function (.+); message for (.+)", "functie {}; bericht voor {}"),
    ("no-spam notice (.+)", "verbod op reclame {}"),
    ("told of withdrawal (.+)", "intrekken verteld {}"),
    ("not confirmed", "niet bevestigd"),
    ("confirmed (.+)", "bevestigd {}"),
    ("objection offered by (.+), informed (.+)", "bezwaar aangeboden met {}, verteld {}"),
    ("informed at collection (.+)", "bij verkrijging verteld {}"),
    ("lists (.+)", "registers {}"),
    ("since (.+), last mail (.+)", "sinds {}, laatste mail {}"),
    ("since (.+)", "sinds {}"),
    ("no end", "zonder einde"),
    ("last act (.+)", "laatste handeling {}"),
    ("products unknown", "producten onbekend"),
    ("product (.+)", "product {}"),
    (r"(\d+) of at most (\d+) within (.+)", "{} van ten hoogste {} binnen {}"),
    (r"(\S+) to (\S+) in (.+), now (.+)", "{} tot {} in {}, nu {}"),
    ("valid until (.+)", "geldig tot en met {}"),
    (
        "account abandoned (.+?), since (.+), last mail (.+)",
        "account verlaten {}, sinds {}, laatste mail {}",
    ),
    ("account abandoned (.+?), since (.+)", "account verlaten {}, sinds {}"),
    ("no (opt-in|relationship|published address) recorded", "geen {} vastgelegd"),
    ("kind (.+)", "{}"),
    ("legal person (.+)", "rechtspersoon {}"),
    ("country (.+)", "land {}"),
    ("local rules met (.+)", "aan regels ter plaatse voldaan {}"),
    ("address mainly business (.+)", "adres vooral zakelijk {}"),
    ("message business only (.+)", "bericht uitsluitend zakelijk {}"),
    ("purpose (.+)", "doel {}"),
    ("registered in (.+)", "geregistreerd in {}"),
    ("primary purpose fundraising (.+)", "hoofddoel fondsenwerving {}"),
    ("missing", "ontbreekt"),
    (
        "an opt-in exists for another spelling of this address",
        "er is een aanmelding voor een andere schrijfwijze van dit adres",
    ),
    (
        "a newer opt-in exists for another spelling of this address",
        "er is een nieuwere aanmelding voor een andere schrijfwijze van dit adres",
    ),
    ("ended by a later objection", "beëindigd door een later bezwaar"),
    ("hard bounce of (.+) at another sender", "harde bounce van {} bij een andere afzender"),
    ("hard bounce of (.+)", "harde bounce van {}"),
    ("third soft bounce of (.+) at another sender", "derde zachte bounce van {} elders"),
    ("third soft bounce of (.+)", "derde zachte bounce van {}"),
    (
        r"objection to (\S+) of (.+) at another sender",
        "bezwaar tegen {} van {} bij een andere afzender",
    ),
    (r"objection to (\S+) of (.+)", "bezwaar tegen {} van {}"),
    ("complaint of (.+)", "klacht van {}"),
)

# The words of the closed lists of `policy.model`, in Dutch.
VOCABULARY: Mapping[str, str] = {
    "email": "e-mail",
    # box
    "unticked": "door de persoon zelf aangevinkt",
    "preticked": "vooraf aangevinkt",
    "paper": "op papier",
    "oral": "mondeling",
    # stage
    "purchase": "aankoop",
    "subscription": "abonnement",
    "donation": "donatie",
    "support": "steun",
    "negotiation": "onderhandeling",
    "inquiry": "aanvraag",
    "contest": "prijsvraag",
    "cart": "winkelwagen",
    # how objection was offered
    "box": "een vakje",
    "preticked-box": "een vooraf aangevinkt vakje",
    "sentence": "een zin",
    "terms-only": "alleen de voorwaarden",
    # kind
    "consumer": "consument",
    "sole-trader": "eenmanszaak",
    "company-named": "bedrijf (adres op naam)",
    "company-generic": "bedrijf (algemeen adres)",
    "public-body": "overheidsinstantie",
    # purpose of a message, and of a published address
    "commercial": "commercieel",
    "charitable": "liefdadig",
    "ideal": "ideëel",
    "supplier-offers": "aanbiedingen van leveranciers",
    "charity-appeals": "oproepen van goede doelen",
    "general-contact": "algemeen contact",
    "trade-register": "het handelsregister",
    "role-contact": "contact in de functie",
    "professional-contact": "zakelijk contact",
    "press": "de pers",
    "job-applications": "sollicitaties",
    # scope of an objection
    "topic": "een onderwerp",
    "stream": "een stroom",
    "marketing": "reclame",
    "everything": "alles",
}

VALUES: Mapping[str, str] = {
    "registry": "register",
    "yes": "ja",
    "no": "nee",
    "none": "geen",
    "any": "alle",
    "today": "vandaag",
    "unknown": "onbekend",
    "absent": "niet vastgelegd",
    "recorded": "vastgelegd",
    "opt-in": "aanmelding",
    "relationship": "klantrelatie",
    "published": "bekendmaking",
    "published address": "bekendgemaakt adres",
    "objection": "bezwaar",
    "complaint": "klacht",
    "bounce": "bounce",
    "contact": "contact",
    "message": "bericht",
    "moment of sending": "moment van verzenden",
    "recipient": "ontvanger",
    "similar": "gelijksoortig",
    "a reference": "een verwijzing",
    "the operator": "de beheerder",
    "the person acted lately": "de persoon liet kort geleden van zich horen",
    "the person acts after the bounce": "de persoon laat na de bounce van zich horen",
    "a box that the person ticked, with evidence, confirmed, after any objection": (
        "een zelf aangevinkt vakje, met bewijs, bevestigd, na elk bezwaar"
    ),
    "an objection to marketing": "een bezwaar tegen reclame",
    "an objection to everything": "een bezwaar tegen alles",
    "a hard bounce": "een harde bounce",
}
