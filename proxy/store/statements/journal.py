"""The journal as people read it. For `proxy/store/journal.py`."""

from __future__ import annotations

from sqlalchemy import Text, bindparam, func, literal_column, or_, select

from proxy.store import schema
from proxy.store.query import Query
from proxy.store.schema import compiled, decision, delivery, outcome, submission

_decisions = decision.alias("all_decisions")
_outcomes = outcome.alias("all_outcomes")


def _entries() -> Query:
    newest_decision = (
        select(func.max(_decisions.c.id)).where(_decisions.c.delivery == delivery.c.id)
    ).scalar_subquery()
    newest_outcome = (
        select(func.max(_outcomes.c.id)).where(_outcomes.c.delivery == delivery.c.id)
    ).scalar_subquery()
    empty = literal_column("''", Text)
    of_ref = select(submission.c.id).where(submission.c.ref == bindparam("ref"))
    return compiled(
        select(
            submission.c.ref, delivery.c.n, delivery.c.copy, delivery.c.exact,
            func.coalesce(schema.address.c.address, empty), delivery.c.state, submission.c.stream,
            delivery.c.sender, submission.c.mode, decision.c.verdict, decision.c.reason,
            decision.c.cite, decision.c.pack, decision.c.rule, decision.c.basis, decision.c.event,
            decision.c.facts, decision.c.at, delivery.c.attempts,
            func.coalesce(outcome.c.result, empty), delivery.c.reply, delivery.c.ended_at,
            delivery.c.maybe_sent,
        )
        .select_from(
            delivery.join(submission, submission.c.id == delivery.c.submission)
            .join(decision, decision.c.id == newest_decision)
            .outerjoin(schema.address, schema.address.c.exact == delivery.c.exact)
            .outerjoin(outcome, outcome.c.id == newest_outcome)
        )
        .where(or_(delivery.c.submission.in_(of_ref), delivery.c.exact == bindparam("exact")))
        .order_by(delivery.c.id.desc())
        .limit(bindparam("limit"))
    )  # fmt: skip


ENTRIES = _entries()


def _decided() -> Query:
    newest = (
        select(func.max(_decisions.c.id)).where(_decisions.c.delivery == delivery.c.id)
    ).scalar_subquery()
    return compiled(
        select(
            delivery.c.id, submission.c.ref, delivery.c.n, submission.c.stream, delivery.c.sender,
            submission.c.mode, submission.c.content_hash, submission.c.mail_from,
            decision.c.verdict, decision.c.reason, decision.c.cite, decision.c.pack,
            decision.c.facts, decision.c.at,
        )
        .select_from(
            delivery.join(submission, submission.c.id == delivery.c.submission)
            .join(decision, decision.c.id == newest)
        )
        .where(delivery.c.id > bindparam("after"), decision.c.at >= bindparam("since"))
        .order_by(delivery.c.id)
        .limit(bindparam("limit"))
    )  # fmt: skip


DECIDED = _decided()
