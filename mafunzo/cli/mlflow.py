"""`mafunzo mlflow`: where MLflow is."""

from mafunzo.cli.output import AS_JSON, print_json


def mlflow(as_json: bool = AS_JSON) -> None:
    """Print the address of MLflow with the key that opens it, and start the server if it isn't up.

    A browser opens its pages there; clients take it as export MLFLOW_TRACKING_URI=$(mafunzo mlflow). It holds the operator's
    key of this home: whoever has it may change and delete what MLflow shows.
    """
    from mafunzo.server.auth import operator_key
    from mafunzo.workspace import Workspace

    workspace = Workspace()
    url, key = workspace.up().url, operator_key(workspace.home)
    if as_json:
        print_json({"uri": f"{url}/mlflow", "key": key})
    else:
        print(f"{url.replace('://', f'://mafunzo:{key}@')}/mlflow")
