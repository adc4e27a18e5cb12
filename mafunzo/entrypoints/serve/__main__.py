"""`python -m mafunzo.entrypoints.serve --home FOLDER --port PORT`: the process behind `mafunzo up`."""

import argparse
import gc
import logging
import sys
from functools import partial
from pathlib import Path

from mafunzo import settings
from mafunzo.control.workspace import Home
from mafunzo.entities.server_address import ServerAddress
from mafunzo.entrypoints.terminal.server_address import address_lines
from mafunzo.errors import MafunzoError
from mafunzo.tracking.atomic_json import write_json

logger = logging.getLogger("mafunzo.entrypoints.serve")


def main() -> int:
    """Run the server; what it can't start for goes to stderr, and as JSON into `--error-file`."""
    defaults = settings.load()
    parser = argparse.ArgumentParser(
        prog="python -m mafunzo.entrypoints.serve", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--home", type=Path, default=defaults.home, help="the home folder (default: MAFUNZO_HOME)")
    parser.add_argument("--port", type=int, default=defaults.port, help="the http port (default: MAFUNZO_PORT)")
    parser.add_argument(
        "--https-port", type=int, default=defaults.https_port, help="the https port (default: MAFUNZO_HTTPS_PORT)"
    )
    parser.add_argument("--listen", default=defaults.listen, help="the address of both (default: MAFUNZO_LISTEN)")
    parser.add_argument(
        "--error-file", type=Path, help="where an error is written as JSON, for the process that starts it"
    )
    parser.add_argument("--tell", action="store_true", help="print where it is found, as soon as it is up")
    arguments = parser.parse_args()
    gc.disable()  # what the imports make stays
    try:
        from mafunzo.entrypoints.http.limits import limits_from_texts
        from mafunzo.entrypoints.plugins import plug_in
        from mafunzo.entrypoints.serve.process import log_to, serve

        plug_in()
        gc.freeze()
        gc.enable()
        home = Home(arguments.home)
        log_to(home)
        serve(
            home,
            arguments.port,
            arguments.https_port,
            defaults.database_url,
            address=arguments.listen,
            authorities=defaults.authorities,
            limits=limits_from_texts(defaults.limits),
            names=defaults.host_names,
            origins=defaults.cors_origins,
            on_up=partial(_tell, home) if arguments.tell else None,
        )
    except KeyboardInterrupt:
        return 0
    except MafunzoError as error:
        logger.error("%s", error)
        if not sys.stderr.isatty():
            sys.stderr.write(f"error: {error}\n")
        if arguments.error_file is not None:
            write_json(arguments.error_file, error.record)
        return error.exit_code
    return 0


def _tell(home: Home, address: ServerAddress) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in address_lines(address, home.root)))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
