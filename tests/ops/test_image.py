"""The Dockerfile: linted, hardened, and its build stage run step by step without Docker."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HADOLINT = Path(sys.executable).with_name("hadolint")
CODE = ("policy", "proxy")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, argument) pairs, without comments."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(word, rest) for word, _, rest in (x.partition(" ") for x in lines if x)]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for pair in instructions():
        if pair[0] == "FROM":
            found.append([])
        found[-1].append(pair)
    return found


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Image:
    """What the build stage left: the environment that is copied into the image, and the wheel."""

    env: Path
    wheel: Path
    source: Path


pytestmark = pytest.mark.timeout(600)  # the build stage installs from the index


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The build stage's COPY and RUN lines, with `/opt`, `/dist` and the work folder moved."""
    top = tmp_path_factory.mktemp("image")
    source = top / "src"
    source.mkdir()
    run(sys.executable, "-m", "venv", top / "system", cwd=top)  # stands for the base image's Python
    for word, argument in stages()[0]:
        if word == "COPY":
            *names, target = argument.split()
            for name in names:
                if (ROOT / name).is_dir():
                    shutil.copytree(
                        ROOT / name, source / target, ignore=shutil.ignore_patterns("__pycache__")
                    )
                else:
                    shutil.copy(ROOT / name, source / target)
        elif word == "RUN":
            step = [re.sub(r"^(?=/(opt|dist)\b)", str(top), part) for part in json.loads(argument)]
            if step[0] == "python":
                step[0] = str(top / "system/bin/python")
            run(*step, cwd=source)
    (wheel,) = (top / "dist").iterdir()
    return Image(env=top / "opt/sluis", wheel=wheel, source=source)


def test_hadolint_is_content() -> None:
    run(HADOLINT, "Dockerfile", cwd=ROOT)


def test_every_command_has_the_exec_form() -> None:
    for word, argument in instructions():
        if word in ("RUN", "CMD", "ENTRYPOINT", "HEALTHCHECK"):
            command = argument[argument.index("[") :]
            assert word == "HEALTHCHECK" or command == argument
            assert isinstance(json.loads(command), list), argument


def test_image_is_hardened() -> None:
    final = stages()[-1]
    told = {word: argument for word, argument in final if word not in ("RUN", "COPY")}
    assert told["USER"] == "65532:65532"
    assert told["STOPSIGNAL"] == "SIGTERM"
    assert told["VOLUME"] == "/var/lib/sluis"
    assert told["EXPOSE"].split() == ["2525", "8080", "9464"]
    assert told["HEALTHCHECK"].endswith('CMD ["sluis", "healthcheck"]')
    assert told["LABEL"].count("org.opencontainers.image.") == 3
    words = [word for word, _ in final]
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in ("RUN", "COPY"))


def test_builder_sees_only_what_it_copies() -> None:
    admitted = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        name for word, rest in stages()[0] if word == "COPY" for name in rest.split()[:-1]
    }
    assert admitted == copied


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(image: Image) -> None:
    with zipfile.ZipFile(image.wheel) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = {name.partition(".dist-info/")[2] for name in wheel.namelist()}
    present = {
        str(path.relative_to(image.source))
        for folder in CODE
        for path in (image.source / folder).rglob("*")
        if path.is_file()
    }
    assert packed == present
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= metadata
    for pattern in ("policy/packs/nl.toml", "policy/packs/eu.toml"):
        assert pattern in packed
    assert any(re.fullmatch(r"proxy/web/templates/.+\.html(\.j2)?", name) for name in packed)
    assert any(re.fullmatch(r"proxy/store/migrations/versions/.+\.py", name) for name in packed)


def test_sluis_runs_with_the_run_lock_alone(image: Image, tmp_path: Path) -> None:
    text = run(image.env / "bin/sluis", "--help", cwd=tmp_path)
    assert "serve" in text
    assert "healthcheck" in text


def test_every_module_imports_with_the_run_lock_alone(image: Image, tmp_path: Path) -> None:
    modules = sorted(
        ".".join(path.relative_to(image.source).with_suffix("").parts).removesuffix(".__init__")
        for folder in CODE
        for path in (image.source / folder).rglob("*.py")
        if "migrations" not in path.parts
    )
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    run(image.env / "bin/python", "-c", program, *modules, cwd=tmp_path)


CONFIG = """\
[server]
hostname = "gate.acme.example"
data_dir = "{data}"
development = true
[[listeners]]
address = "127.0.0.1:0"
trusted_networks = ["127.0.0.0/8"]
[[upstreams]]
address = "127.0.0.1:1"
tls = "none"
[http]
public = "127.0.0.1:0"
public_url = "http://mail.acme.example"
admin = "127.0.0.1:0"
[[senders]]
id = "acme"
name = "Acme Schoenen B.V."
country = "NL"
postal_address = "Keizersgracht 1, 1015 AA Amsterdam"
contact = "privacy@acme.example"
[[streams]]
id = "orders"
sender = "acme"
category = "transactional"
from_domains = ["orders.acme.example"]
"""


def test_image_serves_is_healthy_and_stops_on_sigterm(image: Image, tmp_path: Path) -> None:
    """ENTRYPOINT and CMD, HEALTHCHECK and STOPSIGNAL, with the folder of VOLUME still empty."""
    config = tmp_path / "sluis.toml"
    config.write_text(CONFIG.format(data=tmp_path / "data"))
    sluis = image.env / "bin/sluis"
    command: list[str | Path] = [sluis, "serve", "--config", config]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            lines = iter(process.stderr.readline, "")
            started = json.loads(next(line for line in lines if '"server.started"' in line))
            url = f"http://127.0.0.1:{started['admin']}/readyz"
            assert '"ready"' in run(sluis, "healthcheck", "--url", url, cwd=tmp_path)
        finally:
            process.terminate()
        assert process.wait(60) == 0
        assert '"server.stopped"' in process.stderr.read()
    after = subprocess.run([sluis, "healthcheck", "--url", url], capture_output=True, check=False)
    assert after.returncode == 69
