"""`mafunzo up` and `mafunzo down`, `status`, `backup` and `restore`."""

from pathlib import Path

import typer

import mafunzo
from mafunzo.entrypoints.terminal.output import AS_JSON, human_size, print_entity, print_result
from mafunzo.errors import InvalidParameter


def up(
    port: int = typer.Option(None, help="The HTTP port; default MAFUNZO_PORT, or 8080."),
    https_port: int = typer.Option(
        None,
        "--https-port",
        "--azure-port",
        help="The https port, for the Azure SDK; default MAFUNZO_HTTPS_PORT, or 8443.",
    ),
    listen: str = typer.Option(
        None,
        metavar="ADDRESS",
        help="The address of both ports, 0.0.0.0 for all; default MAFUNZO_LISTEN, or 127.0.0.1: this machine only. "
        "Any other one needs a user who is an owner (mafunzo user create).",
    ),
    detach: bool = typer.Option(False, "--detach", help="Return once it answers; it goes on in the background."),
    as_json: bool = typer.Option(False, "--json", help="With --detach: print JSON instead of text."),
) -> None:
    """Start the server: it runs the jobs' steps and the endpoints' workers.

    Ctrl-C stops the server only: what it started goes on, and the next server finds it again. `mafunzo down` ends all of it.
    """
    from mafunzo.entrypoints.terminal.server_address import address_facts, address_lines

    if as_json and not detach:
        raise InvalidParameter(
            "--json is given without --detach, and a server in the foreground prints its log. Add it."
        )
    workspace = mafunzo.Workspace(port=port, https_port=https_port, listen=listen)
    if not detach:
        workspace.serve()
    address, root = workspace.up(), workspace.home.root
    print_result(address_facts(address, root), as_json, *address_lines(address, root))


def down(as_json: bool = AS_JSON) -> None:
    """Stop the server and all that it started; print what was freed, and prove that nothing is left."""
    report = mafunzo.Workspace().down()
    print_result(report, as_json, *report.lines())


def status(as_json: bool = AS_JSON) -> None:
    """Show the server, what is in the queue, and by kind what takes room on the disk."""
    told = mafunzo.Workspace().status()
    server = (
        f"{told.server.url}, process {told.server.pid}" if told.server else "none runs; start it: mafunzo up --detach"
    )
    facts = {"home": told.home, "server": server, **{f"jobs {name}": count for name, count in told.jobs.items()}}
    sizes = {f"  {kind}": human_size(size) for kind, size in told.sizes.items()}
    total = human_size(sum(told.sizes.values()))
    print_entity(told, as_json, {**facts, "disk free": human_size(told.free_bytes), "disk taken": total, **sizes})
    if not as_json:
        print("What of it may go: mafunzo prune")


def backup(file: Path, as_json: bool = AS_JSON) -> None:
    """Write the whole home into one file, while everything runs."""
    workspace = mafunzo.Workspace()
    workspace.backup(file)
    size, root = file.stat().st_size, workspace.home.root
    line = f"Backed up {root} to {file} ({human_size(size)})"
    print_result({"home": root, "file": file, "bytes": size}, as_json, line)


def restore(file: Path, as_json: bool = AS_JSON) -> None:
    """Restore a backup into an empty home, and verify every hash."""
    from mafunzo import settings
    from mafunzo.control.workspace import restore as restore_home

    home = settings.load().home
    restore_home(file, home)
    print_result({"home": home, "file": file}, as_json, f"Restored {file} to {home}; every hash is right")
