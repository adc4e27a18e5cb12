"""The product without Azure's and MLflow's ways in: a copy of the package that lacks them still tunes, serves and passes."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mafunzo

ROOT = Path(mafunzo.__file__).parent.parent
OUTER = ("mafunzo.entrypoints.azure", "mafunzo.entrypoints.mlflow")
CONVERSATIONS = ROOT / "examples" / "conversations.jsonl"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose package lacks the two ways in, without the tests that are theirs."""
    root = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__", "flows", "sdk", "faults", "fixtures")
    for folder in ("mafunzo", "tests", "tools", "docs", "examples", "packaging"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", root)
    for package in OUTER:
        shutil.rmtree(root / package.replace(".", "/"))
    for test in outer_tests(root):
        test.unlink()
    return root


@pytest.fixture(scope="module")
def environment(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("home")
    return os.environ | {
        "PYTHONPATH": str(copy),
        "MAFUNZO_HOME": str(home),
        "MAFUNZO_PORT": "0",
    }


def test_only_tests_of_the_entrypoints_name_what_is_left_out() -> None:
    core = ROOT / "tests" / "unit"
    strangers = [path for path in outer_tests(ROOT) if not path.is_relative_to(core / "entrypoints")]
    assert [str(path.relative_to(ROOT)) for path in strangers if path.is_relative_to(core)] == []


def test_its_unit_tests_pass(copy: Path, environment: dict[str, str]) -> None:
    of_the_whole_tree = ("test_docs.py", "tools")  # pages, and runs of the generator
    of_what_knows_no_entrypoints = (
        "compute",
        "dataset",
        "entities",
        "protocol",
        "tracking",
        "control/launcher",
        "control/pipelines",
        "control/serving",
        "control/store",
    )  # by the contracts of imports
    words = ["-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "tests/unit"]
    words += [f"--ignore=tests/unit/{name}" for name in (*of_the_whole_tree, *of_what_knows_no_entrypoints)]
    done = subprocess.run([sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert (
        str(copy)
        in subprocess.run(
            [sys.executable, "-c", "import mafunzo; print(mafunzo.__file__)"],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
        ).stdout
    ), "the tests were of the copy"


def test_it_tunes_and_chats(copy: Path, environment: dict[str, str], tmp_path: Path) -> None:
    def mafunzo_(*words: str) -> str:
        argv = [sys.executable, "-m", "mafunzo", *words]
        done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    commands = mafunzo_("--help")
    assert "finetune" in commands and "mlflow" not in commands and " create " not in commands
    try:
        up = json.loads(mafunzo_("up", "--detach", "--json"))
        assert set(up) == {"listen", "openai", "pid", "home"}, "no way in is named that isn't there"
        settings = ["max_steps=2", "generation_rows=2", "lora_r=4", "forgetting_prompts=0"]
        mafunzo_("finetune", *settings, "--model", "tiny-llama", "--train", str(CONVERSATIONS), "--json")
        (job,) = json.loads(mafunzo_("job", "list", "--json"))
        assert job["status"] == "completed"
        mafunzo_("model", "register", job["name"], "--name", "greeter")
        mafunzo_("deploy", "greeter", "--endpoint", "chat")
        assert mafunzo_("endpoint", "chat", "chat", "--message", "Hello", "--max-tokens", "4")
    finally:
        down = mafunzo_("down")
    assert "none of them is left" in down


def outer_tests(root: Path) -> list[Path]:
    """Return the test files that are of what is left out: they import it, or a module of the tests that does."""
    files = [path for path in (root / "tests").rglob("*.py") if path.relative_to(root).parts[1] in ("unit", "support")]
    outer = {path for path in files if any(name.startswith(OUTER) for name in imports(path))}
    while True:
        modules = {".".join(path.relative_to(root).with_suffix("").parts) for path in outer}
        more = {path for path in files if path not in outer and modules & set(imports(path))}
        if not more:
            break
        outer |= more
    names = [path for path in files if any(name in path.read_text(encoding="utf-8") for name in OUTER)]
    return sorted({*outer, *names, *(path for path in files if _is_below(path, root))})


def imports(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_below(path: Path, root: Path) -> bool:
    folders = [root / "tests" / "unit" / "entrypoints" / package.rpartition(".")[2] for package in OUTER]
    return any(path.is_relative_to(folder) for folder in folders)
