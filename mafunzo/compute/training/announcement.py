"""The announcement of a run, logged before the first step: what is trained on what, an example, and how long it may take."""

import logging
import time
from functools import cache
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mafunzo.compute.chat.examples import IGNORED
from mafunzo.compute.device.precision import name
from mafunzo.compute.device.topology import sockets
from mafunzo.compute.model.lora import adapters
from mafunzo.compute.training.batch import Ints, Rows
from mafunzo.compute.training.run import Run, base_name
from mafunzo.compute.training.timing import Costs, seconds, work_of

logger = logging.getLogger(__name__)

# The share of the bare matrix product's speed that whole training steps reached (2 cores, bfloat16, 135M parameters).
EFFICIENCY = 0.4
# What is written to a disk in a second, hashed and made durable: a checkpoint has three numbers of 4 bytes a trained weight.
DISK_BYTES_S = 200e6


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
    epochs = order.epoch_after(order.total_steps)
    logger.info(
        "Steps: %d of %d rows (%d x %d), %.2f epochs",
        order.total_steps,
        order.rows_per_step,
        order.batch,
        order.accumulation,
        epochs,
    )
    if run.stepper.shards_weights and not run.arguments.apply_deepspeed:
        logger.info("FSDP2: each process holds 1/%d of weights, gradients and the optimizer's state", run.ranks.size)
    if run.arguments.apply_deepspeed:
        config, is_own = run.request.zero, run.request.deepspeed is not None
        logger.info("DeepSpeed's ZeRO stage %d takes the steps%s", config.stage, ", as configured" if is_own else "")
        if run.device.type == "cpu" and config.offloads:
            logger.info("Nothing is offloaded: all that trains is in the main memory as it is")
    threads = f", {torch.get_num_threads()} threads" if run.device.type == "cpu" else ""
    logger.info("Computes in %s on %s%s", name(run.precision.compute), run.device, threads)
    example = rendered_example(run.request.prepared, rows)
    if example:
        logger.info("First row, trained pieces in [[ ]]: %s", example)
    logger.info(
        "Estimate: about %s, evaluation and saving counted in, by this machine's speed",
        duration_text(seconds(work_of(run), rough_costs(run))),
    )


def _announce_differences(run: Run) -> None:
    """Log where the run differs from its arguments."""
    arguments = run.arguments
    n_gpus, n_processes = arguments.requested_gpus, run.ranks.size
    if run.precision.note:
        logger.info("%s", run.precision.note)
    processes = "one process trains" if n_processes == 1 else f"{n_processes} processes train"
    if n_gpus > (n_processes if run.device.type == "cuda" else 1):
        logger.info(
            "Asked for %d GPUs, %s (GPUs here: %d): steps of %d rows keep the effective batch",
            n_gpus,
            processes,
            torch.cuda.device_count(),
            run.order.rows_per_step,
        )
    elif n_processes > 1:
        logger.info("%s together, and share the %d rows of a step", processes.capitalize(), run.order.rows_per_step)
    if run.device.type == "cpu" and run.ranks.local_size > sockets():
        logger.info(
            "%d processes share %d socket(s), and each waits for the others in every step: one process on all cores of a "
            "socket is faster, but where memory decides. Leave cpu_processes_finetune out to have it.",
            run.ranks.local_size,
            sockets(),
        )
    if arguments.data_parallel_strategy == "fsdp" and n_processes == 1:
        logger.info("data_parallel_strategy is fsdp, and one process trains: it holds all, as there are no others")
    if run.validation_rows is None and arguments.evaluation_strategy != "disable":
        logger.info("There are no validation rows: the weights of the last step are kept.")


def _announce_model(run: Run) -> None:
    network, base = run.network, run.request.base
    trainable, total = run.size.trained, run.size.weights
    logger.info(
        "Model: %s, %s parameters, %s trained (%.2f%%), %s",
        base_name(base) or base.name,
        f"{total:,}",
        f"{trainable:,}",
        100 * trainable / total,
        f"LoRA r={run.adapter.r} on {len(list(adapters(network)))} layers" if run.adapter else "all weights",
    )


def duration_text(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def rough_costs(run: Run) -> Costs:
    """Return what the parts of a run may cost before any was measured.

    Passes: their operations, at a share of a matrix product's speed measured now. Saving: bytes, at a disk's usual speed.
    """
    size, rows = run.size, run.rows
    share_trained = rows.trained_tokens / rows.tokens
    passes = 4 if run.arguments.apply_lora else 6  # of which the forward pass, which is all of validation, is 2
    speed = EFFICIENCY * matmul_flops(run.precision.compute, run.device)
    token_s = passes * (size.body + share_trained * size.head) / speed
    return Costs(token_s, 0.0, token_s * 2 / passes, 12 * size.trained / DISK_BYTES_S)


@cache  # what is announced and what is left are told from one measurement
def matmul_flops(dtype: torch.dtype, device: torch.device, size: int = 1024) -> float:
    """Return the operations a second of a square matrix product, measured in some 50 ms, once in a process."""
    left = torch.ones(size, size, dtype=dtype, device=device)
    left @ left
    _wait(device)
    started, count = time.monotonic(), 0
    while time.monotonic() - started < 0.05:
        left @ left
        _wait(device)
        count += 1
    return count * 2 * size**3 / (time.monotonic() - started)


def rendered_example(prepared: Path, rows: Rows, most_characters: int = 1200) -> str:
    """Return the first row as text, trained pieces in [[ ]], || between sequences, cut in the middle if it is long."""
    folder = prepared / "tokenizer"
    if not folder.is_dir():
        return ""
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    text = " || ".join(_rendered(tokenizer, ids, labels) for ids, labels in rows.row(0))
    half = most_characters // 2
    return text if len(text) <= most_characters else f"{text[:half]} [...] {text[-half:]}"


def _rendered(tokenizer: PreTrainedTokenizerBase, ids: Ints, labels: Ints) -> str:
    pieces: list[str] = []
    start = 0
    for end in range(1, len(ids) + 1):
        is_trained = labels[start] != IGNORED
        if end == len(ids) or (labels[end] != IGNORED) != is_trained:
            text = tokenizer.decode(ids[start:end].tolist())
            pieces.append(f"[[{text}]]" if is_trained else text)
            start = end
    return "".join(pieces)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
