"""The model that a worker serves, under its name."""

import secrets
import time
from collections.abc import Sequence

from mafunzo.compute.inference.loading import LoadedModel
from mafunzo.compute.inference.metrics import Metrics
from mafunzo.compute.inference.sampler import TokenLogprob as EngineLogprob
from mafunzo.compute.inference.token_text import token_text
from mafunzo.errors import Unavailable
from mafunzo.protocol.chat import Heading, TokenLogprob


class Service:
    """One model under a name. `model` is None while it loads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.created = int(time.time())
        self.model: LoadedModel | None = None
        self.metrics = Metrics(lambda: self.model.engine.load() if self.model else (0, 0))

    @property
    def loaded(self) -> LoadedModel:
        """The model; raises `Unavailable` while it loads."""
        if self.model is None:
            raise Unavailable(f"'{self.name}' is loading. Try again in a few seconds.")
        return self.model

    def heading(self, prefix: str) -> Heading:
        """Return the id, time and model name of an answer."""
        return Heading(f"{prefix}-{secrets.token_hex(12)}", int(time.time()), self.name)

    def describe(self, entries: Sequence[EngineLogprob]) -> list[TokenLogprob]:
        """Return log-probabilities with their tokens' texts."""
        return [self._describe(entry) for entry in entries]

    def _describe(self, entry: EngineLogprob) -> TokenLogprob:
        text, raw = token_text(self.loaded.tokenizer, entry.token_id)
        top = tuple(self._describe(EngineLogprob(id, value)) for id, value in entry.top)
        return TokenLogprob(text, raw, entry.logprob, top)

    def texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        """Return the text of each token."""
        return tuple(token_text(self.loaded.tokenizer, id)[0] for id in token_ids)
