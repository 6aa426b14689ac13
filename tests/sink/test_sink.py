"""The development upstream: exact bytes, bounds, scripted replies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiosmtplib
import pytest

from proxy.sink import Sink, Step


@contextlib.asynccontextmanager
async def running(sink: Sink | None = None) -> AsyncIterator[Sink]:
    sink = sink or Sink()
    await sink.start()
    try:
        yield sink
    finally:
        await sink.close()


async def talk(sink: Sink, *chunks: bytes) -> bytes:
    """Write `chunks` in separate segments; all that the sink says until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sink.smtp_port)
    for chunk in chunks:
        writer.write(chunk)
        await writer.drain()
    writer.write(b"" if chunks and chunks[-1].endswith(b"QUIT\r\n") else b"QUIT\r\n")
    said = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return said


def codes(said: bytes) -> list[str]:
    lines = said.decode().split("\r\n")[:-1]
    return [line[:3] for line in lines if line[3:4] == " "]


async def test_it_keeps_the_octets_of_the_wire() -> None:
    async with running() as sink:
        said = await talk(
            sink,
            b"EHLO c\r\nMAIL FROM:<> SIZE=9 BODY=8BITMIME\r\nRCPT TO:<\"a b>c\"@x.example>\r\n"
            b"RCPT TO:<us\rer\n\xff@x.example>\r\nDATA\r\n"
            b"..one\r\n.two\r\n\n.\n\r\x00\xff\r\n.\r\nQUIT\r\n",
        )
        assert codes(said) == ["220", "250", "250", "250", "250", "354", "250", "221"]
        (mail,) = sink.messages
        assert mail.mail_from == b""
        assert mail.parameters == b"SIZE=9 BODY=8BITMIME"
        assert mail.recipients == (b'"a b>c"@x.example', b"us\rer\n\xff@x.example")
        assert mail.content == b".one\r\ntwo\r\n\n.\n\r\x00\xff\r\n"


async def test_the_end_of_data_is_found_however_the_stream_is_cut() -> None:
    stream = (
        b"HELO c\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n"
        b"a\r\n..\r\n\r\n.\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n.\r\n"
    )
    async with running() as sink:
        for n in (1, 2, 3, 7):
            await talk(sink, *(stream[i : i + n] for i in range(0, len(stream), n)))
        assert [mail.content for mail in sink.messages] == [b"a\r\n.\r\n\r\n", b""] * 4


async def test_a_real_client_and_many_at_once() -> None:
    async with running() as sink:

        async def client(n: int) -> None:
            async with aiosmtplib.SMTP(hostname="127.0.0.1", port=sink.smtp_port) as smtp:
                for _ in range(50):
                    text = f"Subject: {n}\r\n\r\n.hi\r\n"
                    await smtp.sendmail("a@x.example", [f"r{n}@x.example"], text)

        await asyncio.gather(*(client(n) for n in range(20)))
        await asyncio.wait_for(sink.received(1000), 5)
        assert sink.total == len(sink.messages) == 1000
        assert len({mail.recipients for mail in sink.messages}) == 20


async def test_only_the_newest_are_kept() -> None:
    async with running(Sink(keep=3, keep_bytes=100)) as sink:
        for n in range(5):
            sink.add(b"", [b"%d" % n], b"x" * 10, b"")
        assert [mail.id for mail in sink.messages] == [3, 4, 5]
        sink.add(b"", [b"big"], b"x" * 90, b"")
        assert [mail.id for mail in sink.messages] == [5, 6]
        sink.add(b"", [b"bigger than all"], b"x" * 101, b"")
        assert sink.messages == []
        assert sink.total == 7
        sink.clear()
        sink.add(b"", [b"after"], b"x" * 100, b"")
        assert [mail.id for mail in sink.messages] == [8]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"RCPT TO:<a@x.example>\r\n", ["503"]),
        (b"DATA\r\n", ["503"]),
        (b"MAIL FROM:a@x.example\r\n", ["501"]),
        (b"MAIL TO:<a@x.example>\r\n", ["501"]),
        (b"MAIL FROM:<a@x.example>\r\nMAIL FROM:<b@x.example>\r\n", ["250", "503"]),
        (b"MAIL FROM:<a@x.example>\r\nRCPT TO:<>\r\n", ["250", "501"]),
        (b"MAIL FROM:<a@x.example>\r\nRSET\r\nMAIL FROM:<b@x.example>\r\n", ["250"] * 3),
        (b"NOOP\r\nNONSENSE\r\n", ["250", "502"]),
    ],
)
async def test_commands_out_of_order(stream: bytes, expected: list[str]) -> None:
    async with running() as sink:
        assert codes(await talk(sink, stream)) == ["220", *expected, "221"]
        assert not sink.messages


async def test_a_line_without_end_is_cut_off() -> None:
    async with running() as sink:
        reader, writer = await asyncio.open_connection("127.0.0.1", sink.smtp_port)
        writer.write(b"x" * 100_000)
        with contextlib.suppress(ConnectionError):
            assert b"MAIL" not in await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert sink.open == 0


async def test_it_answers_as_scripted_and_then_as_usual() -> None:
    mail = b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\n"
    async with running() as sink:
        sink.once("RCPT", "450 4.2.0 later", None, b"550-no\r\n550 never\r\n")
        sink.always("NOOP", "250 2.0.0 hello")
        again = b"RCPT TO:<b@x.example>\r\n" * 2
        said = await talk(sink, mail + again + b"NOOP\r\n")
        assert codes(said) == ["220", "250", "450", "250", "550", "250", "221"]
        sink.once(".", Step.CLOSE, Step.LOSE, "554 5.7.1 no", None)
        for kept in (0, 1, 1, 2):
            await talk(sink, mail + b"DATA\r\n", b"x\r\n.\r\n")
            assert sink.total == kept


async def test_received_waits_for_the_mail() -> None:
    async with running() as sink:
        waiter = asyncio.create_task(sink.received(2))
        sink.add(b"", [b"one"], b"", b"")
        await asyncio.sleep(0)
        assert not waiter.done()
        sink.add(b"", [b"two"], b"", b"")
        await asyncio.wait_for(waiter, 5)
        await asyncio.wait_for(sink.received(1), 5)
