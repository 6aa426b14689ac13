"""`sluis import`: good rows in, each bad row named by line, column and reason, nothing lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from proxy.cli.main import main

CONFIG = """
[server]
hostname = "gate.acme.example"
data_dir = "{data}"
development = true
[[listeners]]
address = "127.0.0.1:2525"
trusted_networks = ["127.0.0.0/8"]
[[upstreams]]
address = "127.0.0.1:1025"
tls = "none"
[http]
public_url = "http://127.0.0.1:8080"
[[senders]]
id = "acme"
name = "Acme Schoenen B.V."
country = "NL"
postal_address = "Keizersgracht 1, 1015 AA Amsterdam"
contact = "privacy@acme.example"
[[senders]]
id = "bmart"
name = "B-Mart N.V."
country = "NL"
postal_address = "Dam 1, 1012 JS Amsterdam"
contact = "privacy@bmart.example"
[[streams]]
id = "newsletter"
sender = "acme"
category = "marketing"
topics = ["newsletter"]
from_domains = ["news.acme.example"]
"""
HEADER = "sender,address,type,at,evidence,country,kind,box,topics"
EVENTS = "sender,address,type,at,evidence"
ANNA = "acme,anna@example.nl,opt-in,2026-03-01T12:00:00Z,form:1,NL,consumer,unticked,newsletter"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sluis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    path = tmp_path / "sluis.toml"
    path.write_text(CONFIG.format(data=tmp_path / "data"))

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--config", str(path)])
        out, err = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return code, out, err

    return run


def write(tmp_path: Path, *lines: str, name: str = "in.csv", encoding: str = "utf-8") -> Path:
    path = tmp_path / name
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (ANNA.replace("acme", "nobody", 1), "column sender: no sender with id 'nobody'"),
        (ANNA.replace("anna@example.nl", ""), "column address: missing"),
        (ANNA.replace("anna@example.nl", "anna@"), "column address: not an address"),
        (ANNA.replace("anna@example.nl", "a b@example.nl"), "column address: not an address"),
        (ANNA.replace("opt-in", "optin"), "column type: 'optin' is no event type; one of opt-in"),
        (ANNA.replace("2026-03-01T12:00:00Z", ""), "column at: missing"),
        (ANNA.replace("2026-03-01T12:00:00Z", "1 maart"), "column at: '1 maart' is no ISO 8601"),
        (ANNA.replace("2026-03-01T12:00:00Z", "2026-03-01"), "column at: a date without a time"),
        (
            ANNA.replace("12:00:00Z", "12:00:00"),
            "column at: '2026-03-01T12:00:00' has no time zone",
        ),
        (ANNA.replace("2026-03-01", "2999-03-01"), "column at: lies in the future"),
        (ANNA.replace("unticked", "ticked"), "column box: expected one of unticked"),
        (ANNA.replace(",NL,", ",UK,"), "column country: the country code of the United Kingdom"),
        (ANNA.replace(",NL,", ",Holland,"), "column country: expected a country code"),
        (ANNA.replace("consumer", "person"), "column kind: expected one of consumer"),
        (
            ANNA.replace("opt-in", "objection"),
            "column box: does not belong to an event of type obj",
        ),
        (ANNA + ",extra", "10 cells where the header has 9"),
        (ANNA.replace("form:1", '"form'), "not CSV"),
        (ANNA.replace("form:1", "form\x1b[31m"), "column evidence: contains a control character"),
        (
            ANNA.replace("2026-03-01T12:00:00Z", "0001-01-01T00:00:00+14:00"),
            "column at: '0001-01-01T00:00:00+14:00' is out of range",
        ),
    ],
)
def test_a_bad_row_is_named_and_the_good_ones_are_kept(
    sluis: Run, tmp_path: Path, row: str, problem: str
) -> None:
    good = ANNA.replace("anna", "good")
    path = write(tmp_path, HEADER, good, row)
    code, out, err = sluis("import", str(path))
    assert code == os.EX_DATAERR
    assert f"{path}: line 3" in err
    assert problem in err
    assert "1 events recorded" in out


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([""], "line 1: no header row"),
        (["sender,address,type,at,evidance", ANNA], "line 1, column 'evidance': no such column"),
        (["sender,address,address,at,type", ANNA], "line 1, column 'address': named twice"),
        (["sender,address,at", "acme,a@example.nl,2026-01-01T00:00:00Z"], "no column 'type'"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_file_that_cannot_be_read_is_named_with_its_remedy(
    sluis: Run, tmp_path: Path, lines: list[str], problem: str, more: list[str]
) -> None:
    code, out, err = sluis("import", str(write(tmp_path, *lines)), *more)
    assert (code, out) == (os.EX_DATAERR, "nothing imported\n")
    assert problem in err


@pytest.mark.parametrize("end", ['"', "", '" x'])
def test_a_quote_that_is_not_closed_costs_its_own_row_and_no_other(
    sluis: Run, tmp_path: Path, end: str
) -> None:
    objections = [f"acme,p{n}@example.nl,objection,2026-06-01T08:00:00Z,ticket" for n in range(5)]
    objections[1] = objections[1].replace(",ticket", ',"ticket 5')
    objections[3] = objections[3].replace(",ticket", f",5{end}")
    code, out, err = sluis("import", str(write(tmp_path, EVENTS, *objections)))
    assert code == os.EX_DATAERR
    assert "line 3" in err
    assert "4 events recorded, 0 were known, 1 rows in error" in out, err
    code, out, _ = sluis("explain", "p2@example.nl", "--stream", "newsletter", "--json")
    assert json.loads(out)["reason"] == "suppressed"


def test_a_row_longer_than_csv_reads_loses_no_other(sluis: Run, tmp_path: Path) -> None:
    rows = [f"acme,p{n}@example.nl,objection,2026-06-01T08:00:00Z,ticket" for n in range(2500)]
    rows[3] = rows[3].replace(",ticket", ',"ticket')
    code, out, err = sluis("import", str(write(tmp_path, EVENTS, *rows)))
    assert code == os.EX_DATAERR
    assert "2499 events recorded, 0 were known, 1 rows in error" in out
    assert "line 5: not CSV" in err


def test_a_column_that_is_left_out_may_have_line_breaks(sluis: Run, tmp_path: Path) -> None:
    row = 'acme,a@example.nl,objection,2026-06-01T08:00:00Z,"says\nno, twice"'
    path = write(tmp_path, "sender,address,type,at,notes", row)
    code, out, err = sluis("import", str(path), "--map", "notes=-")
    assert (code, err) == (0, "warning: 1 rows have no evidence; such a basis blocks as "
                              "proof-missing\n")  # fmt: skip
    assert "1 events recorded" in out


def test_whoever_can_be_sent_to_can_object(sluis: Run, tmp_path: Path) -> None:
    objection = "acme,anna@shop.local,objection,2026-06-01T08:00:00Z,ticket:1"
    opt_in = objection.replace("objection", "opt-in")
    code, out, err = sluis("import", str(write(tmp_path, EVENTS, objection, opt_in)))
    assert code == os.EX_DATAERR
    assert "line 3, column address" in err
    assert "1 events recorded" in out


def test_one_moment_in_two_zones_is_one_event(sluis: Run, tmp_path: Path) -> None:
    other = ANNA.replace("12:00:00Z", "13:00:00+01:00")
    _, out, _ = sluis("import", str(write(tmp_path, HEADER, ANNA, other)))
    assert "1 events recorded, 1 were known" in out


def test_utf16_is_named(sluis: Run, tmp_path: Path) -> None:
    code, _, err = sluis("import", str(write(tmp_path, HEADER, ANNA, encoding="utf-16")))
    assert code == os.EX_DATAERR
    assert "UTF-16" in err


def test_a_missing_file_is_named(sluis: Run, tmp_path: Path) -> None:
    code, _, err = sluis("import", str(tmp_path / "none.csv"))
    assert code == os.EX_DATAERR
    assert err == f"{tmp_path / 'none.csv'}: cannot be read: No such file or directory\n"


def test_one_cell_of_latin1_costs_one_row(sluis: Run, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    bad = ANNA.replace("anna", "zoe").replace("form:1", "caf\u00e9").encode("latin-1")
    path.write_bytes(b"\n".join([HEADER.encode(), bad, ANNA.encode(), b""]))
    code, out, err = sluis("import", str(path))
    assert code == os.EX_DATAERR
    assert "line 2, column evidence: not UTF-8" in err
    assert "1 events recorded" in out


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_bom_delimiters_quotes_and_blank_lines(sluis: Run, tmp_path: Path, delimiter: str) -> None:
    lines = [
        "\ufeff" + HEADER.replace(",", delimiter),
        ANNA.replace(",", delimiter).replace("form:1", '"form:1, ""v3"""'),
        "",
    ]
    code, out, err = sluis("import", str(write(tmp_path, *lines)))
    assert (code, err) == (0, "")
    assert out == "1 events recorded, 0 were known, 0 rows in error\n"
    code, out, _ = sluis("consent", "show", "anna@example.nl", "--json")
    [event] = json.loads(out)["senders"]["acme"]["events"]
    assert event["evidence"] == 'form:1, "v3"'


def test_dry_run_writes_nothing_and_the_same_twice_is_one_event(sluis: Run, tmp_path: Path) -> None:
    path = str(write(tmp_path, HEADER, ANNA, ANNA))
    assert sluis("import", path, "--dry-run")[:2] == (
        0,
        "2 of 2 rows would be imported, 0 in error\n",
    )
    assert not (tmp_path / "data").exists()
    _, out, _ = sluis("import", path)
    assert out == "1 events recorded, 1 were known, 0 rows in error\n"
    _, out, _ = sluis("import", path)
    assert out == "0 events recorded, 2 were known, 0 rows in error\n"


def test_their_columns_a_zone_and_set_values(sluis: Run, tmp_path: Path) -> None:
    path = write(tmp_path, "E-mail,When,Plan", "anna@example.nl,2026-03-01 12:00:00,gold")
    code, out, err = sluis(
        "import", str(path), "--sender", "acme", "--map", "E-mail=address", "--map", "When=at",
        "--map", "Plan=-", "--set", "type=opt-in", "--set", "box=unticked",
        "--set", "evidence=crm", "--timezone", "Europe/Amsterdam", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["new"] == 1
    _, out, _ = sluis("consent", "show", "anna@example.nl", "--json")
    [event] = json.loads(out)["senders"]["acme"]["events"]
    assert event["at"].startswith("2026-03-01T11:00:00")
    assert event["source"] == "import"


def test_jsonl_with_lists_and_booleans(sluis: Run, tmp_path: Path) -> None:
    row = {
        "sender": "acme", "address": "bram@example.nl", "type": "relationship",
        "at": "2026-05-10T09:30:00+02:00", "evidence": "order:1001", "country": "NL",
        "kind": "consumer", "stage": "purchase", "paid": True, "products": ["running-shoes"],
        "address_from_customer": True, "informed": True, "objection_offered": "box",
    }  # fmt: skip
    lines = [json.dumps(row), "{", json.dumps(row | {"address": "x@example.nl", "payed": True})]
    code, out, err = sluis("import", str(write(tmp_path, *lines, name="in.jsonl")))
    assert code == os.EX_DATAERR
    assert "line 2: not JSON" in err
    assert "line 3, column payed: no such key" in err
    assert "1 events recorded" in out
    code, out, _ = sluis("consent", "show", "bram@example.nl", "--json")
    [event] = json.loads(out)["senders"]["acme"]["events"]
    assert event["paid"] is True
    assert event["products"] == ["running-shoes"]


@pytest.mark.parametrize("source", ["", ",signup", ",import"])
def test_an_imported_opt_in_lifts_no_earlier_objection(
    sluis: Run, tmp_path: Path, source: str
) -> None:
    """Whatever the file says of its origin: the objection is on record, the lifting is a claim."""
    assert sluis("consent", "object", "anna@example.nl", "--sender", "acme")[0] == 0
    # An opt-in "later" than the objection: only a file of the next minutes can hold one.
    soon = (datetime.now(UTC) + timedelta(minutes=4)).isoformat()
    later = ANNA.replace("2026-03-01T12:00:00Z", soon)
    header = HEADER + (",source" if source else "")
    assert sluis("import", str(write(tmp_path, header, later + source)))[0] == 0
    then = (datetime.now(UTC) + timedelta(minutes=9)).isoformat()
    code, out, _ = sluis(
        "explain", "anna@example.nl", "--stream", "newsletter", "--at", then, "--json"
    )
    assert code == 1
    assert json.loads(out)["reason"] == "suppressed"


def test_warnings_for_missing_evidence_and_outlived_opt_ins(sluis: Run, tmp_path: Path) -> None:
    sluis("import", str(write(tmp_path, HEADER, ANNA)))
    objection = "acme,anna@example.nl,objection,2026-02-01T12:00:00Z,ticket:1,NL,consumer,,"
    unproven = ANNA.replace("anna", "cees").replace("form:1", "")
    code, _, err = sluis("import", str(write(tmp_path, HEADER, objection, unproven)))
    assert code == 0
    assert "1 rows have no evidence" in err
    assert "1 objections were recorded of people who opted in after" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sender", "nobody"], "no sender 'nobody'"),
        (["--timezone", "Mars/Olympus"], "no time zone 'Mars/Olympus'"),
        (["--map", "x"], "'x' is not of the form a=b"),
        (["--wat"], "No such option"),
    ],
)
def test_usage_errors_exit_64(sluis: Run, tmp_path: Path, arguments: list[str], words: str) -> None:
    code, _, err = sluis("import", str(write(tmp_path, HEADER, ANNA)), *arguments)
    assert code == os.EX_USAGE
    assert words in err


def test_explain_and_consent_refuse_nonsense_by_name(sluis: Run) -> None:
    sluis("consent", "object", "x@example.nl", "--sender", "acme")
    for arguments, words in [
        (["explain", "anna@", "--stream", "newsletter"], "no mail address"),
        (["explain", "anna@example.nl", "--stream", "nope"], "no stream 'nope'; one of newsletter"),
        (["explain", "anna@example.nl", "--stream", "newsletter", "--at", "soon"], "ISO 8601"),
        (["explain", "anna@example.nl", "--stream", "newsletter", "--at",
          "0001-01-01T00:00:00+14:00"], "out of range"),
        (["explain", "anna@example.nl", "--stream", "newsletter", "--lang", "xx"], "en or nl"),
        (["consent", "object", "a@example.nl"], "several senders; one of acme, bmart"),
        (["consent", "object", "a@example.nl", "--scope", "topic"], "--topic belong together"),
        (["consent", "record", "a@example.nl", "--sender", "acme", "--type", "opt-in",
          "--evidence", "x", "--set", "box=maybe"], "box: expected one of"),
    ]:  # fmt: skip
        code, _, err = sluis(*arguments)
        assert code == os.EX_USAGE, arguments
        assert words in err, (arguments, err)


def test_what_people_wrote_is_shown_as_it_is(sluis: Run) -> None:
    evidence = "order[red] [/x] form:key:3"
    arguments = ["--sender", "acme", "--evidence", evidence]
    assert sluis("consent", "object", "a@example.nl", *arguments)[0] == 0
    code, out, err = sluis("consent", "show", "a@example.nl")
    assert code == 0, err
    assert evidence in out


def test_record_takes_no_address_or_time_by_set(sluis: Run) -> None:
    arguments = ["a@example.nl", "--sender", "acme", "--type", "opt-in", "--evidence", "x"]
    for column in ("at=2020-01-01T00:00:00Z", "address=b@example.nl"):
        code, out, err = sluis("consent", "record", *arguments, "--set", column)
        assert (code, out) == (os.EX_USAGE, "")
        assert "not set this way" in err


def test_bytes_that_are_no_text_are_a_usage_error(sluis: Run) -> None:
    arguments = ["a@example.nl", "--sender", "acme", "--evidence", "caf\udce9"]
    code, _, err = sluis("consent", "object", *arguments)
    assert code == os.EX_USAGE
    assert "evidence: not UTF-8" in err


def test_a_fault_of_ours_is_no_verdict(sluis: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object, **__: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("proxy.cli.explaining.run", fault)
    code, _, err = sluis("explain", "a@example.nl", "--stream", "newsletter")
    assert code == os.EX_SOFTWARE
    assert "ZeroDivisionError" in err


def test_explain_as_it_was_then(sluis: Run, tmp_path: Path) -> None:
    sluis("import", str(write(tmp_path, HEADER, ANNA)))
    now = sluis("explain", "anna@example.nl", "--stream", "newsletter", "--json")
    assert now[0] == 0
    before = sluis(
        "explain", "anna@example.nl", "--stream", "newsletter", "--at", "2026-02-01", "--json"
    )
    assert before[0] == 1
    assert json.loads(before[1])["reason"] == "no-basis"


def test_a_configuration_in_error_exits_78_naming_file_and_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(CONFIG.format(data=tmp_path).replace("hostname", "hostnam"))
    for command in (["serve"], ["check"], ["explain", "a@b.example", "--stream", "x"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--config", str(path)])
        assert ended.value.code == os.EX_CONFIG, command
        assert f"{path}: server.hostnam" in capsys.readouterr().err, command


def test_a_command_that_needs_a_ledger_says_where_none_is(sluis: Run, tmp_path: Path) -> None:
    code, _, err = sluis("explain", "anna@example.nl", "--stream", "newsletter")
    assert code == os.EX_UNAVAILABLE
    where = f"{tmp_path / 'sluis.toml'}: server.data_dir: there is no {tmp_path / 'data'}"
    assert err == (
        f"sluis: {where}; start `sluis serve` or import consents first, or name the directory of "
        "the relay that you ask about\n"
    )


def test_a_named_key_file_that_is_not_there(sluis: Run, tmp_path: Path) -> None:
    path = tmp_path / "sluis.toml"
    path.write_text(path.read_text().replace("[http]", '[http]\nkeys_file = "gone"'))
    code, _, err = sluis("import", str(write(tmp_path, HEADER, ANNA)))
    assert code == os.EX_CONFIG
    assert err.startswith(f"{path}: http.keys_file: there is no {tmp_path / 'gone'}; put back")
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("name", ["Europe/Nowhere", "half past nine", "../../etc/passwd"])
def test_a_recipients_zone_must_be_one(sluis: Run, tmp_path: Path, name: str) -> None:
    header = HEADER.replace("kind", "timezone")
    good = ANNA.replace("consumer", "Asia/Kathmandu")
    bad = good.replace("Asia/Kathmandu", name).replace("anna@", "bram@")
    code, out, err = sluis("import", str(write(tmp_path, header, good, bad)))
    assert code == 65
    assert "column timezone: " in out + err
    code, out, _ = sluis("consent", "show", "anna@example.nl", "--json")
    assert "Asia/Kathmandu" in out


def test_a_column_mapped_to_none_of_ours(sluis: Run, tmp_path: Path) -> None:
    path = write(tmp_path, "E-mail,When", "anna@example.nl,2026-03-01 12:00:00")
    code, out, err = sluis("import", str(path), "--map", "E-mail=adres")
    assert (code, out) == (os.EX_DATAERR, "nothing imported\n")
    assert "line 1, column 'E-mail': --map makes it 'adres', which is no column of ours" in err
