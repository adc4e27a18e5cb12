"""How weights are updated: optimizer, learning rate and its schedule, precision, seed."""

from mafunzo.entities.parameters.parameter import EVALUATE, FINETUNE, TRUTH, Parameter

_NO_BITSANDBYTES = (
    "it needs bitsandbytes, which isn't among the packages here. adamw_torch takes the steps that it approximates; adafactor "
    "and muon take less memory."
)
OPTIMIZER = (
    Parameter(
        "optim",
        "string",
        "The optimizer. adamw_torch and adamw_torch_fused are one: torch's fused AdamW. muon makes the step of each matrix "
        "within the network an orthogonal one, as large as AdamW's; embeddings, head, norms and biases are AdamW's own. It "
        "keeps for a weight: AdamW 2 numbers, muon 1, sgd 1 or without momentum none, adafactor next to none.",
        default="adamw_torch",
        enum=("adamw_torch", "adafactor", "adamw_torch_fused", "sgd", "muon", "adamw_8bit", "adamw_bnb_8bit", "lion"),
        refused={
            "adamw_8bit": _NO_BITSANDBYTES,
            "adamw_bnb_8bit": _NO_BITSANDBYTES,
            "lion": "neither torch nor transformers has it, and no library that does is among the packages here. Use "
            "adamw_torch, or sgd with momentum for as little memory.",
        },
        steps=(FINETUNE,),
        aliases=("optimizer",),
    ),
    Parameter(
        "learning_rate",
        "number",
        "The highest learning rate, after the warm-up. LoRA wants about ten times that of full fine-tuning. The card of a "
        "model of the catalogue may narrow the range (`mafunzo model show NAME`), and that of other parameters.",
        default=2e-05,
        above=0.0,
        maximum=1.0,
        steps=(FINETUNE,),
        aliases=("lr",),
    ),
    Parameter(
        "warmup_steps",
        "integer",
        "Optimizer steps over which the learning rate rises from 0.",
        default=0,
        minimum=0,
        unit="optimizer steps",
        steps=(FINETUNE,),
        aliases=("num_warmup_steps",),
    ),
    Parameter(
        "weight_decay",
        "number",
        "Decoupled weight decay, which for sgd is that of its momentum too (L2); not on norms and biases.",
        default=0.0,
        minimum=0.0,
        maximum=1.0,
        steps=(FINETUNE,),
    ),
    Parameter(
        "adam_beta1",
        "number",
        "AdamW's decay of the mean.",
        default=0.9,
        minimum=0.0,
        maximum=0.999999,
        steps=(FINETUNE,),
    ),
    Parameter(
        "adam_beta2",
        "number",
        "AdamW's decay of the mean square.",
        default=0.999,
        minimum=0.0,
        maximum=0.999999,
        steps=(FINETUNE,),
    ),
    Parameter(
        "adam_epsilon", "number", "AdamW's term against division by zero.", default=1e-8, above=0.0, steps=(FINETUNE,)
    ),
    Parameter(
        "lr_scheduler_type",
        "string",
        "How the learning rate goes on after the warm-up. warmup_stable_decay, wsd for short, stays at its highest and falls "
        "over the last num_decay_steps; inverse_sqrt falls with the root of the steps, and never ends; cosine_with_min_lr ends "
        "at min_lr or min_lr_rate.",
        default="linear",
        enum=(
            "linear",
            "cosine",
            "cosine_with_restarts",
            "polynomial",
            "constant",
            "constant_with_warmup",
            "inverse_sqrt",
            "cosine_with_min_lr",
            "warmup_stable_decay",
            "wsd",
        ),
        steps=(FINETUNE,),
        aliases=("lr_scheduler",),
    ),
    Parameter(
        "max_grad_norm",
        "number",
        "Gradients whose norm is greater are scaled down to it; 0 never scales.",
        default=1.0,
        minimum=0.0,
        steps=(FINETUNE,),
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
        steps=(FINETUNE,),
    ),
    Parameter(
        "seed",
        "integer",
        "The seed of shuffling, dropout and new weights, and of what the evaluation draws.",
        default=42,
        minimum=0,
        maximum=2**32 - 1,
        steps=(FINETUNE, EVALUATE),
        aliases=("random_seed",),
    ),
    Parameter(
        "enable_full_determinism",
        "string",
        "Whether only algorithms that give equal bits in every run may be used; slower on a GPU.",
        default="false",
        enum=TRUTH,
        steps=(FINETUNE,),
    ),
    Parameter(
        "dataloader_num_workers",
        "integer",
        "Threads that make batches ahead of the training loop; 0 makes each in the loop itself.",
        default=0,
        minimum=0,
        maximum=64,
        unit="threads",
        steps=(FINETUNE,),
    ),
    Parameter(
        "warmup_ratio",
        "number",
        "The warm-up as a share of all optimizer steps; only if warmup_steps is 0.",
        default=0.0,
        minimum=0.0,
        maximum=1.0,
        steps=(FINETUNE,),
        is_own=True,
    ),
    Parameter(
        "momentum",
        "number",
        "With optim sgd or muon: how much of the earlier gradients' sum a step keeps; 0 for sgd and 0.95 for muon if left "
        "out.",
        minimum=0.0,
        maximum=0.999999,
        steps=(FINETUNE,),
        aliases=("sgd_momentum",),
        is_own=True,
    ),
    Parameter(
        "neftune_noise_alpha",
        "number",
        "NEFTune: while training, noise is added to the embeddings of tokens, uniform up to this, divided by the root of a "
        "sequence's tokens times the network's width. 5 is usual; 0 adds none. Evaluation never has it.",
        default=0.0,
        minimum=0.0,
        steps=(FINETUNE,),
        aliases=("neft_alpha", "noisy_embedding_alpha"),
        is_own=True,
    ),
    Parameter(
        "num_decay_steps",
        "integer",
        "With lr_scheduler_type warmup_stable_decay, which needs it: the last steps, over which the learning rate falls.",
        minimum=1,
        unit="optimizer steps",
        steps=(FINETUNE,),
        is_own=True,
    ),
    Parameter(
        "lr_decay_type",
        "string",
        "With lr_scheduler_type warmup_stable_decay: the shape of the fall, 1-sqrt being 1 minus the root of its progress.",
        default="cosine",
        enum=("cosine", "linear", "1-sqrt"),
        steps=(FINETUNE,),
        aliases=("decay_type",),
        is_own=True,
    ),
    Parameter(
        "min_lr",
        "number",
        "With lr_scheduler_type cosine_with_min_lr: the learning rate at the end.",
        minimum=0.0,
        maximum=1.0,
        steps=(FINETUNE,),
        is_own=True,
    ),
    Parameter(
        "min_lr_rate",
        "number",
        "With lr_scheduler_type cosine_with_min_lr, instead of min_lr, and with warmup_stable_decay: the learning rate at the "
        "end as a share of the highest. The warm-up of the latter begins at it too.",
        minimum=0.0,
        maximum=1.0,
        steps=(FINETUNE,),
        aliases=("min_lr_ratio",),
        is_own=True,
    ),
    Parameter(
        "lr_timescale",
        "integer",
        "With lr_scheduler_type inverse_sqrt: in so many steps after the warm-up the learning rate falls to 0.71 of its "
        "highest. As many as the warm-up has, or 10000 without one, if left out.",
        minimum=1,
        unit="optimizer steps",
        steps=(FINETUNE,),
        aliases=("timescale",),
        is_own=True,
    ),
)
