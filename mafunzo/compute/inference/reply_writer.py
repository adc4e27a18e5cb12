"""From the tokens of a reply to its events, whichever engine chose them: text in whole characters, stop tokens, stop strings,
and the limit of tokens."""

from collections.abc import Callable, Collection

from mafunzo.compute.inference.detokenizer import Detokenizer, StopStrings, Tokenizer
from mafunzo.compute.inference.request import Delta, Event, Finished, FinishReason, GenerationRequest
from mafunzo.compute.inference.sampler import TokenLogprob


class ReplyWriter:
    """Writes one reply. room: how many tokens the context has left for it. send: takes the events that become of its tokens."""

    def __init__(
        self,
        request: GenerationRequest,
        stop_token_ids: Collection[int],
        tokenizer: Tokenizer,
        room: int,
        send: Callable[[Event], None],
    ) -> None:
        self.max_tokens = room if request.max_tokens is None else request.max_tokens
        self.generated = 0
        self._prompt_tokens = len(request.prompt_token_ids)
        self._stop_token_ids = stop_token_ids
        self._detokenizer = Detokenizer(tokenizer)
        self._stop_strings = StopStrings(request.stop)
        self._send = send
        self._unsent_ids: list[int] = []
        self._unsent_logprobs: list[TokenLogprob] = []

    def is_stop(self, token_id: int) -> bool:
        """Return whether a token ends the reply, and is no part of it."""
        return token_id in self._stop_token_ids

    def take(self, token_id: int, entry: TokenLogprob | None = None, is_over: bool = False) -> FinishReason | None:
        """Take the next token, send the text that is final, and return why the reply ends here, if it does.

        entry: its log-probability, where asked for. is_over: whether what the reply is held to is complete with it.
        """
        self.generated += 1
        if self.is_stop(token_id):
            return self.end(FinishReason.STOP)
        if entry is not None:
            self._unsent_logprobs.append(entry)
        self._unsent_ids.append(token_id)
        text = self._stop_strings.add(self._detokenizer.add(token_id))
        if self._stop_strings.match is not None:
            self._send_text(text)
            return FinishReason.STOP
        if is_over or self.generated >= self.max_tokens:
            return self.end(FinishReason.STOP if is_over else FinishReason.LENGTH, text)
        if text:
            self._send_text(text)
        return None

    def end(self, reason: FinishReason, text: str = "") -> FinishReason:
        """Send `text` and what was held back; return why the reply ends: also a stop string that this completes."""
        self._send_text(text + self._rest())
        return FinishReason.STOP if self._stop_strings.match is not None else reason

    def finished(self, reason: FinishReason, cached_tokens: int) -> Finished:
        """Return the last event."""
        return Finished(reason, self._prompt_tokens, self.generated, cached_tokens)

    def _rest(self) -> str:
        """Return the text held back, up to a stop string that it may complete."""
        text = self._stop_strings.add(self._detokenizer.finish())
        return text if self._stop_strings.match is not None else text + self._stop_strings.finish()

    def _send_text(self, text: str) -> None:
        if text or self._unsent_ids:
            self._send(Delta(text, tuple(self._unsent_ids), tuple(self._unsent_logprobs)))
        self._unsent_ids, self._unsent_logprobs = [], []
