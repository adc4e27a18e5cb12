"""The examples do what they say, with the tiny model in place of the real one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    home = tmp_path_factory.mktemp("home")
    yield os.environ | {"MAFUNZO_HOME": str(home), "MAFUNZO_PORT": "0"}
    with Workspace(home, port=0) as workspace:
        workspace.down()


def run(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_fine_tune_and_serve_from_python(environment):
    told = run(environment, str(EXAMPLES / "finetune_and_serve.py"), "tiny-llama")
    assert '"event": "job"' in told
    with Workspace(environment["MAFUNZO_HOME"], port=0) as workspace:
        assert workspace.models.get("greeter").version == "1"
        assert workspace.endpoints.list() == []


def test_the_configuration_file_is_read_beside_its_data(environment):
    program = "from mafunzo.cli import main; main()"
    words = ["finetune", str(EXAMPLES / "finetune.yml"), "model=tiny-llama", "num_train_epochs=2", "--dry-run"]
    told = run(environment, "-c", program, *words)
    assert "num_train_epochs" in told
    assert "lora_r" in told


def test_openai_s_sdk_asks_an_endpoint(environment):
    with Workspace(environment["MAFUNZO_HOME"], port=0) as workspace:
        workspace.deploy("greeter", endpoint="asked", timeout_s=300)
        run(environment, str(EXAMPLES / "ask_with_openai.py"), "asked")
        workspace.endpoints.get("asked").delete()
