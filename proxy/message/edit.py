"""What Sluis does to one mail, planned once and applied per copy by concatenation.

`plan` decides which fields go and which come; `copy_head` gives the header block of one recipient's
copy. The body is never part of it (`proxy.message.body`). Order from the top: Received, Sluis-Ref,
List-Id, List-Unsubscribe, List-Unsubscribe-Post, To where it is rewritten, CFBL-Feedback-ID,
Feedback-ID, CFBL-Address, Date, Message-ID, then the client's own fields in their order and bytes.
Our signatures are made of the whole block and put below Received (`proxy.message.sign`, `signed`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from proxy.envelope import Envelope
from proxy.message import dkim, mailboxes
from proxy.message.control import PREFIX, REFERENCE, control_fields
from proxy.message.header import VISIBLE, Field, Header, from_domain, message_id, splice
from proxy.message.obligations import (
    cfbl_address,
    feedback_id,
    list_id,
    list_unsubscribe,
    origination,
    sluis_ref,
)
from proxy.message.obligations.list_unsubscribe import Forward, Links, Mode
from proxy.message.received import received
from proxy.replies import Reply

#: Fields that no copy keeps, beside `Sluis-*`.
_BLIND = (b"bcc", b"resent-bcc")
_TO = b"to"
_TOUCHED = frozenset({*_BLIND, dkim.DKIM, dkim.ARC})
_TRACE = (b"received", REFERENCE)
#: A confirmation of a sign-up: there is nothing yet to opt out of.
DOI_CONFIRMATION = "doi-confirmation"


@dataclass(frozen=True, kw_only=True)
class Site:
    """How this instance names itself. `public_url` has no final slash; `feedback_domain` and
    `complaints` (the mailbox that takes reports of complaints) "" for none.
    """

    hostname: str
    instance: str
    public_url: str
    feedback_domain: str = ""
    complaints: str = ""

    @cached_property
    def links(self) -> Links:
        """Where opt-outs arrive."""
        mailbox = f"u@{self.feedback_domain}" if self.feedback_domain else ""
        return Links(url=f"{self.public_url}/u/", mailbox=mailbox)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A marketing stream as the programs of recipients see it.

    `namespace` is `list_id` or the stream's first From domain, "" to take that of the mail;
    `feedback_id` the sender's SenderId, "" to make one of the sender's id. `unsubscribe` is what
    becomes of a List-Unsubscribe of others, `unsubscribe_hosts` whose may be kept.
    """

    stream: str
    sender: str
    title: str = ""
    namespace: str = ""
    feedback_id: str = ""
    unsubscribe: Mode = Mode.REPLACE
    unsubscribe_hosts: frozenset[str] = frozenset()


class Variant(NamedTuple):
    """What follows the per-copy fields, and what becomes of the signatures."""

    rest: bytes
    dkim: dkim.Settled


class EditPlan(NamedTuple):
    """The work shared by all copies of a mail.

    `message_id` is that of every copy ("" only where there is none and none was added); `forward`
    the foreign opt-out that ours replaced; `marks` say what was found or done, for the journal.
    A mail that came with our own opt-out for `own_recipient` keeps it in the copy for that person
    (`own`); every other copy is made of `main`. `mailto` is a foreign one to name beside ours. `to`
    has the mailboxes that the mail shows, by exact address, where each copy names its own alone.
    `complaint_id` tells that each copy names itself for reports of complaints.
    """

    ref: str
    received: bytes
    referenced: bool
    list_id: bytes
    links: Links | None
    main: Variant
    message_id: str
    own: Variant | None = None
    own_recipient: str = ""
    mailto: str = ""
    to: Mapping[str, bytes] | None = None
    complaint_id: bool = False
    list_refusal: Reply | None = None
    forward: Forward | None = None
    marks: tuple[str, ...] = ()

    def refusal(self, recipient: str = "") -> Reply | None:
        """550 5.7.1 where the edit would break a signature and we have no key to sign again, and
        what the stream says to a List-Unsubscribe of others.

        `recipient` is the exact address of the copy. None: the copy may be sent.
        """
        if self.list_refusal is not None and self._variant(recipient) is self.main:
            return self.list_refusal
        broken = self._variant(recipient).dkim.broken
        if not broken:
            return None
        first = broken[0]
        return Reply(
            550, "5.7.1", f"dkim-covered d={first.d or '?'} field {first.field}: {first.how}"
        )

    @property
    def refuses(self) -> bool:
        """Whether the copy for anybody may be refused."""
        broken = self.main.dkim.broken or (self.own is not None and self.own.dkim.broken)
        return bool(broken) or self.list_refusal is not None

    def signs(self, recipient: str = "") -> bool:
        """Whether the copy for this exact address is signed by us; it never leaves unsigned."""
        return self._variant(recipient).dkim.sign

    def _variant(self, recipient: str) -> Variant:
        return self.own if self.own is not None and recipient == self.own_recipient else self.main


def plan(
    header: Header,
    *,
    envelope: Envelope,
    site: Site,
    publication: Publication | None = None,
    enforce: bool = True,
    campaign: str = "",
    template: str = "",
    upstream_signs: bool = False,
    own: Callable[[str], str] = lambda token: "",
    rewrite_to: bool = False,
    body_edited: bool = False,
    aligned: dkim.Aligned | None = None,
    failed: Collection[Field] = (),
    client_ip: str = "",
) -> EditPlan:
    """Plan the edits of a mail whose header was accepted.

    `publication` is given for marketing of an enforced stream only; all other mail gets Received,
    and in `enforce` Sluis-Ref, and loses `Sluis-*` and Bcc. `own` opens a token of ours: the exact
    address it was sealed for if it is of this sender, else "". With `rewrite_to` each copy shows
    its own recipient alone; `body_edited` tells that the copies get another body; `aligned` are our
    keys for this mail; `failed` the signatures on it that do not verify. Raises `FoldError`.
    """
    if publication is None and not rewrite_to and not _touched(header):
        return EditPlan(
            ref=envelope.ref,
            received=_received(envelope, site, client_ip),
            referenced=enforce,
            list_id=b"",
            links=None,
            main=Variant(header.raw[header.start :], dkim.LEFT),
            message_id=message_id(header),
            marks=("mbox_line",) if header.mbox_line else (),
        )
    removed: set[bytes] = set()
    if _touched(header):
        removed.update(field.name for field in control_fields(header))
        removed.update(name for name in _BLIND if header.named(name))
    extra = _NOTHING
    links = None
    if publication is not None:
        extra = _marketing(header, envelope, site, publication, campaign, aligned, failed)
        links = None if template == DOI_CONFIRMATION else site.links
    listed = links is not None and not header.by_name.keys().isdisjoint(list_unsubscribe.NAMES)
    there = list_unsubscribe.existing(header) if listed else None
    kept = (
        publication is not None
        and links is not None
        and there is not None
        and publication.unsubscribe is Mode.KEEP
        and list_unsubscribe.kept(there, links, publication.unsubscribe_hosts)
    )
    if kept:
        links = None
    per_copy: set[bytes] = set()
    if rewrite_to:
        removed |= {name for name in VISIBLE if header.named(name)}
        per_copy |= {_TO} if header.named(_TO) else set()
    if extra.complaint_id:
        per_copy.add(cfbl_address.FEEDBACK_ID)
    replaced = set(list_unsubscribe.NAMES) if links else set()
    signing = _Signing(
        aligned, publication is not None, _TRACE if enforce else _TRACE[:1], body_edited, failed
    )
    main = _variant(header, removed | extra.removed | replaced, extra, per_copy | replaced, signing)
    own_variant = None
    own_recipient = mailto = ""
    forward = None
    list_refusal = None
    marks = _marks(header, main, failed, enforce=enforce)
    marks += ["to_rewritten"] if rewrite_to else []
    marks += ["list_unsubscribe_kept"] if kept else []
    if publication is not None and links is not None and there:
        token = list_unsubscribe.own_token(there, links)
        own_recipient = own(token) if token else ""
        if own_recipient:
            own_variant = _variant(header, removed | extra.removed, extra, per_copy, signing)
        forward = list_unsubscribe.forward(there, links)
        if publication.unsubscribe is Mode.REFUSE:
            list_refusal = list_unsubscribe.refusal(there)
        if publication.unsubscribe is Mode.MERGE:
            mailto = list_unsubscribe.merged(there, links)
        if forward is None and any(uri.lower().startswith("http:") for uri in there.uris):
            marks.append("http_unsubscribe_dropped")
    signed = main.dkim.sign or main.dkim.kept or (upstream_signs and not header.named(dkim.DKIM))
    marks += ["one_click_unsigned"] if links is not None and not signed else []
    return EditPlan(
        ref=envelope.ref,
        received=_received(envelope, site, client_ip),
        referenced=enforce,
        list_id=extra.list_id,
        links=links,
        main=main,
        own=own_variant,
        own_recipient=own_recipient,
        mailto=mailto,
        to=shown_mailboxes(header) if _TO in per_copy else None,
        complaint_id=extra.complaint_id,
        list_refusal=list_refusal,
        message_id=extra.message_id or message_id(header),
        forward=forward,
        marks=tuple(marks),
    )


def _touched(header: Header) -> bool:
    """Whether something of the block goes, or may break, where nothing of marketing is added."""
    return not _TOUCHED.isdisjoint(header.by_name) or b"\n" + PREFIX in header.names


def _received(envelope: Envelope, site: Site, client_ip: str) -> bytes:
    return received(
        helo=envelope.submitter.helo,
        hostname=site.hostname,
        instance=site.instance,
        protocol=envelope.submitter.protocol,
        ref=envelope.ref,
        at=envelope.received_at,
        client_ip=client_ip,
    )


def signed(plan: EditPlan, head: bytes, signatures: bytes) -> bytes:
    """The header block of a copy with our signatures in their place, below our Received."""
    at = len(plan.received)
    return head[:at] + signatures + head[at:]


def copy_head(plan: EditPlan, *, number: int, recipient: str = "", token: str = "") -> bytes:
    """The header block of one copy, its blank line included, without signatures of ours.

    `number` is that of the copy (1-based), `recipient` its exact address and `token` the opt-out
    sealed for it; the last two matter where the plan adds List-Unsubscribe. Raises `FoldError`.
    """
    variant = plan._variant(recipient)
    pieces = [plan.received]
    if plan.referenced:
        pieces.append(sluis_ref.field(plan.ref, number))
    pieces.append(plan.list_id)
    if plan.links is not None and variant is plan.main:
        pieces.append(list_unsubscribe.fields(plan.links, token, plan.mailto))
    if plan.to is not None:
        pieces.append(_to(plan.to, recipient))
    if plan.complaint_id and token:
        pieces.append(cfbl_address.feedback_id(token))
    pieces.append(variant.rest)
    return b"".join(pieces)


class _Extra(NamedTuple):
    """What marketing mail gets that is the same in every copy; `names` are those of all of it."""

    removed: frozenset[bytes] = frozenset()
    names: tuple[bytes, ...] = ()
    list_id: bytes = b""
    tail: bytes = b""
    complaint_id: bool = False
    message_id: str = ""
    blank_line: bool = False


_NOTHING = _Extra()


def _marketing(
    header: Header,
    envelope: Envelope,
    site: Site,
    publication: Publication,
    campaign: str,
    aligned: dkim.Aligned | None,
    failed: Collection[Field],
) -> _Extra:
    removed: set[bytes] = set()
    names: list[bytes] = []
    list_field = b""
    if list_id.NAME not in header.by_name or not list_id.kept(header):
        removed |= {list_id.NAME} if list_id.NAME in header.by_name else set()
        names.append(list_id.NAME)
        list_field = list_id.field(
            stream=publication.stream,
            namespace=publication.namespace or from_domain(header) or site.hostname,
            title=publication.title,
        )
    identifier = f"<{envelope.ref}@{site.hostname}>"
    tail: dict[bytes, bytes] = {}

    def lacks(name: bytes) -> bool:
        # None of these is owed by law: where a signature forbids the field, the mail goes without.
        return name not in header.by_name and not dkim.oversigned(header, name, failed)

    if lacks(feedback_id.NAME):
        tail[feedback_id.NAME] = feedback_id.field(
            campaign=campaign,
            stream=publication.stream,
            sender=publication.sender,
            feedback_id=publication.feedback_id,
        )
    if lacks(cfbl_address.NAME):
        tail |= _complaints(header, site, aligned)
    if lacks(origination.DATE):
        tail[origination.DATE] = origination.date(envelope.received_at)
    if lacks(origination.MESSAGE_ID):
        tail[origination.MESSAGE_ID] = origination.message_id(identifier)
    return _Extra(
        removed=frozenset(removed),
        names=(*names, *tail),
        list_id=list_field,
        tail=b"".join(tail.values()),
        complaint_id=cfbl_address.NAME in tail and lacks(cfbl_address.FEEDBACK_ID),
        message_id=identifier if origination.MESSAGE_ID in tail else "",
        blank_line=not header.complete,
    )


def _complaints(header: Header, site: Site, aligned: dkim.Aligned | None) -> dict[bytes, bytes]:
    mailbox = site.complaints
    if aligned is None or not mailbox:
        return {}
    allowed = cfbl_address.allowed(
        from_domain=from_domain(header) or "", mailbox=mailbox, signed_by=aligned.domain
    )
    return {cfbl_address.NAME: cfbl_address.field(mailbox)} if allowed else {}


def shown_mailboxes(header: Header) -> dict[str, bytes]:
    """The mailboxes that a mail shows to every reader, by exact address, as they are written."""
    shown = (header.raw[f.value_start : f.end] for name in VISIBLE for f in header.named(name))
    return mailboxes.as_written(shown)


def _to(shown: Mapping[str, bytes], recipient: str) -> bytes:
    """The recipient as the mail named it, else the bare address."""
    return b"To: " + shown.get(recipient, recipient.encode()) + b"\r\n"


class _Signing(NamedTuple):
    """What decides about signatures in every variant."""

    aligned: dkim.Aligned | None
    wanted: bool
    trace: tuple[bytes, ...]
    body_edited: bool
    failed: Collection[Field]


def _variant(
    header: Header,
    removed: Collection[bytes],
    extra: _Extra,
    per_copy: Collection[bytes],
    signing: _Signing,
) -> Variant:
    settled = dkim.settle(
        header,
        removed=removed,
        added=(*extra.names, *sorted(per_copy)),
        body_edited=signing.body_edited,
        trace=signing.trace,
        aligned=signing.aligned,
        wanted=signing.wanted,
        failed=signing.failed,
    )
    remove = (
        [f for f in header.fields if f.name in removed or f in settled.gone]
        if settled.gone or not header.by_name.keys().isdisjoint(removed)
        else []
    )
    pieces = splice(header, remove=remove, add=[extra.tail])
    if extra.blank_line:
        pieces.append(b"\r\n" if header.raw.endswith(b"\r\n") else b"\r\n\r\n")
    return Variant(b"".join(pieces), settled)


def _marks(
    header: Header, main: Variant, failed: Collection[Field], *, enforce: bool
) -> list[str]:
    trace = _TRACE if enforce else _TRACE[:1]
    marks = ["mbox_line"] if header.mbox_line else []
    if main.dkim.resigned:
        marks.append(f"resigned: {', '.join(d or '?' for d in main.dkim.resigned)}")
    elif (
        dkim.DKIM in header.by_name
        and not main.dkim.sign
        and any(dkim.oversigned(header, name, failed) for name in trace)
    ):
        # RFC 5321 4.4 demands Received: a signature that forbids it survives no relay at all.
        marks.append("trace_oversigned")
    if main.dkim.failed:
        marks.append(f"failed_signature: {', '.join(d or '?' for d in main.dkim.failed)}")
    if main.dkim.arc_removed:
        marks.append("arc_removed")
    return marks
