"""The metrics: one method per event, families as in `docs/metrics.md`, never 500 series or more.

Every child is resolved once: an event costs a dictionary look-up and an addition. Label values come
from closed lists (configuration, packs, protocol); a value outside them, and each stream beyond the
tenth, counts as `other`. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from policy.model import Category, Reason, Severity, Verdict, Via
from proxy.config import Sender, Settings, Stream
from proxy.meters import OTHER, Counters, Histogram, Labels, reply_labels

NONE = "none"

OUTCOMES = (
    "relayed", "blocked", "deferred", "failed", "lost", "returned", "unknown", "answered",
)  # fmt: skip

#: Failed though its client was told 250.
LOST = "lost"
PROMOTION = (
    *("any", "discount", "voucher", "shopping", "urgency", "newsletter", "opt_out", "list_fields"),
    "solicitation",
)
FORWARDED = ("passed", "refused", "expired", "retry")
OUTBOX_STATES = ("waiting", "attempting", "held")
EXPIRING = ("30d", "60d", "90d")
OPERATIONS = (
    *("lookup", "read", "claim", "reclaim", "append", "record", "recover"),  # the store's own
    *("settle", "take", "hasten", "pass"),  # for the outbox
    *("open", "merge", "oppose"),  # for its fallback
    *("admit", "submit"),  # the gate's: a client heard 451
)
COMMANDS = ("connect", "ehlo", "helo", "starttls", "auth", "mail", "rcpt", "data", OTHER)
CODES = (
    *(220, 221, 235, 250, 251, 252, 334, 354, 421, 432, 450, 451, 452, 454, 455, 500, 501, 502),
    *(503, 504, 521, 530, 534, 535, 538, 550, 551, 552, 553, 554, 555),
)

ALLOW = (
    Reason.CONSENT,
    Reason.SOFT_OPT_IN,
    Reason.LEGAL_PERSON,
    Reason.PUBLISHED_ADDRESS,
    Reason.BUSINESS_FUNCTION,
    Reason.FOREIGN_BUSINESS,
    Reason.IMPLIED_CONSENT,
    Reason.OPT_OUT_REGIME,
    Reason.EXEMPT,
    Reason.NOT_MARKETING,
)
DEFER = (Reason.FREQUENCY_CAP, Reason.QUIET_HOURS, Reason.HELD, Reason.STORE_UNAVAILABLE)
_FIRST = (Reason.SUPPRESSED, Reason.NO_BASIS, Reason.NO_UNSUBSCRIBE, Reason.EXPIRED)
BLOCK = (*_FIRST, *(r for r in Reason if r not in (*ALLOW, *DEFER, *_FIRST)))
_NOT_MARKETING_BLOCKS = (
    *(Reason.SUPPRESSED, Reason.MIXED_PURPOSE),
    *(Reason.INVALID_ADDRESS, Reason.NOT_AUTHORISED),
)

_CEILING = 495
_NAMED = 10
_PROMOTED = 3
_PACKS = 20
_MILLISECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_GROUP = (1, 2, 4, 8, 16, 64, 256)

_NAME = re.compile(r"[a-z][a-z_-]{0,19}")
_CODES = frozenset(str(code) for code in CODES)
_VIAS = frozenset(via.value for via in Via)
_VERDICTS = frozenset(verdict.value for verdict in Verdict)
_REASONS = frozenset(reason.value for reason in Reason)


class PackLike(Protocol):
    """What is read of a pack."""

    @property
    def id(self) -> str:
        """Lower-case country code, or `eu`."""

    @property
    def version(self) -> str:
        """Version of the pack's text."""

    @property
    def digest(self) -> str:
        """Digest over its canonical bytes."""


class Telemetry:
    """All metric families of one process, in a registry of their own."""

    def __init__(self, settings: Settings) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # half the series, no use
        self._registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self._registry)
        self._label = {s.id: s.id for s in settings.streams[:_NAMED]}
        self._listeners = {x.address: x.address for x in settings.listeners[:_NAMED]}
        self._upstreams = {x.name: x.name for x in settings.upstreams[:_NAMED]}
        self._jurisdictions: frozenset[str] = frozenset({NONE})
        self._gauges(settings)
        self._histograms()
        self._counters(settings)

    # -- families --------------------------------------------------------------------------------

    def _gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(name, text, labels, namespace="sluis", registry=self._registry)

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, text, labels, namespace="sluis", registry=self._registry)

    def _counters_of(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        close: Callable[[Labels], Labels],
        *,
        most: int,
        spare: int = 0,
        rest: Callable[[Labels], Labels] = lambda labels: labels,
    ) -> Counters:
        return Counters(
            f"sluis_{name}", text, labels, self._registry, close, most=most, spare=spare, rest=rest
        )

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"sluis_{name}", text, buckets, self._registry)

    def _gauges(self, settings: Settings) -> None:
        build = self._gauge("build_info", "Version of Sluis and Python.", ("version", "python"))
        build.labels(version("sluis"), platform.python_version()).set(1)
        self._pack_info = self._gauge(
            "pack_info", "Rule packs in use.", ("pack", "version", "digest")
        )
        self._connections = self._gauge("smtp_connections", "Open SMTP connections.")
        self._loop_lag = self._gauge(
            "event_loop_lag_seconds", "How late the event loop ran its last timer."
        )
        self._ready = self._gauge("ready", "Whether /readyz answers 200.")
        self._degraded = self._gauge("degraded", "How many parts /readyz names as degraded.")
        up = self._gauge("upstream_up", "Whether the upstream can be reached.", ("upstream",))
        self._up = {name: up.labels(name) for name in self._upstreams}
        if len(settings.upstreams) > _NAMED:
            self._up[OTHER] = up.labels(OTHER)
        for child in self._up.values():
            child.set(1)  # as the pool counts it: one never tried is up
        self._ends = self._gauge(
            "certificate_expires_timestamp_seconds", "When a certificate ends.", ("listener",)
        )
        for listener in settings.listeners[:_NAMED]:
            if listener.tls != "none":
                self._ends.labels(listener.address).set(math.nan)
        self._authorities = self._gauge(
            "authority_expires_timestamp_seconds", "When the next authority ends.", ("upstream",)
        )
        outbox = self._gauge("outbox_messages", "Unfinished mails by state.", ("state",))
        self._outbox = {state: outbox.labels(state) for state in OUTBOX_STATES}
        self._oldest = self._gauge("outbox_oldest_seconds", "Age of the oldest unfinished mail.")
        self._forwards = self._gauge("forwards_waiting", "Opt-outs that wait to be passed on.")
        self._fallback = self._gauge(
            "fallback_records", "Records beside the store that wait to be merged."
        )
        self._fallback_oldest = self._gauge("fallback_oldest_seconds", "Age of the oldest of them.")
        bases = self._gauge("bases", "People who may be written to, by basis.", ("basis",))
        self._bases = {r.value: bases.labels(r.value) for r in ALLOW if r is not ALLOW[-1]}
        expiring = self._gauge("bases_expiring", "Bases that end within a time.", ("within",))
        self._expiring = {within: expiring.labels(within) for within in EXPIRING}

    def _histograms(self) -> None:
        fine = (0.00005, 0.0001, 0.00025, *_MILLISECONDS[:6])
        slow = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 60, 600)
        self._decision = self._histogram("decision_seconds", "Time to take one decision.", fine)
        self._relay = self._histogram(
            "relay_seconds", "From end of data to the upstream's answer.", slow
        )
        self._effect = self._histogram(
            "optout_effect_seconds", "From an opt-out's arrival to its commit.", slow[:-2]
        )
        self._commit = self._histogram("commit_seconds", "Time of one commit.", _MILLISECONDS)
        self._commit_rows = self._histogram("commit_rows", "Writes that shared a commit.", _GROUP)
        self._lookup = self._histogram("lookup_seconds", "Time of one look-up.", _MILLISECONDS)
        self._lookup_subjects = self._histogram(
            "lookup_subjects", "People asked for in one look-up.", _GROUP
        )

    def _counters(self, settings: Settings) -> None:
        self._complaints = self._counter("complaints_total", "Complaints about a mail.")
        self._ambiguous = self._counter(
            "ambiguous_retries_total", "Mails sent again after an outcome that nobody knows."
        )
        forwards = self._counter(
            "forwards_total", "Tries to pass an opt-out on, by what became of it.", ("result",)
        )
        self._forwarded = {result: forwards.labels(result) for result in FORWARDED}
        self._undeduped = self._counter(
            "undeduped_total", "Mails sent without the store, their history unasked."
        )
        bounces = self._counter("bounces_total", "Mails that came back.", ("severity",))
        self._bounces = {s.value: bounces.labels(s.value) for s in Severity}
        streams = tuple(self._label.values())
        if len(settings.streams) > _NAMED:
            streams = (*streams, OTHER)
        self._sessions = self._counters_of(
            "smtp_sessions_total",
            "SMTP connections accepted.",
            ("listener",),
            lambda v: v,
            most=len(self._listeners),
        )
        self._sessions.make((x,) for x in self._listeners.values())
        self._store_errors = self._counters_of(
            "store_errors_total",
            "Times the store could not answer.",
            ("operation",),
            lambda v: v if _NAME.fullmatch(v[0]) else (OTHER,),
            most=len(OPERATIONS) + 4,
        )
        self._store_errors.make((x,) for x in OPERATIONS)
        self._messages = self._counters_of(
            "messages_total",
            "Recipients' mails by how they ended.",
            ("stream", "outcome"),
            lambda v: (v[0], v[1] if v[1] in OUTCOMES else OTHER),
            most=len(OUTCOMES) * len(streams),
        )
        self._messages.make((s, o) for s in streams for o in OUTCOMES)
        self._optouts = self._counters_of(
            "optouts_total",
            "Opt-outs recorded.",
            ("stream", "via"),
            lambda v: (v[0], v[1] if v[1] in _VIAS else OTHER),
            most=3 * len(streams) + 4,
        )
        self._promotions = self._counters_of(
            "promotions_total",
            "Transactional mails whose signs of promotion reach the threshold, by sign.",
            ("stream", "sign"),
            lambda v: (v[0], v[1] if v[1] in PROMOTION else OTHER),
            most=_PROMOTED * len(PROMOTION),
            spare=len(PROMOTION),
            rest=lambda v: (OTHER, v[1]),
        )
        served = [s.id for s in settings.streams if s.category is Category.TRANSACTIONAL]
        self._promotions.make(
            (self._label.get(s, OTHER), sign) for s in served[:_PROMOTED] for sign in PROMOTION
        )
        taken = (Via.ONE_CLICK.value, Via.PAGE.value, Via.MAILTO.value)
        self._optouts.make((s, via) for s in streams for via in taken)
        self._replies = self._counters_of(
            "smtp_replies_total",
            "SMTP replies given.",
            ("command", "code"),
            lambda v: (v[0] if v[0] in COMMANDS else OTHER, v[1] if v[1] in _CODES else OTHER),
            most=32,
            spare=len(COMMANDS),
            rest=lambda v: (v[0], OTHER),
        )
        self._replies.make(
            [("mail", "250"), ("rcpt", "250"), ("rcpt", "550"), ("data", "250"), ("data", "451")]
        )
        self._by_jurisdiction = self._counters_of(
            "decisions_by_jurisdiction_total",
            "Decisions by the law that gave the reason.",
            ("jurisdiction", "verdict"),
            lambda v: (
                v[0] if v[0] in self._jurisdictions else OTHER,
                v[1] if v[1] in _VERDICTS else OTHER,
            ),
            most=36,
            spare=len(_VERDICTS),
            rest=lambda v: (OTHER, v[1]),
        )
        self._decisions = self._counters_of(
            "decisions_total",
            "Decisions.",
            ("stream", "verdict", "reason", "mode"),
            _closed_decision,
            most=0,
            spare=len(_VERDICTS) * len(streams),
            rest=lambda v: (v[0], v[1], OTHER, v[3]),
        )
        self._make_decisions(settings)

    def _make_decisions(self, settings: Settings) -> None:
        """What each stream can get at zero, the likeliest first, in the room the others leave."""
        others = (
            *(self._sessions, self._store_errors, self._messages),
            *(self._optouts, self._replies, self._by_jurisdiction, self._promotions),
        )
        taken = sum(len(family.samples) for family in self._registry.collect())
        taken += _PACKS + sum(family.room for family in others) + self._decisions.room
        self._decisions.most = max(_CEILING - taken, 0)
        streams = settings.streams[: _NAMED + 1]
        pairs = [
            (self._label.get(s.id, OTHER), s.mode, _possible(s, settings.sender(s.sender)))
            for s in streams
        ]
        for rank in range(max(len(possible) for *_, possible in pairs)):
            self._decisions.make(
                (label, verdict.value, reason.value, mode)
                for label, mode, possible in pairs
                for verdict, reason in possible[rank : rank + 1]
            )

    # -- events ----------------------------------------------------------------------------------

    def decided(
        self, stream: str, verdict: str, reason: str, mode: str, jurisdiction: str, seconds: float
    ) -> None:
        """One decision taken, in `seconds`."""
        self._decisions.add((self._label.get(stream, OTHER), verdict, reason, mode))
        self._by_jurisdiction.add((jurisdiction.lower() or NONE, verdict))
        self._decision.observe(seconds)

    def message(self, stream: str, outcome: str) -> None:
        """One recipient's mail ended; `outcome` is one of `OUTCOMES`."""
        self._messages.add((self._label.get(stream, OTHER), outcome))

    def promotion(self, stream: str, signs: Iterable[str]) -> None:
        """A transactional mail counts as promotional, or would; `signs` say by what."""
        label = self._label.get(stream, OTHER)
        for sign in ("any", *signs):
            self._promotions.add((label, sign))

    def relayed(self, seconds: float) -> None:
        """The upstream answered, `seconds` after end of data."""
        self._relay.observe(seconds)

    def connection_opened(self, listener: str) -> None:
        """An SMTP connection was accepted."""
        self._connections.inc()
        self._sessions.add((self._listeners.get(listener, OTHER),))

    def connection_closed(self, listener: str) -> None:
        """It ended. `listener` keeps the pair of calls alike; the gauge has no label."""
        self._connections.dec()

    def reply(self, command: str, code: int) -> None:
        """We answered a command."""
        self._replies.add(reply_labels(command, code))

    def optout(self, stream: str, via: str, seconds: float) -> None:
        """An opt-out was committed `seconds` after it arrived."""
        self._optouts.add((self._label.get(stream, OTHER), via))
        self._effect.observe(seconds)

    def forward(self, result: str) -> None:
        """One try to pass an opt-out on; `result` is one of `FORWARDED`."""
        self._forwarded[result].inc()

    def complaint(self) -> None:
        """A person reported a mail as spam."""
        self._complaints.inc()

    def bounce(self, severity: str) -> None:
        """A mail came back; an unknown severity counts as hard."""
        self._bounces.get(severity, self._bounces[Severity.HARD.value]).inc()

    def ambiguous_retry(self) -> None:
        """A copy is sent again although an earlier attempt may have been delivered."""
        self._ambiguous.inc()

    def undeduped(self) -> None:
        """A copy is sent without the store: whether it was sent before was not asked."""
        self._undeduped.inc()

    def store_error(self, operation: str) -> None:
        """The store could not answer during `operation`, a name from our own code."""
        self._store_errors.add((operation,))

    def commit(self, rows: int, seconds: float) -> None:
        """One commit, shared by `rows` writes."""
        self._commit_rows.observe(rows)
        self._commit.observe(seconds)

    def lookup(self, subjects: int, seconds: float) -> None:
        """One look-up of `subjects` people."""
        self._lookup_subjects.observe(subjects)
        self._lookup.observe(seconds)

    # -- states ----------------------------------------------------------------------------------

    def bases(self, counts: Mapping[str, int]) -> None:
        """People per living basis; a basis that is not named has none."""
        for basis, child in self._bases.items():
            child.set(counts.get(basis, 0))

    def bases_expiring(self, counts: Mapping[str, int]) -> None:
        """Bases that end within `EXPIRING`; a window that is not named has none."""
        for within, child in self._expiring.items():
            child.set(counts.get(within, 0))

    def outbox(self, counts: Mapping[str, int], oldest_seconds: float) -> None:
        """Unfinished mails per state, and the age of the oldest (0 for none)."""
        for state, child in self._outbox.items():
            child.set(counts.get(state, 0))
        self._oldest.set(oldest_seconds)

    def forwards_waiting(self, count: int) -> None:
        """Opt-outs that wait to be passed on."""
        self._forwards.set(count)

    def fallback(self, records: int, oldest_seconds: float) -> None:
        """What waits beside the store, and the age of the oldest (0 for none)."""
        self._fallback.set(records)
        self._fallback_oldest.set(oldest_seconds)

    def upstream(self, name: str, up: bool) -> None:
        """An upstream can be reached, or not."""
        child = self._up.get(name) or self._up.get(OTHER)
        if child is not None:
            child.set(int(up))

    def certificate(self, listener: str, ends: Callable[[], float]) -> None:
        """`ends` gives the Unix time at which the certificate in use at `listener` ends."""
        if listener in self._listeners:
            self._ends.labels(listener).set_function(ends)

    def authority(self, upstream: str, ends: Callable[[], float]) -> None:
        """`ends` gives the Unix time at which the next authority in the `ca_file` ends."""
        if upstream in self._upstreams:
            self._authorities.labels(upstream).set_function(ends)

    def loop_lag(self, seconds: float) -> None:
        """How late the event loop was."""
        self._loop_lag.set(seconds)

    def health(self, ready: bool, degraded: int) -> None:
        """What `/readyz` says: whether traffic may come, and how many parts are impaired."""
        self._ready.set(int(ready))
        self._degraded.set(degraded)

    def packs(self, packs: Iterable[PackLike]) -> None:
        """The packs in use from now on; their jurisdictions get children at zero."""
        known = list(packs)
        self._pack_info.clear()
        for pack in known[:_PACKS]:
            self._pack_info.labels(pack.id, pack.version, pack.digest[:8]).set(1)
        self._jurisdictions = frozenset({NONE, *(pack.id for pack in known)})
        verdicts = (Verdict.ALLOW.value, Verdict.BLOCK.value)
        self._by_jurisdiction.make((p.id, v) for p in known for v in verdicts)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """All families in the format that the Accept header prefers, and its content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type


def _possible(stream: Stream, sender: Sender) -> list[tuple[Verdict, Reason]]:
    """What a stream of `sender` can get, the likeliest first."""
    overlays = (stream.overlay, sender.overlay)
    defer: list[Reason] = []
    if any(overlay.cap is not None for overlay in overlays):
        defer.append(Reason.FREQUENCY_CAP)
    if any(overlay.quiet_hours is not None for overlay in overlays):
        defer.append(Reason.QUIET_HOURS)
    if stream.category is Category.MARKETING:
        allow: Sequence[Reason] = ALLOW[:2]
        block: Sequence[Reason] = BLOCK
        more: Sequence[Reason] = ALLOW[2:-1]
    else:
        allow, block, more = (Reason.NOT_MARKETING,), _NOT_MARKETING_BLOCKS, ()
        defer = []
    return [
        *((Verdict.ALLOW, reason) for reason in allow),
        *((Verdict.BLOCK, reason) for reason in block[:4]),
        *((Verdict.DEFER, reason) for reason in defer),
        *((Verdict.ALLOW, reason) for reason in more),
        *((Verdict.BLOCK, reason) for reason in block[4:]),
        (Verdict.DEFER, Reason.STORE_UNAVAILABLE),
    ]


def _closed_decision(labels: Labels) -> Labels:
    stream, verdict, reason, mode = labels
    return (
        stream,
        verdict if verdict in _VERDICTS else OTHER,
        reason if reason in _REASONS else OTHER,
        mode if mode in ("enforce", "observe") else OTHER,
    )
