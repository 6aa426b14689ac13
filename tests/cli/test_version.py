"""`sluis --version`, which a person gives with every report."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from proxy.cli.main import main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"sluis {version('sluis')}\n"


def test_the_command_line_loads_what_a_command_needs_when_it_runs() -> None:
    """`--help` and `healthcheck --url` need neither law nor configuration."""
    heavy = "{'policy', 'pydantic', 'cryptography', 'sqlite3', 'uvicorn'}"
    program = f"import sys, proxy.cli.main; sys.exit(str({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.stderr == b"set()\n"
