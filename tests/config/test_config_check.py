"""`sluis check` as a person and a machine run it."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import pytest
import typer
from test_config_load import MINIMAL, write
from typer.testing import CliRunner

from proxy.cli.check import check

APP = typer.Typer()
APP.command()(check)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("SLUIS_", "STATE_DIRECTORY"))]:
        monkeypatch.delenv(name)


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    result = CliRunner().invoke(APP, arguments)
    return result.exit_code, result.stdout, result.stderr


def test_a_sound_file_exits_0(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL.replace("[server]", '[server]\ndata_dir = "a/b"'))
    code, out, err = run("--config", str(path))
    assert (code, err) == (0, "")
    assert not (tmp_path / "a").exists()
    assert out == f"{path}: ok (1 listener, 1 upstream, 1 sender, 1 stream)\n"


@pytest.mark.parametrize("under", ["", "/deeper"])
def test_a_data_dir_that_this_user_cannot_have_is_a_warning(tmp_path: Path, under: str) -> None:
    (tmp_path / "file").touch()
    path = write(tmp_path, MINIMAL.replace("[server]", f'[server]\ndata_dir = "file{under}"'))
    code, out, err = run("--config", str(path))
    assert (code, out.startswith(f"{path}: ok")) == (0, True)
    assert err.startswith(f"warning: {path}: server.data_dir: {tmp_path}/file{under} ")
    assert err.endswith("; give it to the user that runs sluis, or set another server.data_dir\n")
    _, out, _ = run("--config", str(path), "--json")
    assert orjson.loads(out)["warnings"] == [err.removeprefix("warning: ").rstrip()]


def test_problems_exit_78_one_line_each(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL.replace("NL", "UK").replace("marketing", "marketng"))
    code, out, err = run("--config", str(path))
    assert (code, out) == (78, "")
    assert err.splitlines() == [
        f'{path}: senders.0.country: is no ISO 3166-1 code; write "GB"',
        f'{path}: streams.0.category: is "marketng"; '
        "must be 'marketing', 'transactional' or 'personal'",
    ]


def test_problems_as_json(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL.replace("NL", "UK"))
    code, out, err = run("--config", str(path), "--json")
    assert (code, err) == (78, "")
    told = orjson.loads(out)
    assert told["ok"] is False
    assert len(told["problems"]) == 1


def test_show_gives_every_value_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUIS_STREAMS__0__MODE", "observe")
    path = write(tmp_path, MINIMAL + '[delivery]\npartial = "all-or-nothing"\n')
    code, out, _ = run("--config", str(path), "--show")
    assert code == 0
    lines = out.splitlines()
    assert f'server.hostname = "gate.acme.example"  # {path}' in lines
    assert 'streams.0.mode = "observe"  # environment SLUIS_STREAMS__0__MODE' in lines
    assert 'streams.0.partial = "all-or-nothing"  # delivery.partial' in lines
    assert 'limits.command_timeout = "5m"  # default' in lines
    assert "# feedback.domain is not set" in lines
    assert not any(line.startswith("streams.1.") for line in lines)


def test_what_is_shown_is_a_configuration_again(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    _, out, _ = run("--config", str(path), "--json", "--show")
    env = {
        f"SLUIS_{key.upper().replace('.', '__')}": _variable(told["value"])
        for key, told in orjson.loads(out)["keys"].items()
        if told["value"] is not None
    }
    again = CliRunner().invoke(APP, ["--config", str(path), "--json", "--show"], env=env)
    first, second = orjson.loads(out)["keys"], orjson.loads(again.stdout)["keys"]
    assert {k: v["value"] for k, v in first.items()} == {k: v["value"] for k, v in second.items()}
    assert {v["source"].split()[0] for v in second.values() if v["value"] is not None} == {
        "environment"
    }


def _variable(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def test_secrets_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop").write_text("canary-file")
    text = MINIMAL.replace('tls = "none"', 'tls = "none"\nusername = "a"\npassword = "canary-toml"')
    text += '[[credentials]]\nusername = "shop"\npassword_file = "shop"\n'
    path = write(tmp_path, text)
    for arguments in (("--show",), ("--show", "--json")):
        code, out, err = run("--config", str(path), *arguments)
        assert code == 0, err
        assert "canary" not in out + err
        assert "$argon2" not in out
        assert "********" in out
    monkeypatch.setenv("SLUIS_UPSTREAMS__0__PASSWORD", "canary-env\x1b")
    code, out, err = run("--config", str(path))
    assert code == 78
    assert "canary" not in out + err


def test_no_file_at_all(tmp_path: Path) -> None:
    code, _, err = run("--config", str(tmp_path / "gone.toml"))
    assert code == 78
    assert err == f"{tmp_path}/gone.toml: not found; name the file with --config or $SLUIS_CONFIG\n"
