"""Whom we tell that mail will not arrive after all, and the row that carries the notice.

A notice (DSN) exists only where the mail was answered 250, goes in the transaction that causes it,
and only to a submitter's own domain: who forges a sender makes no mail to a stranger.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from policy.explain import explain
from policy.model import Decision
from proxy.config import Settings
from proxy.keys import Keys
from proxy.mail import Mail
from proxy.message.dsn import Failed, Returned, dsn, is_automatic
from proxy.message.sign import Signer
from proxy.own_mail import ABOUT, OwnMail
from proxy.ref import new_ref
from proxy.store.model import Notice, State, Store


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
        self._store = store
        self._clock = clock
        self._own = OwnMail(settings, keys=keys, signer=signer)

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
            message_id=self._own.message_id(ref),
            boundary=secrets.token_hex(20),
            at=at,
            language=language,
        )
        return await self._own.waiting(
            content,
            to=sender,
            ref=ref,
            at=at,
            stream=mail.stream.id,
            sender=mail.stream.sender,
            mode=mail.stream.mode,
            listener=mail.envelope.submitter.listener,
            submitter=mail.envelope.submitter.identity,
            why=f"{ABOUT} {mail.ref}",
            covers=tuple((one.copy_key, one.state) for one in lost),
            window=at - since,
        )

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
