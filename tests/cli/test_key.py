"""`sluis key rotate`: a new key to seal with, and every old link still opens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_import import CONFIG

from proxy.cli.main import main
from proxy.keys import load_keys


def rotate(config: Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["key", "rotate", "--config", str(config)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_rotation_adds_a_key_and_opens_old_links(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, data = tmp_path / "sluis.toml", tmp_path / "data"
    config.write_text(CONFIG.format(data=data))
    assert rotate(config) == os.EX_UNAVAILABLE
    assert f"{data}/keys: No such file" in capsys.readouterr().err
    data.mkdir()
    old = load_keys(data / "keys", create=True).seal("u", b"anna")
    assert rotate(config) == 0
    assert capsys.readouterr().out.startswith(f"{data}/keys: k2 added; copy the file")
    fresh = load_keys(data / "keys", create=False)
    assert fresh.open("u", old) == b"anna"
    assert fresh.seal("u", b"anna").startswith("k2.")
