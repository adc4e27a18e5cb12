"""`mafunzo estimate`."""

from pathlib import Path

import typer

import mafunzo
from mafunzo.entities.config_tool import ConfigTool
from mafunzo.entrypoints.cli.config_file import arguments_of
from mafunzo.entrypoints.cli.finetune import CONFIG, DROP, FROM, MODEL, ON_BAD_ROW, TEST, TRAIN, VALIDATION, estimated
from mafunzo.entrypoints.terminal.estimate import estimate_facts, scoreboard_facts
from mafunzo.entrypoints.terminal.output import AS_JSON, print_entity
from mafunzo.errors import InvalidParameter


def estimate(
    config: list[str] = CONFIG,
    model: str = MODEL,
    train: Path = TRAIN,
    validation: Path = VALIDATION,
    test: Path = TEST,
    on_bad_row: str = ON_BAD_ROW,
    source: ConfigTool = FROM,
    drop: list[str] = DROP,
    scoreboard: bool = typer.Option(
        False, "--scoreboard", help="Say instead how far estimates were from what past runs took."
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Say what `finetune` with the same words would take: rows, tokens, steps, time, memory, disk, and cost.

    Example: mafunzo estimate examples/finetune.yml num_train_epochs=5

    A few steps are taken on the real rows, and thrown away. MAFUNZO_PRICE_PER_HOUR is what an hour of this machine costs.
    """
    options = {"model": model, "train": train, "validation": validation, "test": test, "on_bad_row": on_bad_row}
    arguments = arguments_of(config or [], options, source, drop or [], as_json)
    workspace = mafunzo.Workspace()
    if scoreboard:
        if arguments:
            raise InvalidParameter(
                f"--scoreboard is of all past runs, and {', '.join(arguments)} of one. Leave out one of them."
            )
        board = workspace.jobs.scoreboard()
        print_entity(board, as_json, scoreboard_facts(board))
        return
    result = estimated(workspace, arguments, as_json)
    print_entity(result.as_dict(), as_json, estimate_facts(result))
