"""What may be done to a mail: what its displayed parts show and could be given, which signatures
stand in the way, and the edits of its header.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from policy.address import Address
from policy.model import Category
from proxy import log
from proxy.config import Sender, Settings, Stream
from proxy.content import Content, Piece, Spooled, large, stretch
from proxy.dkim_keys import KeyRing, Records
from proxy.envelope import Envelope
from proxy.errors import TokenError
from proxy.keys import Keys
from proxy.looks import START, Looks, apart, digest, fields_of
from proxy.message import header as headers
from proxy.message.body import BodyPlan, plan_body, untouched
from proxy.message.canonical import BodyHash
from proxy.message.classify import Class
from proxy.message.control import Control
from proxy.message.dkim import ARC, DKIM, Aligned, Signature, broken_by, signatures
from proxy.message.edit import EditPlan, Publication, Site, plan
from proxy.message.fold import FoldError
from proxy.message.footer import Brand
from proxy.message.header import Field, Header
from proxy.message.inspect import ANYONE, Shown, Wanted, fake_reply, inspect
from proxy.message.obligations.list_unsubscribe import Mode
from proxy.message.sign import Signing, holds
from proxy.message.verify import failed as failed_signatures
from proxy.replies import Reply, our_fault
from proxy.tokens import length
from proxy.tokens import open_ as open_token

#: Content above this is inspected off the event loop, in octets: hostile HTML costs up to 0.4 s.
LARGE_TO_INSPECT = 128 * 1024


class Planner:
    """Plans under one configuration. `site` is how this instance names itself."""

    def __init__(
        self,
        settings: Settings,
        *,
        keys: Keys,
        instance: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._ring = KeyRing(settings)
        verified = settings.dkim.verify == "files" and settings.dkim.records_dir
        self._records = Records(verified) if verified else None
        self._keys = keys
        self._clock = clock
        self.site = Site(
            hostname=settings.server.hostname,
            instance=instance,
            public_url=settings.http.public_url,
            feedback_domain=settings.feedback.domain or "",
            complaints=settings.feedback.complaints_mailbox,
        )
        self._upstream_signs = any(u.upstream_signs for u in settings.upstreams)
        self._brands = {s.id: Brand(s.name, s.postal_address) for s in settings.senders}
        self._wanted = {
            s.id: Wanted(
                names=(s.name, *s.known_as),
                postal_address=s.postal_address,
                own_url=f"{settings.http.public_url}/u/",
            )
            for s in settings.senders
        }
        self._looks = Looks()
        self._publications = {
            s.id: _publication(s, settings.sender(s.sender)) for s in settings.streams
        }

    async def look(
        self,
        envelope: Envelope,
        content: Content,
        header: Header,
        recipients: tuple[Address, ...],
        found: Class,
        *,
        signed_by: str,
    ) -> tuple[Shown, BodyPlan, BodyHash | None]:
        """What the displayed parts show, what may be done to them, and the hash of the body where
        other mails share it; `signed_by` is the d= of a signature that no edit may break, "" for
        none.
        """
        stream = found.stream
        marketing = found.category is Category.MARKETING
        longest = len(self._wanted[stream.sender].own_url) + length(
            self._keys,
            stream.sender,
            stream.id,
            address=max([len(a.exact.encode()) for a in recipients], default=0),
            ref=len(envelope.ref) + len(".1000"),
        )

        fields = fields_of(header) if marketing else None
        if fields is None:
            shown = await self._seen(content, header, stream, header.end)
            if not marketing:
                return shown, untouched(content, header), None
            alone = await self._planned(
                content, header, shown, stream, longest, signed_by, header.end
            )
            return shown, alone, None
        file = isinstance(content, Spooled)
        body = apart(content, header)
        name = await asyncio.to_thread(digest, body) if isinstance(body, Spooled) else body
        key = stream.id, fields, name
        known = self._looks.find(key)
        if known is None:
            shown = await self._seen(body, header, stream, START)
            if shown.fake_reply:
                shown = replace(shown, fake_reply=False)
            known = self._looks.keep(key, shown)
        plan_ = known.plans.get((longest, signed_by))
        if plan_ is None:
            plan_ = await self._planned(
                body, header, known.shown, stream, longest, signed_by, START
            )
            self._looks.keep_plan(known, longest, signed_by, plan_.over(b"") if file else plan_)
        elif file:
            plan_ = plan_.over(body)
        shown = known.shown
        if fake_reply(header):
            shown = replace(shown, fake_reply=True)
        return shown, plan_, None if file else known.hash

    async def _seen(self, content: Content, header: Header, stream: Stream, start: int) -> Shown:
        wanted, every = self._wanted[stream.sender], stream.every_alternative
        if large(content, LARGE_TO_INSPECT):
            return await asyncio.to_thread(
                inspect, content, header, wanted, every_alternative=every, start=start
            )
        return inspect(content, header, wanted, every_alternative=every, start=start)

    async def _planned(
        self,
        content: Content,
        header: Header,
        shown: Shown,
        stream: Stream,
        longest_url: int,
        signed_by: str,
        start: int,
    ) -> BodyPlan:
        def planned() -> BodyPlan:
            return plan_body(
                content,
                header,
                shown,
                brand=self._brands[stream.sender],
                longest_url=longest_url,
                footer=stream.footer == "auto",
                every_alternative=stream.every_alternative,
                signed_by=signed_by,
                start=start,
            )

        return await asyncio.to_thread(planned) if large(content, LARGE_TO_INSPECT) else planned()

    async def failed(self, content: Content, header: Header) -> frozenset[Field]:
        """The signatures of others that do not verify; none are known to where none is tried."""
        if self._records is None or not header.named(DKIM):
            return frozenset()
        body = stretch(content, header.end)
        if large(content, LARGE_TO_INSPECT):
            return await asyncio.to_thread(failed_signatures, header, body, self._records.find)
        return failed_signatures(header, body, self._records.find)

    def signing(self, header: Header, stream: Stream) -> Signing | None:
        """Our keys for a mail, None where we hold none for its From domain. Raises `KeysError`."""
        now = self._clock()
        keys = self._ring.aligned(stream.sender, headers.from_domain(header) or "", now)
        return Signing(keys, now) if keys else None

    async def _aligned(
        self, header: Header, body: Piece, stream: Stream, signing: Signing
    ) -> Aligned:
        """What planning needs to know of our keys; a signature that names one is verified."""
        own = self._ring.own(stream.sender)
        digest = b""
        if any((s.d, s.s) in own for s in signatures(header)):
            hasher = BodyHash()
            if large(body, LARGE_TO_INSPECT):
                digest = await asyncio.to_thread(hasher.digest, [body])
            else:
                digest = hasher.digest([body])

        def sound(signature: Signature) -> bool:
            key = self._ring.named(stream.sender, signature.d, signature.s)
            return key is not None and holds(header, signature.field, key, digest)

        return Aligned(signing.keys[0].domain, own, sound)

    async def edits(
        self,
        envelope: Envelope,
        header: Header,
        controls: Control,
        found: Class,
        body: BodyPlan,
        visible: int | None,
        signing: Signing | None,
        failed: frozenset[Field],
    ) -> tuple[EditPlan, EditPlan] | Reply:
        """The edits of the header: with the body as it came, and with another one."""
        stream = found.stream
        enforce = stream.mode == "enforce" and not found.null
        marketing = found.category is Category.MARKETING and enforce
        publication = self._publications[stream.id] if marketing else None
        aligned = None
        if signing is not None:
            came = stretch(body.content, body.start)
            aligned = await self._aligned(header, came, stream, signing)
        rewrite = publication is not None and stream.visible_recipients == "rewrite"

        def planned(*, body_edited: bool) -> EditPlan:
            return plan(
                header,
                envelope=envelope,
                site=self.site,
                publication=publication,
                enforce=enforce,
                campaign=controls.campaign,
                template=controls.template,
                upstream_signs=self._upstream_signs,
                own=lambda token: self._own_address(token, stream),
                rewrite_to=rewrite and visible is not None and visible > 1,
                body_edited=body_edited,
                aligned=aligned,
                failed=failed,
            )

        try:
            edits = planned(body_edited=False)
            touched = body.can_inject or body.placeholders
            signed = header.named(DKIM) or header.named(ARC)
            edited = planned(body_edited=True) if touched and signed else edits
        except FoldError as error:
            log.incident(ref=envelope.ref, error=error)
            return our_fault(envelope.ref)
        # The copy for the holder of an own link may keep fields that all others would replace.
        for address in envelope.recipients if edits.refuses else ():
            refusal = edits.refusal(address.exact)
            if refusal is not None:
                return refusal
        return edits, edited

    def owners(self, shown: Shown | None, stream: Stream) -> dict[str, str]:
        """The opt-out links of ours in the text: token to the exact address it is for."""
        tokens = {token for seen in shown.seen for token in seen.own_tokens} if shown else ()
        if not tokens:
            return {}
        owners = {token: self._own_address(token, stream) for token in tokens - {ANYONE}}
        return {token: address for token, address in owners.items() if address}

    def _own_address(self, token: str, stream: Stream) -> str:
        """The address that one of our tokens was sealed for, if it is of this sender; else ""."""
        try:
            optout = open_token(self._keys, token)
        except TokenError:
            return ""
        return optout.address if optout.sender == stream.sender else ""


def _publication(stream: Stream, sender: Sender) -> Publication:
    return Publication(
        stream=stream.id,
        sender=sender.id,
        title=f"{sender.name} {stream.id}",
        namespace=stream.list_id or next(iter(stream.from_domains), ""),
        feedback_id=sender.feedback_id or "",
        unsubscribe=Mode(stream.list_unsubscribe),
        unsubscribe_hosts=frozenset(stream.list_unsubscribe_hosts),
    )


def covering(header: Header, failed: frozenset[Field]) -> str:
    """The d= of the first signature that an edit of the body would break, and that may be valid."""
    if DKIM not in header.by_name:
        return ""
    broken = broken_by(header, body_edited=True, failed=failed)
    return next((b.d or "?" for b in broken), "")
