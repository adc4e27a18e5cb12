"""What the ways in that may be absent plug into the rest, in every process that opens a workspace.

Their syntax of names, where their users' logged files are, and how they are found on a server.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mafunzo.entities.server_address import ServerAddress

AZURE = "mafunzo.entrypoints.azure"
MLFLOW = "mafunzo.entrypoints.mlflow"
"""The ways in that may be absent, by package."""


def plug_in() -> None:
    """Plug in every way in that is installed. Idempotent."""
    from mafunzo.entities.reference import add_syntax
    from mafunzo.entrypoints.terminal.server_address import add_way_in
    from mafunzo.tracking.run import add_logged_folders, add_run_folders

    if find_spec(AZURE):
        from mafunzo.entrypoints.azure.reference import parse_reference

        add_syntax(parse_reference)
        add_way_in(_azure)
    if find_spec(MLFLOW):
        from mafunzo.entrypoints.mlflow.step_run import logged_folders, run_folders

        add_logged_folders(logged_folders)
        add_run_folders(run_folders)
        add_way_in(_mlflow)


def _azure(address: "ServerAddress", _: Path) -> tuple[str, dict[str, Any]]:
    line = f"The Azure SDK     {address.https_url}, with the environment of: mafunzo env"
    return line, {"azure": address.https_url}


def _mlflow(address: "ServerAddress", home: Path) -> tuple[str, dict[str, Any]]:
    url = f"{address.url}/mlflow/"
    line = f"MLflow            {url}, with the key in it: mafunzo mlflow"
    return line, {"mlflow": url, "mlflow_password_file": home / "operator.key"}
