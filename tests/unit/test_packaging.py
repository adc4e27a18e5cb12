"""The unit for systemd: it starts what there is, and lets steps outlive the server."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from mafunzo import settings
from mafunzo.entrypoints.main import app

ROOT = Path(__file__).resolve().parents[2]
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
