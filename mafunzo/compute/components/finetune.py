"""Trains a LoRA adapter or all weights of a chat model: `python -m mafunzo.compute.components.finetune --help`."""

if __name__ == "__main__":  # before anything else imports transformers
    from mafunzo.compute.device.allocator import leave_out_thread_caches
    from mafunzo.compute.model.quick_start import import_networks

    leave_out_thread_caches()
    import_networks()

from pathlib import Path

from mafunzo.compute.components.command import Arguments, run
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.run import TrainingRequest
from mafunzo.compute.training.trainer import finetune
from mafunzo.entities.deepspeed import DeepSpeedConfig, deepspeed_config
from mafunzo.entities.parameters.table import DEFAULTS
from mafunzo.errors import InvalidFile
from mafunzo.tracking.step_folder import OUTPUTS, StepFolder


def work(arguments: Arguments) -> None:
    """Train, and write pytorch_model_folder."""
    output = arguments.outputs["pytorch_model_folder"]
    finetune(
        TrainingRequest(
            base=arguments.path("model"),
            prepared=arguments.path("prepared"),
            output=output,
            arguments=TrainingArguments.from_values(arguments.values),
            deepspeed=deepspeed_of(arguments),
            proofs=arguments.proofs,
            metrics=arguments.metrics,
            earlier=earlier_outputs(output),
            memory_budget_bytes=round(arguments.memory_budget_mb * 2**20),
        )
    )


def deepspeed_of(arguments: Arguments) -> DeepSpeedConfig | None:
    """Return the DeepSpeed configuration of one's own, if there is one; raises what is wrong with it."""
    file = arguments.paths["deepspeed"]
    if file is None:
        return None
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidFile(f"deepspeed ({file}) can't be read: {error.strerror}. Name a JSON file.") from error
    return deepspeed_config(text, f"deepspeed ({file.name})", {**DEFAULTS, **arguments.values})


def earlier_outputs(output: Path) -> tuple[Path, ...]:
    """Return the same output of the step's earlier attempts: `<step>/<attempt>/outputs/<name>`, newest first.

    Attempt 0 has what the job left that this one goes on with.
    """
    attempt = output.absolute().parent.parent
    if output.absolute().parent.name != OUTPUTS or not attempt.name.isdigit():
        return ()
    siblings = [path for path in attempt.parent.iterdir() if path.name.isdigit() and int(path.name) < int(attempt.name)]
    newest_first = sorted(siblings, key=lambda path: int(path.name), reverse=True)
    return tuple(StepFolder(path).outputs / output.name for path in newest_first)


if __name__ == "__main__":
    run(__file__, work)
