"""The demo's three sizes: the largest that a machine ends within minutes, by its measured speed and its free memory.

A step's time is nearly all matrix products, so that it is told by the machine's own speed at them. The costs below are those
of a demo of 100 conversations on two cores held to AVX2, which multiplied 147 GFLOP/s: it took 8.6 minutes.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mafunzo.entities.speed import Speed

BUDGET_S = 600.0
"""What a demo is planned to take at most; that it ends within 12 minutes is promised."""
LIMIT_S = 720.0
FIXED_S = 100.0
"""Starts of processes, reading and writing: what takes as long whatever the size."""
OTHERS_GB = 0.8
"""What the server, MLflow and the demo itself hold beside a step."""

ROW_TOKENS, RECOMPUTED_ROW_TOKENS = 1710, 2090
REPLY_TOKENS, PROMPT_TOKENS = 1740, 470
"""What a conversation to learn from (with its share of those held out), a pair of replies to compare, and a general prompt
cost, in tokens of a forward pass at the speed of the matrix products."""


@dataclass(frozen=True)
class DemoSize:
    """rows: conversations to learn from, of which as many as a quarter and an eighth more are held out. max_memory_gb: of
    training. recomputes: whether activations are computed again instead of being kept."""

    name: str
    rows: int
    generation_rows: int
    forgetting_prompts: int
    max_memory_gb: float
    recomputes: bool = False

    @property
    def needed_gb(self) -> float:
        """Memory that must be free for all of the demo."""
        return self.max_memory_gb + OTHERS_GB

    def seconds(self, flops: float, parameters: int) -> float:
        """Return how long the demo takes about, for a model of so many parameters."""
        row_tokens = RECOMPUTED_ROW_TOKENS if self.recomputes else ROW_TOKENS
        tokens = self.rows * row_tokens + self.generation_rows * REPLY_TOKENS + self.forgetting_prompts * PROMPT_TOKENS
        return FIXED_S + tokens * 2 * parameters / flops


SIZES = {
    size.name: size
    for size in (
        DemoSize("large", 400, 32, 200, max_memory_gb=3.0),
        DemoSize("medium", 200, 16, 100, max_memory_gb=3.0),
        DemoSize("small", 100, 8, 40, max_memory_gb=2.0, recomputes=True),
    )
}
"""From the largest to the smallest."""


@dataclass(frozen=True)
class Choice:
    """A size for a model, how long it takes about, and the machine as it was measured."""

    model: str
    size: str
    seconds: float
    speed: Speed

    @property
    def is_quick(self) -> bool:
        """Whether it ends within what is promised."""
        return self.seconds <= LIMIT_S

    def __str__(self) -> str:
        free_gb = self.speed.free_bytes / 1e9
        return (
            f"size {self.size}, about {max(1, round(self.seconds / 60))} min: this machine computes "
            f"{self.speed.flops / 1e9:,.0f} GFLOP/s in {self.speed.format}, and {free_gb:.1f} GB of memory are free"
        )


def choose(speed: Speed, model: str, parameters: int, sizes: Sequence[DemoSize]) -> Choice:
    """Return the first size that fits the machine, else the last."""
    fitting = (
        size
        for size in sizes
        if size.seconds(speed.flops, parameters) <= BUDGET_S and size.needed_gb * 1e9 <= speed.free_bytes
    )
    size = next(fitting, sizes[-1])
    return Choice(model, size.name, size.seconds(speed.flops, parameters), speed)


def write_choice(file: Path, choice: Choice) -> None:
    """Keep a choice, so that the next demo takes the same size and finds its steps' results."""
    file.write_text(json.dumps(asdict(choice)) + "\n", encoding="utf-8")


def read_choice(file: Path, model: str) -> Choice | None:
    """Return the choice of the demo before; None where there was none for this model, or the file can't be read as one."""
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        choice = Choice(str(body["model"]), str(body["size"]), float(body["seconds"]), Speed.from_dict(body["speed"]))
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return choice if choice.size in SIZES and choice.model == model else None
