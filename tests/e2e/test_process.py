"""`sluis serve` as a process of its own: crashes, signals, and commands beside it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import sys
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from running_sluis import CLIENTS, CONFIG, message, send_once, until

from proxy.sink import Sink, Step

pytest_plugins = ("running_sluis",)

SLUIS = [sys.executable, "-m", "proxy.cli.main"]
ANNA, HANS = "anna@example.nl", "hans@example.nl"
CSV = """\
sender,address,type,at,evidence,country,kind,box,topics
acme,anna@example.nl,opt-in,2026-03-01T12:00:00Z,form:signup-v3,NL,consumer,unticked,newsletter
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class House:
    """A configuration on disk, an upstream in this process, and whatever runs on it."""

    path: Path
    sink: Sink
    smtp: int
    admin: int
    running: list[asyncio.subprocess.Process]

    async def serve(self) -> asyncio.subprocess.Process:
        """Start `sluis serve` and wait until it is ready."""
        process = await asyncio.create_subprocess_exec(
            *SLUIS,
            "serve",
            "--config",
            str(self.path),
            stderr=asyncio.subprocess.PIPE,
        )
        self.running.append(process)
        stderr = process.stderr
        assert stderr is not None
        said = b""
        async with asyncio.timeout(30):
            while b"server.started" not in (line := await stderr.readline()):
                said += line
                assert line, f"it ended before it was ready: {said.decode()}"
        return process

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """One command with this configuration: exit code, stdout, stderr."""
        process = await asyncio.create_subprocess_exec(
            *SLUIS,
            *arguments,
            "--config",
            str(self.path),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def attempting(self) -> bool:
        """Whether an attempt for anna is durable and open (read as any command may)."""
        _, out, _ = await self.run("consent", "show", ANNA, "--json")
        return [m["state"] for m in json.loads(out)["mails"]] == ["attempting"]

    async def closed(self) -> bool:
        """Whether nothing listens for SMTP."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.smtp)
        except OSError:
            return True
        writer.close()
        return False

    async def send(self, to: str, content: bytes, stream: str = "orders") -> str:
        domain = {"orders": "orders.acme.example", "newsletter": "news.acme.example"}[stream]
        return await asyncio.get_running_loop().run_in_executor(
            CLIENTS, send_once, self.smtp, f"b@{domain}", [to], content
        )


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    sink = Sink()
    await sink.start()
    smtp, admin = free_port(), free_port()
    text = CONFIG.format(
        data_dir=tmp_path / "data", upstream=sink.smtp_port, more="", upstream_more=""
    )
    text = text.replace('address = "127.0.0.1:0"', f'address = "127.0.0.1:{smtp}"')
    text = text.replace('admin = "127.0.0.1:0"', f'admin = "127.0.0.1:{admin}"')
    path = tmp_path / "sluis.toml"
    path.write_text(text)
    (tmp_path / "consents.csv").write_text(CSV)
    house = House(path, sink, smtp, admin, [])
    yield house
    for process in house.running:
        if process.returncode is None:
            process.kill()
            await process.wait()
    await sink.close()


async def test_import_serve_explain_object_and_the_next_mail_is_blocked(house: House) -> None:
    consents = house.path.with_name("consents.csv")
    code, out, err = await house.run("import", str(consents))
    assert (code, out) == (0, "1 events recorded, 0 were known, 0 rows in error\n"), err
    await house.serve()
    code, out, _ = await house.run("import", str(consents))
    assert (code, out) == (0, "0 events recorded, 1 were known, 0 rows in error\n")
    assert (await house.send(ANNA, message(), "newsletter")).startswith("250 ")

    code, out, _ = await house.run("explain", ANNA, "--stream", "newsletter")
    assert code == 0
    assert "Tw 11.7(1)" in out
    assert "form:signup-v3" in out
    code, out, _ = await house.run("explain", HANS, "--stream", "newsletter", "--lang", "nl")
    assert code == 1
    assert "no-basis" in out

    code, out, err = await house.run("consent", "object", ANNA, "--evidence", "ticket:1")
    assert (code, out) == (0, "recorded\n"), err
    reply = await house.send(ANNA, message(), "newsletter")
    assert re.match(r"550 5\.7\.1 suppressed", reply), "a commit by another process counts at once"

    code, out, _ = await house.run("consent", "show", ANNA, "--json")
    shown = json.loads(out)
    assert [e["type"] for e in shown["senders"]["acme"]["events"]] == ["opt-in", "objection"]
    assert shown["streams"]["newsletter"]["reason"] == "suppressed"
    assert [m["state"] for m in shown["mails"]] == ["blocked", "relayed"]
    code, out, _ = await house.run("consent", "show", ANNA)
    assert code == 0
    assert "ticket:1" in out

    code, out, _ = await house.run(
        "consent", "record", ANNA, "--type", "opt-in", "--evidence", "form:again",
        "--set", "box=unticked", "--set", "topics=newsletter",
    )  # fmt: skip
    assert (code, out) == (0, "recorded\n")
    reply = await house.send(ANNA, message(), "newsletter")
    assert reply.startswith("250 "), "a newer affirmative opt-in, with evidence, lifts it"


async def test_the_reference_of_a_reply_leads_to_the_journal(house: House) -> None:
    await house.serve()
    reply = await house.send(ANNA, message(), "newsletter")
    ref = reply.rpartition("(ref ")[2].rstrip(")\r\n ")
    code, out, err = await house.run("explain", ref.lower())
    assert code == 1, err
    assert f"{ANNA} on newsletter: block (no-basis), Tw 11.7(1); GDPR 7; pack nl@" in out
    assert "  reply: 550 5.7.1 no-basis" in out

    code, out, err = await house.run("explain", f"{ref}.1", "--json")
    assert code == 1, err
    [entry] = json.loads(out)
    assert (entry["ref"], entry["address"], entry["state"]) == (ref, ANNA, "blocked")

    code, out, err = await house.run("explain", "0" * 16)
    assert (code, out) == (os.EX_NOINPUT, "")
    assert "no recipient was decided under 0000000000000000" in err
    code, _, err = await house.run("explain", ANNA)
    assert code == os.EX_USAGE
    assert "--stream" in err


async def test_healthcheck_tells_a_running_relay_from_a_stopped_one(house: House) -> None:
    code, _, err = await house.run("healthcheck")
    assert code == os.EX_UNAVAILABLE, err
    await house.serve()
    code, out, _ = await house.run("healthcheck")
    assert code == 0
    assert json.loads(out)["status"] == "ready"


async def test_a_second_relay_on_the_same_data_directory_is_refused(house: House) -> None:
    await house.serve()
    code, _, err = await house.run("serve")
    assert code == os.EX_UNAVAILABLE
    assert "another sluis serve" in err
    assert "server.data_dir" in err


async def test_a_port_that_is_taken_is_a_configuration_error_by_name(house: House) -> None:
    with socket.create_server(("127.0.0.1", house.smtp)):
        code, _, err = await house.run("serve")
    assert code == os.EX_CONFIG
    address = f"127.0.0.1:{house.smtp}"
    assert f"{house.path}: listeners.0.address: cannot listen on {address}: Address already" in err


async def test_healthcheck_asks_no_proxy(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    await house.serve()
    code, out, err = await house.run("healthcheck")
    assert code == 0, err
    assert json.loads(out)["status"] == "ready"


async def test_a_hang_up_cuts_no_mail_off(house: House) -> None:
    process = await house.serve()
    process.send_signal(signal.SIGHUP)
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_sigterm_finishes_what_is_in_progress(house: House) -> None:
    process = await house.serve()
    house.sink.once(".", Step.SILENT)
    sending = asyncio.create_task(house.send(ANNA, message("orders", message_id="t")))
    await until(house.attempting)  # upstream holds the final reply
    process.send_signal(signal.SIGTERM)
    await until(house.closed)
    house.sink.drop()  # the upstream leaves without a reply: unknown, and the client is told 451
    assert (await sending).startswith("451 4.4.2")
    assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_kill_between_dot_and_reply_leaves_an_unknown_that_is_tried_again(
    house: House,
) -> None:
    process = await house.serve()
    house.sink.once(".", Step.SILENT)
    content = message("orders", message_id="kill")
    sending = asyncio.create_task(house.send(ANNA, content))
    await until(house.attempting)
    process.kill()
    await process.wait()
    with pytest.raises(Exception, match=r"."):
        await sending
    await house.serve()
    reply = await house.send(ANNA, content)
    assert reply.startswith("250 "), reply
    metrics = await asyncio.to_thread(scrape, house.admin)
    assert "sluis_ambiguous_retries_total 1.0" in metrics
    code, out, _ = await house.run("consent", "show", ANNA, "--json")
    assert code == 0
    assert [m["state"] for m in json.loads(out)["mails"]] == ["relayed", "unknown"]


async def test_kill_after_the_reply_and_the_retry_is_answered_not_sent(house: House) -> None:
    process = await house.serve()
    content = message("orders", message_id="after")
    first = await house.send(ANNA, content)
    process.kill()
    await process.wait()
    await house.serve()
    assert await house.send(ANNA, content) == first
    assert house.sink.total == 1


async def test_sighup_takes_the_new_certificate_and_no_connection_is_lost(house: House) -> None:
    folder = house.path.parent
    first, second = (trustme.CA().issue_cert("127.0.0.1") for _ in range(2))

    def install(issued: trustme.LeafCert) -> None:
        for name, pem in (
            ("cert.pem", b"".join(part.bytes() for part in issued.cert_chain_pems)),
            ("key.pem", issued.private_key_pem.bytes()),
        ):
            (folder / f"new-{name}").write_bytes(pem)
            (folder / f"new-{name}").replace(folder / name)

    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", house.smtp), timeout=10)

    def pem(issued: trustme.LeafCert) -> str:
        return issued.cert_chain_pems[0].bytes().decode()

    install(first)
    text = house.path.read_text()
    house.path.write_text(
        text.replace(
            "may_set_stream = true",
            f'may_set_stream = true\ntls = "implicit"\ncertificate = "{folder}/cert.pem"\n'
            f'key = "{folder}/key.pem"',
        )
    )
    process = await house.serve()
    assert await asyncio.to_thread(shown) == pem(first)
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", house.smtp, ssl=trust)
    assert (await reader.readline()).startswith(b"220 ")
    install(second)
    process.send_signal(signal.SIGHUP)

    async def renewed() -> bool:
        return await asyncio.to_thread(shown) == pem(second)

    await until(renewed)
    writer.write(b"NOOP\r\n")  # who was connected before goes on
    assert (await reader.readline()).startswith(b"250 ")
    writer.close()


async def test_a_lost_database_is_never_replaced_by_an_empty_one(house: House) -> None:
    process = await house.serve()
    process.terminate()
    await process.wait()
    data = house.path.with_name("data")
    for file in data.glob("sluis.db*"):
        file.unlink()
    code, _, err = await house.run("serve")
    assert code == os.EX_UNAVAILABLE
    assert "sluis.db" in err


async def test_lost_keys_stop_the_start(house: House) -> None:
    process = await house.serve()
    process.terminate()
    await process.wait()
    house.path.with_name("data").joinpath("keys").unlink()
    code, _, err = await house.run("serve")
    assert code == os.EX_UNAVAILABLE
    assert "keys" in err


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def held_on_one(pid: int) -> int:
    """How many of its threads may use one core only."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(len(os.sched_getaffinity(int(task.name))) == 1 for task in tasks)


@pytest.mark.parametrize("one_core", [True, False])
async def test_loop_and_store_share_a_core_where_that_is_wanted(
    house: House, one_core: bool
) -> None:
    if not one_core:
        text = house.path.read_text()
        house.path.write_text(text.replace("[server]\n", "[server]\none_core = false\n", 1))
    process = await house.serve()
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is but one core to choose from")
    if one_core:

        async def held() -> bool:
            return held_on_one(process.pid) == 3  # the loop, the writer, the lookups

        await until(held)
    else:
        assert held_on_one(process.pid) == 0
