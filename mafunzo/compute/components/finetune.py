"""Trains a LoRA adapter or all weights of a chat model: `python -m mafunzo.compute.components.finetune --help`."""

if __name__ == "__main__":  # before anything else imports transformers
    from mafunzo.compute.device.allocator import leave_out_thread_caches
    from mafunzo.compute.model.quick_start import import_networks

    leave_out_thread_caches()
    import_networks()

from mafunzo.compute.components.command import Arguments, run
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.run import TrainingRequest
from mafunzo.compute.training.trainer import finetune
from mafunzo.entities.deepspeed import DeepSpeedConfig, deepspeed_config
from mafunzo.entities.parameters.table import DEFAULTS
from mafunzo.errors import InvalidFile
from mafunzo.tracking.step_folder import earlier_outputs


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


if __name__ == "__main__":
    run(__file__, work)
