"""Step 8 of the flow: the distinct copies of a mail, each with the bytes that its recipients get.

Marketing mail of an enforced stream is one copy per recipient, with that person's own opt-out, and
so is what has a placeholder for it; all other mail is one copy for all. Bytes are made when a copy
is sent, so that a thousand recipients cost one body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from proxy.config import Upstream
from proxy.content import Piece
from proxy.delivery.upstream import Copy
from proxy.envelope import Notices
from proxy.judge import Case, Ruling
from proxy.keys import Keys
from proxy.mail import Mail
from proxy.message.edit import copy_head, signed
from proxy.message.sign import Signer, SigningError
from proxy.store.model import Fate, RowFate, State
from proxy.tokens import OptOut, seal

#: What our own fields add to a copy at most, in octets; used for SIZE= before the copy is made.
_HEAD_ROOM = 6144

_NOTHING_SAID = Notices()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One copy and the recipients it goes to. `fates` are set once their attempts are durable."""

    number: int
    mail: Mail
    cases: tuple[Case, ...]
    keys: Keys
    fates: Mapping[int, RowFate]

    @property
    def copy(self) -> Copy:
        """The envelope of the copy on the wire."""
        envelope, cases = self.mail.envelope, self.cases
        notices: tuple[Notices, ...] = ()
        if envelope.notices:
            notices = tuple(envelope.notices.get(c.address.exact, _NOTHING_SAID) for c in cases)
        return Copy(
            mail_from=envelope.mail_from.wire if envelope.mail_from else b"",
            recipients=tuple([case.address.wire for case in cases]),
            size=len(self.mail.content) + _HEAD_ROOM + self.mail.body.room,
            body_8bit=envelope.body_8bit or not self.mail.content.isascii(),
            smtputf8=envelope.smtputf8 or any(case.address.utf8 for case in cases),
            ret=envelope.ret,
            envid=envelope.envid,
            notices=notices,
        )

    async def parts(self, signer: Signer, upstream: Upstream) -> list[Piece]:
        """Header block and body as this upstream gets them; what is not edited are the client's own
        bytes. Raises `FoldError` and `SigningError`.
        """
        mail, case = self.mail, self.cases[0]
        token = recipient = ""
        if mail.per_recipient:
            recipient = case.address.exact
            token = seal(
                self.keys,
                OptOut(
                    sender=mail.stream.sender,
                    stream=mail.stream.id,
                    address=recipient,
                    ref=f"{mail.ref}.{self.number}",
                ),
            )
        duties = self._duties()
        plan = mail.edited if mail.body.edits(duties) else mail.plan
        head = copy_head(plan, number=self.number, recipient=recipient, token=token)
        body = mail.body.pieces(
            url=f"{mail.opt_out_url}{token}",
            duties=duties,
            language=case.language or mail.stream.lang,
            footer=mail.footed,
            own_tokens=[t for t, address in mail.owners.items() if address == recipient],
        )
        if plan.signs(recipient):
            if mail.signing is None:
                raise SigningError("a copy that must be signed has no key")
            fields = await signer.sign(
                mail.signing,
                head,
                body,
                algorithms=upstream.dkim_keys,
                omit=upstream.dkim_omit,
            )
            head = signed(plan, head, fields)
        return [head, *body]

    def _duties(self) -> frozenset[str]:
        """What this copy must be given, of what its decision says; nothing in observe mode."""
        if not self.mail.enforced:
            return frozenset()
        return frozenset(self.cases[0].decision.obligations)

    def only(self, fates: Mapping[int, RowFate]) -> Outgoing | None:
        """The copy for those of its recipients whose attempt was claimed; None for nobody. `cases`
        is the same object where that is all of them.
        """
        cases = tuple(c for c in self.cases if fates[c.n].fate is Fate.CLAIMED)
        if not cases:
            return None
        if len(cases) == len(self.cases):
            cases = self.cases
        mine = {c.n: fates[c.n] for c in cases}
        return Outgoing(self.number, self.mail, cases, self.keys, mine)

    def renewed(self, cases: Sequence[Case], fates: Mapping[int, RowFate]) -> Outgoing | None:
        """The copy after a second decision; None when nobody may get it any more."""
        kept = tuple(
            c for c in cases if c.state is State.ATTEMPTING and fates[c.n].fate is Fate.CLAIMED
        )
        return replace(self, cases=kept, fates={c.n: fates[c.n] for c in kept}) if kept else None


def copies_of(mail: Mail, ruling: Ruling, keys: Keys) -> list[Outgoing]:
    """The copies that may leave, in the order of their first recipient."""
    by_number: dict[int, list[Case]] = {}
    for case in ruling.cases:
        if case.state is State.ATTEMPTING:
            by_number.setdefault(case.copy, []).append(case)
    return [Outgoing(number, mail, tuple(cases), keys, {}) for number, cases in by_number.items()]
