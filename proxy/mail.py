"""Steps 3 and 4 of the flow: what came in, read once from its bytes, and what kind of mail it is.

Everything the later steps need to know of a message is in `Mail`. What cannot be read is refused
here with the reply of message.md section 1; nothing is looked up and nothing is written.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from policy.address import Address
from policy.engine import PERMISSION_REQUEST
from policy.ledger import SOLE_DUTY_TEMPLATES
from policy.model import Category, Unsubscribe
from proxy import log
from proxy.config import Credential, Listener, Settings, Stream
from proxy.content import Content, Piece, Spooled, blocks, large, stretch
from proxy.envelope import Envelope
from proxy.errors import KeysError
from proxy.keys import Keys
from proxy.message import header as headers
from proxy.message.body import BodyPlan, untouched
from proxy.message.classify import Chooser, Class, Unclassified, classify
from proxy.message.control import Control, ControlError, control, meant
from proxy.message.dkim import DKIM
from proxy.message.edit import EditPlan, shown_mailboxes
from proxy.message.header import Field, Header, HeaderRefused
from proxy.message.inspect import ANYONE, Shown
from proxy.message.promotion import DECLARED, SIGNS, Lines, score
from proxy.message.received import after_trace, check_loop
from proxy.message.sign import Signing
from proxy.message.signals import declared, signals
from proxy.message.visible import count_visible
from proxy.personal import PersonalUse
from proxy.planning import LARGE_TO_INSPECT, Planner, covering
from proxy.replies import Reply, our_fault

#: Content above this is hashed off the event loop, in octets: 1 MiB takes half a millisecond.
_LARGE_TO_HASH = 1 << 20

_NO_ROOM = Reply(452, "4.3.1", "no room for the text of this message now, try again later")


_NONE_FAILED = frozenset[Field]()
# Whether, by which signs, and what the journal notes.
_NO_PROMOTION: tuple[bool, tuple[str, ...], tuple[str, ...]] = False, (), ()


class Mail(NamedTuple):
    """One message as the flow sees it.

    `recipients` are distinct; `null` marks a bounce or receipt that passes untouched;
    `per_recipient` that each recipient gets a copy of its own. `shown` is what the real MIME shows,
    None where no duty is owed; `owners` maps the tokens of our links in it to the addresses they
    were sealed for, `holders` are those for whom they meet the duty. `body` holds the edits of the
    body, `plan` those of the header where it stays as it is, `edited` where it does not.
    `promotion` tells that transactional mail is declared promotional or counts as it, `signs` by
    what (`proxy.message.promotion.SIGNS`, or `solicitation`), also where the stream makes nothing
    of it. `signing` has the keys for the copies that the plans want signed.
    """

    envelope: Envelope
    content: Content
    header: Header
    control: Control
    stream: Stream
    category: Category
    class_source: str
    null: bool
    recipients: tuple[Address, ...]
    message_id: str
    content_hash: str
    shown: Shown | None
    holders: frozenset[str]
    owners: Mapping[str, str]
    visible_recipients: int | None
    promotion: bool
    signs: tuple[str, ...]
    notes: tuple[str, ...]
    opt_out_url: str
    body: BodyPlan
    plan: EditPlan
    edited: EditPlan
    signing: Signing | None

    @property
    def ref(self) -> str:
        """The transaction's reference."""
        return self.envelope.ref

    @property
    def unclaimed(self) -> str:
        """The From domain, or that of MAIL FROM, for the word that no stream lists it."""
        sender = self.envelope.mail_from
        return headers.from_domain(self.header) or (sender.domain if sender else "(none)")

    @property
    def per_recipient(self) -> bool:
        """Whether each recipient's copy carries its own opt-out: marketing of an enforced stream,
        and what has a placeholder for it."""
        return self.enforced or self.body.placeholders > 0

    @property
    def enforced(self) -> bool:
        """Whether the duties of marketing are met by our edits."""
        return self.category is Category.MARKETING and self.stream.mode == "enforce"

    @property
    def forward(self) -> str:
        """The opt-out URI of the app that ours replaced, for passing opt-outs on."""
        return self.plan.forward.uri if self.plan.forward else ""

    @property
    def forward_by(self) -> str:
        """How an opt-out can be passed on to `forward`: `post`, `mail`, or "" for not at all.

        Such a link is one person's. Where the mail went to several, or shows the name of another,
        nobody can tell whose, and it might unsubscribe somebody else.
        """
        target = self.plan.forward
        if target is None or len(self.recipients) != 1 or self.envelope.turned_away:
            return ""
        if self.visible_recipients not in (0, 1):
            return ""
        own = self.recipients[0].exact.casefold()
        if self.visible_recipients == 1 and own not in map(
            str.casefold, shown_mailboxes(self.header)
        ):
            return ""
        if target.uri.lower().startswith("mailto:"):
            return "mail"
        return "post" if target.one_click else ""

    def marks_of(self, duties: Collection[AbstractSet[str]]) -> tuple[str, ...]:
        """What the journal notes about the edits; `duties` are those that each copy that leaves
        is given.
        """
        edited = [self.body.edits(given) for given in duties]
        # Copies with another body may lose signatures that the others keep.
        plans = (*([] if edited and all(edited) else [self.plan]), *([self.edited] * any(edited)))
        header = tuple(dict.fromkeys(mark for plan_ in plans for mark in plan_.marks))
        if self.shown is None:
            return (*header, *self.notes)
        shown = self.shown.marks
        if duties and self.footed and all(edited):
            shown = tuple(mark for mark in shown if mark != "partial_alternative")
        body = self.body.marks if self.footed and any(duties) else ()
        opaque = (f"opaque: {self.shown.opaque}",) if self.shown.opaque else ()
        return (*header, *shown, *body, *self.notes, *opaque)

    @property
    def footed(self) -> bool:
        """Whether copies get a footer where something is missing."""
        return self.enforced and self.stream.footer == "auto"


class Reader:
    """Reads messages under one configuration."""

    def __init__(
        self,
        settings: Settings,
        *,
        keys: Keys,
        instance: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._planner = Planner(settings, keys=keys, instance=instance, clock=clock)
        self._site = self._planner.site
        self._clock = clock
        self._listeners = {entry.address: entry for entry in settings.listeners}
        self._personal = PersonalUse()
        self._has_personal = any(s.category is Category.PERSONAL for s in settings.streams)
        self._chooser = Chooser(settings)
        self._lines = Lines()
        self._weights = {sign: int(getattr(settings.promotion, sign)) for sign in SIGNS}

    # -- what the envelope alone tells -----------------------------------------------------------

    def refuse_mail_from(self, envelope: Envelope) -> Reply | None:
        """A credential bound to From domains may use no other in MAIL FROM either; None accepts."""
        credential = self._credential(envelope)
        if credential is None or not credential.from_domains or envelope.mail_from is None:
            return None
        domain = envelope.mail_from.domain
        if domain in credential.from_domains:
            return None
        return _not_authorised(f"this credential may not use {domain}")

    def certain_stream(self, envelope: Envelope) -> Stream | None:
        """The enforced marketing stream this mail will belong to whatever it says, if that is
        certain."""
        if envelope.mail_from is None:
            return None
        return self._chooser.certain(
            self._listener(envelope), self._credential(envelope), envelope.mail_from.domain
        )

    # -- the whole message -----------------------------------------------------------------------

    async def read(
        self, envelope: Envelope, content: Content, known: Class | None = None
    ) -> Mail | Reply:
        """The message, or the reply that refuses it.

        `known` is the class of one that was taken before: it is not chosen again.
        """
        try:
            return await self._read(envelope, content, known)
        except KeysError as error:
            log.signing_failed(ref=envelope.ref, error=str(error))
            return our_fault(envelope.ref)

    async def _read(
        self, envelope: Envelope, content: Content, known: Class | None
    ) -> Mail | Reply:
        begun = self._begin(envelope, content)
        if isinstance(begun, Reply):
            return begun
        header, controls = begun
        hashed = stretch(content, after_trace(header))
        in_thread = large(hashed, _LARGE_TO_HASH)
        content_hash = await _hash(hashed) if in_thread else _digest(hashed)
        recipients = tuple({a.exact: a for a in envelope.recipients}.values())
        if known is None:
            body_hash = await _hash(stretch(content, header.end)) if self._has_personal else ""
            classified = self._classify(envelope, header, controls, recipients, body_hash)
            if isinstance(classified, Reply):
                return classified
            found = classified
        else:
            found = known
        if controls.template == PERMISSION_REQUEST and not found.null:
            # To ask for consent is marketing, whatever else it is called: all duties are owed.
            found = found._replace(category=Category.MARKETING)
        refused_ = self._refuse(envelope, header, found)
        if refused_ is not None:
            return refused_
        marketing = found.category is Category.MARKETING
        enforced = marketing and found.stream.mode == "enforce"
        signing = self._planner.signing(header, found.stream) if enforced else None
        promotion, signs, notes = (
            await self._promotion(envelope, content, header, found)
            if found.category is Category.TRANSACTIONAL and not found.null
            else _NO_PROMOTION
        )
        shown = None
        failed = _NONE_FAILED
        if DKIM in header.by_name:
            failed = await self._planner.failed(content, header)
        if marketing or promotion:
            signed_by = "" if signing else covering(header, failed)
            shown, body, shared = await self._planner.look(
                envelope, content, header, recipients, found, signed_by=signed_by
            )
            signing = replace(signing, body=shared) if signing and shared else signing
            # What is small has room for its text already.
            if envelope.room and isinstance(content, Spooled) and not envelope.room.grow(body.held):
                return _NO_ROOM
            if ANYONE in shown.own_tokens and body.placeholders:
                shown = shown.for_holder()
            if body.refused is not None:
                notes += ("placeholder_left",)
        else:
            body = untouched(content, header)
        if enforced and body.refused is not None:
            return body.refused
        owners = self._planner.owners(shown, found.stream)
        holders = frozenset(
            [owners[t] for t in shown.own_tokens if t in owners] if shown and owners else ()
        )
        if enforced and shown is not None and found.stream.footer == "require":
            all_hold = holders.issuperset(address.exact for address in recipients)
            if (lacks := _lacks(shown, all_hold)) is not None:
                return lacks
        visible = count_visible(header) if marketing or promotion else None
        edits = await self._planner.edits(
            envelope, header, controls, found, body, visible, signing, failed
        )
        if isinstance(edits, Reply) and edits.code == 550 and _may_be_signed(header, found):
            # Other mail is signed only where a field that no copy keeps was covered.
            signing = signing or self._planner.signing(header, found.stream)
            edits = await self._planner.edits(
                envelope, header, controls, found, body, visible, signing, failed
            )
        if isinstance(edits, Reply):
            return edits
        return Mail(
            envelope=envelope,
            content=content,
            header=header,
            control=controls,
            stream=found.stream,
            category=found.category,
            class_source=found.source,
            null=found.null,
            recipients=recipients,
            message_id=edits[0].message_id if b"message-id" in header.by_name else "",
            content_hash=content_hash,
            shown=shown,
            holders=holders,
            owners=owners,
            visible_recipients=visible,
            promotion=promotion,
            signs=signs,
            notes=notes,
            opt_out_url=self._site.links.url,
            body=body,
            plan=edits[0],
            edited=edits[1],
            signing=signing,
        )

    def _begin(self, envelope: Envelope, content: Content) -> tuple[Header, Control] | Reply:
        limits = self._settings.limits
        try:
            header = headers.index(
                content, max_bytes=limits.header_bytes, max_fields=limits.header_fields
            )
            controls = self._believed(envelope, control(header))
        except HeaderRefused as refused:
            return refused.reply
        except ControlError as error:
            return error.reply
        loop = check_loop(header, hostname=self._site.hostname, instance=self._site.instance)
        if loop is not None:
            return loop
        if envelope.smtputf8 and (not_utf8 := headers.check_utf8(header)) is not None:
            return not_utf8
        return header, controls

    def _believed(self, envelope: Envelope, controls: Control) -> Control:
        """The control headers without a template that this submitter may not claim.

        One that passes an objection to everything, or goes without our links, loosens; so it takes
        the trust that choosing a stream takes.
        """
        if controls.template not in SOLE_DUTY_TEMPLATES:
            return controls
        credential = self._credential(envelope)
        trusted = credential is not None and credential.may_set_stream
        if trusted or self._listener(envelope).may_set_stream:
            return controls
        return replace(controls, template="")

    def _classify(
        self,
        envelope: Envelope,
        header: Header,
        controls: Control,
        recipients: tuple[Address, ...],
        body: str,
    ) -> Class | Reply:
        """`body` is the hash of the body, where there are streams for personal mail."""
        if controls.stream and self._settings.find_stream(controls.stream) is None:
            near = meant(controls.stream, [stream.id for stream in self._settings.streams])
            why = f"no stream {controls.stream}{near}"
            return Reply(554, "5.6.0", f"control header Sluis-Stream: {why}")
        credential = self._credential(envelope)
        found = classify(
            self._settings,
            listener=self._listener(envelope),
            credential=credential,
            header_stream=controls.stream,
            mail_domain=envelope.mail_from.domain if envelope.mail_from else "",
            null_sender=envelope.mail_from is None,
            recipients=len(recipients),
            signals=signals(header, solicitation=envelope.solicitation),
            personal_used_up=self._has_personal
            and self._personal.used_up(
                envelope.submitter.identity, body, recipients, self._clock().date()
            ),
            chooser=self._chooser,
        )
        if isinstance(found, Unclassified):
            return _not_authorised(found.why)
        if found.category is Category.PERSONAL:
            self._personal.note(envelope.submitter.identity, body, recipients)
        return found

    def _refuse(self, envelope: Envelope, header: Header, found: Class) -> Reply | None:
        credential = self._credential(envelope)
        if credential is not None and credential.from_domains:  # of bounces, too
            domain = headers.from_domain(header)
            if domain is None or domain not in credential.from_domains:
                return _not_authorised(
                    f"this credential may not use From {domain or '(unreadable)'}"
                )
        if found.category is Category.MARKETING and found.stream.mode == "enforce":
            refuse_8bit = found.stream.headers_8bit == "refuse" and not envelope.smtputf8
            return headers.check_marketing(header, refuse_8bit=refuse_8bit)
        return None

    async def _promotion(
        self, envelope: Envelope, content: Content, header: Header, found: Class
    ) -> tuple[bool, tuple[str, ...], tuple[str, ...]]:
        """Whether transactional mail counts as promotional, by which signs, and what the journal
        notes of it."""
        if envelope.solicitation or declared(header):
            return True, (DECLARED,), (DECLARED,)
        threshold = self._settings.promotion.threshold
        if large(content, LARGE_TO_INSPECT):
            found_ = await asyncio.to_thread(
                score, content, header, self._weights, threshold=threshold
            )
        else:
            found_ = score(
                content, header, self._weights, threshold=threshold, lines=self._lines
            )
        if found_.total < threshold:
            return _NO_PROMOTION
        note = f"promotion {found_.total}: {', '.join(found_.signs)}"
        return found.stream.promotion == "enforce", found_.signs, (note,)

    def _listener(self, envelope: Envelope) -> Listener:
        return self._listeners[envelope.submitter.listener]

    def _credential(self, envelope: Envelope) -> Credential | None:
        name = envelope.submitter.credential
        return self._settings.credential(name) if name else None


async def _hash(piece: Piece) -> str:
    """SHA-256 (hex)."""
    if isinstance(piece, Spooled) and piece.sha256 is not None:
        return piece.sha256
    if large(piece, _LARGE_TO_HASH):
        return await asyncio.to_thread(_digest, piece)
    return _digest(piece)


def _digest(piece: Piece) -> str:
    if not isinstance(piece, Spooled):
        return hashlib.sha256(piece).hexdigest()
    sha = hashlib.sha256()
    for block in blocks(piece):
        sha.update(block)
    return sha.hexdigest()


def _not_authorised(why: str) -> Reply:
    return Reply(550, "5.7.1", f"not-authorised: {why}")


def _lacks(shown: Shown, all_hold: bool) -> Reply | None:
    """The refusal of a mail that does not bring itself what the law wants it to show."""
    why = 'the stream has footer = "require"'
    if not shown.sender_identity:
        return Reply(550, "5.7.1", f"no-identity: {why}")
    if not shown.postal_address:
        return Reply(550, "5.7.1", f"no-postal-address: {why}")
    if shown.unsubscribe is not Unsubscribe.LINK and not all_hold:
        return Reply(550, "5.7.1", f"no-unsubscribe: {why}")
    return None


def _may_be_signed(header: Header, found: Class) -> bool:
    """Whether verifiers would read this block as we do; of a bounce nothing is touched."""
    return not found.null and header.complete and headers.check_marketing(header) is None
