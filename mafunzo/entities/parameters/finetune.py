"""Training: epochs and batches, evaluation and checkpoints on the way, how it is executed."""

from mafunzo.entities.parameters.lora import LORA
from mafunzo.entities.parameters.optimizer import OPTIMIZER
from mafunzo.entities.parameters.parameter import FINETUNE, TRUTH, Parameter

_LENGTH = (
    Parameter(
        "num_train_epochs",
        "number",
        "How often every training row is seen; 0.5 is half of the rows, and steps are rounded up.",
        default=1.0,
        above=0.0,
        unit="epochs",
        steps=(FINETUNE,),
        aliases=("num_epochs", "n_epochs", "epochs"),
    ),
    Parameter(
        "max_steps",
        "integer",
        "Training ends after this many optimizer steps; above 0 it decides instead of num_train_epochs.",
        default=-1,
        minimum=-1,
        unit="optimizer steps",
        steps=(FINETUNE,),
    ),
    Parameter(
        "per_device_train_batch_size",
        "integer",
        "Rows of the effective batch, with gradient_accumulation_steps. How many of them share a forward pass follows from the "
        "free memory: they are packed behind each other, which changes no result, and the log says how many tokens a pass has.",
        default=1,
        minimum=1,
        unit="rows",
        steps=(FINETUNE,),
        aliases=("micro_batch_size",),
    ),
    Parameter(
        "per_device_eval_batch_size",
        "integer",
        "Rows in one batch of the evaluation during training; several forward passes where memory has no room for one.",
        default=1,
        minimum=1,
        unit="rows",
        steps=(FINETUNE,),
        aliases=("eval_batch_size",),
    ),
    Parameter(
        "auto_find_batch_size",
        "string",
        "Whether forward passes of several rows have to be halved when memory runs out, and the step taken again. The "
        "effective batch stays as asked, so that the result does too. Training does so whatever the value, and where a single "
        "row is too long computes layers again, but for DeepSpeed, which can't: true is refused there.",
        default="false",
        enum=TRUTH,
        steps=(FINETUNE,),
    ),
    Parameter(
        "gradient_accumulation_steps",
        "integer",
        "Times per_device_train_batch_size, and times the GPUs that were asked for, the rows of an optimizer step: the "
        "effective batch. The loss is the mean over all its assistant tokens.",
        default=1,
        minimum=1,
        steps=(FINETUNE,),
    ),
    Parameter(
        "eval_accumulation_steps",
        "integer",
        "Azure: forward passes after which predictions move off the GPU. Evaluation keeps sums and no predictions here, so "
        "that nothing has to move, whatever the value.",
        default=-1,
        minimum=-1,
        unit="forward passes",
        steps=(FINETUNE,),
    ),
)

_CHECKPOINTS = (
    Parameter(
        "evaluation_strategy",
        "string",
        "When training is evaluated on the validation rows, and a checkpoint is kept for good: after each epoch, every "
        "eval_steps, or never (then only the end is).",
        default="epoch",
        enum=("epoch", "steps", "disable"),
        steps=(FINETUNE,),
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
        steps=(FINETUNE,),
    ),
    Parameter(
        "eval_steps",
        "integer",
        "With evaluation_strategy steps: optimizer steps between two evaluations.",
        default=500,
        minimum=1,
        unit="optimizer steps",
        steps=(FINETUNE,),
    ),
    Parameter(
        "logging_strategy",
        "string",
        "When loss, learning rate and gradient norm are recorded.",
        default="steps",
        enum=("epoch", "steps"),
        steps=(FINETUNE,),
    ),
    Parameter(
        "logging_steps",
        "integer",
        "With logging_strategy steps: optimizer steps between two records.",
        default=10,
        minimum=1,
        unit="optimizer steps",
        steps=(FINETUNE,),
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
        steps=(FINETUNE,),
    ),
    Parameter(
        "resume_from_checkpoint",
        "string",
        "Whether training goes on, bit for bit, from the newest whole checkpoint that lies in its output folder, where the "
        "component is run by hand; without one it starts from the beginning and says so. A step of a job that is tried "
        "again goes on from its own newest whole checkpoint always, and one of `mafunzo job resume` from that of the job that "
        "it goes on with, whatever this is.",
        default="false",
        enum=TRUTH,
        steps=(FINETUNE,),
    ),
    Parameter(
        "save_total_limit",
        "integer",
        "How many checkpoints of evaluations are kept, the best one always among them; -1 keeps all. The newest is kept too.",
        default=-1,
        minimum=-1,
        unit="checkpoints",
        steps=(FINETUNE,),
    ),
    Parameter(
        "save_interval_s",
        "number",
        "A checkpoint is saved at least so often, whatever evaluation_strategy is, so that what is cut off goes on from "
        "there; it goes as soon as there is a newer one. 0 saves after every step.",
        default=600.0,
        minimum=0,
        unit="s",
        steps=(FINETUNE,),
        is_own=True,
    ),
    Parameter(
        "max_memory_gb",
        "number",
        "The most memory that each process of training takes, of the machine or of its GPU, in GB of 10^9 bytes: fewer tokens "
        "share a forward pass, and layers are computed again, where it needs that, with the same losses. What can't fit is "
        "refused before the first step. 0: as much as 70% of what is free then.",
        default=0.0,
        minimum=0,
        unit="GB",
        steps=(FINETUNE,),
        is_own=True,
    ),
    Parameter(
        "apply_early_stopping",
        "string",
        "Whether training ends when the validation loss no longer falls.",
        default="false",
        enum=TRUTH,
        steps=(FINETUNE,),
    ),
    Parameter(
        "early_stopping_patience",
        "integer",
        "Evaluations in a row without a lower loss after which training ends.",
        default=1,
        minimum=1,
        unit="evaluations",
        steps=(FINETUNE,),
    ),
    Parameter(
        "early_stopping_threshold",
        "number",
        "By how much the loss has to fall to count as lower.",
        default=0.0,
        minimum=0.0,
        unit="nats per token",
        steps=(FINETUNE,),
    ),
)

_EXECUTION = (
    Parameter(
        "apply_deepspeed",
        "string",
        "Whether DeepSpeed takes the optimizer steps, with the optimizer's state and gradients sharded over the processes.",
        default="false",
        enum=TRUTH,
        steps=(FINETUNE,),
    ),
    Parameter(
        "deepspeed",
        "uri_file",
        "A DeepSpeed configuration of one's own, a JSON file, where apply_deepspeed is true. What says the same as a parameter "
        "must have its value, or auto; a key that isn't honoured is refused by name before the run.",
        steps=(FINETUNE,),
    ),
    Parameter(
        "deepspeed_stage",
        "string",
        "What DeepSpeed shards, where apply_deepspeed is true: optimizer and gradients (2), or weights too (3).",
        default="2",
        enum=("2", "3"),
        steps=(FINETUNE,),
    ),
    Parameter(
        "data_parallel_strategy",
        "string",
        "What each of several processes that train together holds: all (ddp), or its part of weights, gradients and the "
        "optimizer's state, so that they take less memory each and tell one another more (fsdp).",
        default="ddp",
        enum=("ddp", "fsdp"),
        steps=(FINETUNE,),
        is_own=True,
    ),
    Parameter(
        "apply_ort",
        "string",
        "Whether training runs through ONNX Runtime.",
        default="false",
        enum=TRUTH,
        refused={"true": "training through ONNX Runtime isn't supported. Leave it out."},
    ),
    Parameter(
        "gradient_checkpointing",
        "string",
        "Whether activations are computed again in the backward pass instead of being kept: about a third of the memory, "
        "at three quarters of the speed.",
        default="false",
        enum=TRUTH,
        steps=(FINETUNE,),
        is_own=True,
    ),
)

NEW_ON_RESUME = ("num_train_epochs", "max_steps", "learning_rate")
"""What may be given anew when training goes on from a checkpoint; the learning rate's schedule is computed for it then."""
FREE_ON_RESUME = (
    "auto_find_batch_size",
    "dataloader_num_workers",
    "max_memory_gb",
    "save_interval_s",
    "save_total_limit",
)
"""What may be given anew too, and changes no result."""

TRAINING = (*LORA, *_LENGTH, *OPTIMIZER, *_CHECKPOINTS, *_EXECUTION)
