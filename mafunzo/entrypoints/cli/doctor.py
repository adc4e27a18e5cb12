"""`mafunzo doctor`: whether this machine computes as it should."""

import sys
from pathlib import Path

import typer

from mafunzo.entrypoints.terminal.output import AS_JSON, print_result
from mafunzo.errors import FailedError, InvalidParameter

app = typer.Typer(no_args_is_help=True, help="Whether this machine computes as it should.")


@app.callback()
def _doctor() -> None:
    pass


@app.command("gpu")
def gpu(
    model: Path | None = typer.Option(
        None, "--model", help="A Hugging Face folder to train; without it, random weights of 135 million parameters."
    ),
    report: Path = typer.Option(Path("gpu-report.md"), "--report", help="The page to write."),
    as_json: bool = AS_JSON,
) -> None:
    """Train on the GPU and on the CPU, and compare: losses, speed against TRL and the card's peak, memory against the plan.

    Takes some five minutes and the whole card. Exit code 1 where a check fails; the report is written in any case.
    """
    from mafunzo.control.workspace.examination import examine_gpu

    if not report.absolute().parent.is_dir():
        raise InvalidParameter(
            f"--report is '{report}', and {report.parent} isn't a folder. Name a file in one that is there."
        )
    examination = examine_gpu(
        model,
        lambda check: print(f"{check.verdict:<13} {check.name}: {check.measured or check.bound}", file=sys.stderr),
    )
    report.write_text(examination.report(), encoding="utf-8")
    print_result(examination.as_dict(), as_json, f"{examination.device}: the report is in {report}")
    if examination.faults:
        raise FailedError(f"{examination.device} doesn't compute as it should.", examination.faults)
