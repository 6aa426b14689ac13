"""Which mail goes on while the store is down, and what is asked of the decision about it.

Never marketing, nor what might be judged as marketing: without the ledger no basis is known, and
"no" would be said for a reason of ours. Its decision rests on the suppressions alone.
"""

from __future__ import annotations

from dataclasses import replace

from policy.engine import PERMISSION_REQUEST
from policy.model import Category, Reason
from proxy.errors import StoreUnavailable
from proxy.judge import Ruling
from proxy.mail import Mail
from proxy.store.codec import UNDEDUPED
from proxy.store.model import State


def may_go_without(mail: Mail) -> bool:
    """One recipient: a partial result would need a body in the store. So would an outbox."""
    return (
        (mail.null or (mail.category is not Category.MARKETING and not mail.promotion))
        and mail.control.template != PERMISSION_REQUEST
        and len(mail.recipients) == 1
    )


def undeduped(ruling: Ruling) -> Ruling:
    """The ruling as it is written down beside the store. Raises `StoreUnavailable`.

    Whoever is suppressed gets nothing; a refusal for good waits for the store all the same, as the
    snapshot may be a day old.
    """
    for case in ruling.cases:
        if (
            case.state is not State.ATTEMPTING
            or not case.decision.allowed
            or case.decision.reason is not Reason.NOT_MARKETING
        ):
            raise StoreUnavailable("no mail to this person while the store is down")
    submission = ruling.intake.submission
    marked = replace(submission, marks=(*submission.marks, UNDEDUPED))
    return replace(ruling, intake=replace(ruling.intake, submission=marked, undeduped=True))
