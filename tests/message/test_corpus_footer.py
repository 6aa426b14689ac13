"""A footer into the messages of CPython's own e-mail tests: tree, other octets, second pass."""

from __future__ import annotations

from body_tools import DUTIES, URL, look, whole
from test_corpus import MAILS
from test_footer_matrix import decoded, leaves, tree

from policy.model import Unsubscribe
from proxy.message.displayed import targets
from proxy.message.header import HeaderRefused, index
from proxy.message.mime import scan


def footed(name: str, content: bytes) -> str:
    """Try a footer in one mail: "injected", or why it cannot have one."""
    token = URL.rpartition("/")[2]
    try:
        header = index(content)
    except HeaderRefused as refused:
        return str(refused.reply)
    shown, plan = look(content)
    if plan.can_inject != DUTIES:
        assert whole(content, plan, ()) == content
        return plan.stopped
    copy = whole(content, plan)
    before, after = scan(content, header), scan(copy, index(copy))
    assert tree(before) == tree(after), name
    offered = shown.unsubscribe is Unsubscribe.LINK
    edited = {target.part.start for target in targets(before)}
    for old, new in zip(leaves(before), leaves(after), strict=True):
        if old.start in edited:
            was, is_ = decoded(content, old), decoded(copy, new)
            assert URL.encode() in is_ or offered, name
            assert b"1015 AA Amsterdam" in is_, name
            html = old.type.word == "text/html"
            ends = [was.lower().rfind(tag) for tag in (b"</body", b"</html") if html]
            at = next((end for end in ends if end >= 0), len(was))
            assert is_.startswith(was[:at]), name
            assert is_.endswith(was[at:]), name
        else:
            assert content[old.start : old.end] == copy[new.start : new.end], name
    again, second = look(copy)
    assert again.sender_identity, name
    assert again.postal_address, name
    assert again.own_tokens == (set() if offered else {token}), name
    assert whole(copy, second, (), own_tokens=[token]) == copy, name
    return "injected"


def test_original_and_footer_in_every_mail_that_can_have_one() -> None:
    found = {name: footed(name, content) for name, content in MAILS.items()}
    assert list(found.values()).count("injected") >= 25, found
    # What is not injected stopped the inspection, and nothing else did.
    for name, why in found.items():
        if why != "injected" and not why.startswith("554"):
            assert look(MAILS[name])[0].opaque == why, name
