"""Any sequence of commands against a small model of RFC 5321 section 4.1.4."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from front_door import Client, Door, RecordingGate, front_door
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from hypothesis.strategies import sampled_from

from policy.address import Address
from proxy.replies import Reply
from proxy.smtp.limits import IDLE_COMMANDS


def refuse_some(recipient: Address) -> Reply | None:
    if recipient.local == "blocked":
        return Reply(550, "5.7.1", "no-basis")
    if recipient.local == "later":
        return Reply(451, "4.3.0", "store")
    if recipient.local == "positive":
        return Reply(250, "2.1.5", "yes")
    return None


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    gate = RecordingGate(on_admit=refuse_some)
    with front_door(gate=gate, errors=10_000, recipients=3, messages_per_connection=10_000) as made:
        yield made


def test_every_sequence_of_commands(door: Door) -> None:
    class Dialogue(RuleBasedStateMachine):
        client: Client
        helo = extended = False
        open = False
        recipients: tuple[str, ...] = ()
        idle = 0

        @initialize()
        def connect(self) -> None:
            self.client = door.connect()
            door.gate.submitted.clear()
            self.sent: list[tuple[tuple[str, ...], bytes]] = []

        def teardown(self) -> None:
            assert [
                (tuple(a.local for a in s.envelope.recipients), s.content)
                for s in door.gate.submitted
            ] == self.sent
            self.client.close()

        def spare(self) -> bool:
            """Whether the budget of commands without mail allows one more."""
            self.idle += 1
            return self.idle < IDLE_COMMANDS

        @rule(verb=sampled_from(["EHLO", "HELO", "ehlo"]))
        def hello(self, verb: str) -> None:
            if self.spare():
                assert self.client.code(f"{verb} c.example") == 250
                self.helo, self.extended = True, verb != "HELO"
                self.open, self.recipients = False, ()

        @rule(line=sampled_from(["EHLO", "HELO ", "RSET x", "QUIT x", "FOO", "", "EXPN x", "AUTH"]))
        def wrong(self, line: str) -> None:
            assert self.client.code(line) in (500, 501, 502)

        @rule(
            path=sampled_from(["<a@b.example>", "<>", "<a b>", "a@b.example"]),
            option=sampled_from(["", " SIZE=10", " BODY=8BITMIME", " RET=HDRS", " SIZE=x"]),
        )
        def mail(self, path: str, option: str) -> None:
            code = self.client.code(f"MAIL FROM:{path}{option}")
            if not self.helo or self.open:
                want = 503
            elif path == "a@b.example":
                want = 501
            elif option and not self.extended:
                want = 555
            elif option == " SIZE=x":
                want = 501
            else:
                want = 553 if path == "<a b>" else 250
            assert code == want
            self.open = self.open or code == 250

        @rule(
            local=sampled_from(["anna", "bram", "cees", "daan", "blocked", "later", "positive", ""])
        )
        def rcpt(self, local: str) -> None:
            code = self.client.code(f"RCPT TO:<{local}@d.example>")
            if not self.open:
                want = 503
            elif not local:
                want = 553
            elif local in self.recipients:
                want = 250
            elif len(self.recipients) == 3:
                want = 452
            else:
                want = {"blocked": 550, "later": 451}.get(local, 250)
            assert code == want
            if code == 250 and local not in self.recipients:
                self.recipients += (local,)

        @rule(body=sampled_from([b"", b"Subject: x\r\n\r\n..y\r\n", b"bare\n\r\n", b"nul\0\r\n"]))
        def data(self, body: bytes) -> None:
            code = self.client.code("DATA")
            assert code == (354 if self.recipients else 503)
            if code == 354:
                self.client.send(body + b".\r\n")
                answer = int(self.client.reply()[:3])
                assert answer == (550 if b"bare" in body else 554 if b"nul" in body else 250)
                if answer == 250:
                    self.sent.append((self.recipients, body.replace(b"..", b".")))
                self.open, self.recipients, self.idle = False, (), 0

        @rule()
        def data_with_argument(self) -> None:
            assert self.client.code("DATA x") == 501

        @rule()
        def reset(self) -> None:
            if self.spare():
                assert self.client.code("RSET") == 250
                self.open, self.recipients = False, ()

        @rule(line=sampled_from(["NOOP", "NOOP x", "VRFY anna", "HELP", "HELP MAIL"]))
        def harmless(self, line: str) -> None:
            if self.spare():
                assert self.client.code(line) in (214, 250, 252)

        @rule()
        def bare_line_feed(self) -> None:
            self.client.send(b"RCPT TO:<anna@d.example>\n")
            assert self.client.reply().startswith("500 5.5.2 ")
            self.open, self.recipients = False, ()

    run_state_machine_as_test(
        Dialogue, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )
