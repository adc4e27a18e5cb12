"""The unit for systemd and the container file: each starts what there is, and the unit lets steps outlive the server."""

import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from mafunzo import settings
from mafunzo.entrypoints.main import app
from tests.unit.entrypoints.http.bench import Bench

ROOT = Path(__file__).resolve().parents[3]
UNIT = ROOT / "packaging" / "mafunzo.service"


@pytest.fixture
def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser["Service"]


def test_it_starts_a_command_that_there_is_in_a_home_that_is_read(
    service: configparser.SectionProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *words = service["ExecStart"].split()
    assert Path(program).parts[-3:] == (".venv", "bin", "mafunzo")
    assert words[0] in get_command(app).commands  # type: ignore[attr-defined]
    for pair in service["Environment"].split():
        monkeypatch.setenv(*pair.split("=", 1))
    environment = settings.load()
    assert environment.home == Path("/var/lib") / service["StateDirectory"]
    assert environment.cache == Path("/var/cache") / service["CacheDirectory"]


def test_steps_outlive_the_server_and_their_want_of_memory_does_not_end_it(service: configparser.SectionProxy) -> None:
    assert service["KillMode"] == "process" and service["OOMPolicy"] == "continue"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd isn't here")
def test_systemd_takes_it(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8").replace(
        "/opt/mafunzo/.venv/bin/mafunzo", shutil.which("true") or "/bin/true"
    )
    unit = tmp_path / "mafunzo.service"
    unit.write_text(text.replace("User=mafunzo", "User=root"), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


CONTAINERFILE = ROOT / "packaging" / "Containerfile"
Instruction = tuple[str, str]


@pytest.fixture(scope="module")
def instructions() -> list[Instruction]:
    """What the container file says, an instruction and its words each."""
    lines = [line for line in CONTAINERFILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    parted = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [(word, " ".join(rest.split())) for word, rest in parted]


def words_of(instructions: list[Instruction], name: str) -> list[str]:
    return [words for word, words in instructions if word == name]


def test_the_container_has_instructions_that_there_are_in_an_order_that_works(
    instructions: list[Instruction],
) -> None:
    names = [name for name, _ in instructions]
    known = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "VOLUME", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"}
    assert set(names) <= known | {"ENTRYPOINT", "CMD"}
    assert names[0] == "FROM"
    assert names.index("USER") > max(at for at, name in enumerate(names) if name in ("RUN", "COPY")), "root installs"
    assert names.index("USER") < names.index("ENTRYPOINT"), "and the server isn't root"
    python = f"python:{sys.version_info.major}.{sys.version_info.minor}-"
    assert python in words_of(instructions, "FROM")[0]


def test_what_the_container_copies_is_in_the_repository_and_all_that_the_build_needs(
    instructions: list[Instruction],
) -> None:
    sources = [source for words in words_of(instructions, "COPY") for source in words.split()[:-1]]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml", "requirements.lock", "mafunzo"} == set(
        sources
    )
    assert any("-r requirements.lock" in words for words in words_of(instructions, "RUN"))


def test_the_container_starts_a_command_that_there_is_in_a_home_that_is_a_volume(
    instructions: list[Instruction], monkeypatch: pytest.MonkeyPatch
) -> None:
    [program] = json.loads(words_of(instructions, "ENTRYPOINT")[0])
    assert Path(program) == Path("/opt/mafunzo/.venv/bin/mafunzo")
    assert "/opt/mafunzo" in words_of(instructions, "WORKDIR")
    commands = [json.loads(words) for words in words_of(instructions, "CMD")]
    assert commands == [["up"]]
    assert "up" in get_command(app).commands  # type: ignore[attr-defined]
    for pair in words_of(instructions, "ENV")[0].split():
        monkeypatch.setenv(*pair.split("=", 1))
    environment = settings.load()
    volumes = json.loads(words_of(instructions, "VOLUME")[0])
    assert [str(environment.home), str(environment.cache)] == volumes
    assert [environment.port, environment.https_port] == [
        int(port) for port in words_of(instructions, "EXPOSE")[0].split()
    ]
    user = words_of(instructions, "USER")[0]
    made = words_of(instructions, "RUN")[0]
    assert f"useradd --system --uid 10001 --home-dir {environment.home} {user}" in made
    assert all(volume in made for volume in volumes), "they belong to the user before they are volumes"


def test_the_health_check_asks_a_route_that_there_is(instructions: list[Instruction]) -> None:
    command = json.loads(words_of(instructions, "HEALTHCHECK")[0].partition("CMD ")[2])
    assert command[:2] == ["/opt/mafunzo/.venv/bin/python", "-c"]
    compile(command[2], "health check", "exec")
    path = re.search(r"\}(/\w+)", command[2])
    assert path is not None
    assert path[1] in {getattr(route, "path", "") for route in Bench().http_app.routes}
