"""Mail that Sluis itself sends, from its host name with the null sender: signed where there is a
key for that name, and made a row that waits in the outbox.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime, timedelta

from policy.address import Address
from policy.model import Category, Decision, Reason, Verdict
from proxy import log
from proxy.config import Settings
from proxy.dkim_keys import KeyRing
from proxy.envelope import Envelope, Submitter
from proxy.errors import KeysError
from proxy.keys import Keys
from proxy.message.sign import Signer, Signing, SigningError
from proxy.owed import kept
from proxy.store.model import NewRow, Notice, State, Submission

#: How the journal's word on the class of such mail begins, by what it is made for.
ABOUT, PASSED = "notice about", "opt-out of"


def is_own(class_source: str) -> bool:
    """Whether mail of this class is ours: no stream sent it, so none of them counts it."""
    return class_source.startswith((f"{ABOUT} ", f"{PASSED} "))


class OwnMail:
    """Makes such rows under one configuration."""

    def __init__(self, settings: Settings, *, keys: Keys, signer: Signer) -> None:
        self._hostname = settings.server.hostname
        self._keys = keys
        self._signer = signer
        self._ring = KeyRing(settings)
        # It is signed once, and which upstream takes it is not known then.
        upstreams = settings.upstreams
        self._omit = {name for upstream in upstreams for name in upstream.dkim_omit}
        self._algorithms = set.intersection(*(set(upstream.dkim_keys) for upstream in upstreams))

    def message_id(self, ref: str) -> str:
        """The Message-ID of the mail with this reference."""
        return f"<{ref}@{self._hostname}>"

    async def waiting(
        self,
        content: bytes,
        *,
        to: Address,
        ref: str,
        at: datetime,
        stream: str,
        sender: str,
        mode: str,
        listener: str,
        submitter: str,
        why: str,
        covers: tuple[tuple[str, State], ...] = (),
        window: timedelta = timedelta(0),
    ) -> Notice:
        """The row of `content`, whose Message-ID is that of `ref`.

        `submitter` is the identity for whom it is made, `why` what the journal says of it; what it
        covers is told once within `window`.
        """
        content = await self._signature(content, ref, at) + content
        envelope = Envelope(
            submitter=Submitter(listener=listener, peer=""),
            ref=ref,
            received_at=at,
            body_8bit=not content.isascii(),
            smtputf8=to.utf8,
        )
        submission = Submission(
            ref=ref,
            received_at=at,
            submitter=submitter,
            listener=listener,
            mail_from="",
            message_id=self.message_id(ref),
            content_hash=hashlib.sha256(content).hexdigest(),
            size=len(content),
            stream=stream,
            sender=sender,
            category=Category.TRANSACTIONAL,
            mode=mode,
            class_source=why,
        )
        row = NewRow(
            n=1,
            copy=1,
            subject=self._keys.subject(sender, to),
            address=to.exact,
            copy_key=uuid.uuid4().hex,
            state=State.WAITING,
            decision=Decision(verdict=Verdict.ALLOW, reason=Reason.NOT_MARKETING),
            facts="{}",
            marketing=False,
        )
        return Notice(
            covers=covers,
            submission=submission,
            row=row,
            body=kept(envelope, content, null=True),
            since=at - window,
        )

    async def _signature(self, content: bytes, ref: str, at: datetime) -> bytes:
        """Our DKIM-Signature fields; b"" where no key is for our host name, or none can be used
        now: unsigned is better than none.
        """
        try:
            keys = self._ring.of_host(self._hostname, at)
            keys = tuple(key for key in keys if key.algorithm in self._algorithms)
            if not keys:
                return b""
            end = content.index(b"\r\n\r\n") + 4
            head, body = content[:end], memoryview(content)[end:]
            return await self._signer.sign(Signing(keys, at), head, [body], omit=self._omit)
        except (KeysError, SigningError) as error:
            log.signing_failed(ref=ref, error=str(error))
            return b""
