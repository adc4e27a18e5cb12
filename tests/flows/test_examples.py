"""The examples, and the programs that pages print, do what they say, with the tiny model in place of the real one."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

import mafunzo
from mafunzo import Workspace
from tests.support.tuned_home import tuned_home
from tests.support.waiting import LIMIT_S

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    home = tuned_home(tmp_path_factory)  # the base model that it has imported needn't be imported again
    yield os.environ | {"MAFUNZO_HOME": str(home), "MAFUNZO_PORT": "0"}
    with Workspace(home, port=0) as workspace:
        workspace.down()


def run(environment: dict[str, str], *words: str, folder: Path | None = None) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_fine_tune_and_serve_from_python(environment):
    told = run(environment, str(EXAMPLES / "finetune_and_serve.py"), "tiny-llama")
    assert re.search(r"^step finetune completed in [0-9.]+ s", told, re.MULTILINE)
    with Workspace(environment["MAFUNZO_HOME"], port=0) as workspace:
        assert workspace.models.get("greeter").version == "1"
        assert workspace.endpoints.list() == []


def test_the_configuration_file_is_read_beside_its_data(environment):
    program = "from mafunzo.entrypoints.main import main; main()"
    words = ["finetune", str(EXAMPLES / "finetune.yml"), "model=tiny-llama", "num_train_epochs=2", "--dry-run"]
    told = run(environment, "-c", program, *words)
    assert "num_train_epochs" in told
    assert "lora_r" in told


def test_openai_s_sdk_asks_an_endpoint(environment):
    with Workspace(environment["MAFUNZO_HOME"], port=0) as workspace:
        tuned = workspace.jobs.list()[-1]  # the first job of the home
        workspace.models.register(workspace.jobs.get(tuned.name), name="tuned")
        workspace.deploy("tuned", endpoint="asked", timeout_s=LIMIT_S)
        run(environment, str(EXAMPLES / "ask_with_openai.py"), "asked")
        run(environment, str(EXAMPLES / "ask_with_responses.py"), "asked")
        workspace.endpoints.get("asked").delete()


@pytest.mark.slow
def test_the_quickstart_s_python_runs_as_it_is_printed(environment, tmp_path):
    (program,) = blocks("docs/quickstart.md", "python")
    assert program.count("SmolLM2-135M-Instruct") == 1
    rows = (EXAMPLES / "conversations.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(rows[:-4]), encoding="utf-8")
    (tmp_path / "test.jsonl").write_text("".join(rows[-4:]), encoding="utf-8")
    run(environment, "-c", program.replace("SmolLM2-135M-Instruct", "tiny-llama"), folder=tmp_path)
    with Workspace(environment["MAFUNZO_HOME"], port=0) as workspace:
        assert workspace.models.get("chitchat").version == "1"
        assert "chat" not in [endpoint.name for endpoint in workspace.endpoints.list()]


def test_the_component_of_the_how_to_runs_by_hand_as_it_says(tmp_path):
    """The package is copied, because a component's entry and its file lie inside of it."""
    package, page = tmp_path / "mafunzo", "docs/howto/add-a-component.md"
    shutil.copytree(Path(mafunzo.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    entry, program = blocks(page, "python")
    table, (head, *lines) = package / "entities" / "parameters" / "component.py", entry.splitlines(keepends=True)
    assert (head, lines[0], lines[-1]) == ("# entities/parameters/component.py, in COMPONENTS\n", "(\n", ")\n")
    first = "    for component in (\n"
    assert table.read_text(encoding="utf-8").count(first) == 1
    table.write_text(table.read_text(encoding="utf-8").replace(first, first + "".join(lines[1:-1])), encoding="utf-8")
    assert program.startswith("# count_rows.py\n")
    (package / "compute" / "components" / "count_rows.py").write_text(program, encoding="utf-8")
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    own = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{tmp_path / 'tools'}"}
    generate = "from parameters_interface import interfaces; print(interfaces()['count_rows'], end='')"
    interface = run(own, "-c", generate, folder=tmp_path)
    (package / "compute" / "components" / "count_rows.yml").write_text(interface, encoding="utf-8")
    (tmp_path / "prepared").mkdir()
    parquet.write_table(pa.table({"row": [1, 2, 3]}), tmp_path / "prepared" / "train.parquet")
    (commands,) = blocks(page, "")
    for line in commands.splitlines():
        python, *words = line.split()
        assert python == "python"
        told = run(own, *words, folder=tmp_path)
        assert "Counts the rows of a prepared folder." in told or "--help" not in words
    assert json.loads((tmp_path / "counts" / "counts.json").read_text()) == {"rows": 3}


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of one language that a page prints; "" is the shell."""
    parts = re.split(r"^```(\w*)\n", (ROOT / page).read_text(encoding="utf-8") + "\n", flags=re.MULTILINE)
    return [body for opened, body in zip(parts[1::4], parts[2::4], strict=True) if opened == language]
