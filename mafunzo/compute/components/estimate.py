"""Estimates a training run from its memory plan and a probe on its real rows: `estimate.json`, and nothing that was trained.

Started as several processes, as the run is, it measures what these take together.
"""

if __name__ == "__main__":  # before anything else imports transformers
    from mafunzo.compute.device.allocator import leave_out_thread_caches
    from mafunzo.compute.model.quick_start import import_networks

    leave_out_thread_caches()
    import_networks()

import json
import logging
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from mafunzo.compute.components.command import Arguments, run
from mafunzo.compute.components.finetune import deepspeed_of
from mafunzo.compute.components.prepare_data import output_folder
from mafunzo.compute.device.memory import free_bytes
from mafunzo.compute.device.precision import name
from mafunzo.compute.training.announcement import announce
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.lockstep import rows_alone
from mafunzo.compute.training.memory_plan import plan_memory
from mafunzo.compute.training.probe import Probe, probe
from mafunzo.compute.training.ranks import Ranks, joined
from mafunzo.compute.training.run import Run, TrainingRequest, assemble, base_name
from mafunzo.compute.training.timing import Work, seconds, work_of
from mafunzo.dataset.check import kind_of
from mafunzo.entities.estimate import MEMORY_MARGIN, TIME_MARGIN, Estimate, Range, SplitRows
from mafunzo.tracking.atomic_json import write_json

logger = logging.getLogger(__name__)


def work(arguments: Arguments) -> None:
    """Load what the run would load, take a few of its steps with as many processes, and write what the whole is to take."""
    output = arguments.outputs["estimate"]
    with joined() as ranks, _scratch(output, ranks) as folder:
        estimate = _estimate(arguments, folder, ranks)
        if ranks.is_first:
            with output_folder(output) as result:
                write_json(result / "estimate.json", estimate.as_dict(), indent=1, ensure_ascii=False)


def _estimate(arguments: Arguments, scratch: Path, ranks: Ranks) -> Estimate:
    """Measure on all ranks; what the first returns is the estimate."""
    model = arguments.path("model")
    free_disk = shutil.disk_usage(scratch).free
    training = assemble(
        TrainingRequest(
            base=model,
            prepared=arguments.path("prepared"),
            output=scratch,
            arguments=TrainingArguments.from_values(arguments.values),
            deepspeed=deepspeed_of(arguments),
            proofs=arguments.proofs,
        ),
        ranks,
    )
    free_memory = free_bytes(training.device)
    announce(training)
    plan = plan_memory(training)
    logger.info("Memory: %s", plan)
    start_s = time.time() - psutil.Process().create_time()
    forward_tokens = 1 if rows_alone(training) else plan.forward_tokens
    measured = probe(training, forward_tokens)
    report = json.loads((arguments.path("prepared") / "report.json").read_text(encoding="utf-8"))
    to_do = work_of(training)
    return Estimate(
        model=base_name(model) or model.name,
        rows=_rows(report),
        tokens=to_do.tokens,
        steps=to_do.steps,
        epochs=training.order.epoch_after(to_do.steps),
        rows_per_step=training.order.rows_per_step,
        evaluations=to_do.evaluations,
        saves=to_do.saves,
        start_s=start_s,
        time_s=Range.around(seconds(to_do, measured.costs), TIME_MARGIN + 2 * measured.spread),
        memory_bytes=Range.around(measured.peak_bytes, MEMORY_MARGIN).rounded(),
        free_memory_bytes=free_memory,
        disk_bytes=_disk_bytes(training, to_do, measured),
        free_disk_bytes=free_disk,
        device=str(training.device),
        computed_in=name(training.precision.compute),
        forward_tokens=forward_tokens,
        plan=str(plan),
        stops_early=training.arguments.apply_early_stopping,
        probed_passes=measured.passes,
        processes=ranks.size,
        strategy=training.stepper.strategy,
        total_memory_bytes=Range.around(measured.total_peak_bytes, MEMORY_MARGIN).rounded(),
    )


@contextmanager
def _scratch(output: Path, ranks: Ranks) -> Iterator[Path]:
    """Give a folder on the disk of the output, for the probe's checkpoint; it goes with all that is in it.

    The first rank makes it, and deletes it once all are done with it. On another machine, which is told by its name, it is
    made again, and goes with the step's folder there.
    """
    if not ranks.is_first:
        place = output.parent / ranks.from_first(None)
        place.mkdir(exist_ok=True)
        yield place
        ranks.wait()
        return
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=output.parent) as folder:
        ranks.from_first(Path(folder).name)
        yield Path(folder)
        ranks.wait()


def _rows(report: Mapping[str, Any]) -> dict[str, SplitRows]:
    """Return the rows of each split from prepare_data's report."""
    return {
        split: SplitRows(
            read=part["rows_read"],
            kept=part["rows_kept"],
            tokens=part["tokens"],
            dropped=dict(Counter(kind_of(row["reason"]) for row in part["dropped"]).most_common()),
        )
        for split, part in report["splits"].items()
    }


def _disk_bytes(training: Run, to_do: Work, measured: Probe) -> int:
    """Return what the run and its packaging write: kept checkpoints, the one being written, the result, a whole model.

    The result isn't larger than a checkpoint, nor the packaged model than the base.
    """
    limit = training.arguments.save_total_limit
    lasting = min(to_do.saves, limit) if limit > 0 else to_do.saves
    base = sum(file.stat().st_size for file in training.request.base.glob("*.safetensors"))
    return (lasting + 2) * measured.checkpoint_bytes + base


if __name__ == "__main__":
    run(__file__, work)
