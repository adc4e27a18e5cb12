"""What a worker asks of an engine: token ids in, token stream out. `engine.py` has ours, `vllm_engine.py` vLLM's."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mafunzo.compute.inference.detokenizer import Tokenizer
from mafunzo.compute.inference.request import Event, GenerationRequest, TokenStream


class TokenEngine(Protocol):
    """Generates replies to requests that come from any thread.

    stop_token_ids: tokens that end a reply. max_model_len: the longest prompt and reply together. vocab_size: how many token
    ids there are.
    """

    stop_token_ids: frozenset[int]
    max_model_len: int
    vocab_size: int

    @property
    def max_batch(self) -> int:
        """How many sequences run at once."""
        ...

    def check(self, request: GenerationRequest) -> None:
        """Raise `InvalidParameter` for what can't be honoured of a request."""
        ...

    def submit(
        self,
        request: GenerationRequest,
        on_event: Callable[[Event], None] | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> TokenStream:
        """Start a request; `on_event` gets its events on another thread. tokenizer: an adapter's own.

        Raises what `check` does.
        """
        ...

    def load_adapter(self, name: str, folder: Path) -> None:
        """Have requests name an adapter (peft's format) from now on; raises what is wrong with it."""
        ...

    def unload_adapter(self, name: str) -> None:
        """Let no new request name an adapter; those under way end as they would."""
        ...

    def load(self) -> tuple[int, int]:
        """Return how many sequences run, and how many wait."""
        ...

    def close(self) -> None:
        """End what the engine has running; requests under way fail."""
        ...
