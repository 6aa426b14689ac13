"""scripts/setup, the Makefile and the locks: what a newcomer's first command does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-build.lock")
SCRIPTS = ("scripts/setup", ".ci/run")


def pins(lock: str) -> dict[str, set[str]]:
    """Package -> its pinned versions (several where an environment marker chooses)."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / lock).read_text().splitlines():
        if match := re.match(r"([a-z0-9][a-z0-9._-]*)==(\S+)", line):
            found.setdefault(match[1], set()).add(match[2])
    return found


class Tree:
    """A copy of the set-up in a folder of its own, with a Python that only notes its arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        for name in ("scripts/setup", "pyproject.toml", *LOCKS):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        self.program("python", f'printf "%s\\n" "$*" >>{self.notes}')
        self.program("pip", "exit 1")

    def program(self, name: str, body: str) -> None:
        path = self.folder / ".venv/bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # The interpreter of a real .venv/bin/pip is that environment's own Python.
        first = "#!/bin/sh" if name != "pip" else f"#!{self.folder}/.venv/bin/python"
        path.write_text(f"{first}\n{body}\n")
        path.chmod(0o755)

    def setup(self, kind: str) -> list[str]:
        """Run it; the pip commands that it ran."""
        self.notes.unlink(missing_ok=True)
        done = subprocess.run(
            [self.folder / "scripts/setup", kind], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        noted = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [line for line in noted if line.startswith("-m pip install")]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_first_run_installs_from_hashed_locks(tree: Tree) -> None:
    run, build, own = tree.setup("run")
    assert run.endswith("--require-hashes -r requirements.lock")
    assert build.endswith("--require-hashes -r requirements-build.lock")
    assert own.endswith("--no-deps --no-build-isolation -e .")


def test_second_run_does_nothing(tree: Tree) -> None:
    assert tree.setup("run")
    assert tree.setup("run") == []


def test_tests_need_more_and_then_demo_needs_nothing(tree: Tree) -> None:
    assert tree.setup("run")
    assert tree.setup("test")[0].endswith("-r requirements-dev.lock")
    assert tree.setup("run") == []
    assert tree.setup("test") == []


@pytest.mark.parametrize("changed", [*LOCKS, "pyproject.toml"])
def test_changed_lock_installs_again(tree: Tree, changed: str) -> None:
    assert tree.setup("run")
    with (tree.folder / changed).open("a") as file:
        file.write("# changed\n")
    assert tree.setup("run")
    assert tree.setup("run") == []


def test_failed_install_is_told_and_not_remembered(tree: Tree) -> None:
    tree.program("python", 'case "$*" in *pip\\ install*) echo no such package; exit 1; esac')
    command: list[str | Path] = [tree.folder / "scripts/setup", "run"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "no such package" in done.stderr


def test_missing_program_names_the_command_that_mends_it(tmp_path: Path) -> None:
    """Without root nothing is installed behind anyone's back, and nothing is skipped in silence."""
    for name in ("bash", "dirname", "flock", "env"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts/setup", "test"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.search(r"sudo apt-get install prometheus chromium .*swaks .*strace", done.stderr)


def test_unusable_python_is_refused_by_name(tree: Tree) -> None:
    shutil.rmtree(tree.folder / ".venv")
    done = subprocess.run(
        [tree.folder / "scripts/setup", "run"],
        env={**os.environ, "PYTHON": "/bin/false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "PYTHON=/bin/false is not Python 3.11 or newer" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_stop_at_the_first_error(script: str) -> None:
    text = (ROOT / script).read_text()
    assert "\nset -euo pipefail\n" in text
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_help_names_the_public_targets() -> None:
    done = subprocess.run(["make", "-s", "-C", ROOT], capture_output=True, text=True, check=True)
    named = re.findall(r"^ +make ([a-z]+) ", done.stdout, flags=re.MULTILINE)
    expected = ["help", "demo", "test", "check", "lint", "types", "fuzz", "faults", "bench"]
    assert named == [*expected, "corpus", "docs", "statements", "lock", "clean"]


def test_demo_passes_its_arguments() -> None:
    command: list[str | Path] = ["make", "-n", "-C", ROOT, "demo", "ARGS=--once --port 0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "sluis demo --once --port 0" in done.stdout


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_is_hashed_and_names_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "--index" not in text
    entries = re.split(r"\n(?=[a-z0-9])", text.rstrip())
    assert all("--hash=sha256:" in entry for entry in entries)


def test_locks_agree() -> None:
    tested = pins("requirements-dev.lock")
    for lock in ("requirements.lock", "requirements-build.lock"):
        for name, versions in pins(lock).items():
            assert name not in tested or versions <= tested[name], (lock, name)
    assert set(pins("requirements.lock")) <= set(tested)


def test_locks_hold_every_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = {
        "requirements.lock": project["project"]["dependencies"],
        "requirements-dev.lock": project["dependency-groups"]["dev"],
        "requirements-build.lock": project["build-system"]["requires"],
    }
    for lock, wanted in declared.items():
        names = {re.split(r"[<>=\[; ]", item)[0] for item in wanted}
        assert names <= set(pins(lock)), lock
