"""Mail that is owed, as it is kept: the content as it came, and the envelope as JSON.

Recipients are not in it, but for what the client wants to be told about each (RFC 3461): every row
has its own, in the one table of addresses.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import orjson

from policy.address import parse
from proxy.content import Content
from proxy.envelope import Envelope, Notices, Submitter
from proxy.mail import Mail
from proxy.store.model import Body, Owed


def body_of(mail: Mail) -> Body:
    """What must be durable before a 250 that rests on us."""
    return kept(mail.envelope, mail.content, null=mail.null)


def kept(envelope: Envelope, content: Content, *, null: bool) -> Body:
    """An envelope and its content as a body."""
    values = {
        "submitter": asdict(envelope.submitter),
        "received_at": envelope.received_at.isoformat(),
        "mail_from": envelope.mail_from.exact if envelope.mail_from else "",
        "body_8bit": envelope.body_8bit,
        "smtputf8": envelope.smtputf8,
        "ret": envelope.ret,
        "envid": envelope.envid,
        "solicitation": envelope.solicitation,
        "notices": {exact: [n.notify, n.orcpt] for exact, n in envelope.notices.items()},
        "null": null,
    }
    return Body(orjson.dumps(values).decode(), content)


def envelope_of(owed: Owed) -> tuple[Envelope, bool]:
    """The envelope for the one recipient of this row, and whether the mail passes untouched.

    Raises `ValueError` for an address that was erased, or a text of another version.
    """
    values = orjson.loads(owed.body.envelope)
    sender = values["mail_from"]
    recipient = parse(owed.address, smtputf8=True)
    envelope = Envelope(
        submitter=Submitter(**values["submitter"]),
        ref=owed.submission.ref,
        received_at=datetime.fromisoformat(values["received_at"]),
        mail_from=parse(sender, smtputf8=True) if sender else None,
        recipients=[recipient],
        body_8bit=values["body_8bit"],
        smtputf8=values["smtputf8"],
        declared_size=len(owed.body.content),
        ret=values["ret"],
        envid=values["envid"],
        solicitation=values["solicitation"],
        notices={exact: Notices(*said) for exact, said in values["notices"].items()},
    )
    return envelope, bool(values["null"])
