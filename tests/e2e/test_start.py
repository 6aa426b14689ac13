"""What a start loads: memory and time that every relay would pay."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

from running_sluis import CONFIG

#: Needed by some command, by development or by migrations; never by what serves.
SPARED = {"sqlalchemy", "alembic"}

_IMPORT = re.compile(rb"import time: +\d+ \| +\d+ \| +([\w.]+)")


async def loaded_by_serve(config: Path) -> set[str]:
    """Packages that `sluis serve` had imported when it was ready, and when it ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.cli.main", "serve", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
    )
    assert process.stderr is not None
    said = b""
    try:
        async with asyncio.timeout(60):
            while b"server.started" not in (line := await process.stderr.readline()):
                said += line
                assert line, f"it ended before it was ready: {said[-2000:].decode()}"
            process.send_signal(signal.SIGTERM)
            said += await process.stderr.read()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return {name.decode().partition(".")[0] for name in _IMPORT.findall(said)}


async def test_a_start_loads_nothing_that_only_others_need(tmp_path: Path) -> None:
    """Neither the first one, which makes the database, nor any other."""
    config = tmp_path / "sluis.toml"
    config.write_text(
        CONFIG.format(data_dir=tmp_path / "data", upstream=9, more="", upstream_more="")
    )
    for _ in range(2):
        found = await loaded_by_serve(config)
        assert {"proxy", "policy", "sqlite3", "uvicorn"} <= found
        assert found & SPARED == set()
