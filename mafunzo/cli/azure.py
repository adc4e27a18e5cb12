"""`mafunzo run` and `mafunzo env`: programs in the environment in which the Azure SDK finds this machine instead of Azure."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from importlib import resources
from pathlib import Path

import typer

from mafunzo.errors import InvalidFile, InvalidParameter

DOWNLOADER = "download-dataset.py"
KERNEL = "mafunzo"


class Format(StrEnum):
    """How the variables are given."""

    SHELL = "shell"
    JSON = "json"
    KERNEL = "kernel"


def env(
    format: Format = typer.Option(
        Format.SHELL, help="shell: lines for `eval`; json: an object; kernel: install a Jupyter kernel that has it."
    ),
) -> None:
    """Print the environment that points the Azure SDK (azure-ai-ml, azure-identity) at this machine, and start the server.

    Example: eval "$(mafunzo env)". It holds a secret of this home: whoever has it may do what you may.
    """
    from mafunzo.server.client_environment import azure_environment
    from mafunzo.workspace import Workspace

    workspace = Workspace()
    if format is Format.KERNEL:
        print(f"The kernel 'Mafunzo' is installed: {_install_kernel(workspace.home.root)}")
        return
    variables = azure_environment(workspace.home, workspace.up(), workspace.user, os.environ)
    if format is Format.JSON:
        print(json.dumps(variables, indent=2))
        return
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")


def run(
    context: typer.Context,
    program: str = typer.Argument(help="A Python file, or with -m a module.", metavar="SCRIPT"),
    is_module: bool = typer.Option(False, "-m", help="SCRIPT is a module's name."),
    python: Path = typer.Option(
        None, help="The interpreter, of an environment with an SDK of its own; default the one that runs Mafunzo."
    ),
) -> None:
    """Run a Python program written for the Azure SDK on this machine, unchanged; what follows SCRIPT are its arguments.

    The server is started if it isn't up. Where the SDK would find no config.json, one is written and named; a script that
    calls download-dataset.py, where the current folder has none, gets ours. Nothing of the program reaches Microsoft's hosts.
    """
    from mafunzo.server.client_environment import azure_environment
    from mafunzo.server.egress import EgressProxy, proxy_environment
    from mafunzo.workspace import Workspace

    interpreter = sys.executable if python is None else shutil.which(python)
    if interpreter is None:
        raise InvalidParameter(f"--python is {python}, which can't be run. Name an environment's bin/python.")
    if not is_module:
        _provide(Path(program))
    before = dict(os.environ)
    workspace = Workspace()
    variables = azure_environment(workspace.home, workspace.up(), workspace.user, before)
    _provide_config(workspace.home.root)
    with (
        EgressProxy(before.get("HTTPS_PROXY") or before.get("https_proxy")) as proxy,
        _path_with_python(before) as path,
    ):
        environment = before | variables | proxy_environment(proxy.url, before)
        environment |= {"PATH": path, "MAFUNZO_HOME": str(workspace.home.root)}
        command = [interpreter, *(["-m"] if is_module else []), program, *context.args]
        status = _wait(subprocess.Popen(command, env=environment))
    sys.exit(status)


def _wait(child: "subprocess.Popen[bytes]") -> int:
    """Return the child's exit code. Ctrl-C reaches it from the terminal; a request to end is handed on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
    status = child.wait()
    return status if status >= 0 else 128 - status


def _provide(script: Path) -> None:
    """Write download-dataset.py into the current folder if the script calls it and it isn't there."""
    try:
        text = script.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile(f"{script} can't be read: {getattr(error, 'strerror', None) or error}.") from error
    target = Path(DOWNLOADER)
    if DOWNLOADER in text and not target.exists():
        source = resources.files("mafunzo.cli") / DOWNLOADER
        target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
        _say(f"wrote {target}, which {script} calls")


def _provide_config(home: Path) -> None:
    """Write config.json into the current folder where the SDK would find none in it or above."""
    from mafunzo.server.client_environment import workspace_config

    here = Path.cwd()
    names = ("config.json", ".azureml/config.json", "aml_config/config.json", "aml_config/project.json")
    if any((folder / name).is_file() for folder in (here, *here.parents) for name in names):
        return
    (here / "config.json").write_text(json.dumps(workspace_config(), indent=2) + "\n", encoding="utf-8")
    _say(f"wrote config.json, which names the workspace in {home}")


@contextmanager
def _path_with_python(before: Mapping[str, str]) -> Iterator[str]:
    """Give a PATH on which `python` is the one that runs Mafunzo."""
    path, folder = before.get("PATH", os.defpath), Path(sys.executable).parent
    if (folder / "python").exists() and (folder / "python").samefile(sys.executable):
        yield f"{folder}{os.pathsep}{path}"
        return
    with tempfile.TemporaryDirectory(prefix="mafunzo-python-") as made:
        python = Path(made) / "python"
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
        python.chmod(0o755)
        yield f"{made}{os.pathsep}{path}"


def _install_kernel(home: Path) -> Path:
    """Write the kernel's description where Jupyter looks; it names no secret: the kernel asks for them when it starts."""
    from importlib.util import find_spec

    if find_spec("ipykernel") is None:
        raise InvalidParameter(f"A kernel needs ipykernel. Install it: {sys.executable} -m pip install ipykernel")
    data = Path(os.environ.get("JUPYTER_DATA_DIR") or Path.home() / ".local" / "share" / "jupyter")
    folder = data / "kernels" / KERNEL
    folder.mkdir(parents=True, exist_ok=True)
    start = [sys.executable, "-m", "mafunzo.cli", "run", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    body = {
        "argv": start,
        "display_name": "Mafunzo",
        "language": "python",
        "interrupt_mode": "signal",
        "env": {"MAFUNZO_HOME": str(home)},
    }
    (folder / "kernel.json").write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return folder


def _say(text: str) -> None:
    sys.stderr.write(f"mafunzo run: {text}\n")
