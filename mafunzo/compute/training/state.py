"""The training state: what the loop changes, its history, and how checkpoints hold it and training resumes from them."""

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mafunzo.compute.training import checkpoint
from mafunzo.compute.training.circumstance import circumstances, differences, use_threads
from mafunzo.compute.training.head_loss import CHUNK
from mafunzo.compute.training.run import Run, TrainingRequest
from mafunzo.compute.training.tightening import Tightness
from mafunzo.entities.parameters.finetune import FREE_ON_RESUME, NEW_ON_RESUME
from mafunzo.entities.parameters.parameter import typed
from mafunzo.entities.parameters.table import PARAMETERS
from mafunzo.errors import InvalidParameter

logger = logging.getLogger(__name__)

_FREE = frozenset(
    {
        "resume_from_checkpoint",
        "cpu_processes_finetune",
        "strict_compute",
        "data_parallel_strategy",
        *FREE_ON_RESUME,
    }
)
"""Arguments that may differ when a checkpoint is resumed from: they change no result, but for rounding."""
_SHARDING = frozenset({"apply_deepspeed", "deepspeed_stage"})
"""Arguments that may differ too, and that checkpoints name nevertheless, as earlier versions did."""
_ADDED = {
    "num_nodes_finetune": 1,
    "use_rslora": "false",
    "exclude_modules": None,
    "layers_to_transform": None,
    "layers_pattern": None,
    "rank_pattern": None,
    "alpha_pattern": None,
    "loraplus_lr_ratio": None,
    "init_lora_weights": "true",
    "use_dora": "false",
    "momentum": None,
    "neftune_noise_alpha": 0.0,
    "num_decay_steps": None,
    "lr_decay_type": "cosine",
    "min_lr": None,
    "min_lr_rate": None,
    "lr_timescale": None,
}
"""Arguments that earlier versions didn't have, and what these did: a checkpoint names one only where it is another."""
_EARLIER_STATE = {"head_chunk": CHUNK}
"""What the checkpoints of earlier versions don't say of their state, as it was always the same."""


@dataclass
class TrainingState:
    """Losses are nats per term (assistant token), summed over steps; tokens are those gone through.

    since_log: what has added up since numbers were last logged. forward_tokens, head_chunk, recomputed_layers: how a forward
    pass is made, as the memory allows (tightening.py); kept, so that a run that resumes groups its rows as before, to the bit.
    tightened: after which steps memory ran out, and what was given up. resumed_at: the steps that the run went on from;
    differences: why it may differ from an uninterrupted one; changes: which values were given anew on the way.
    loss_blocks: sums of the steps' losses (divergence.py). diverged_at: the step after which the loss was seen to rise for
    long, while it does. lowest_saved: the step and the training loss of the checkpoint that was saved at the lowest.
    Checkpoints hold all under these names.
    """

    step: int = 0
    tokens: int = 0
    forward_tokens: int = 0
    loss_sum: float = 0.0
    since_log: dict[str, float] = field(default_factory=dict)
    best_loss: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    head_chunk: int = 0
    recomputed_layers: int = 0
    tightened: list[str] = field(default_factory=list)
    loss_blocks: list[dict[str, Any]] = field(default_factory=list)
    diverged_at: int | None = None
    lowest_saved: tuple[int, float] | None = None

    def use_plan(self, plan: Tightness) -> None:
        """Make passes as before, or as the memory allows now, where that is less."""
        tokens, before = plan.forward_tokens, self.tightness
        if 0 < tokens < self.forward_tokens:
            self.note(f"memory has room for {tokens:,} tokens in a forward pass, of {self.forward_tokens:,} before")
        if 0 < plan.head_chunk < before.head_chunk:
            self.note(f"memory has room for the logits of {plan.head_chunk} positions, of {before.head_chunk} before")
        self.tightness = Tightness(
            min(tokens, before.forward_tokens or tokens),
            max(plan.recomputed_layers, before.recomputed_layers),
            min(plan.head_chunk, before.head_chunk or plan.head_chunk),
        )

    @property
    def tightness(self) -> Tightness:
        """How a forward pass is made."""
        return Tightness(self.forward_tokens, self.recomputed_layers, self.head_chunk)

    @tightness.setter
    def tightness(self, now: Tightness) -> None:
        self.forward_tokens, self.recomputed_layers = now.forward_tokens, now.recomputed_layers
        self.head_chunk = now.head_chunk

    def note(self, *differences: str) -> None:
        """Remember why the run may differ from an uninterrupted one, each reason once."""
        self.differences += [difference for difference in differences if difference not in self.differences]

    @property
    def receipt(self) -> str:
        """Whether the run equals an uninterrupted one, in words; empty where it is one."""
        if not self.resumed_at:
            return ""
        start = f"after step {', '.join(map(str, self.resumed_at))}"
        if self.changes:
            return f"{start} with other values, which no uninterrupted run has: {'; '.join(self.changes)}"
        if not self.differences:
            return f"{start}: bit-identical to an uninterrupted run"
        return f"{start}: equal within tolerance to an uninterrupted run, since {'; '.join(self.differences)}"


class History:
    """Numbers over steps: accumulates the steps' metrics, keeps them in the state, and logs them when due."""

    def __init__(self, run: Run, state: TrainingState) -> None:
        self._run, self._state = run, state
        if not state.since_log:
            self._clear()

    def add(self, loss: float, counts: Mapping[str, float], grad_norm: float, learning_rate: float) -> None:
        """Count a step in."""
        sums = self._state.since_log
        sums["loss"] += loss
        sums["steps"] += 1
        for name, count in counts.items():
            sums[name] += count
        sums |= {"grad_norm": grad_norm, "learning_rate": learning_rate}

    def write_if_due(self) -> None:
        """Log the accumulated metrics, every `logging_steps` steps or each epoch, and after the last step."""
        step, order, arguments = self._state.step, self._run.order, self._run.arguments
        interval = order.steps_per_epoch if arguments.logging_strategy == "epoch" else arguments.logging_steps
        if step % interval == 0 or step == order.total_steps:
            self.write_steps()

    def write_steps(self) -> None:
        """Write the mean loss and the metrics of the steps since this was last done, if there are any."""
        sums = self._state.since_log
        if not sums["steps"]:
            return
        self.write(
            {
                "loss": sums["loss"] / sums["steps"],
                "grad_norm": sums["grad_norm"],
                "learning_rate": sums["learning_rate"],
                **self._run.objective.metrics(sums),
                "num_tokens": self._state.tokens,
            }
        )
        self._clear()

    def write(self, numbers: Mapping[str, float]) -> None:
        """Write numbers at the current step."""
        step = self._state.step
        entry = {**numbers, "epoch": round(self._run.order.epoch_after(step), 6)}
        self._state.history.append({**entry, "step": step})
        self._run.request.metrics.log(step, entry)

    def _clear(self) -> None:
        self._state.since_log = {"loss": 0.0, "steps": 0, **dict.fromkeys(self._run.objective.counts, 0)}


def require_free(request: TrainingRequest) -> None:
    """Raise `InvalidParameter` where checkpoints lie in the output folder that aren't to be gone on from: they would count as
    this run's."""
    existing = checkpoint.checkpoints(request.output)
    if existing and not request.arguments.resume_from_checkpoint:
        raise InvalidParameter(
            f"{request.output} holds {existing[-1].name} of an earlier run. Set resume_from_checkpoint true to go on from "
            "there, or name another output folder."
        )


def resume(run: Run) -> TrainingState:
    """Return the state of the newest usable checkpoint, put back into the run, or that of step 0.

    Those of earlier attempts of the same step always count, those that lie in the output folder if it was asked for.
    Raises `InvalidParameter` for a checkpoint of other parameters or rows in the output folder.
    """
    output, earlier = run.request.output, run.request.earlier
    own = [output] if run.arguments.resume_from_checkpoint else []
    while folders := checkpoint.usable([*own, *earlier]):
        saved = checkpoint.read_state(folders[0])
        if _is_of(run, saved) and _is_whole_state(folders[0], saved):
            return _go_on(run, folders)
        if folders[0].parent == output:
            raise InvalidParameter(
                f"{folders[0]} was written with other parameters or rows. Set resume_from_checkpoint false and name another "
                "output folder, or use the same."
            )
        logger.warning("%s is of other parameters or rows, as of another version: it is left out", folders[0])
        earlier = tuple(path for path in earlier if path != folders[0].parent)
    _drop_after(output, 0)
    if own or run.request.earlier:
        logger.info("There is no checkpoint to go on from: training starts at step 0.")
    return TrainingState()


def resume_together(run: Run) -> TrainingState:
    """Return `resume`'s state on every rank: the first one chooses the checkpoint and tidies up, the others load the same."""
    ranks = run.ranks
    if ranks.is_first:
        state = resume(run)
        ranks.from_first(state.step)
        return state
    step = ranks.from_first(None)
    return _load(run, _checkpoint_of(run.request, step)) if step else TrainingState()


def _checkpoint_of(request: TrainingRequest, step: int) -> Path:
    """Return the checkpoint that the first rank has chosen: on another machine than that one it isn't in the output folder."""
    folders = [output / f"checkpoint-{step}" for output in (request.output, *request.earlier)]
    return next((folder for folder in folders if folder.exists() and not checkpoint.verify(folder)), folders[0])


def _is_of(run: Run, saved: Mapping[str, Any]) -> bool:
    own, now = saved.get("mafunzo", {}), identity(run)
    return own.get("rows") == now["rows"] and _fixed(own.get("values", {})) == _fixed(now["values"])


def _is_whole_state(folder: Path, saved: Mapping[str, Any]) -> bool:
    """Return whether the optimizer's state is there weight by weight; earlier versions left DeepSpeed's as its own parts."""
    values = saved.get("mafunzo", {}).get("values", {})
    is_deepspeed = typed(PARAMETERS["apply_deepspeed"], values.get("apply_deepspeed"))
    return not is_deepspeed or "strategy" in checkpoint.read_manifest(folder)


def _fixed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that decide what a checkpoint is of."""
    return {name: value for name, value in values.items() if name not in {*_FREE, *_SHARDING, *NEW_ON_RESUME}}


def _changes(run: Run, saved: Mapping[str, Any]) -> list[str]:
    """Return which of the arguments that may change is another than when a checkpoint was saved, in words."""
    before, now = saved["mafunzo"]["values"], run.arguments.to_values()
    return [
        f"{name} was {float(before.get(name) or 0):g} and is {float(now[name] or 0):g}"
        for name in NEW_ON_RESUME
        if float(before.get(name) or 0) != float(now[name] or 0)
    ]


def _go_on(run: Run, folders: Sequence[Path]) -> TrainingState:
    """Put a checkpoint back into the run, and those that belong to it into the output folder; return its state."""
    folder, output = folders[0], run.request.output
    state = _load(run, folder)
    is_earlier = folder.parent != output
    if is_earlier:
        for entry in state.history:  # this attempt's metrics begin where the run did
            run.request.metrics.log(entry["step"], {name: value for name, value in entry.items() if name != "step"})
    log_checkpoint(run, state.step, "load")
    _drop_after(output, state.step)
    older = (path for parent in run.request.earlier for path in checkpoint.checkpoints(parent))
    for path in [*folders, *(path for path in older if checkpoint.step_of(path) < state.step)] if is_earlier else []:
        checkpoint.adopt(path, output)
    logger.info("Goes on from %s", folder.name)
    return state


def _load(run: Run, folder: Path) -> TrainingState:
    """Put a checkpoint back into the run, and return its state; each rank does."""
    manifest = checkpoint.read_manifest(folder)
    changes = _changes(run, checkpoint.read_state(folder))
    _require_steps(run, folder, changes)
    use_threads(manifest.get("threads"))
    saved = checkpoint.load_checkpoint(
        folder,
        run.network,
        run.adapter is not None,
        run.optimizer,
        run.schedule,
        not changes,
        run.ranks.rank,
        run.stepper.load,
    )
    run.stepper.load_scaler_state(saved["mafunzo"].get("scaler", {}))
    state = TrainingState(**_EARLIER_STATE | saved["mafunzo"]["state"])
    state.resumed_at.append(state.step)
    if changes:
        logger.info(
            "%s: the learning rate's schedule is computed for all %d steps anew, and is %g after step %d",
            "; ".join(changes),
            run.order.total_steps,
            run.schedule.get_last_lr()[0],
            state.step,
        )
    state.changes += changes
    state.note(*differences(manifest, circumstances(run, state.tightness)))
    if run.device.type == "cuda" and not run.arguments.enable_full_determinism:
        state.note("a GPU takes sums in any order where enable_full_determinism is false")
    return state


def _require_steps(run: Run, folder: Path, changes: Sequence[str]) -> None:
    step, total = checkpoint.step_of(folder), run.order.total_steps
    if changes and step > total:
        raise InvalidParameter(
            f"{folder.name} is of step {step}, and training would end after step {total} ({'; '.join(changes)}). Give more "
            "steps or epochs than are done."
        )


def _drop_after(output: Path, step: int) -> None:
    """Delete checkpoints of later steps than that which training goes on from: they aren't whole, and would seem the newest."""
    for path in checkpoint.checkpoints(output):
        if checkpoint.step_of(path) > step:
            shutil.rmtree(path)


def log_checkpoint(run: Run, step: int, what: str) -> None:
    """Log the step of a checkpoint as a metric; the history, which checkpoints contain, doesn't have them."""
    run.request.metrics.log(step, {f"checkpoint_{what}_step": step})


def identity(run: Run) -> dict[str, Any]:
    """Return what must be the same for a run to resume from a checkpoint."""
    values = {
        name: value
        for name, value in run.arguments.to_values().items()
        if name not in _FREE and (name not in _ADDED or value != _ADDED[name])
    }
    return {"values": values, "rows": [len(run.rows), run.rows.tokens, run.rows.trained_tokens]}


def total_flos(run: Run, state: TrainingState) -> float:
    """Return the floating point operations so far, by Hugging Face's rule: 6 per token and weight outside the embedding."""
    return 6.0 * state.tokens * run.size.without_embeddings


def trainer_state(run: Run, state: TrainingState) -> dict[str, Any]:
    """Return the state in the shape of Hugging Face's `trainer_state.json`, with our own under `mafunzo`.

    Nothing of it changes as training goes on.
    """
    order, arguments = run.order, run.arguments
    return {
        "best_global_step": state.best_step,
        "best_metric": state.best_loss,
        "best_model_checkpoint": None if state.best_step is None else f"checkpoint-{state.best_step}",
        "epoch": order.epoch_after(state.step),
        "eval_steps": arguments.eval_steps,
        "global_step": state.step,
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": list(state.history),
        "logging_steps": arguments.logging_steps,
        "max_steps": order.total_steps,
        "num_input_tokens_seen": state.tokens,
        "num_train_epochs": math.ceil(order.epoch_after(order.total_steps)),
        "save_steps": arguments.eval_steps,
        "total_flos": total_flos(run, state),
        "train_batch_size": order.batch,
        "trial_name": None,
        "trial_params": None,
        "mafunzo": {
            **identity(run),
            "state": {**asdict(replace(state, history=[])), "history": list(state.history)},
            "scaler": run.stepper.scaler_state(),
        },
    }
