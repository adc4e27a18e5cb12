"""The command line: Azure ML's nouns and verbs over `Workspace`.

Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 130 interrupted.
"""

import sys


def main() -> None:
    """Run the command that `sys.argv` names."""
    from mafunzo.cli.app import app
    from mafunzo.errors import MafunzoError
    from mafunzo.server.references import add_syntaxes

    add_syntaxes()
    try:
        app(prog_name="mafunzo")
    except MafunzoError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
