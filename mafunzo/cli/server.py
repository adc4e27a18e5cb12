"""`mafunzo up` and `mafunzo down`, `backup` and `restore`."""

from pathlib import Path

import typer

from mafunzo.cli.output import AS_JSON, human_size, print_json


def up(
    port: int = typer.Option(None, help="The loopback HTTP port; default MAFUNZO_PORT, or 8080."),
    detach: bool = typer.Option(False, "--detach", help="Return once it answers; it goes on in the background."),
) -> None:
    """Start the server: it runs the jobs' steps and the endpoints' workers.

    Ctrl-C stops the server only: what it started goes on, and the next server finds it again. `mafunzo down` ends all of it.
    """
    from mafunzo.workspace import Workspace

    workspace = Workspace(port=port)
    if detach:
        address = workspace.up()
        print(f"OpenAI's dialect  {address.url}/v1, with an endpoint's key: mafunzo endpoint keys NAME")
        print(
            f"MLflow            {address.url}/mlflow/, with the key in {workspace.home.root / 'operator.key'} as password"
        )
        print(f"Process           {address.pid}, home {workspace.home.root}. It ends with: mafunzo down")
    else:
        workspace.serve()


def down(as_json: bool = AS_JSON) -> None:
    """Stop the server and all that it started; print what was freed, and prove that nothing is left."""
    from mafunzo.workspace import Workspace

    report = Workspace().down()
    if as_json:
        print_json(report)
        return
    for line in report.lines():
        print(line)


def backup(file: Path) -> None:
    """Write the whole home into one file, while everything runs."""
    from mafunzo.workspace import Workspace

    workspace = Workspace()
    workspace.backup(file)
    print(f"Backed up {workspace.home.root} to {file} ({human_size(file.stat().st_size)})")


def restore(file: Path) -> None:
    """Restore a backup into an empty home, and verify every hash."""
    from mafunzo import settings
    from mafunzo.workspace import restore as restore_home

    home = settings.load().home
    restore_home(file, home)
    print(f"Restored {file} to {home}; every hash is right")
