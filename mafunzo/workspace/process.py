"""The server as the workspace uses it: found, started, run in this process's place, and brought down with all that it started."""

from __future__ import annotations

import os
from pathlib import Path

from mafunzo.launcher.server_process import ServerAddress, find_server, server_argv, start_in_background
from mafunzo.store.home import Home
from mafunzo.workspace.shutdown import Freed, shut_down

__all__ = ["DownReport", "ServerAddress", "bring_down", "find_server", "serve", "start_server"]


def start_server(home: Home, port: int, database_url: str | None) -> ServerAddress:
    """Start the server in the background; return once it answers."""
    return start_in_background(home, port, database_url)


def serve(home: Home, port: int, database_url: str | None) -> None:
    """Become the server: this process is replaced by it, and Ctrl-C stops it."""
    environment = dict(os.environ)
    if database_url:
        environment["MAFUNZO_DATABASE_URL"] = database_url
    argv = server_argv(home, port)
    os.execve(Path(argv[0]), argv, environment)
