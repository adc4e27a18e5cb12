"""Runs of tiny networks on several processes: `python -m tests.support.rank_scenarios FOLDER`, once a rank.

FOLDER/scenarios.json lists the runs, which are taken one after the other by the same processes, as importing torch takes
longer than all of them. Each leaves its output in FOLDER/<name> and how it ended on each rank in FOLDER/<name>.<rank>.json.
"""

import gc
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import distributed

from mafunzo.compute.training import run as steps
from mafunzo.compute.training import zero3
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.fsdp import local
from mafunzo.compute.training.objectives.objective import BatchLoss
from mafunzo.compute.training.objectives.supervised import Supervised
from mafunzo.compute.training.run import TrainingRequest
from mafunzo.compute.training.trainer import finetune
from mafunzo.entities.deepspeed import deepspeed_config
from mafunzo.entities.parameters.table import DEFAULTS
from mafunzo.errors import MafunzoError
from mafunzo.tracking.metrics import MetricLog


class Disturbed(Supervised):
    """On the last rank, something happens in its nth forward pass; the memory plan's two count as the first."""

    def __init__(self, what: str, n: int) -> None:
        self._what, self._left = what, n + 1

    def loss(self, network, batch):
        self._left -= 1
        result = super().loss(network, batch)
        if self._what == "out of memory for ever" and self._left < 0:
            self._left = 0
        if self._left or int(os.environ["RANK"]) + 1 < int(os.environ["WORLD_SIZE"]):
            return result
        if self._what in ("out of memory", "out of memory for ever"):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        if self._what == "error":
            raise MafunzoError("The last rank broke.")
        if self._what == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        if self._what == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        return BatchLoss(result.loss_sum * torch.nan, result.counts) if self._what == "NaN" else result


def main(folder: Path) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    distributed.init_process_group("gloo")
    for scenario in json.loads((folder / "scenarios.json").read_text()):
        ending = run(folder, **scenario)
        (folder / f"{scenario['name']}.{os.environ['RANK']}.json").write_text(json.dumps(ending))
    distributed.barrier()
    return 0


def run(
    folder: Path,
    name: str,
    prepared: str,
    values: dict[str, Any],
    disturbance: Any = None,
    source: str = "",
    base: str = "base",
    deepspeed: dict[str, Any] | None = None,
    is_weighed: bool = False,
) -> dict[str, Any]:
    """source: a checkpoint of another run, from which this one goes on. deepspeed: a configuration of one's own.

    is_weighed: the ending says how many bytes of tensors this process held at most as its network was got ready.
    """
    if source and os.environ["RANK"] == "0":
        shutil.copytree(folder / source, folder / name / Path(source).name)
    distributed.barrier()
    request = TrainingRequest(
        folder / base,
        folder / prepared,
        folder / name,
        TrainingArguments.from_values(values | {"resume_from_checkpoint": bool(source)}),
        objective=Disturbed(*disturbance) if disturbance else Supervised(),
        metrics=MetricLog(folder / f"{name}.jsonl"),
        deepspeed=deepspeed and deepspeed_config(json.dumps(deepspeed), "deepspeed", DEFAULTS | values),
    )
    held = [0]
    try:
        with weighing(held) if is_weighed else nullcontext():
            finetune(request)
    except MafunzoError as error:
        if disturbance and disturbance[0] == "error":
            raise
        return {"error": str(error)}
    except SystemExit as end:
        return {"exit": end.code}
    return {"held_bytes": max(held)} if is_weighed else {}


@contextmanager
def weighing(held: list[int]) -> Iterator[None]:
    """Note what the process holds once weights are read, and once they are sharded."""

    def noting(step: Any) -> Any:
        def noted(*arguments: Any) -> Any:
            held.append(held_bytes())
            result = step(*arguments)
            held.append(held_bytes())
            return result

        return noted

    watched = patch.multiple(steps, save_less=noting(steps.save_less), shard=noting(steps.shard))
    with watched, patch.object(zero3, "cut_parts", noting(zero3.cut_parts)):
        yield


def held_bytes() -> int:
    """Return the bytes of the numbers of all tensors that are alive, each place once: what is mapped of a file and that no
    tensor reaches takes no memory."""
    gc.collect()
    tensors = [local(one) for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    places = dict[int, int]()
    for tensor in tensors:
        if tensor.device.type == "cpu":
            places[tensor.data_ptr()] = max(tensor.nbytes, places.get(tensor.data_ptr(), 0))
    return sum(places.values())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
