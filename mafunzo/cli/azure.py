"""`mafunzo env`: the environment in which the Azure SDK finds this machine instead of Azure."""

import json
import shlex
from enum import StrEnum

import typer


class Format(StrEnum):
    """How the variables are printed."""

    SHELL = "shell"
    JSON = "json"


def env(format: Format = typer.Option(Format.SHELL, help="shell: lines for `eval`; json: an object.")) -> None:
    """Print the environment that points the Azure SDK (azure-ai-ml, azure-identity) at this machine, and start the server.

    Example: eval "$(mafunzo env)". It holds a secret of this home: whoever has it may do what you may.
    """
    from mafunzo.server.client_environment import azure_environment
    from mafunzo.workspace import Workspace

    workspace = Workspace()
    variables = azure_environment(workspace.home, workspace.up(), workspace.user)
    if format is Format.JSON:
        print(json.dumps(variables, indent=2))
        return
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")
