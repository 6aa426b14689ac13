"""A footer into the messages of CPython's own e-mail tests: tree, other octets, second pass."""

from __future__ import annotations

from body_tools import DUTIES, URL, look, whole
from test_corpus import MAILS
from test_footer_matrix import decoded, leaves, tree

from proxy.message.displayed import targets
from proxy.message.header import HeaderRefused, index
from proxy.message.mime import scan


def test_original_and_footer_in_every_mail_that_can_have_one() -> None:
    token = URL.rpartition("/")[2]
    injected: list[str] = []
    impossible: dict[str, str] = {}
    for name, content in MAILS.items():
        try:
            header = index(content)
        except HeaderRefused:
            continue
        _, plan = look(content)
        if plan.can_inject != DUTIES:
            impossible[name] = plan.stopped
            assert whole(content, plan, ()) == content
            continue
        copy = whole(content, plan)
        before, after = scan(content, header), scan(copy, index(copy))
        assert tree(before) == tree(after), name
        edited = {target.part.start for target in targets(before)}
        for old, new in zip(leaves(before), leaves(after), strict=True):
            was, is_ = decoded(content, old), decoded(copy, new)
            if old.start in edited:
                assert URL.encode() in is_, name
                html = old.type.word == "text/html"
                ends = [was.rfind(tag) for tag in (b"</body", b"</html") if html]
                at = next((end for end in ends if end >= 0), len(was))
                assert is_.startswith(was[:at]), name
                assert is_.endswith(was[at:]), name
            else:
                assert was == is_, name
        again, second = look(copy)
        assert again.sender_identity, name
        assert again.postal_address, name
        assert again.own_tokens == {token}, name
        assert whole(copy, second, (), own_tokens=[token]) == copy, name
        injected.append(name)
    assert len(injected) >= 25, impossible
    # What is not injected stopped the inspection, and nothing else did.
    for name, why in impossible.items():
        assert look(MAILS[name])[0].opaque == why, name
