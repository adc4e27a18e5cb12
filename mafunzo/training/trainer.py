"""The training loop: from a base and prepared rows to the best adapter or model, with checkpoints and history beside it."""

import json
import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from mafunzo.chat.adapter import AdapterConfig, adapters, add_adapter
from mafunzo.chat.network import load_network
from mafunzo.device import precision
from mafunzo.device.out_of_memory import is_out_of_memory
from mafunzo.entities.parameters.constraint import split_names
from mafunzo.entities.parameters.table import resolve
from mafunzo.errors import FailedError, InvalidFile, InvalidParameter, OutOfMemory
from mafunzo.tracking import MetricLog, Progress
from mafunzo.training import checkpoint, network
from mafunzo.training.batch import Batch, Course, Rows, pack, read_rows, split
from mafunzo.training.curve import draw_loss
from mafunzo.training.distributed import ZERO_STAGE, make_stepper
from mafunzo.training.estimate import estimate_s, rendered_example
from mafunzo.training.optimizer import make_optimizer, make_schedule

logger = logging.getLogger(__name__)

# What an adapter must remember of its base, so that the base can be fetched again and known by its hash.
BASE_FACTS = ("name", "version", "source", "revision", "licence", "weights_sha256", "card", "base")


@dataclass(frozen=True)
class Request:
    """What to train: `base` is a Hugging Face folder, `prepared` prepare_data's output, `output` the folder to write.

    values: the parameters of the finetune step; those that are left out have their defaults.
    earlier: output folders of earlier attempts, whose checkpoints may be gone on from.
    """

    base: Path
    prepared: Path
    output: Path
    values: Mapping[str, Any]
    metrics: MetricLog = field(default_factory=lambda: MetricLog(None))
    earlier: tuple[Path, ...] = ()


@dataclass
class State:
    """Where training stands. Losses are nats per assistant token, summed over steps; tokens are those gone through."""

    step: int = 0
    tokens: int = 0
    loss_sum: float = 0.0
    since_log: dict[str, float] = field(default_factory=lambda: {"loss": 0.0, "steps": 0, "correct": 0, "targets": 0})
    best_loss: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def finetune(request: Request) -> dict[str, float]:
    """Train and write the output folder; returns what `all_results.json` holds."""
    values, faults = resolve(request.values)
    if faults:
        raise InvalidParameter("Training can't start.", faults)
    train, validation = _read_prepared(request.prepared)
    run = _Run(request, values, train, validation)
    run.announce()
    run.resume()
    return run.train()


class _Run:
    """One training run: what was put together for it, and the loop."""

    def __init__(self, request: Request, values: dict[str, Any], train: Rows, validation: Rows | None) -> None:
        self.request, self.values, self.rows = request, values, train
        self.is_lora = values["apply_lora"] == "true"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = precision.choose(values["precision"], self.is_lora, self.device)
        self.strategy = values["evaluation_strategy"] if validation is not None else "disable"
        self.validation = validation if self.strategy != "disable" else None
        _seed(values)
        base = load_network(
            request.base,
            dtype=self.precision.weights,
            device=self.device,
            trust_remote_code=values["trust_remote_code"] == "true",
            attention=network.attention_for(self.device),
        )
        self.runner = network.prepare(base)
        self.adapter = self._make_trainable(base)
        self.network = base
        if values["gradient_checkpointing"] == "true":
            base.activation_checkpointing_enable({"use_reentrant": False})
        self.course = Course(
            n_rows=len(train),
            batch=values["per_device_train_batch_size"],
            accumulation=values["gradient_accumulation_steps"] * values["number_of_gpu_to_use_finetuning"],
            epochs=values["num_train_epochs"],
            max_steps=values["max_steps"],
            seed=values["seed"],
        )
        self.batch_size = self.course.batch
        self.optimizer = make_optimizer(base, values)
        self.schedule = make_schedule(self.optimizer, values, self.course.total_steps)
        self.stepper = make_stepper(base, self.optimizer, values, self.precision, self.device)
        self.state = State()

    def _make_trainable(self, base: PreTrainedModel) -> AdapterConfig | None:
        if not self.is_lora:
            base.requires_grad_(True)
            return None
        config = AdapterConfig(
            r=self.values["lora_r"],
            alpha=self.values["lora_alpha"],
            dropout=self.values["lora_dropout"],
            targets=split_names(self.values["lora_target_modules"]),
            base=_base_name(self.request.base),
        )
        add_adapter(base, config)
        return config

    def announce(self) -> None:
        """Say what will be trained on what, before the first step."""
        trainable = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.network.parameters())
        course, values = self.course, self.values
        asked, present = values["number_of_gpu_to_use_finetuning"], torch.cuda.device_count()
        if self.precision.note:
            logger.info("%s", self.precision.note)
        if asked > 1:
            logger.info(
                "Asked for %d GPUs, one process trains (GPUs here: %d): %d forward passes a step keep the effective batch",
                asked,
                present,
                course.accumulation,
            )
        if self.validation is None and values["evaluation_strategy"] != "disable":
            logger.info("There are no validation rows: the weights of the last step are kept.")
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        logger.info(
            "Model: %s, %s parameters, %s trained (%.2f%%), %s",
            _base_name(self.request.base) or self.request.base.name,
            f"{total:,}",
            f"{trainable:,}",
            100 * trainable / total,
            f"LoRA r={self.adapter.r} on {len(list(adapters(self.network)))} layers" if self.adapter else "all weights",
        )
        logger.info(
            "Rows: %d to train on (%s tokens, %s trained), %d to evaluate on",
            len(self.rows),
            f"{self.rows.tokens:,}",
            f"{self.rows.trained_tokens:,}",
            len(self.validation) if self.validation else 0,
        )
        logger.info(
            "Steps: %d of %d rows (%d x %d accumulated), %.2f epochs",
            course.total_steps,
            course.rows_per_step,
            course.batch,
            course.accumulation,
            course.epoch_after(course.total_steps),
        )
        if values["apply_deepspeed"] == "true":
            logger.info("DeepSpeed's ZeRO stage %d takes the steps", ZERO_STAGE)
        logger.info("Computes in %s on %s%s", precision.name(self.precision.compute), self.device, threads)
        example = rendered_example(self.request.prepared, self.rows)
        if example:
            logger.info("First row, trained pieces in [[ ]]: %s", example)
        seconds = estimate_s(self.network, self.rows, course, self.precision.compute, self.device, self.is_lora)
        logger.info("Estimate: about %s of training, evaluation apart", _duration(seconds))

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if that was asked for and there is one."""
        if self.values["resume_from_checkpoint"] != "true":
            return
        found = checkpoint.newest_whole([self.request.output, *self.request.earlier])
        if found is None:
            logger.info("There is no checkpoint to go on from: training starts at step 0.")
            return
        saved = checkpoint.load_checkpoint(found, self.network, self.is_lora, self.optimizer, self.schedule)
        self.stepper.weights_were_loaded()
        ours = {key: saved["mafunzo"].get(key) for key in ("values", "rows")}
        if ours != self._identity():
            raise InvalidParameter(
                f"{found} was written with other parameters or rows. Set resume_from_checkpoint false, or use the same."
            )
        self.state = State(**saved["mafunzo"]["state"])
        self._log_checkpoint("load")
        for path in checkpoint.checkpoints(found.parent):
            if path.parent != self.request.output:
                shutil.copytree(path, self.request.output / path.name, dirs_exist_ok=True)
        logger.info("Goes on from %s", found.name)

    def train(self) -> dict[str, float]:
        """Run all steps, keep the best weights, write the output."""
        state, course = self.state, self.course
        progress = Progress("train", course.total_steps)
        self.request.output.mkdir(parents=True, exist_ok=True)
        self.network.train()
        started = time.monotonic() - state.seconds
        tokens_before, resumed_at = state.tokens, time.monotonic()
        is_stopped = False
        while state.step < course.total_steps and not is_stopped:
            for batches in self._ahead(state.step):
                loss = self._step(batches)
                if loss is None:
                    break
                state.seconds = time.monotonic() - started
                rate = (state.tokens - tokens_before) / max(time.monotonic() - resumed_at, 1e-9)
                progress.update(state.step, loss=loss, tokens_per_s=rate)
                self._log_if_due()
                if self._evaluates_now():
                    is_stopped = self._evaluate_and_save()
                if is_stopped or state.step >= course.total_steps:
                    break
        state.seconds = time.monotonic() - started
        if self.strategy == "disable":
            self._save_checkpoint()
        return self._finish()

    def _ahead(self, first: int) -> Iterator[list[Batch]]:
        """Yield the packed batches of each step from `first` on, made ahead by threads if there are any."""
        batch_size, workers = self.batch_size, self.values["dataloader_num_workers"]

        def make(step: int) -> list[Batch]:
            parts = split(self.course.rows_of(step), batch_size)
            return [pack([self.rows.row(int(index)) for index in part]) for part in parts]

        steps = range(first, self.course.total_steps)
        if workers == 0:
            yield from map(make, steps)
            return
        with ThreadPoolExecutor(workers) as pool:
            waiting = [pool.submit(make, step) for step in steps[: 2 * workers]]
            for step in steps:
                done = waiting.pop(0).result()
                if step + 2 * workers in steps:
                    waiting.append(pool.submit(make, step + 2 * workers))
                yield done

    def _step(self, batches: list[Batch]) -> float | None:
        """Take one optimizer step and return its loss; None if memory ran out and the batch size was halved instead."""
        state = self.state
        n_targets = sum(batch.n_targets for batch in batches)
        last = max((index for index, batch in enumerate(batches) if batch.n_targets), default=None)
        loss_sum, correct = 0.0, 0
        try:
            for index, batch in enumerate(batches):
                with self._autocast():
                    batch_loss, hits = network.batch_loss(self.runner, batch)
                if batch_loss.requires_grad:
                    self.stepper.backward(batch_loss / max(n_targets, 1), is_last=index == last)
                loss_sum += float(batch_loss.detach())
                correct += hits
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.stepper.clear()
            self._halve_batch(error)
            return None
        loss = loss_sum / max(n_targets, 1)
        rate = self.schedule.get_last_lr()[0]
        norm = self._take_step() if math.isfinite(loss) else math.nan
        if not math.isfinite(loss) or not (math.isfinite(norm) or self.precision.needs_scaler):
            what = f"The loss is {loss}" if not math.isfinite(loss) else f"The gradient's norm is {norm}"
            advice = "lower learning_rate, add a warm-up, or use precision 32"
            if state.step == 0:
                advice = (
                    "nothing was trained yet, so it is the base model's own: check its weights, or use precision 32"
                )
            raise FailedError(
                f"{what} at step {state.step + 1} of {self.course.total_steps} (learning rate {rate:g}). Training can't go "
                f"on from there: {advice}."
            )
        self.schedule.step()
        state.step += 1
        state.tokens += sum(batch.n_tokens for batch in batches)
        state.loss_sum += loss
        seen = state.since_log
        seen["loss"] += loss
        seen["steps"] += 1
        seen["correct"] += correct
        seen["targets"] += n_targets
        seen |= {"grad_norm": norm, "learning_rate": float(rate)}
        return loss

    def _take_step(self) -> float:
        """Take the optimizer's step and return the gradient's norm; raises `OutOfMemory`, as its state is made at the first."""
        try:
            return self.stepper.step()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                "Out of memory while the optimizer took a step: its state has two numbers for each trained weight. Set "
                "apply_lora true, lower lora_r, or set optim adafactor."
            ) from error

    def _halve_batch(self, error: BaseException) -> None:
        if self.values["auto_find_batch_size"] != "true" or self.batch_size == 1:
            raise OutOfMemory(
                f"Out of memory with per_device_train_batch_size {self.batch_size}. Lower it (gradient_accumulation_steps "
                "keeps the effective batch), or max_seq_length, or set gradient_checkpointing or apply_lora true."
            ) from error
        self.batch_size = -(-self.batch_size // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        logger.info(
            "Memory ran out: %d rows in a forward pass from here on, the effective batch as before", self.batch_size
        )

    def _log_if_due(self) -> None:
        state = self.state
        is_last = state.step == self.course.total_steps
        if self.values["logging_strategy"] == "epoch":
            is_due = state.step % self.course.steps_per_epoch == 0
        else:
            is_due = state.step % self.values["logging_steps"] == 0
        if is_due or is_last:
            self._log_training()

    def _log_training(self) -> None:
        seen = self.state.since_log
        if not seen["steps"]:
            return
        self._log(
            {
                "loss": seen["loss"] / seen["steps"],
                "grad_norm": seen["grad_norm"],
                "learning_rate": seen["learning_rate"],
                "mean_token_accuracy": seen["correct"] / max(seen["targets"], 1),
                "num_tokens": self.state.tokens,
            }
        )
        self.state.since_log = {"loss": 0.0, "steps": 0, "correct": 0, "targets": 0}

    def _log(self, numbers: Mapping[str, float]) -> None:
        entry = {**numbers, "epoch": round(self.course.epoch_after(self.state.step), 6)}
        self.state.history.append({**entry, "step": self.state.step})
        self.request.metrics.log(self.state.step, entry)

    def _evaluates_now(self) -> bool:
        step, course = self.state.step, self.course
        if self.strategy == "disable":
            return False
        if step == course.total_steps:
            return True
        if self.strategy == "epoch":
            return step % course.steps_per_epoch == 0
        interval = self.values["evaluation_steps_interval"]
        every = max(1, math.floor(course.steps_per_epoch * interval)) if interval > 0 else self.values["eval_steps"]
        return bool(step % every == 0)

    def _evaluate_and_save(self) -> bool:
        """Evaluate, keep a checkpoint, and return whether training should end early."""
        state = self.state
        numbers = self._evaluate()
        self._log(numbers)
        loss, best = numbers["eval_loss"], state.best_loss
        gain = self.values["early_stopping_threshold"]
        has_gained = best is None or loss < best - gain
        state.evaluations_without_gain = 0 if has_gained else state.evaluations_without_gain + 1
        if best is None or loss < best:
            state.best_loss, state.best_step = loss, state.step
        self._save_checkpoint()
        patience = self.values["early_stopping_patience"]
        is_enough: bool = self.values["apply_early_stopping"] == "true" and state.evaluations_without_gain >= patience
        if is_enough:
            logger.info(
                "Stops early: the validation loss didn't fall for %d evaluations", state.evaluations_without_gain
            )
        return is_enough

    def _evaluate(self) -> dict[str, float]:
        """Return the loss and token accuracy on the validation rows."""
        rows = self.validation
        assert rows is not None
        self.network.eval()
        started = time.monotonic()
        order = range(len(rows))
        size = self.values["per_device_eval_batch_size"]
        parts = [order[start : start + size] for start in range(0, len(rows), size)]
        progress = Progress("evaluate", len(rows))
        loss_sum, correct, targets = 0.0, 0, 0
        with torch.no_grad(), self._autocast():
            for index, part in enumerate(parts):
                batch = pack([rows.row(i) for i in part])
                loss, hits = network.batch_loss(self.runner, batch)
                loss_sum += float(loss)
                correct += hits
                targets += batch.n_targets
                progress.update(min((index + 1) * size, len(rows)), loss=loss_sum / max(targets, 1))
        self.network.train()
        seconds = max(time.monotonic() - started, 1e-9)
        return {
            "eval_loss": loss_sum / targets,
            "eval_mean_token_accuracy": correct / targets,
            "eval_num_tokens": rows.tokens,
            "eval_runtime": seconds,
            "eval_samples_per_second": len(rows) / seconds,
            "eval_steps_per_second": len(parts) / seconds,
        }

    def _save_checkpoint(self) -> None:
        output, state = self.request.output, self.state
        checkpoint.save_checkpoint(
            output, state.step, self.network, self.adapter, self.optimizer, self.schedule, self._trainer_state()
        )
        self._log_checkpoint("save")
        best = output / f"checkpoint-{state.best_step}" if state.best_step is not None else None
        checkpoint.prune(output, self.values["save_total_limit"], best)

    def _log_checkpoint(self, what: str) -> None:
        """Log the step of a checkpoint as a metric; the history, which checkpoints hold, knows nothing of them."""
        self.request.metrics.log(self.state.step, {f"checkpoint_{what}_step": self.state.step})

    def _trainer_state(self) -> dict[str, Any]:
        """Return the state in the shape of Hugging Face's `trainer_state.json`, with our own under `mafunzo`."""
        state, course = self.state, self.course
        return {
            "best_global_step": state.best_step,
            "best_metric": state.best_loss,
            "best_model_checkpoint": None if state.best_step is None else f"checkpoint-{state.best_step}",
            "epoch": course.epoch_after(state.step),
            "eval_steps": self.values["eval_steps"],
            "global_step": state.step,
            "is_hyper_param_search": False,
            "is_local_process_zero": True,
            "is_world_process_zero": True,
            "log_history": state.history,
            "logging_steps": self.values["logging_steps"],
            "max_steps": course.total_steps,
            "num_input_tokens_seen": state.tokens,
            "num_train_epochs": math.ceil(course.epoch_after(course.total_steps)),
            "save_steps": self.values["eval_steps"],
            "total_flos": self._flos(),
            "train_batch_size": course.batch,
            "trial_name": None,
            "trial_params": None,
            "mafunzo": {**self._identity(), "state": {**asdict(state), "history": list(state.history)}},
        }

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same for a checkpoint to be gone on from."""
        ignored = {"resume_from_checkpoint", "dataloader_num_workers", "save_total_limit", "auto_find_batch_size"}
        values = {name: value for name, value in self.values.items() if name not in ignored}
        return {"values": values, "rows": [len(self.rows), self.rows.tokens, self.rows.trained_tokens]}

    def _flos(self) -> float:
        """Return the floating point operations so far, by Hugging Face's rule: 6 per token and weight outside the embedding."""
        return 6.0 * self.state.tokens * int(self.network.num_parameters(exclude_embeddings=True))

    def _finish(self) -> dict[str, float]:
        """Put the best weights back and write everything that outlives the run."""
        state, output = self.state, self.request.output
        self._log_training()
        rows_seen = state.step * self.course.rows_per_step
        results = {
            "epoch": self.course.epoch_after(state.step),
            "num_tokens": float(state.tokens),
            "total_flos": self._flos(),
            "train_loss": state.loss_sum / max(state.step, 1),
            "train_runtime": state.seconds,
            "train_samples_per_second": rows_seen / max(state.seconds, 1e-9),
            "train_steps_per_second": state.step / max(state.seconds, 1e-9),
            "train_tokens_per_second": state.tokens / max(state.seconds, 1e-9),
        }
        self._log(results)
        if state.best_loss is not None:
            results |= {"eval_loss": state.best_loss, "best_step": float(state.best_step or 0)}
        if state.best_step is not None and state.best_step != state.step:
            best = output / f"checkpoint-{state.best_step}"
            checkpoint.load_weights(self.network, self.is_lora, best)
            logger.info("Keeps step %d, whose validation loss %.4f is the lowest", state.best_step, state.best_loss)
        self.network.eval()
        if not self.is_lora:
            self.network.to(self._saved_dtype())
        checkpoint.save_weights(self.network, self.adapter, output)
        _copy_tokenizer(self.request.prepared / "tokenizer", output)
        _write_json(output / "trainer_state.json", self._trainer_state())
        _write_json(output / "all_results.json", results)
        _write_json(output / "finetune_args.json", self._arguments())
        draw_loss(state.history, state.best_step, output / "loss.png")
        return results

    def _saved_dtype(self) -> torch.dtype:
        """Return the dtype of the whole model's weights: what it was computed in, else the base's own."""
        if self.precision.compute != torch.float32 or self.values["precision"] == "32":
            return self.precision.compute
        stored = json.loads((self.request.base / "config.json").read_text(encoding="utf-8"))
        named = getattr(torch, str(stored.get("dtype") or stored.get("torch_dtype") or "float32"), torch.float32)
        return named if isinstance(named, torch.dtype) else torch.float32

    def _arguments(self) -> dict[str, Any]:
        facts = _model_facts(self.request.base)
        return {
            **self.values,
            "model_name_or_path": _base_name(self.request.base),
            "base": {key: facts.get(key) for key in BASE_FACTS},
            "lora_layers": [name for name, _ in adapters(self.network)],
            "effective_batch_rows": self.course.rows_per_step,
            "total_steps": self.course.total_steps,
            "device": str(self.device),
            "computed_in": precision.name(self.precision.compute),
            "rows_packed": self.runner.packs,
            "torch": torch.__version__,
        }

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self.precision.needs_autocast:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision.compute)


def _read_prepared(folder: Path) -> tuple[Rows, Rows | None]:
    train = folder / "train.parquet"
    if not train.exists():
        raise InvalidFile(f"{folder} has no train.parquet: it isn't prepare_data's output.")
    validation = folder / "validation.parquet"
    return read_rows(train), read_rows(validation) if validation.exists() else None


def _seed(values: Mapping[str, Any]) -> None:
    torch.manual_seed(values["seed"])
    if values["enable_full_determinism"] == "true":
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def _model_facts(base: Path) -> dict[str, Any]:
    path = base / "mafunzo_model.json"
    body = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return body if isinstance(body, dict) else {}


def _base_name(base: Path) -> str | None:
    """Return the hub's name of the base if it came from there, else its name and version."""
    facts = _model_facts(base)
    source = str(facts.get("source") or "")
    if source.startswith("hub:"):
        return source.removeprefix("hub:").split("@")[0]
    name = facts.get("name")
    return None if name is None else f"{name}:{facts['version']}" if facts.get("version") else str(name)


def _copy_tokenizer(tokenizer: Path, output: Path) -> None:
    if not tokenizer.is_dir():
        raise InvalidFile(f"{tokenizer} is missing: prepare_data writes the tokenizer there.")
    for file in tokenizer.iterdir():
        if file.is_file():
            shutil.copyfile(file, output / file.name)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _write_json(path: Path, body: Any) -> None:
    path.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
