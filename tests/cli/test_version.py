"""`sluis --version`, which a person gives with every report."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from proxy.cli.main import main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"sluis {version('sluis')}\n"
