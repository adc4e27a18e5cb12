"""`mafunzo mlflow`: where MLflow is."""

from enum import StrEnum

import typer

import mafunzo
from mafunzo.entrypoints.terminal.output import AS_JSON, print_exports, print_json


class Format(StrEnum):
    """How the address and its key are given."""

    URL = "url"
    SHELL = "shell"
    JSON = "json"


def mlflow(
    format: Format = typer.Option(
        Format.URL, help="url: for a browser, the key in it; shell: lines for `eval`, the key apart; json: an object."
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Print the address of MLflow and the key that opens it, and start the server if it isn't up.

    A browser opens its pages there. Example for clients: eval "$(mafunzo mlflow --format shell)". It is the operator's key of
    this home: whoever has it may change and delete what MLflow shows.
    """
    from mafunzo.entrypoints.http.auth import operator_key

    workspace = mafunzo.Workspace()
    url, key = workspace.up().url, operator_key(workspace.home)
    if as_json or format is Format.JSON:
        print_json({"uri": f"{url}/mlflow", "key": key})
    elif format is Format.SHELL:
        print_exports({"MLFLOW_TRACKING_URI": f"{url}/mlflow", "MLFLOW_TRACKING_TOKEN": key})
    else:
        print(f"{url.replace('://', f'://mafunzo:{key}@')}/mlflow")
