"""`mafunzo run` and `mafunzo env`: programs for which the Azure SDK finds this machine; `mafunzo create`: files of `az ml`."""

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
from typing import TYPE_CHECKING

import typer

import mafunzo
from mafunzo.entrypoints.terminal.output import AS_JSON, DETACH, follow, print_exports, print_json
from mafunzo.entrypoints.terminal.words import pairs
from mafunzo.errors import InvalidFile, InvalidParameter
from mafunzo.tracking.atomic_json import write_json

if TYPE_CHECKING:
    from mafunzo.entrypoints.azure.client.environment import Access

DOWNLOADER = "download-dataset.py"
GRACE_S = 30.0
"""How long a deployment is waited for beyond its worker's start limit, so that its own error is shown."""
SERVER = typer.Option(
    None, metavar="URL", help="A server on another machine, https://HOST:PORT, with --token-file and --ca-file."
)
TOKEN_FILE = typer.Option(None, metavar="FILE", help="The file that holds your token (mafunzo user create).")
CA_FILE = typer.Option(None, metavar="FILE", help="The file that mafunzo env --write-ca made on the server's machine.")


class Format(StrEnum):
    """How the variables are given."""

    SHELL = "shell"
    JSON = "json"
    KERNEL = "kernel"


def env(
    format: Format = typer.Option(
        Format.SHELL, help="shell: lines for `eval`; json: an object; kernel: install a Jupyter kernel that has it."
    ),
    server: str | None = SERVER,
    token_file: Path | None = TOKEN_FILE,
    ca_file: Path | None = CA_FILE,
    write_ca: Path | None = typer.Option(
        None,
        metavar="FILE",
        help="Write the public certificates that clients of this server trust, for others to copy.",
    ),
) -> None:
    """Print the environment that points the Azure SDK (azure-ai-ml, azure-identity) at this machine, and start the server.

    Example: eval "$(mafunzo env)". It holds a secret of this home: whoever has it may do what you may. With --server it is the
    environment of a user of another machine's server, and holds their own token.
    """
    from mafunzo.entrypoints.azure.client.environment import azure_environment

    if write_ca is not None:
        _write_authorities(write_ca)
        return
    if format is Format.KERNEL:
        if server is not None:
            raise InvalidParameter(
                "A kernel is of this machine's server. For another one, take --format shell or json."
            )
        print(f"The kernel 'Mafunzo' is installed: {_install_kernel(mafunzo.Workspace().home.root)}")
        return
    variables = azure_environment(_access(server, token_file, ca_file), os.environ)
    if format is Format.JSON:
        print(json.dumps(variables, indent=2))
        return
    print_exports(variables)


def run(
    context: typer.Context,
    program: str = typer.Argument(help="A Python file, or with -m a module.", metavar="SCRIPT"),
    is_module: bool = typer.Option(False, "-m", help="SCRIPT is a module's name."),
    python: Path = typer.Option(
        None, help="The interpreter, of an environment with an SDK of its own; default the one that runs Mafunzo."
    ),
    server: str | None = SERVER,
    token_file: Path | None = TOKEN_FILE,
    ca_file: Path | None = CA_FILE,
) -> None:
    """Run a Python program written for the Azure SDK on this machine, unchanged; what follows SCRIPT are its arguments.

    The server is started if it isn't up. Where the SDK would find no config.json, one is written and named; a script, or a
    notebook of the current folder for a module, that calls download-dataset.py, which isn't there, gets ours. Nothing of the
    program reaches Microsoft's hosts.
    """
    from mafunzo import settings
    from mafunzo.entrypoints.azure.client.egress import EgressProxy, proxy_environment
    from mafunzo.entrypoints.azure.client.environment import azure_environment

    interpreter = sys.executable if python is None else shutil.which(python)
    if interpreter is None:
        raise InvalidParameter(f"--python is {python}, which can't be run. Name an environment's bin/python.")
    for script in sorted(Path().glob("*.ipynb")) if is_module else [Path(program)]:  # a kernel is a module
        _provide(script)
    before = dict(os.environ)
    access, home = _access(server, token_file, ca_file), settings.load().home
    variables = azure_environment(access, before)
    _provide_config(server or str(home))
    with (
        EgressProxy(before.get("HTTPS_PROXY") or before.get("https_proxy")) as proxy,
        _path_with_python(before) as path,
    ):
        environment = before | variables | proxy_environment(proxy.url, before | variables)
        environment |= {"PATH": path, "MAFUNZO_HOME": str(home)}
        command = [interpreter, *(["-m"] if is_module else []), program, *context.args]
        sys.exit(_wait(subprocess.Popen(command, env=environment)))


def create(
    file: Path = typer.Option(..., "--file", "-f", help="A YAML file that az ml takes; its paths are relative to it."),
    changes: list[str] = typer.Option([], "--set", help="key=value, or key.below=value: wins over the file's."),
    detach: bool = DETACH,
    as_json: bool = AS_JSON,
) -> None:
    """Make what a file describes: a model, data, component, environment, compute, job, online or batch endpoint or deployment.

    A job is followed to its end, and a deployment until it answers, unless --detach is given.
    """
    from mafunzo.entrypoints.azure.files.creation import create as create_from
    from mafunzo.entrypoints.azure.files.kind import FileKind

    workspace = mafunzo.Workspace()
    resource = create_from(workspace, file, pairs(changes))
    if resource.kind is FileKind.JOB:
        if not as_json and not detach:
            print(resource.name)
        job = workspace.jobs.get(resource.name)
        outputs = f"Outputs: mafunzo job download {resource.name} --to FOLDER"
        follow(job, detach, as_json, outputs if job.job.outputs else f"Log: mafunzo job logs {resource.name}")
        return
    if resource.kind is FileKind.DEPLOYMENT and not detach:
        limit_s = workspace.deployments.get(resource.endpoint, resource.name).initial_delay_s
        endpoint = workspace.endpoints.get(resource.endpoint)
        endpoint.wait(resource.name, limit_s + GRACE_S)
        endpoint.wait_for_update(resource.name, limit_s + GRACE_S)
    if as_json:
        print_json(resource)
    else:
        print(f"Made {resource.kind} {f'{resource.name}:{resource.version}' if resource.version else resource.name}")


def _access(server: str | None, token_file: Path | None, ca_file: Path | None) -> "Access":
    """Return the way to the server that is named, which lets its user in, or to this home's own, which is started."""
    from mafunzo.entrypoints.azure.client.environment import access_of_home, access_of_user, require_access

    if server is None and token_file is None and ca_file is None:
        workspace = mafunzo.Workspace()
        return access_of_home(workspace.home, workspace.up(), workspace.user)
    if server is None or token_file is None or ca_file is None:
        raise InvalidParameter("--server, --token-file and --ca-file belong together: give all three, or none.")
    access = access_of_user(server, token_file, ca_file)
    require_access(access, token_file)
    return access


def _write_authorities(file: Path) -> None:
    """Write what clients of this home's server trust. It is no secret, but must not be swapped on its way to them."""
    from mafunzo.entrypoints.http.tls import files, fingerprint

    workspace = mafunzo.Workspace()
    workspace.up()
    certificates = files(workspace.home)
    try:
        shutil.copyfile(certificates.bundle, file)
    except OSError as error:
        raise InvalidFile(f"{file} can't be written: {error.strerror}.") from error
    print(
        f"Wrote {file}: the public authorities and this server's own, whose SHA-256 is {fingerprint(certificates.authority)}"
    )


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
        source = resources.files("mafunzo.entrypoints.azure.client") / DOWNLOADER
        target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
        _say(f"wrote {target}, which {script} calls")


def _provide_config(where: str) -> None:
    """Write config.json into the current folder where the SDK would find none in it or above."""
    from mafunzo.entrypoints.azure.client.environment import workspace_config

    here = Path.cwd()
    names = ("config.json", ".azureml/config.json", "aml_config/config.json", "aml_config/project.json")
    if any((folder / name).is_file() for folder in (here, *here.parents) for name in names):
        return
    write_json(here / "config.json", workspace_config(), indent=2)
    _say(f"wrote config.json, which names the workspace in {where}")


@contextmanager
def _path_with_python(before: Mapping[str, str]) -> Iterator[str]:
    """Give a PATH on which `python` is the one that runs Mafunzo."""
    path, folder = before.get("PATH", os.defpath), Path(sys.executable).parent
    if (folder / "python").exists() and (folder / "python").samefile(sys.executable):
        yield f"{folder}{os.pathsep}{path}"
        return
    with tempfile.TemporaryDirectory(prefix="mafunzo-python-") as directory:
        python = Path(directory) / "python"
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
        python.chmod(0o755)
        yield f"{directory}{os.pathsep}{path}"


def _install_kernel(home: Path) -> Path:
    """Write the kernel's description where Jupyter looks; it names no secret: the kernel asks for them when it starts."""
    from importlib.util import find_spec

    if find_spec("ipykernel") is None:
        raise InvalidParameter(f"A kernel needs ipykernel. Install it: {sys.executable} -m pip install ipykernel")
    data = Path(os.environ.get("JUPYTER_DATA_DIR") or Path.home() / ".local" / "share" / "jupyter")
    folder = data / "kernels" / "mafunzo"
    folder.mkdir(parents=True, exist_ok=True)
    body = {
        "argv": [sys.executable, "-m", "mafunzo", "run", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Mafunzo",
        "language": "python",
        "interrupt_mode": "signal",
        "env": {"MAFUNZO_HOME": str(home)},
    }
    write_json(folder / "kernel.json", body, indent=2)
    return folder


def _say(text: str) -> None:
    sys.stderr.write(f"mafunzo run: {text}\n")
