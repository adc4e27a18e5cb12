"""Every parameter of a fine-tuning job, declared once: type, default, allowed values, unit, effect, and what isn't honoured.

`tools/generate.py` writes the interfaces (`components/finetune.yml`, `components/chat_completion_pipeline.yml`) and
`docs/reference/parameters.md` from this table. Names, types and defaults of the first part are those of Azure ML's
`chat_completion_pipeline`, so that its users' jobs run as they are; truth values are the strings "true" and "false".
Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mafunzo.entities.component import Input, parse_value
from mafunzo.entities.evaluation import METRIC_NAMES
from mafunzo.entities.finetuning import faults_between
from mafunzo.entities.job import Value

TRUTH = ("true", "false")


@dataclass(frozen=True)
class Parameter:
    """One input of the pipeline.

    effect: what it does here, in one or two sentences. unit: of its value, where it has one.
    steps: the components that take it; none for those about machines, which the job only records.
    minimum, maximum: inclusive bounds; above: it must be greater.
    refused: a value (`*`: any but the default) to the reason why it is refused.
    aliases: what LLaMA-Factory, Axolotl, TRL, torchtune or OpenAI call it.
    is_azure: whether it is an input of Azure ML's pipeline too.
    """

    name: str
    type: str
    effect: str
    default: Value | None = None
    enum: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    unit: str = ""
    steps: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    is_azure: bool = True

    @property
    def is_optional(self) -> bool:
        return self.name != "task_name"

    def as_input(self) -> Input:
        """Return the declaration that values are checked against."""
        return Input(
            name=self.name,
            type=self.type,
            description=self.effect,
            is_optional=self.is_optional,
            default=self.default,
            enum=self.enum,
            minimum=self.minimum,
            maximum=self.maximum,
            exclusive_minimum=self.above,
            refused=self.refused,
            aliases=self.aliases,
        )


_IMPORT, _PREPARE, _FINETUNE, _EVALUATE, _PACKAGE = (
    "import_model",
    "prepare_data",
    "finetune",
    "evaluate",
    "package_model",
)
STEPS = (_IMPORT, _PREPARE, _FINETUNE, _EVALUATE, _PACKAGE)


def _machine(step: str, size: str) -> tuple[Parameter, Parameter]:
    name = {"model_import": "import", "model_evaluation": "evaluation"}.get(step, step)
    return (
        Parameter(
            f"compute_{step}",
            "string",
            f"Where the {name} step runs: on this machine, where it waits for free cores and memory. Expects `serverless`, "
            "`local`, or the name of a compute of the workspace.",
            default="serverless",
        ),
        Parameter(
            f"instance_type_{step}",
            "string",
            f"The machine size that Azure would start for the {name} step where its compute is `serverless`. Steps run on "
            "this machine's own cores and memory instead; the job records the name.",
            default=size,
        ),
    )


def _splits(name: str, what: str) -> tuple[Parameter, Parameter]:
    return (
        Parameter(
            f"{name}_file_path",
            "uri_file",
            f"The {what}: jsonl, json, csv, tsv or parquet, in OpenAI's, ShareGPT's, Alpaca's or prompt/completion form.",
            steps=(_PREPARE,),
        ),
        Parameter(
            f"{name}_mltable_path",
            "mltable",
            f"The {what} as an MLTable folder; it wins over {name}_file_path.",
            steps=(_PREPARE,),
        ),
    )


_MACHINES = (
    *_machine("model_import", "Standard_d12_v2"),
    *_machine("preprocess", "Standard_d12_v2"),
    *_machine("finetune", "Standard_nc24rs_v3"),
    *_machine("model_evaluation", "Standard_nc24rs_v3"),
    Parameter(
        "shm_size_finetune",
        "string",
        "The shared memory of Azure's container for the finetune step. Steps run without a container and use the "
        "machine's own /dev/shm; the job records the value.",
        default="5g",
        unit="bytes with a suffix, as docker takes it",
    ),
    Parameter(
        "num_nodes_finetune",
        "integer",
        "How many machines train together.",
        default=1,
        minimum=1,
        unit="machines",
        refused={"*": "training on several machines isn't supported yet; use 1."},
    ),
    Parameter(
        "number_of_gpu_to_use_finetuning",
        "integer",
        "How many GPUs train together. One process trains here, on one GPU or the CPU; it takes as many more forward passes a "
        "step, so that the effective batch is the same, and says so in a line.",
        default=1,
        minimum=1,
        unit="GPUs",
        steps=(_FINETUNE,),
    ),
)

_MODEL = (
    Parameter(
        "huggingface_id",
        "string",
        "The base model's `org/name` on the hub or in a mirror; used if neither of the two paths is given.",
        steps=(_IMPORT,),
        aliases=("model_name_or_path", "base_model"),
    ),
    Parameter(
        "pytorch_model_path",
        "custom_model",
        "The base model as a Hugging Face folder, or the pytorch_model_folder of an earlier job, to tune it further; it "
        "wins over the other two.",
        steps=(_IMPORT,),
    ),
    Parameter(
        "mlflow_model_path",
        "mlflow_model",
        "The base model as an MLflow folder (the mlflow_model_folder of an earlier job) or a model of the catalogue; it "
        "wins over huggingface_id.",
        steps=(_IMPORT,),
    ),
    Parameter(
        "finetune_config_path",
        "uri_file",
        "A JSON file about the base model, as Azure ML packages with its models; its chat_template and special_tokens "
        "replace those of the model.",
        steps=(_IMPORT,),
    ),
    Parameter(
        "trust_remote_code",
        "string",
        "Whether Python code in the model's folder may run. Read it first.",
        default="false",
        enum=TRUTH,
        steps=STEPS,
    ),
    Parameter(
        "ignore_mismatched_sizes",
        "string",
        "Whether weights whose shape isn't the configuration's start at random.",
        default="false",
        enum=TRUTH,
        refused={"true": "random weights would spoil the base silently. Correct the model's config.json instead."},
    ),
)

_DATA = (
    Parameter(
        "task_name",
        "string",
        "The task; there is one.",
        default="ChatCompletion",
        enum=("ChatCompletion",),
        steps=(_PREPARE,),
    ),
    *_splits("train", "rows to train on"),
    *_splits("validation", "rows that training is evaluated on"),
    *_splits("test", "held-out rows that base and tuned model are compared on"),
    Parameter(
        "batch_size",
        "integer",
        "Rows that are tokenised at a time; it changes speed and memory, never the result.",
        default=1000,
        minimum=1,
        unit="rows",
        steps=(_PREPARE,),
    ),
    Parameter(
        "pad_to_max_length",
        "string",
        "Whether every row is padded to max_seq_length. It costs time and changes no result, because packing needs none.",
        default="false",
        enum=TRUTH,
        steps=(_PREPARE,),
    ),
    Parameter(
        "max_seq_length",
        "integer",
        "Rows are cut to this length; -1 means the longest that the model takes.",
        default=-1,
        minimum=-1,
        unit="tokens",
        steps=(_PREPARE,),
        aliases=("cutoff_len", "sequence_len", "max_length"),
    ),
)

_LORA = (
    Parameter(
        "apply_lora",
        "string",
        "Whether small adapters are trained beside the frozen weights (LoRA), instead of all weights.",
        default="false",
        enum=TRUTH,
        steps=(_FINETUNE,),
    ),
    Parameter(
        "merge_lora_weights",
        "string",
        "Whether the packaged and served model has the adapter added into its weights; if not, it is the adapter with its "
        "base named by hash. pytorch_model_folder keeps the adapter either way.",
        default="true",
        enum=TRUTH,
        steps=(_EVALUATE, _PACKAGE),
    ),
    Parameter(
        "lora_alpha",
        "integer",
        "The adapter's product is scaled by lora_alpha / lora_r.",
        default=128,
        minimum=1,
        steps=(_FINETUNE,),
    ),
    Parameter(
        "lora_r",
        "integer",
        "The adapter's rank: more learns more, and costs memory and time.",
        default=8,
        minimum=1,
        steps=(_FINETUNE,),
        aliases=("lora_rank", "lora_dim"),
    ),
    Parameter(
        "lora_dropout",
        "number",
        "The share of the adapter's input that is zeroed while training.",
        default=0.0,
        minimum=0.0,
        maximum=0.99,
        steps=(_FINETUNE,),
    ),
)

_SCHEDULE = (
    Parameter(
        "num_train_epochs",
        "integer",
        "How often every training row is seen.",
        default=1,
        minimum=1,
        unit="epochs",
        steps=(_FINETUNE,),
        aliases=("num_epochs", "n_epochs", "epochs"),
    ),
    Parameter(
        "max_steps",
        "integer",
        "Training ends after this many optimizer steps; above 0 it decides instead of num_train_epochs.",
        default=-1,
        minimum=-1,
        unit="optimizer steps",
        steps=(_FINETUNE,),
    ),
    Parameter(
        "per_device_train_batch_size",
        "integer",
        "Rows in one forward pass. They are packed behind each other, so that short rows cost no padding.",
        default=1,
        minimum=1,
        unit="rows",
        steps=(_FINETUNE,),
        aliases=("micro_batch_size",),
    ),
    Parameter(
        "per_device_eval_batch_size",
        "integer",
        "Rows in one forward pass of the evaluation during training.",
        default=1,
        minimum=1,
        unit="rows",
        steps=(_FINETUNE,),
        aliases=("eval_batch_size",),
    ),
    Parameter(
        "auto_find_batch_size",
        "string",
        "Whether per_device_train_batch_size is halved when memory runs out, and the step taken again. The effective batch "
        "stays as asked, so that the result does too.",
        default="false",
        enum=TRUTH,
        steps=(_FINETUNE,),
    ),
    Parameter(
        "gradient_accumulation_steps",
        "integer",
        "Forward passes per optimizer step. The effective batch is this times per_device_train_batch_size, times the GPUs that "
        "were asked for; the loss is the mean over all its assistant tokens.",
        default=1,
        minimum=1,
        unit="forward passes",
        steps=(_FINETUNE,),
    ),
    Parameter(
        "eval_accumulation_steps",
        "integer",
        "Azure: forward passes after which predictions move off the GPU. Evaluation keeps sums and no predictions here, so "
        "that nothing has to move, whatever the value.",
        default=-1,
        minimum=-1,
        unit="forward passes",
        steps=(_FINETUNE,),
    ),
)

_OPTIMIZER = (
    Parameter(
        "optim",
        "string",
        "The optimizer.",
        default="adamw_torch",
        enum=("adamw_torch", "adafactor"),
        steps=(_FINETUNE,),
        aliases=("optimizer",),
    ),
    Parameter(
        "learning_rate",
        "number",
        "The highest learning rate, after the warm-up. LoRA wants about ten times that of full fine-tuning.",
        default=2e-05,
        above=0.0,
        maximum=1.0,
        steps=(_FINETUNE,),
        aliases=("lr",),
    ),
    Parameter(
        "warmup_steps",
        "integer",
        "Optimizer steps over which the learning rate rises from 0.",
        default=0,
        minimum=0,
        unit="optimizer steps",
        steps=(_FINETUNE,),
        aliases=("num_warmup_steps",),
    ),
    Parameter(
        "weight_decay",
        "number",
        "Decoupled weight decay; not on norms and biases.",
        default=0.0,
        minimum=0.0,
        maximum=1.0,
        steps=(_FINETUNE,),
    ),
    Parameter(
        "adam_beta1",
        "number",
        "AdamW's decay of the mean.",
        default=0.9,
        minimum=0.0,
        maximum=0.999999,
        steps=(_FINETUNE,),
    ),
    Parameter(
        "adam_beta2",
        "number",
        "AdamW's decay of the mean square.",
        default=0.999,
        minimum=0.0,
        maximum=0.999999,
        steps=(_FINETUNE,),
    ),
    Parameter(
        "adam_epsilon", "number", "AdamW's term against division by zero.", default=1e-8, above=0.0, steps=(_FINETUNE,)
    ),
    Parameter(
        "lr_scheduler_type",
        "string",
        "How the learning rate goes on after the warm-up.",
        default="linear",
        enum=("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"),
        steps=(_FINETUNE,),
        aliases=("lr_scheduler",),
    ),
    Parameter(
        "max_grad_norm",
        "number",
        "Gradients whose norm is greater are scaled down to it; 0 never scales.",
        default=1.0,
        minimum=0.0,
        steps=(_FINETUNE,),
        aliases=("clip_grad_norm",),
    ),
    Parameter(
        "precision",
        "string",
        "Bits of the computation. 16 is bfloat16 where the hardware computes in it, else float16 on a GPU and float32 on a "
        "CPU, said in a line. Trained weights and the optimizer's state are float32 in every case.",
        default="32",
        enum=("32", "16"),
        unit="bits",
        steps=(_FINETUNE,),
    ),
    Parameter(
        "seed",
        "integer",
        "The seed of shuffling, dropout and new weights, and of what the evaluation draws.",
        default=42,
        minimum=0,
        maximum=2**32 - 1,
        steps=(_FINETUNE, _EVALUATE),
        aliases=("random_seed",),
    ),
    Parameter(
        "enable_full_determinism",
        "string",
        "Whether only algorithms that give equal bits in every run may be used; slower on a GPU.",
        default="false",
        enum=TRUTH,
        steps=(_FINETUNE,),
    ),
    Parameter(
        "dataloader_num_workers",
        "integer",
        "Threads that make batches ahead of the training loop; 0 makes each in the loop itself.",
        default=0,
        minimum=0,
        maximum=64,
        unit="threads",
        steps=(_FINETUNE,),
    ),
)

_DURING = (
    Parameter(
        "evaluation_strategy",
        "string",
        "When training is evaluated on the validation rows, and a checkpoint is kept: after each epoch, every eval_steps, "
        "or never (then only the end is kept).",
        default="epoch",
        enum=("epoch", "steps", "disable"),
        steps=(_FINETUNE,),
        aliases=("eval_strategy",),
    ),
    Parameter(
        "evaluation_steps_interval",
        "number",
        "With evaluation_strategy steps: the share of an epoch between two evaluations; above 0 it decides instead of "
        "eval_steps.",
        default=0.0,
        minimum=0.0,
        maximum=1.0,
        unit="epochs",
        steps=(_FINETUNE,),
    ),
    Parameter(
        "eval_steps",
        "integer",
        "With evaluation_strategy steps: optimizer steps between two evaluations.",
        default=500,
        minimum=1,
        unit="optimizer steps",
        steps=(_FINETUNE,),
    ),
    Parameter(
        "logging_strategy",
        "string",
        "When loss, learning rate and gradient norm are recorded.",
        default="steps",
        enum=("epoch", "steps"),
        steps=(_FINETUNE,),
    ),
    Parameter(
        "logging_steps",
        "integer",
        "With logging_strategy steps: optimizer steps between two records.",
        default=10,
        minimum=1,
        unit="optimizer steps",
        steps=(_FINETUNE,),
    ),
    Parameter(
        "metric_for_best_model",
        "string",
        "What decides which checkpoint is the result: the lowest validation loss.",
        default="loss",
        enum=("loss", "f1", "exact"),
        refused={
            "f1": "no reply is generated while training, so there is no F1 to choose by; use loss.",
            "exact": "no reply is generated while training, so there are no exact matches to choose by; use loss.",
        },
        steps=(_FINETUNE,),
    ),
    Parameter(
        "resume_from_checkpoint",
        "string",
        "Whether a step that was cut off goes on, bit for bit, from the newest whole checkpoint of its earlier attempts or "
        "of its output folder. Without one it starts from the beginning and says so.",
        default="false",
        enum=TRUTH,
        steps=(_FINETUNE,),
    ),
    Parameter(
        "save_total_limit",
        "integer",
        "How many checkpoints are kept, the best one always among them; -1 keeps all.",
        default=-1,
        minimum=-1,
        unit="checkpoints",
        steps=(_FINETUNE,),
    ),
    Parameter(
        "apply_early_stopping",
        "string",
        "Whether training ends when the validation loss no longer falls.",
        default="false",
        enum=TRUTH,
        steps=(_FINETUNE,),
    ),
    Parameter(
        "early_stopping_patience",
        "integer",
        "Evaluations in a row without a lower loss after which training ends.",
        default=1,
        minimum=1,
        unit="evaluations",
        steps=(_FINETUNE,),
    ),
    Parameter(
        "early_stopping_threshold",
        "number",
        "By how much the loss has to fall to count as lower.",
        default=0.0,
        minimum=0.0,
        unit="nats per token",
        steps=(_FINETUNE,),
    ),
)

_DISTRIBUTED = (
    Parameter(
        "apply_deepspeed",
        "string",
        "Whether DeepSpeed takes the optimizer steps, with the optimizer's state and gradients sharded over the processes.",
        default="false",
        enum=TRUTH,
        steps=(_FINETUNE,),
    ),
    Parameter(
        "deepspeed",
        "uri_file",
        "A DeepSpeed configuration of one's own.",
        refused={
            "*": "a configuration of one's own isn't supported yet. Leave it out: stage 2 runs with DeepSpeed's defaults."
        },
    ),
    Parameter(
        "deepspeed_stage",
        "string",
        "What DeepSpeed shards, where apply_deepspeed is true: optimizer and gradients (2), or weights too (3).",
        default="2",
        enum=("2", "3"),
        steps=(_FINETUNE,),
        refused={"3": "sharded weights aren't supported yet. Use 2."},
    ),
    Parameter(
        "apply_ort",
        "string",
        "Whether training runs through ONNX Runtime.",
        default="false",
        enum=TRUTH,
        refused={"true": "training through ONNX Runtime isn't supported. Leave it out."},
    ),
)

_EVALUATION = (
    Parameter(
        "evaluation_config",
        "uri_file",
        "A JSON file that says which metrics of the generated replies are measured, and how.",
        steps=(_EVALUATE,),
    ),
    Parameter(
        "evaluation_config_params",
        "string",
        "The same as a JSON text; its keys win over the file's.",
        steps=(_EVALUATE,),
    ),
)

_OURS_EVALUATION = (
    Parameter(
        "max_evaluation_rows",
        "integer",
        "Held-out rows for loss, perplexity and token accuracy, drawn by seed; -1 takes all.",
        default=-1,
        minimum=-1,
        unit="rows",
        steps=(_EVALUATE,),
        is_azure=False,
    ),
    Parameter(
        "generation_rows",
        "integer",
        "Held-out conversations that both models answer, drawn by seed; -1 takes all, 0 none.",
        default=50,
        minimum=-1,
        unit="rows",
        steps=(_EVALUATE,),
        is_azure=False,
    ),
    Parameter(
        "max_prompt_tokens",
        "integer",
        "A conversation is answered at its last assistant turn whose prompt is at most this long, else at its first.",
        default=512,
        minimum=1,
        unit="tokens",
        steps=(_EVALUATE,),
        is_azure=False,
    ),
    Parameter(
        "max_new_tokens",
        "integer",
        "The longest reply in the evaluation.",
        default=64,
        minimum=1,
        unit="tokens",
        steps=(_EVALUATE,),
        is_azure=False,
    ),
    Parameter(
        "forgetting_prompts",
        "integer",
        "General prompts on which the tuned model is compared with its base for what it forgot; -1 takes all, 0 leaves "
        "the check out.",
        default=-1,
        minimum=-1,
        unit="prompts",
        steps=(_EVALUATE,),
        is_azure=False,
    ),
    Parameter(
        "reference_rows",
        "integer",
        "Held-out conversations that an endpoint must reproduce before it goes live.",
        default=4,
        minimum=1,
        unit="rows",
        steps=(_EVALUATE,),
        is_azure=False,
    ),
    Parameter(
        "reference_max_tokens",
        "integer",
        "Longer ones of these are cut after an earlier turn of the assistant.",
        default=512,
        minimum=16,
        unit="tokens",
        steps=(_EVALUATE,),
        is_azure=False,
    ),
    Parameter(
        "gate",
        "string",
        "Fails the job unless the tuned model is better, or not worse, by the interval of gate_metric's difference.",
        default="none",
        enum=("none", "better", "not_worse"),
        steps=(_EVALUATE,),
        is_azure=False,
    ),
    Parameter(
        "gate_metric",
        "string",
        "What the gate looks at.",
        default="loss",
        enum=METRIC_NAMES,
        steps=(_EVALUATE,),
        is_azure=False,
    ),
    Parameter(
        "gate_max_kl",
        "number",
        "Fails the job if the tuned model moved further than this on general prompts, by its interval.",
        minimum=0,
        unit="nats per token",
        steps=(_EVALUATE,),
        is_azure=False,
    ),
    Parameter(
        "model_name",
        "string",
        "What the packaged model is called in its card; if left out, the base's name with -tuned.",
        steps=(_PACKAGE,),
        is_azure=False,
    ),
)

_OURS = (
    Parameter(
        "base_model_path",
        "custom_model",
        "The Hugging Face folder of the base, where the model to tune further is an adapter.",
        steps=(_IMPORT,),
        is_azure=False,
    ),
    Parameter(
        "mirror",
        "string",
        "The folder where `org/name` of huggingface_id is found instead of on the hub.",
        steps=(_IMPORT,),
        is_azure=False,
    ),
    Parameter(
        "on_bad_row",
        "string",
        "What happens to a data file with rows that can't be used: the job fails before it trains, or the rows are skipped. "
        "Each is reported by file, row and reason.",
        default="fail",
        enum=("fail", "skip"),
        steps=(_PREPARE,),
        is_azure=False,
    ),
    Parameter(
        "split_seed",
        "integer",
        "Where a split isn't given as a file: draw its rows by this seed instead of taking them in order.",
        minimum=0,
        steps=(_PREPARE,),
        is_azure=False,
    ),
    Parameter(
        "lora_target_modules",
        "string",
        "The linear layers that get an adapter, by the last part of their name, with commas between; if left out, all but "
        "the head.",
        steps=(_FINETUNE,),
        aliases=("lora_target",),
        is_azure=False,
    ),
    Parameter(
        "warmup_ratio",
        "number",
        "The warm-up as a share of all optimizer steps; only if warmup_steps is 0.",
        default=0.0,
        minimum=0.0,
        maximum=1.0,
        steps=(_FINETUNE,),
        is_azure=False,
    ),
    Parameter(
        "gradient_checkpointing",
        "string",
        "Whether activations are computed again in the backward pass instead of being kept: about a third of the memory, "
        "at three quarters of the speed.",
        default="false",
        enum=TRUTH,
        steps=(_FINETUNE,),
        is_azure=False,
    ),
)

PARAMETERS: Mapping[str, Parameter] = {
    parameter.name: parameter
    for group in (
        _MACHINES,
        _MODEL,
        _DATA,
        _LORA,
        _SCHEDULE,
        _OPTIMIZER,
        _DURING,
        _DISTRIBUTED,
        _EVALUATION,
        _OURS,
        _OURS_EVALUATION,
    )
    for parameter in group
}


def parameters_of(step: str) -> tuple[Parameter, ...]:
    """Return the parameters that a component takes."""
    return tuple(parameter for parameter in PARAMETERS.values() if step in parameter.steps)


def resolve(given: Mapping[str, Any], step: str = _FINETUNE) -> tuple[dict[str, Value | None], list[str]]:
    """Return the values of a step with defaults filled in, and all faults of `given`."""
    values: dict[str, Value | None] = {}
    faults: list[str] = []
    for parameter in parameters_of(step):
        raw = given.get(parameter.name)
        if raw is None:
            values[parameter.name] = parameter.default
        else:
            values[parameter.name], fault = parse_value(parameter.as_input(), raw)
            faults += [fault] if fault else []
    return values, faults or check(values)


def check(values: Mapping[str, Any]) -> list[str]:
    """Return the faults between parameters that are each in their range; a parameter that isn't given has its default."""
    defaults = {name: parameter.default for name, parameter in PARAMETERS.items()}
    return faults_between(defaults | {name: value for name, value in values.items() if value is not None})
