"""The announcement of a run: what will be trained on what, logged before the first step."""

import logging

import torch

from mafunzo.compute.device.precision import name
from mafunzo.compute.model.lora import adapters
from mafunzo.compute.training.estimate import estimate_s, rendered_example
from mafunzo.compute.training.run import Run, base_name

logger = logging.getLogger(__name__)


def announce(run: Run) -> None:
    """Log what a run is: machine, model, rows, steps, an example, and how long it may take."""
    _announce_differences(run)
    _announce_model(run)
    order, rows = run.order, run.rows
    logger.info(
        "Rows: %d to train on (%s tokens, %s trained), %d to evaluate on",
        len(rows),
        f"{rows.tokens:,}",
        f"{rows.trained_tokens:,}",
        len(run.validation_rows) if run.validation_rows else 0,
    )
    logger.info(
        "Steps: %d of %d rows (%d x %d accumulated), %.2f epochs",
        order.total_steps,
        order.rows_per_step,
        order.batch,
        order.accumulation,
        order.epoch_after(order.total_steps),
    )
    if run.arguments.apply_deepspeed:
        logger.info("DeepSpeed's ZeRO stage %s takes the steps", run.arguments.deepspeed_stage)
    threads = f", {torch.get_num_threads()} threads" if run.device.type == "cpu" else ""
    logger.info("Computes in %s on %s%s", name(run.precision.compute), run.device, threads)
    example = rendered_example(run.request.prepared, rows)
    if example:
        logger.info("First row, trained pieces in [[ ]]: %s", example)
    seconds = estimate_s(run.network, rows, order, run.precision.compute, run.device, run.arguments.apply_lora)
    logger.info("Estimate: about %s of training, evaluation apart", _duration(seconds))


def _announce_differences(run: Run) -> None:
    """Log where the run differs from its arguments."""
    arguments = run.arguments
    n_gpus = arguments.number_of_gpu_to_use_finetuning
    if run.precision.note:
        logger.info("%s", run.precision.note)
    if n_gpus > 1:
        logger.info(
            "Asked for %d GPUs, one process trains (GPUs here: %d): %d forward passes a step keep the effective batch",
            n_gpus,
            torch.cuda.device_count(),
            run.order.accumulation,
        )
    if run.validation_rows is None and arguments.evaluation_strategy != "disable":
        logger.info("There are no validation rows: the weights of the last step are kept.")


def _announce_model(run: Run) -> None:
    network, base = run.network, run.request.base
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    total = sum(p.numel() for p in network.parameters())
    logger.info(
        "Model: %s, %s parameters, %s trained (%.2f%%), %s",
        base_name(base) or base.name,
        f"{total:,}",
        f"{trainable:,}",
        100 * trainable / total,
        f"LoRA r={run.adapter.r} on {len(list(adapters(network)))} layers" if run.adapter else "all weights",
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
