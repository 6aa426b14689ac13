"""Whom we tell that mail will not arrive after all, and the row that carries the notice.

A notice (DSN) exists only where the mail was answered 250, goes in the transaction that causes it,
and only to a submitter's own domain: who forges a sender makes no mail to a stranger.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from policy.explain import explain
from policy.model import Category, Decision, Reason, Verdict
from proxy import log
from proxy.config import Settings
from proxy.dkim_keys import KeyRing
from proxy.envelope import Envelope, Submitter
from proxy.errors import KeysError
from proxy.keys import Keys
from proxy.mail import Mail
from proxy.message.dsn import Failed, Returned, dsn, is_automatic
from proxy.message.sign import Signer, Signing, SigningError
from proxy.owed import kept
from proxy.ref import new_ref
from proxy.store.model import NewRow, Notice, State, Store, Submission


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A recipient that gets nothing: `state` is blocked or failed, `reply` the line that says why.

    `decision` is that of a block; `remote` the host of the upstream that said `reply`, "" where it
    is ours; `tried_at` the last attempt, None where there was none.
    """

    n: int
    address: str
    copy_key: str
    state: State
    reply: str
    decision: Decision | None = None
    remote: str = ""
    tried_at: datetime | None = None


class Notices:
    """Makes notices under one configuration."""

    def __init__(
        self,
        settings: Settings,
        *,
        keys: Keys,
        store: Store,
        signer: Signer,
        clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._store = store
        self._signer = signer
        self._clock = clock
        self._ring = KeyRing(settings)
        # A notice is signed once, and which upstream takes it is not known then.
        upstreams = settings.upstreams
        self._omit = {name for upstream in upstreams for name in upstream.dkim_omit}
        self._algorithms = set.intersection(*(set(upstream.dkim_keys) for upstream in upstreams))

    async def about(self, mail: Mail, lost: Sequence[Lost]) -> Notice | None:
        """One notice about all of `lost` that were not told of before; None where none is due.

        Raises `StoreError`.
        """
        sender = mail.envelope.mail_from
        if sender is None or mail.null or is_automatic(mail.header):
            return None
        if not mail.envelope.submitter.may_relay or sender.domain not in mail.stream.from_domains:
            return None
        wanted = [one for one in lost if self._wanted(mail, one)]
        if not wanted:
            return None
        at = self._clock()
        since = at - self._settings.delivery.dedupe_window
        told = await self._store.told([(one.copy_key, one.state) for one in wanted], since)
        new = [one for one in wanted if (one.copy_key, one.state) not in told]
        return await self._notice(mail, new, at, since) if new else None

    def _wanted(self, mail: Mail, one: Lost) -> bool:
        if not one.address:
            return False  # erased: there is nobody left to speak of
        if one.state is State.BLOCKED and mail.stream.partial == "accept-and-drop":
            return False
        said = mail.envelope.notices.get(one.address)
        return said is None or not said.notify or "FAILURE" in said.notify.split(",")

    async def _notice(
        self, mail: Mail, lost: Sequence[Lost], at: datetime, since: datetime
    ) -> Notice:
        sender = mail.envelope.mail_from
        if sender is None:
            raise ValueError("no notice goes to the null sender")
        language = mail.stream.lang
        hostname = self._settings.server.hostname
        ref = new_ref(at)
        message_id = f"<{ref}@{hostname}>"
        content = dsn(
            Returned(
                mail_from=sender.exact,
                header=mail.header,
                arrived=mail.envelope.received_at,
                envid=mail.envelope.envid,
                utf8=mail.envelope.smtputf8,
            ),
            [self._failed(mail, one, language, at) for one in lost],
            hostname=hostname,
            message_id=message_id,
            boundary=secrets.token_hex(20),
            at=at,
            language=language,
        )
        content = await self._signature(content, ref, at) + content
        envelope = Envelope(
            submitter=Submitter(listener=mail.envelope.submitter.listener, peer=""),
            ref=ref,
            received_at=at,
            body_8bit=not content.isascii(),
            smtputf8=sender.utf8,
        )
        submission = Submission(
            ref=ref,
            received_at=at,
            submitter=mail.envelope.submitter.identity,
            listener=mail.envelope.submitter.listener,
            mail_from="",
            message_id=message_id,
            content_hash=hashlib.sha256(content).hexdigest(),
            size=len(content),
            stream=mail.stream.id,
            sender=mail.stream.sender,
            category=Category.TRANSACTIONAL,
            mode=mail.stream.mode,
            class_source=f"notice about {mail.ref}",
        )
        row = NewRow(
            n=1,
            copy=1,
            subject=self._keys.subject(mail.stream.sender, sender),
            address=sender.exact,
            copy_key=uuid.uuid4().hex,
            state=State.WAITING,
            decision=Decision(verdict=Verdict.ALLOW, reason=Reason.NOT_MARKETING),
            facts="{}",
            marketing=False,
        )
        return Notice(
            covers=tuple((one.copy_key, one.state) for one in lost),
            submission=submission,
            row=row,
            body=kept(envelope, content, null=True),
            since=since,
        )

    async def _signature(self, content: bytes, ref: str, at: datetime) -> bytes:
        """Our DKIM-Signature fields for a notice; b"" where no key is for our host name, or none
        can be used now: an unsigned notice is better than none.
        """
        try:
            keys = self._ring.of_host(self._settings.server.hostname, at)
            keys = tuple(key for key in keys if key.algorithm in self._algorithms)
            if not keys:
                return b""
            end = content.index(b"\r\n\r\n") + 4
            head, body = content[:end], memoryview(content)[end:]
            return await self._signer.sign(Signing(keys, at), head, [body], omit=self._omit)
        except (KeysError, SigningError) as error:
            log.signing_failed(ref=ref, error=str(error))
            return b""

    def _failed(self, mail: Mail, one: Lost, language: str, at: datetime) -> Failed:
        said = mail.envelope.notices.get(one.address)
        return Failed(
            address=one.address,
            reply=one.reply,
            ref=f"{mail.ref}.{one.n}",
            words=explain(one.decision, language, at=at) if one.decision else "",
            orcpt=said.orcpt if said else "",
            remote=one.remote,
            last_attempt=one.tried_at,
        )
