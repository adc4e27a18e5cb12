"""`mafunzo run`: a whole program of the Azure SDK, unchanged, where nothing can leave and nothing tries to."""

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent.parent
ROWS = (ROOT / "examples" / "conversations.jsonl").read_text().splitlines()
HOSTS = "hosts.txt"
AUDIT = """
import sys
def note(event, arguments, told=[]):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[1][0] if event == "socket.connect" and isinstance(arguments[1], tuple) else arguments[0]
        if isinstance(host, str | bytes):
            with open({file!r}, "a") as file:
                file.write((host if isinstance(host, str) else host.decode()) + "\\n")
sys.addaudithook(note)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose hub is a mirror: of the model, a tiny one; of the conversations, ours."""
    place = tmp_path_factory.mktemp("place")
    (data := place / "data").mkdir()
    for split in ("train_sft", "test_sft", "train_gen", "test_gen"):
        rows = ROWS[:48] if split.startswith("train") else ROWS[48:]
        (data / f"{split}.jsonl").write_text("\n".join(rows * 20) + "\n")  # 5 percent are taken
    for name in ("user", "audit", "notebook"):
        (place / name).mkdir()
    mafunzo(place, "model", "download", "tiny-phi3", "--to", place / "phi3")
    mafunzo(place, "model", "mirror", "microsoft/Phi-3-mini-4k-instruct", place / "phi3")
    mafunzo(place, "data", "mirror", "HuggingFaceH4/ultrachat_200k", data)
    mafunzo(place, "down")
    (place / "audit" / "sitecustomize.py").write_text(AUDIT.format(file=str(place / HOSTS)))
    return place


def environment(place: Path) -> dict[str, str]:
    return os.environ | {"MAFUNZO_HOME": str(place / "home"), "MAFUNZO_PORT": "0"}


def mafunzo(place: Path, *words: object, prefix: tuple[str, ...] = (), code: int = 0, **more: str) -> str:
    command = [*prefix, sys.executable, "-m", "mafunzo", *map(str, words)]
    done = subprocess.run(command, cwd=place / "user", env=environment(place) | more, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


ALONE = ("unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
"""A network with a loopback interface and no way out."""


@pytest.mark.slow
def test_a_program_for_azure_runs_to_its_end_with_no_way_out(place):
    """The server, the training and the worker are inside too; every host that was asked for is this machine."""
    try:
        told = mafunzo(place, "run", ROOT / "examples" / "azure_sdk.py", prefix=ALONE, PYTHONPATH=str(place / "audit"))
    finally:
        mafunzo(place, "down")
    for words in (
        "wrote download-dataset.py, which",
        "wrote config.json, which names the workspace",
        "Asked for 8 GPUs, one process trains",
        "DeepSpeed's ZeRO stage 2 takes the steps",
        "Loss (nats a token)",
    ):
        assert words in told
    assert re.search(r"The answer: \[(['\"])", told)  # Python quotes an apostrophe in the other way
    hosts = set((place / HOSTS).read_text().split())
    assert "127.0.0.1" in hosts and hosts <= {"127.0.0.1", "localhost", "0.0.0.0", "::1", "::"}


@pytest.mark.slow
@pytest.mark.parametrize("packages", [("azure-ai-ml==1.20.0", "marshmallow<3.24"), ("azure-ai-ml==1.28.1",)], ids=str)
def test_older_releases_of_the_sdk_run_the_same_programs(place, tmp_path, packages):
    """1.20.0 doesn't say itself that it needs an older marshmallow. A training of an earlier test is taken from the cache."""
    end = "cached" if any((place / "home" / "jobs").glob("*/finetune")) else "completed"
    venv.create(tmp_path / "sdk", with_pip=True)
    python = tmp_path / "sdk" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "azure-identity", *packages]
    subprocess.run(install, check=True)
    try:
        tuned = mafunzo(place, "run", "--python", python, ROOT / "examples" / "azure_sdk.py")
        counted = mafunzo(place, "run", "--python", python, ROOT / "examples" / "azure_pipeline.py")
    finally:
        mafunzo(place, "down")
    assert f"step finetune {end}" in tuned and "The answer: [" in tuned
    assert re.search(r"user +1046 ", counted) and "data/word-table/versions/" in counted


ASKS = """
import urllib.request
from urllib.error import HTTPError, URLError
for url in ("https://login.microsoftonline.com/", "https://management.azure.com/", "http://169.254.169.254/metadata"):
    try:
        urllib.request.urlopen(url)
    except (HTTPError, URLError) as error:
        print("refused", error)
"""


def test_microsofts_hosts_are_refused_and_the_exit_code_is_the_programs(place):
    script = place / "user" / "asks.py"
    script.write_text(ASKS + "import sys; sys.exit(int(sys.argv[1]))")
    try:
        told = mafunzo(place, "run", script, "7", code=7)
    finally:
        mafunzo(place, "down")
    assert told.count("refused") == 3 and told.count("403") == 3
    assert "can't be read" in mafunzo(place, "run", "missing.py", code=2)
    assert "can't be run" in mafunzo(place, "run", "--python", "/nowhere/python", script, code=2)


def test_a_data_set_of_a_hub_that_cannot_be_reached_names_the_mirror(place):
    script = place / "user" / "fetches.py"
    fetch = '[sys.executable, "download-dataset.py", "--dataset", "org/other", "--download_dir", "other"]'
    script.write_text(f"import subprocess, sys\nsys.exit(subprocess.run({fetch}).returncode)\n")
    try:
        told = mafunzo(place, "run", script, code=1, prefix=ALONE)
    finally:
        mafunzo(place, "down")
    assert "huggingface.co can't be reached" in told and "mafunzo data mirror org/other FOLDER" in told
    assert "Traceback" not in told and "Refused by Mafunzo" not in told


def test_with_the_server_gone_it_fails_closed(place):
    """What the tutorial does where it finds no workspace would ask public Azure, or open a browser's login."""
    script = place / "user" / "closed.py"
    script.write_text(
        "import subprocess, sys\n"
        "from azure.ai.ml import MLClient\n"
        "from azure.identity import DefaultAzureCredential, InteractiveBrowserCredential\n"
        "subprocess.run([sys.executable, '-m', 'mafunzo', 'down'], check=True)\n"
        "try:\n"
        "    DefaultAzureCredential().get_token('https://management.azure.com/.default')\n"
        "    print('open')\n"
        "except Exception as error:\n"
        "    print('closed', type(error).__name__)\n"
        "try:\n"
        "    MLClient(InteractiveBrowserCredential(), 'a', 'b', 'c').workspaces.get('c')\n"
        "    print('open')\n"
        "except Exception as error:\n"
        "    print('closed', type(error).__name__)\n"
    )
    told = mafunzo(place, "run", script)
    assert told.count("closed") == 2 and "open\n" not in told


@pytest.mark.slow
def test_a_notebook_runs_in_the_kernel(place):
    """The whole workflow too, whose training is taken from the cache."""
    told = mafunzo(place, "env", "--format", "kernel", JUPYTER_DATA_DIR=str(place / "jupyter"))
    assert "kernels/mafunzo" in told
    kernel = json.loads((place / "jupyter" / "kernels" / "mafunzo" / "kernel.json").read_text())
    assert "IDENTITY" not in json.dumps(kernel)  # no secret lies in it
    program = (ROOT / "examples" / "azure_sdk.py").read_text()
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "mafunzo", "display_name": "Mafunzo"}})
    notebook.cells = [
        nbformat.v4.new_code_cell(
            "from azure.ai.ml import MLClient\n"
            "from azure.identity import DefaultAzureCredential\n"
            "client = MLClient.from_config(DefaultAzureCredential())\n"
            "registry = MLClient(DefaultAzureCredential(), registry_name='azureml')"
        ),
        nbformat.v4.new_code_cell(
            "print(client.workspaces.get(client.workspace_name).name, registry.models.get('tiny-phi3', label='latest').name)"
        ),
        nbformat.v4.new_code_cell("!python -c 'import mafunzo; print(mafunzo.__file__)'"),
        nbformat.v4.new_code_cell(program.partition("if __name__")[0] + "main()"),
    ]
    nbformat.write(notebook, place / "notebook" / "whole.ipynb")
    before = dict(os.environ)
    os.environ.update(environment(place) | {"JUPYTER_PATH": str(place / "jupyter"), "PYTHONPATH": str(place / "audit")})
    (place / HOSTS).unlink(missing_ok=True)
    try:
        NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(place / "notebook")}}).execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
        mafunzo(place, "down")
    outputs = ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells]
    assert "mafunzo tiny-phi3" in outputs[1] and "mafunzo/__init__.py" in outputs[2]
    assert "step finetune cached" in outputs[3] and "The answer: [" in outputs[3]
    assert (place / "notebook" / "config.json").exists()
    assert set((place / HOSTS).read_text().split()) <= {"127.0.0.1", "localhost", "0.0.0.0", "::1", "::"}
