"""`mafunzo doctor gpu`: what it says, writes and returns."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from mafunzo.control.workspace import examination
from mafunzo.entities.compute import Hardware
from mafunzo.entities.examination import Check
from tests.support.command_line import Shell

PASSED = Check("losses", "at most 0.00010 from the CPU's in 5 steps", "0.002", True)
FAILED = Check("speed against TRL's best", "0.80 times its 1,000 tokens/s", "1 at least", False)
UNKNOWN = Check("memory", "", "the time of 300 s was over", None)


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """A function that puts a program that prints checks in the place of the one that needs a GPU."""

    def put(*checks: Check, end: str = "") -> None:
        lines = "".join(f"print({json.dumps(json.dumps(asdict(check)))}, flush=True)\n" for check in checks)
        (tmp_path / "made_examination.py").write_text(lines + end)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(examination, "MODULE", "made_examination")
        monkeypatch.setattr(examination, "hardware", lambda: Hardware(2, 4096, ("NVIDIA H100",)))

    return put


def test_checks_are_shown_as_they_come_and_the_report_has_them(
    examined: Callable[..., None], shell: Shell, tmp_path: Path
) -> None:
    examined(PASSED, UNKNOWN)
    report = tmp_path / "page.md"
    done = shell.run("doctor", "gpu", "--report", report)
    assert (done.exit_code, done.stdout) == (0, f"NVIDIA H100: the report is in {report}\n")
    assert done.stderr.splitlines() == [
        "passed        losses: at most 0.00010 from the CPU's in 5 steps",
        "not measured  memory: the time of 300 s was over",
    ]
    assert "| losses | at most 0.00010 from the CPU's in 5 steps | 0.002 | passed |" in report.read_text().splitlines()


def test_a_check_that_fails_is_exit_code_1_after_the_report(
    examined: Callable[..., None], shell: Shell, tmp_path: Path
) -> None:
    examined(PASSED, FAILED)
    report = tmp_path / "page.md"
    done = shell.run("doctor", "gpu", "--report", report, "--json")
    assert done.exit_code == 1 and report.exists()
    assert [check["is_passed"] for check in json.loads(done.stdout)["checks"]] == [True, False]
    assert "speed against TRL's best: 0.80 times its 1,000 tokens/s, the bound is 1 at least" in done.stderr


def test_an_examination_that_breaks_off_says_its_last_lines(
    examined: Callable[..., None], shell: Shell, tmp_path: Path
) -> None:
    examined(PASSED, end="raise SystemExit('CUDA error: out of memory')")
    said = shell("doctor", "gpu", "--report", tmp_path / "page.md", code=1)
    assert "broke off after 1 checks" in said and "CUDA error: out of memory" in said


def test_without_a_gpu_it_says_what_to_do(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "hardware", lambda: Hardware(2, 4096, ()))
    said = shell("doctor", "gpu", "--report", tmp_path / "page.md", code=2)
    assert "nvidia-smi names none. Install NVIDIA's driver" in said
    assert not (tmp_path / "page.md").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        pytest.param(["--model", "{folder}"], "has no config.json. Name a Hugging Face folder", id="no model"),
        pytest.param(["--report", "{folder}/none/page.md"], "isn't a folder. Name a file in one", id="no folder"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(
    examined: Callable[..., None], words: list[str], text: str, shell: Shell, tmp_path: Path
) -> None:
    examined(end="raise SystemExit('started')")
    assert text in shell("doctor", "gpu", *[word.format(folder=tmp_path) for word in words], code=2)
