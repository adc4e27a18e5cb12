"""A training run: its request, and all that is loaded for it before the first step."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from mafunzo.compute.device.allocator import large_blocks_given_back
from mafunzo.compute.device.precision import Precision, choose
from mafunzo.compute.model.folder import read_facts
from mafunzo.compute.model.loading import load_network
from mafunzo.compute.model.lora import AdapterConfig, adapters, add_adapter
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.batch import Batch, RowFormat, Rows, read_rows
from mafunzo.compute.training.data_order import DataOrder
from mafunzo.compute.training.distributed import Stepper, make_stepper
from mafunzo.compute.training.embedding_noise import add_noise
from mafunzo.compute.training.fsdp import shard
from mafunzo.compute.training.network import PackedNetwork, attention_for, prepare
from mafunzo.compute.training.objectives.objective import BatchLoss, Objective
from mafunzo.compute.training.objectives.supervised import Supervised
from mafunzo.compute.training.optimizer import make_optimizer
from mafunzo.compute.training.parts import load_parts
from mafunzo.compute.training.proof import Place
from mafunzo.compute.training.ranks import ALONE, Ranks
from mafunzo.compute.training.recomputation import save_less
from mafunzo.compute.training.schedule import make_schedule, require_a_rate
from mafunzo.entities.deepspeed import DeepSpeedConfig
from mafunzo.entities.parameters.machine import strict_fault
from mafunzo.errors import Faults, InvalidFile
from mafunzo.tracking.metrics import MetricLog


@dataclass(frozen=True)
class TrainingRequest:
    """What to train: `base` is a Hugging Face folder, `prepared` prepare_data's output, `output` the folder to write.

    earlier: output folders of earlier attempts, whose checkpoints training may resume from. memory_budget_bytes: what this
    process is to take at most, as the system has ended an earlier attempt for want of memory; 0 where none was. deepspeed: a
    configuration of one's own. proofs: the folder of what was proven of networks before; None proves anew.
    """

    base: Path
    prepared: Path
    output: Path
    arguments: TrainingArguments
    objective: Objective = field(default_factory=Supervised)
    metrics: MetricLog = field(default_factory=lambda: MetricLog(None))
    earlier: tuple[Path, ...] = ()
    memory_budget_bytes: int = 0
    deepspeed: DeepSpeedConfig | None = None
    proofs: Path | None = None

    @property
    def zero(self) -> DeepSpeedConfig:
        """How DeepSpeed shards, if it trains."""
        return self.deepspeed or DeepSpeedConfig.of_stage(int(self.arguments.deepspeed_stage))


@dataclass(frozen=True)
class NetworkSize:
    """How many numbers a network's weights have, whoever holds them.

    trained: of those that train. body: of all but embeddings and an untied head, which every token goes through. head: of the
    head, tied or not; vocabulary: its rows.
    """

    weights: int
    trained: int
    body: int
    head: int
    vocabulary: int
    without_embeddings: int

    @classmethod
    def of(cls, network: PreTrainedModel) -> "NetworkSize":
        """Count a network whose weights aren't shared out yet."""
        weights = list(network.parameters())
        without_embeddings = int(network.num_parameters(exclude_embeddings=True))
        head, table = network.get_output_embeddings(), network.get_input_embeddings()
        numbers = 0 if head is None else int(head.weight.numel())
        is_tied = head is not None and head.weight is table.weight
        return cls(
            weights=sum(weight.numel() for weight in weights),
            trained=sum(weight.numel() for weight in weights if weight.requires_grad),
            body=without_embeddings - (0 if is_tied else numbers),
            head=numbers,
            vocabulary=0 if head is None else int(head.weight.shape[0]),
            without_embeddings=without_embeddings,
        )


@dataclass(frozen=True)
class Run:
    """What trains. `validation_rows` are None where training isn't validated, `adapter` where all weights are trained."""

    request: TrainingRequest
    rows: Rows
    validation_rows: Rows | None
    device: torch.device
    precision: Precision
    packed: PackedNetwork
    size: NetworkSize
    adapter: AdapterConfig | None
    order: DataOrder
    optimizer: Optimizer
    schedule: LRScheduler
    stepper: Stepper
    ranks: Ranks = ALONE

    @property
    def arguments(self) -> TrainingArguments:
        return self.request.arguments

    @property
    def objective(self) -> Objective:
        return self.request.objective

    @property
    def network(self) -> PreTrainedModel:
        return self.packed.network

    def loss(self, batch: Batch) -> BatchLoss:
        """Run the objective on a batch."""
        return self.stepper.forward(lambda: self.objective.loss(self.packed, batch))

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in the run's precision (mixed precision), where weights are held in another."""
        if not self.precision.needs_autocast:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision.compute)


def assemble(request: TrainingRequest, ranks: Ranks = ALONE) -> Run:
    """Read the rows, load the network and put the run together; raises what is wrong with the folders."""
    is_sharded = ranks.size > 1 and _shards_weights(request)
    with large_blocks_given_back() if is_sharded else nullcontext():  # those that weights are gathered into
        return _assemble(request, ranks, is_sharded)


def _assemble(request: TrainingRequest, ranks: Ranks, is_sharded: bool) -> Run:
    arguments = request.arguments
    rows, validation_rows = _read_prepared(request.prepared, request.objective.row_format)
    device = ranks.device()
    _require_processes(arguments, ranks, device)
    precision = choose(arguments.precision, arguments.apply_lora, device)
    _seed(arguments)
    network = _load(request, precision, device, ranks, is_sharded)
    packed = None if is_sharded else prepare(network, Place.of(request.proofs, request.base, network))
    adapter = _make_trainable(network, request, ranks)
    save_less(network)
    size = NetworkSize.of(network)
    root = shard(network, ranks, device) if is_sharded and not arguments.apply_deepspeed else None
    order = DataOrder(
        n_rows=len(rows),
        batch=arguments.per_device_train_batch_size,
        accumulation=arguments.gradient_accumulation_steps * arguments.requested_gpus,
        epochs=arguments.num_train_epochs,
        max_steps=arguments.max_steps,
        seed=arguments.seed,
    )
    optimizer = make_optimizer(network, arguments)
    stepper = make_stepper(network, optimizer, arguments, precision, device, ranks, request.zero, root)
    if packed is None:
        with torch.no_grad():  # its weights are whole within a pass only; an adapter that is new changes nothing
            packed = stepper.within(partial(prepare, network))
    if arguments.gradient_checkpointing:  # activation recomputation: the backward pass runs each layer's forward again
        network.activation_checkpointing_enable({"use_reentrant": False})
    if arguments.neftune_noise_alpha > 0:
        add_noise(network, arguments.neftune_noise_alpha)
    _seed_dropout(arguments, ranks)
    schedule = make_schedule(optimizer, arguments, order.total_steps)
    require_a_rate(schedule, order.total_steps)
    return Run(
        request=request,
        rows=rows,
        validation_rows=None if arguments.evaluation_strategy == "disable" else validation_rows,
        device=device,
        precision=precision,
        packed=packed,
        size=size,
        adapter=adapter,
        order=order,
        optimizer=optimizer,
        schedule=schedule,
        stepper=stepper,
        ranks=ranks,
    )


def _shards_weights(request: TrainingRequest) -> bool:
    if request.arguments.apply_deepspeed:
        return request.zero.stage == 3
    return request.arguments.data_parallel_strategy == "fsdp"


def _load(
    request: TrainingRequest, precision: Precision, device: torch.device, ranks: Ranks, is_sharded: bool
) -> PreTrainedModel:
    """Return the network of the base, with all weights, or where they are to be sharded with this rank's parts."""
    dtype, trust, attention = precision.weights, request.arguments.trust_remote_code, attention_for(device)
    if is_sharded:
        return load_parts(request.base, ranks, dtype, trust, attention)
    return load_network(request.base, dtype=dtype, device=device, trust_remote_code=trust, attention=attention)


def base_name(base: Path) -> str | None:
    """Return the hub's name of the base if it came from there, else its name and version."""
    facts = read_facts(base)
    source = str(facts.get("source") or "")
    if source.startswith("hub:"):
        return source.removeprefix("hub:").split("@")[0]
    name = facts.get("name")
    return None if name is None else f"{name}:{facts['version']}" if facts.get("version") else str(name)


def _require_processes(arguments: TrainingArguments, ranks: Ranks, device: torch.device) -> None:
    """Raise `InvalidParameter` where other processes were started than are asked for, as by hand."""
    on_cpu, faults = arguments.cpu_processes_finetune, Faults()
    used_gpus, machines = ranks.size if device.type == "cuda" else 0, ranks.size // ranks.local_size
    if arguments.strict_compute and arguments.requested_gpus > max(machines, used_gpus):
        nodes, gpus = arguments.num_nodes_finetune, arguments.number_of_gpu_to_use_finetuning
        faults.add(strict_fault(nodes, gpus, used_gpus))
    if device.type == "cpu" and on_cpu not in (1, ranks.local_size):
        faults.add(
            f"cpu_processes_finetune is {on_cpu}, and {ranks.local_size} of them run. By hand, start them with "
            f"torchrun --nproc-per-node {on_cpu} -m mafunzo.compute.components.finetune."
        )
    if device.type == "cuda" and ranks.local_size > torch.cuda.device_count():
        faults.add(
            f"{ranks.local_size} processes run, a GPU is needed for each, and {torch.cuda.device_count()} are here."
        )
    faults.require_none("Training can't start.")


def _read_prepared(folder: Path, row_format: RowFormat) -> tuple[Rows, Rows | None]:
    train = folder / "train.parquet"
    if not train.exists():
        raise InvalidFile(f"{folder} has no train.parquet: it isn't prepare_data's output.")
    validation = folder / "validation.parquet"
    return read_rows(train, row_format), read_rows(validation, row_format) if validation.exists() else None


def _seed(arguments: TrainingArguments) -> None:
    torch.manual_seed(arguments.seed)
    if arguments.enable_full_determinism:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def _seed_dropout(arguments: TrainingArguments, ranks: Ranks) -> None:
    """Have each further process drop out others than the first, which goes on with the numbers that made the adapter."""
    if not ranks.is_first:
        torch.manual_seed(int(np.random.SeedSequence([arguments.seed, ranks.rank]).generate_state(1)[0]))


def _make_trainable(network: PreTrainedModel, request: TrainingRequest, ranks: Ranks) -> AdapterConfig | None:
    """Put a LoRA adapter beside the frozen weights, or let all weights be trained."""
    arguments = request.arguments
    if not arguments.apply_lora:
        network.requires_grad_(True)
        return None
    config = AdapterConfig(
        r=arguments.lora_r,
        alpha=arguments.lora_alpha,
        dropout=arguments.lora_dropout,
        targets=arguments.lora_targets,
        use_rslora=arguments.use_rslora,
        start=arguments.init_lora_weights,
        use_dora=arguments.use_dora,
        base=base_name(request.base),
    )
    add_adapter(network, config)
    if ranks.size > 1:
        _start_as_first(network, ranks)
    return config


def _start_as_first(network: PreTrainedModel, ranks: Ranks) -> None:
    """Have adapters that start from the weights do so as the first rank's: singular vectors may have other signs elsewhere."""
    for _, layer in adapters(network):
        if layer.lora_magnitude is not None:
            layer.lora_magnitude.data = ranks.of_each({"m": layer.lora_magnitude.data})[0]["m"]
        if layer.start_A is not None and layer.start_B is not None:
            first = ranks.of_each({"a": layer.start_A, "b": layer.start_B})[0]
            layer.begin_at(first["a"], first["b"])
