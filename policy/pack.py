"""Packs: a country's law as data. TOML text in, a frozen `Pack` out, or a `PackError` saying where.

The vocabulary is closed: a key, a gate or a condition that this module does not know is an error,
and so is a rule without a citation. The digest is over canonical bytes of the content, so layout
and comments do not change it. Reading files and building time zones is the caller's.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, tzinfo
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from policy.basis import CONDITIONS, EVENT_TYPES, ORDER, Condition
from policy.model import Detail, Kind, PublishedPurpose, Purpose, Reason, Stage

if TYPE_CHECKING:
    from policy.settled import Answers, Settled

Path = tuple[str | int, ...]
E = TypeVar("E", bound=StrEnum)

GDPR_OBJECTION = "GDPR 21(3)"

_ALLOWS = (
    Reason.CONSENT,
    Reason.SOFT_OPT_IN,
    Reason.PUBLISHED_ADDRESS,
    Reason.BUSINESS_FUNCTION,
    Reason.LEGAL_PERSON,
    Reason.FOREIGN_BUSINESS,
    Reason.IMPLIED_CONSENT,
    Reason.OPT_OUT_REGIME,
    Reason.EXEMPT,
)


class Confidence(StrEnum):
    """How settled the law is; a low one is our default, not the law's last word."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class PackError(ValueError):
    """A pack cannot be read. `name` is the file, `line` 1-based (0: not known), `key` dotted.

    `words` says what is wrong with it; `str()` is all of these.
    """

    def __init__(self, name: str, line: int, key: str, words: str) -> None:
        place = f"{name}:{line}" if line else name
        super().__init__(f"{place}: {key}: {words}" if key else f"{place}: {words}")
        self.name = name
        self.line = line
        self.key = key
        self.words = words


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """How long a basis lasts: months after the event or, when asked for, a later act or mail."""

    months: int
    from_acts: bool = False
    from_mail: bool = False
    by_stage: Mapping[Stage, int] = field(default_factory=dict)
    lifetimes: bool = False
    needs_review: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Who and what a rule is for; a rule whose gates are not met is no candidate. None: any."""

    kinds: frozenset[Kind] | None = None
    legal_person: bool | None = None
    business_only: bool = False
    local_rules_met: bool = False
    outside_eea: bool = False
    purposes: frozenset[Purpose] | None = None
    charity_registered_in: str | None = None
    primary_purpose_fundraising: bool = False


NO_GATES = Gates()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One way in which mail is permitted. `event` None: nothing has to be recorded for it.

    `reviewed_on`: when a person last held it against the law; the pack's day where it has none.
    """

    id: str
    allows: Reason
    cite: str
    confidence: Confidence
    reviewed_on: date
    event: type[Detail] | None = None
    gates: Gates = NO_GATES
    conditions: tuple[Condition, ...] = ()
    stages: frozenset[Stage] = frozenset()
    indirect_remuneration: bool = False
    designated: Mapping[Purpose, frozenset[PublishedPurpose]] = field(default_factory=dict)
    registry: str | None = None
    in_force_from: date | None = None
    term: Term | None = None
    dormant_months: int | None = None


class Label(StrEnum):
    """When an advertisement must be labelled as one."""

    NEVER = "never"
    ALWAYS = "always"
    UNLESS_CONSENT = "unless-consent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Duties:
    """What each marketing message owes, with the article for each.

    `postal_address` "" is not owed. `valid_days`: how long the opt-out has to work (0: no period).
    """

    identity: str
    unsubscribe: str
    subject: str
    recipients: str
    postal_address: str = ""
    valid_days: int = 0
    label: Label = Label.NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """The law of one country (or of the EU where it has no pack of its own).

    `fallback`: stands in for every country it lists that has no pack. `primary_purpose`:
    transactional mail stays that although it carries promotion. `applies_to_sent_from`: also for
    mail sent from here. `label` is `id@version#digest`, the digest cut to 8 digits.
    """

    id: str
    title: str
    version: str
    digest: str
    reviewed_on: date
    zone: tzinfo
    countries: tuple[str, ...]
    rules: tuple[Rule, ...]
    duties: Duties
    suppression_cite: str = GDPR_OBJECTION
    applies_to_sent_from: bool = False
    primary_purpose: bool = False
    fallback: bool = False
    label: str = ""


@dataclass(frozen=True)
class Packs:
    """All packs in force, by id. Iterates over packs in alphabetical order of id.

    `settled` and `answers` are what `policy/settled.py` remembers: nothing that they decide.
    """

    by_id: Mapping[str, Pack]
    settled: dict[tuple[object, ...], Settled] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    answers: Answers = field(init=False, repr=False, compare=False, default_factory=dict)
    _by_country: Mapping[str, Pack] = field(init=False, repr=False)
    _fallback: Pack | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ordered = dict(sorted(self.by_id.items()))
        by_country: dict[str, Pack] = {}
        fallback: Pack | None = None
        for pack in ordered.values():
            if pack.fallback:
                if fallback is not None:
                    words = f"{fallback.id} is the fallback already"
                    raise PackError(pack.id, 0, "fallback", words)
                fallback = pack
                continue
            for country in pack.countries:
                if country in by_country:
                    words = f"{country} belongs to {by_country[country].id} already"
                    raise PackError(pack.id, 0, "countries", words)
                by_country[country] = pack
        if fallback is not None:
            for country in fallback.countries:
                by_country.setdefault(country, fallback)
        object.__setattr__(self, "by_id", MappingProxyType(ordered))
        object.__setattr__(self, "_by_country", by_country)
        object.__setattr__(self, "_fallback", fallback)

    def __getitem__(self, id_: str) -> Pack:
        return self.by_id[id_]

    def __iter__(self) -> Iterator[Pack]:
        return iter(self.by_id.values())

    def __len__(self) -> int:
        return len(self.by_id)

    @property
    def fallback(self) -> Pack | None:
        """The pack of the EU."""
        return self._fallback

    def of(self, country: str | None) -> Pack | None:
        """The pack of a country; the EU's for an EEA country without one of its own."""
        return self._by_country.get(country.upper()) if country else None

    def in_eea(self, country: str) -> bool:
        """Whether a country is listed in the EU's pack."""
        return self._fallback is not None and country.upper() in self._fallback.countries


def load_pack(text: str, *, name: str, zones: Callable[[str], tzinfo]) -> Pack:
    """Read one pack. `zones` turns an IANA name into a zone. Raises `PackError`."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        raise PackError(name, int(found[1]) if found else 0, "", str(error)) from None
    return pack_from(content, name=name, zones=zones, text=text)


def pack_from(
    content: Mapping[str, object], *, name: str, zones: Callable[[str], tzinfo], text: str = ""
) -> Pack:
    """A pack from its parsed content; `text` only serves to find lines. Raises `PackError`."""
    return _Reader(text, name, zones).pack(dict(content))


def packs_from(sources: Mapping[str, str], zones: Callable[[str], tzinfo]) -> Packs:
    """Read packs from texts by file name. Raises `PackError`."""
    by_id: dict[str, Pack] = {}
    files: dict[str, str] = {}
    for name, text in sorted(sources.items()):
        pack = load_pack(text, name=name, zones=zones)
        if pack.id in by_id:
            words = f"a pack {pack.id} exists already, in {files[pack.id]}"
            raise PackError(name, _lines(text).get(("id",), 1), "id", words)
        by_id[pack.id] = pack
        files[pack.id] = name
    try:
        return Packs(by_id)
    except PackError as error:  # it knows the pack, and this the file
        name = files[error.name]
        line = _lines(sources[name]).get((error.key,), 1)
        raise PackError(name, line, error.key, error.words) from None


def digest_of(content: Mapping[str, object]) -> str:
    """SHA-256 (hex) over canonical JSON: sorted keys, no white space, dates in ISO 8601."""
    canonical = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


class _Reader:
    """Walks the content of one file; every accessor knows where it is."""

    def __init__(self, text: str, name: str, zones: Callable[[str], tzinfo]) -> None:
        self.name = name
        self.zones = zones
        self.lines = _lines(text)

    def error(self, path: Path, words: str) -> PackError:
        dotted = ".".join(str(part) for part in path)
        line = 1 if self.lines else 0  # what is missing at the top is missing from its start on
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                line = self.lines[path[:end]]
                break
        return PackError(self.name, line, dotted, words)

    def table(self, value: object, path: Path, *, need: str, may: str = "") -> dict[str, object]:
        if not isinstance(value, dict):
            raise self.error(path, "expected a table")
        for key in value:
            if key not in need.split() and key not in may.split():
                raise self.error((*path, key), "unknown key")
        for key in need.split():
            if key not in value:
                raise self.error((*path, key), "missing")
        return value

    def text(self, table: Mapping[str, object], path: Path, key: str, default: str = "") -> str:
        value = table.get(key, default)
        if not isinstance(value, str) or (key in table and not value.strip()):
            raise self.error((*path, key), "expected a text")
        # Citations end up in SMTP replies.
        if key == "cite" and not (value.isascii() and value.isprintable()):
            raise self.error((*path, key), "a citation is printable ASCII")
        return value

    def flag(self, table: Mapping[str, object], path: Path, key: str) -> bool:
        value = table.get(key, False)
        if not isinstance(value, bool):
            raise self.error((*path, key), "expected true or false")
        return value

    def number(self, value: object, path: Path) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 1200:
            raise self.error(path, "expected a whole number from 1 to 1200")
        return value

    def day(self, table: Mapping[str, object], path: Path, key: str) -> date:
        value = table[key]
        if type(value) is not date:
            raise self.error((*path, key), "expected a date")
        return value

    def words(self, value: object, path: Path, enum: type[E]) -> tuple[E, ...]:
        if not isinstance(value, list) or not value:
            raise self.error(path, "expected a list")
        return tuple(self.word(item, path, enum) for item in value)

    def word(self, value: object, path: Path, enum: type[E]) -> E:
        try:
            return enum(str(value))
        except ValueError:
            raise self.error(path, f"{value!r} is not one of " + ", ".join(enum)) from None

    def countries(self, value: object, path: Path) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise self.error(path, "expected a list of country codes")
        for code in value:
            if not isinstance(code, str) or re.fullmatch("[A-Z]{2}", code) is None:
                raise self.error(path, f"{code!r} is not a country code of two capitals")
        return tuple(value)

    def pack(self, content: dict[str, object]) -> Pack:
        top = self.table(
            content,
            (),
            need="id title version reviewed_on zone countries duties rules",
            may="suppression applies_to_sent_from primary_purpose fallback note",
        )
        id_, version = self.text(top, (), "id"), self.text(top, (), "version")
        if re.fullmatch(r"[a-z]{2}", id_) is None:
            raise self.error(("id",), "expected two small letters")
        if re.fullmatch(r"\d{4}\.\d{2}(\.\d+)?", version) is None:
            raise self.error(("version",), "expected year.month, as in 2026.11")
        self.text(top, (), "note")
        zone_name = self.text(top, (), "zone")
        try:
            zone = self.zones(zone_name)
        except (KeyError, ValueError, OSError):
            raise self.error(("zone",), f"unknown time zone {zone_name!r}") from None
        reviewed_on = self.day(top, (), "reviewed_on")
        suppression = self.table(top.get("suppression", {}), ("suppression",), need="", may="cite")
        digest = digest_of(content)
        return Pack(
            id=id_,
            title=self.text(top, (), "title"),
            version=version,
            digest=digest,
            reviewed_on=reviewed_on,
            zone=zone,
            countries=self.countries(top["countries"], ("countries",)),
            rules=self.rules(top["rules"], reviewed_on),
            duties=self.duties(top["duties"]),
            suppression_cite=self.text(suppression, ("suppression",), "cite", GDPR_OBJECTION),
            applies_to_sent_from=self.flag(top, (), "applies_to_sent_from"),
            primary_purpose=self.flag(top, (), "primary_purpose"),
            fallback=self.flag(top, (), "fallback"),
            label=f"{id_}@{version}#{digest[:8]}",
        )

    def duties(self, value: object) -> Duties:
        path: Path = ("duties",)
        top = self.table(
            value, path, need="identity unsubscribe subject recipients", may="postal_address"
        )

        def cite(key: str, may: str = "") -> tuple[str, dict[str, object]]:
            table = self.table(top[key], (*path, key), need="cite", may=may)
            return self.text(table, (*path, key), "cite"), table

        unsubscribe, terms = cite("unsubscribe", "valid_days")
        subject, honesty = cite("subject", "label")
        days = terms.get("valid_days")
        return Duties(
            identity=cite("identity")[0],
            unsubscribe=unsubscribe,
            subject=subject,
            recipients=cite("recipients")[0],
            postal_address=cite("postal_address")[0] if "postal_address" in top else "",
            valid_days=0
            if days is None
            else self.number(days, (*path, "unsubscribe", "valid_days")),
            label=self.word(honesty.get("label", "never"), (*path, "subject", "label"), Label),
        )

    def rules(self, value: object, reviewed_on: date) -> tuple[Rule, ...]:
        if not isinstance(value, list) or not value:
            raise self.error(("rules",), "expected at least one rule")
        rules = tuple(
            self.rule(item, ("rules", place), reviewed_on) for place, item in enumerate(value)
        )
        seen: set[str] = set()
        for place, rule in enumerate(rules):
            if rule.id in seen:
                raise self.error(("rules", place, "id"), f"a rule {rule.id} exists already")
            seen.add(rule.id)
        return rules

    def rule(self, value: object, path: Path, reviewed_on: date) -> Rule:
        parameters = "stages indirect_remuneration designated registry in_force_from term "
        top = self.table(
            value,
            path,
            need="id allows cite confidence",
            may=parameters + "dormant_months event gates conditions reviewed_on note",
        )
        self.text(top, path, "note")
        if top["allows"] not in _ALLOWS:
            words = f"{top['allows']!r} is not one of " + ", ".join(_ALLOWS)
            raise self.error((*path, "allows"), words)
        allows = Reason(str(top["allows"]))
        event_name = self.text(top, path, "event", "none")
        if event_name != "none" and event_name not in EVENT_TYPES:
            words = "expected one of none, " + ", ".join(EVENT_TYPES)
            raise self.error((*path, "event"), words)
        event = EVENT_TYPES.get(event_name)
        conditions = self.conditions(top, path, event)
        return Rule(
            id=self.text(top, path, "id"),
            allows=allows,
            cite=self.text(top, path, "cite"),
            confidence=self.word(top["confidence"], (*path, "confidence"), Confidence),
            reviewed_on=self.day(top, path, "reviewed_on")
            if "reviewed_on" in top
            else reviewed_on,
            event=event,
            gates=self.gates(top.get("gates", {}), (*path, "gates")),
            conditions=conditions,
            stages=frozenset(self.words(top["stages"], (*path, "stages"), Stage))
            if "stages" in top
            else frozenset(),
            indirect_remuneration=self.flag(top, path, "indirect_remuneration"),
            designated=self.designated(top.get("designated", {}), (*path, "designated")),
            registry=self.text(top, path, "registry") or None,
            in_force_from=self.day(top, path, "in_force_from") if "in_force_from" in top else None,
            term=self.term(top["term"], (*path, "term")) if "term" in top else None,
            dormant_months=self.number(top["dormant_months"], (*path, "dormant_months"))
            if "dormant_months" in top
            else None,
        )

    def conditions(
        self, top: Mapping[str, object], path: Path, event: type[Detail] | None
    ) -> tuple[Condition, ...]:
        names = top.get("conditions", [])
        where = (*path, "conditions")
        if not isinstance(names, list):
            raise self.error(where, "expected a list")
        found: list[Condition] = []
        for name in names:
            condition = CONDITIONS.get(name) if isinstance(name, str) else None
            if condition is None:
                raise self.error(where, f"unknown condition {name!r}")
            if event not in condition.events:
                raise self.error(where, f"{name} cannot be asked of this event")
            for key in condition.needs:
                if key not in top:
                    raise self.error((*path, key), f"missing, {name} needs it")
            found.append(condition)
        order = [ORDER[condition.name] for condition in found]
        if order != sorted(set(order)):
            raise self.error(where, "not in the fixed order, or named twice")
        read = {key for condition in found for key in (*condition.needs, *condition.may)}
        for key in CONDITION_KEYS:
            if key in top and key not in read:
                raise self.error((*path, key), "no condition of this rule reads it")
        return tuple(found)

    def gates(self, value: object, path: Path) -> Gates:
        table = self.table(
            value,
            path,
            need="",
            may="kinds legal_person business_only local_rules_met outside_eea purposes "
            "charity_registered_in primary_purpose_fundraising",
        )
        if not table:
            return NO_GATES
        kinds, purposes = table.get("kinds"), table.get("purposes")
        registered = self.text(table, path, "charity_registered_in")
        return Gates(
            kinds=None
            if kinds is None
            else frozenset(self.words(kinds, (*path, "kinds"), Kind)),
            legal_person=self.flag(table, path, "legal_person")
            if "legal_person" in table
            else None,
            business_only=self.flag(table, path, "business_only"),
            local_rules_met=self.flag(table, path, "local_rules_met"),
            outside_eea=self.flag(table, path, "outside_eea"),
            purposes=None
            if purposes is None
            else frozenset(self.words(purposes, (*path, "purposes"), Purpose)),
            charity_registered_in=registered or None,
            primary_purpose_fundraising=self.flag(table, path, "primary_purpose_fundraising"),
        )

    def designated(
        self, value: object, path: Path
    ) -> Mapping[Purpose, frozenset[PublishedPurpose]]:
        table = self.table(value, path, need="", may=" ".join(Purpose))
        return {
            Purpose(key): frozenset(self.words(item, (*path, key), PublishedPurpose))
            for key, item in table.items()
        }

    def term(self, value: object, path: Path) -> Term:
        table = self.table(
            value, path, need="months", may="from by_stage lifetimes needs_review"
        )
        starts = table.get("from", [])
        if not isinstance(starts, list) or not all(start in ("acts", "mail") for start in starts):
            raise self.error((*path, "from"), "expected a list of acts, mail")
        by_stage = self.table(
            table.get("by_stage", {}), (*path, "by_stage"), need="", may=" ".join(Stage)
        )
        return Term(
            months=self.number(table["months"], (*path, "months")),
            from_acts="acts" in starts,
            from_mail="mail" in starts,
            by_stage={
                Stage(key): self.number(item, (*path, "by_stage", key))
                for key, item in by_stage.items()
            },
            lifetimes=self.flag(table, path, "lifetimes"),
            needs_review=self.flag(table, path, "needs_review"),
        )


CONDITION_KEYS = frozenset(
    key for condition in CONDITIONS.values() for key in (*condition.needs, *condition.may)
)


def _lines(text: str) -> dict[Path, int]:
    """Where keys and tables stand in plainly written TOML: path -> 1-based line. Best effort."""
    lines: dict[Path, int] = {}
    here: Path = ()
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if array := re.fullmatch(r"\[\[\s*([\w.-]+)\s*\]\](?:\s*#.*)?", stripped):
            place = counts.get(array[1], -1) + 1
            counts[array[1]] = place
            here = (array[1], place)
            lines[here] = number
        elif table := re.fullmatch(r"\[\s*([\w.-]+)\s*\](?:\s*#.*)?", stripped):
            parts = table[1].split(".")
            here = (parts[0], counts[parts[0]], *parts[1:]) if parts[0] in counts else (*parts,)
            lines[here] = number
        elif key := re.match(r"([\w-]+)\s*=", stripped):
            lines.setdefault((*here, key[1]), number)
    return lines
