"""The output of a run: the best weights, the tokenizer, the learning curve, and everything about the run that outlives it."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mafunzo.compute.device.memory import peak_bytes, release
from mafunzo.compute.device.precision import name
from mafunzo.compute.model.folder import copy_files, read_facts, read_json
from mafunzo.compute.model.lora import adapters, is_at_start
from mafunzo.compute.training import checkpoint
from mafunzo.compute.training.learning_curve import draw_learning_curve
from mafunzo.compute.training.memory_plan import MemoryPlan
from mafunzo.compute.training.recomputation import recomputed_layers
from mafunzo.compute.training.run import Run, base_name
from mafunzo.compute.training.state import History, TrainingState, total_flos, trainer_state
from mafunzo.errors import FailedError, InvalidFile
from mafunzo.tracking.atomic_json import write_json

logger = logging.getLogger(__name__)

# What an adapter must remember of its base, so that the base can be fetched again and known by its hash.
BASE_FACTS = ("name", "version", "source", "revision", "licence", "weights_sha256", "card", "base")


def write_output(run: Run, state: TrainingState, history: History, plan: MemoryPlan) -> dict[str, float]:
    """Restore the best weights and write the output folder; returns the content of `all_results.json`."""
    output = run.request.output
    release(run.device)  # what draws the curve would lie beside what the passes took, and be the run's peak
    history.write_steps()
    results = _results(run, state, plan)
    history.write(results)
    if state.best_loss is not None:
        results |= {"eval_loss": state.best_loss, "best_step": float(state.best_step or 0)}
    step = _write_best_weights(run, state)
    divergence = _divergence(run, state, step)
    _copy_tokenizer(run.request.prepared / "tokenizer", output)
    write_json(output / "trainer_state.json", trainer_state(run, state), indent=2)
    write_json(output / "all_results.json", results, indent=2)
    write_json(output / "finetune_args.json", _recorded_arguments(run, state, plan, divergence), indent=2)
    if state.receipt:
        logger.info("Went on %s", state.receipt)
    if state.diverged_at is not None:
        logger.warning("%s", divergence)
    draw_learning_curve(state.history, state.best_step, output / "loss.png")
    return results


def _results(run: Run, state: TrainingState, plan: MemoryPlan) -> dict[str, float]:
    seconds = max(state.seconds, 1e-9)
    return {
        "epoch": run.order.epoch_after(state.step),
        "num_tokens": float(state.tokens),
        "peak_memory_bytes": float(peak_bytes(run.device)),
        "planned_peak_memory_bytes": float(plan.peak_bytes),
        "total_flos": total_flos(run, state),
        "train_loss": state.loss_sum / max(state.step, 1),
        "train_runtime": state.seconds,
        "train_samples_per_second": state.step * run.order.rows_per_step / seconds,
        "train_steps_per_second": state.step / seconds,
        "train_tokens_per_second": state.tokens / seconds,
        **({"diverged_at_step": float(state.diverged_at)} if state.diverged_at is not None else {}),
    }


def _write_best_weights(run: Run, state: TrainingState) -> int:
    """Write the best weights, and return of which step they are: the last, unless another is better or this one diverged."""
    output, network, is_lora = run.request.output, run.network, run.adapter is not None
    best = state.best_step or state.step
    if state.best_step is not None and state.best_step != state.step:
        checkpoint.load_weights(network, is_lora, output / f"checkpoint-{state.best_step}")
        logger.info("Keeps step %d, whose validation loss %.4f is the lowest", state.best_step, state.best_loss)
    elif state.diverged_at is not None and state.best_step is None:
        best = _load_before_rise(run, state)
    network.eval()
    if is_lora and is_at_start(network):
        raise FailedError(
            f"Training changed nothing: after {state.step} steps the adapter is as it began, and the model would be its base. "
            "No gradient reached it, or learning_rate is too small: raise it, or train for more steps."
        )
    if not is_lora:
        network.to(_saved_dtype(run))
    checkpoint.save_weights(network, run.adapter, output)
    return best


def _load_before_rise(run: Run, state: TrainingState) -> int:
    """Put the weights back that were saved at the lowest training loss, if any still are; return of which step they are."""
    step = state.lowest_saved[0] if state.lowest_saved is not None else state.step
    folder = run.request.output / f"checkpoint-{step}"
    if step == state.step or checkpoint.verify(folder):
        return state.step
    checkpoint.load_weights(run.network, run.adapter is not None, folder)
    return step


def _saved_dtype(run: Run) -> torch.dtype:
    """Return the dtype of the whole model's weights: what it was computed in, else the base's own."""
    if run.precision.compute != torch.float32 or run.arguments.precision == "32":
        return run.precision.compute
    stored = read_json(run.request.base / "config.json")
    dtype = getattr(torch, str(stored.get("dtype") or stored.get("torch_dtype") or "float32"), torch.float32)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _divergence(run: Run, state: TrainingState, step: int) -> str:
    """Return that the loss rose for long, and which weights are the result for all that; empty where it didn't."""
    if state.diverged_at is None:
        return ""
    how = "the best by the validation loss" if state.best_step is not None else "the best by the training loss"
    if step == state.step:
        how = "the last, as no checkpoint was saved before the loss rose" if state.best_step is None else how
    return (
        f"the training loss rose for long, as seen after step {state.diverged_at}: the result is of step {step}, {how}"
    )


def _recorded_arguments(run: Run, state: TrainingState, plan: MemoryPlan, divergence: str) -> dict[str, Any]:
    facts = read_facts(run.request.base)
    return {
        **run.arguments.to_values(),
        "model_name_or_path": base_name(run.request.base),
        "base": {key: facts.get(key) for key in BASE_FACTS},
        "lora_layers": [name for name, _ in adapters(run.network)],
        "effective_batch_rows": run.order.rows_per_step,
        "forward_tokens": state.forward_tokens,
        "memory_plan": asdict(plan) | _plan_in_use(run, state),
        "total_steps": run.order.total_steps,
        "device": str(run.device),
        "processes": run.ranks.size,
        "computed_in": name(run.precision.compute),
        "rows_packed": run.packed.packs,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **({"deepspeed_configuration": asdict(run.request.deepspeed)} if run.request.deepspeed else {}),
        **({"resumed": state.receipt} if state.receipt else {}),
        **({"diverged": divergence} if divergence else {}),
    }


def _plan_in_use(run: Run, state: TrainingState) -> dict[str, Any]:
    """Return what the run has come to of its plan, and where memory ran out on the way."""
    in_use = {"recomputed_layers": recomputed_layers(run.network), "head_chunk": state.head_chunk}
    return in_use | ({"tightened": state.tightened} if state.tightened else {})


def _copy_tokenizer(tokenizer: Path, output: Path) -> None:
    if not tokenizer.is_dir():
        raise InvalidFile(f"{tokenizer} is missing: prepare_data writes the tokenizer there.")
    copy_files(tokenizer, ("*",), output)
