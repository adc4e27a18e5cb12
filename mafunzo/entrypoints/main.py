"""The list of commands, of which those of a way in that is absent are left out; `main` runs the one that is named.

Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 130 interrupted.
"""

import functools
import gc
import sys
from collections.abc import Callable
from importlib.util import find_spec

import typer

from mafunzo.entrypoints.cli import (
    batch,
    component,
    compute,
    data,
    demo,
    doctor,
    endpoint,
    environment,
    estimate,
    finetune,
    job,
    lineage,
    model,
    prune,
    server,
    user,
)
from mafunzo.entrypoints.plugins import AZURE, MLFLOW
from mafunzo.errors import MafunzoError
from mafunzo.tracking.printable import printable

app = typer.Typer(
    help="Fine-tune a chat model, prove that it got better, register it and serve it, on hardware that you own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 130 interrupted. Everything lies in MAFUNZO_HOME (~/.mafunzo).",
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from mafunzo import __version__

        print(f"mafunzo {__version__}")
        raise typer.Exit


app.command("demo")(demo.demo)
app.command("up")(server.up)
app.command("down")(server.down)
if find_spec(AZURE):
    from mafunzo.entrypoints.azure import commands as azure

    app.command("run", context_settings={"allow_interspersed_args": False, "allow_extra_args": True})(azure.run)
    app.command("env")(azure.env)
for noun in (model, data, job, batch, endpoint, compute, component, environment, user, doctor):
    app.add_typer(noun.app, name=noun.__name__.rpartition(".")[2])
app.command("finetune", context_settings={"allow_extra_args": True, "ignore_unknown_options": False})(finetune.finetune)
app.command("estimate", context_settings={"allow_extra_args": True, "ignore_unknown_options": False})(estimate.estimate)
app.command("compare")(finetune.compare)
app.command("deploy")(endpoint.deploy)
if find_spec(AZURE):
    app.command("create")(azure.create)
app.command("lineage")(lineage.lineage)
if find_spec(MLFLOW):
    from mafunzo.entrypoints.mlflow import command as mlflow

    app.command("mlflow")(mlflow.mlflow)
app.command("status")(server.status)
app.command("prune")(prune.prune)
app.command("backup")(server.backup)
app.command("restore")(server.restore)


FEWER_COLLECTIONS = 100_000
"""So many new objects before garbage is looked for: what a command imports is some 200,000, hardly one of them garbage."""


def main() -> None:
    """Run the command that `sys.argv` names."""
    gc.set_threshold(FEWER_COLLECTIONS)
    try:
        command()(prog_name="mafunzo")
    except MafunzoError as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


@functools.cache
def command() -> Callable[..., object]:
    """Return what runs the command that `sys.argv` names, made once from the list of commands."""
    return typer.main.get_command(app)
