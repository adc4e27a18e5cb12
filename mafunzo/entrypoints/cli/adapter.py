"""`mafunzo endpoint adapter`."""

from typing import TYPE_CHECKING

import typer

import mafunzo
from mafunzo.entrypoints.terminal.output import AS_JSON, print_list, print_result

if TYPE_CHECKING:
    from mafunzo.entities.adapter import AdapterReport

app = typer.Typer(
    help="Adapters that a deployment serves beside its model, each under a name of its own.", no_args_is_help=True
)
ENDPOINT = typer.Argument(help="The endpoint's name.")
ADAPTER = typer.Argument(help="The adapter's name: requests ask for the model ENDPOINT:ADAPTER.")
DEPLOYMENT = typer.Option("default", help="The deployment's name.")


@app.command()
def add(
    endpoint: str = ENDPOINT,
    adapter: str = ADAPTER,
    model: str = typer.Argument(help="A registered adapter of the deployment's base: name or name:version."),
    deployment: str = DEPLOYMENT,
    timeout: float = typer.Option(600.0, help="How many seconds it may take to be live on all workers."),
    as_json: bool = AS_JSON,
) -> None:
    """Serve a tuned version beside a deployment's model, on the same workers and without a restart.

    It is live once each worker has proven that it answers as it did in evaluation.
    """
    workspace = mafunzo.Workspace()
    added = workspace.adapters.add(endpoint, adapter, model, deployment=deployment, timeout_s=timeout)
    proof = (added.verification or {}).get("result", "proven when a worker starts")
    print_result(added, as_json, f"{added.model_name} ({added.model}) is {added.status}: {proof}")


@app.command()
def remove(
    endpoint: str = ENDPOINT, adapter: str = ADAPTER, deployment: str = DEPLOYMENT, as_json: bool = AS_JSON
) -> None:
    """Take an adapter away; answers under way are finished."""
    mafunzo.Workspace().adapters.remove(endpoint, adapter, deployment=deployment)
    body = {"removed": {"endpoint": endpoint, "deployment": deployment, "adapter": adapter}}
    print_result(body, as_json, f"Removed {endpoint}:{adapter}")


@app.command("list")
def list_adapters(endpoint: str = ENDPOINT, as_json: bool = AS_JSON) -> None:
    """List an endpoint's adapters: how each stands, and why one was refused."""
    reports = mafunzo.Workspace().adapters.list(endpoint)
    rows = [(one.model_name, one.deployment, one.model, one.status, _why(one)) for one in reports]
    hint = f"No adapters. Add one: mafunzo endpoint adapter add {endpoint}"
    print_list(reports, as_json, ("name", "deployment", "model", "status", "why"), rows, hint)


def _why(report: "AdapterReport") -> str:
    error = report.error or {}
    return " ".join([str(error.get("message", "")), *map(str, error.get("faults") or ())]).strip()
