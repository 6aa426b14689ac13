"""Written by `make statements`: change `proxy/store/statements/journal.py` instead."""

from proxy.store.query import Query

ENTRIES = Query(
    """SELECT submission.ref, delivery.n, delivery.copy, delivery.exact, coalesce(address.address,
      '') AS coalesce_1, delivery.state, submission.stream, delivery.sender, submission.mode,
      decision.verdict, decision.reason, decision.cite, decision.pack, decision.rule,
      decision.basis, decision.event, decision.facts, decision.at, delivery.attempts,
      coalesce(outcome.result, '') AS coalesce_2, delivery.reply, delivery.ended_at,
      delivery.maybe_sent
    FROM delivery
    JOIN submission ON submission.id = delivery.submission
    JOIN decision ON decision.id = (SELECT max(all_decisions.id) AS max_1
    FROM decision AS all_decisions
    WHERE all_decisions.delivery = delivery.id)
    LEFT OUTER
    JOIN address ON address.exact = delivery.exact
    LEFT OUTER
    JOIN outcome ON outcome.id = (SELECT max(all_outcomes.id) AS max_2
    FROM outcome AS all_outcomes
    WHERE all_outcomes.delivery = delivery.id)
    WHERE delivery.submission IN (SELECT submission.id
    FROM submission
    WHERE submission.ref = ?) OR delivery.exact = ?
    ORDER BY delivery.id DESC LIMIT ? OFFSET ?""",
    ("ref", "exact", "limit", "param_1"),
    {"param_1": 0,},
)

DECIDED = Query(
    """SELECT delivery.id, submission.ref, delivery.n, submission.stream, delivery.sender,
      submission.mode, submission.content_hash, submission.mail_from, decision.verdict,
      decision.reason, decision.cite, decision.pack, decision.facts, decision.at
    FROM delivery
    JOIN submission ON submission.id = delivery.submission
    JOIN decision ON decision.id = (SELECT max(all_decisions.id) AS max_1
    FROM decision AS all_decisions
    WHERE all_decisions.delivery = delivery.id)
    WHERE delivery.id > ? AND decision.at >= ?
    ORDER BY delivery.id LIMIT ? OFFSET ?""",
    ("after", "since", "limit", "param_1"),
    {"param_1": 0,},
)
