"""Constrained decoding: a grammar compiled for one tokenizer, and the tokens that it allows next (`llguidance`).

Grammars are texts in llguidance's form of Lark (`structure.py` writes them). Each sequence of a batch has a matcher of its
own, which masks that sequence's row of logits: what stands in the same batch doesn't matter.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mafunzo.errors import FailedError, InvalidParameter

REMEMBERED_GRAMMARS = 64


class Matcher:
    """Follows one reply through a grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def is_over(self) -> bool:
        """Whether nothing but the end may follow."""
        return bool(self._matcher.is_stopped())

    def mask(self, logits_V: Tensor) -> Tensor:
        """Return the logits, minus infinity where a token isn't allowed; the stop tokens are once the reply may end."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        allowed_V = torch.from_numpy(bits[: len(logits_V)].astype(bool))
        if self._matcher.is_error() or not allowed_V.any():
            raise FailedError(f"The reply can't go on within its structure: {_first_line(self._matcher.get_error())}")
        return logits_V.float().cpu().masked_fill(~allowed_V, -torch.inf)

    def accept(self, token_id: int) -> None:
        """Go on with the token that was chosen."""
        if not self._matcher.consume_token(token_id):
            raise FailedError(f"The reply left its structure: {_first_line(self._matcher.get_error())}")


class Grammar:
    """A compiled grammar, from which each reply gets a matcher. text: what it was compiled from."""

    def __init__(self, matcher: Any, text: str) -> None:
        self._matcher, self.text = matcher, text

    def matcher(self) -> Matcher:
        """Return a matcher at the beginning."""
        return Matcher(self._matcher.deep_copy())


class GrammarCompiler:
    """Compiles grammars for one tokenizer, from any thread. Its first grammar takes up to seconds; the last ones are kept.

    vocab_size: of the network's head. stop_token_ids: the tokens that end a reply.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, stop_token_ids: Collection[int]) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._stop_token_ids = sorted(stop_token_ids)
        self._compiled: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()
        self._vocabulary: Any = None

    def added_token_id(self, text: str) -> int | None:
        """Return the id of the added token of exactly this text, if there is one that a reply's text shows."""
        tokens = self._tokenizer.added_tokens_decoder.items()
        ids = [id for id, token in tokens if token.content == text and not token.special]
        return int(ids[0]) if ids else None

    def free_token_ids(self, text: str) -> list[int]:
        """Return the added tokens that a reply's text may have: all but those that end it, and that of exactly this text."""
        excluded = {*self._stop_token_ids, self.added_token_id(text)}
        return sorted(int(id) for id in self._tokenizer.added_tokens_decoder if id not in excluded)

    def compile(self, text: str, param: str) -> Grammar:
        """Return a grammar; raises `InvalidParameter` about `param` where it can't be compiled."""
        with self._lock:
            if text not in self._compiled:
                self._compiled[text] = self._compile(text, param)
            self._compiled.move_to_end(text)
            if len(self._compiled) > REMEMBERED_GRAMMARS:
                self._compiled.popitem(last=False)
            return self._compiled[text]

    def _compile(self, text: str, param: str) -> Grammar:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._llguidance_tokenizer(), text, log_level=0)
        if matcher.is_error():
            raise InvalidParameter(
                f"{param} has a JSON schema that replies can't be held to: {_first_line(matcher.get_error())}",
                param=param,
            )
        return Grammar(matcher, text)

    def _llguidance_tokenizer(self) -> Any:
        if self._vocabulary is None:
            from llguidance import LLTokenizer

            size = max(self._vocab_size, len(self._tokenizer))
            ids = [id for id in self._stop_token_ids if id < size]
            self._vocabulary = LLTokenizer(_without_added_texts(self._tokenizer), n_vocab=size, eos_token=ids or None)
        return self._vocabulary


def _without_added_texts(tokenizer: Any) -> str:
    """Return the tokenizer's JSON with other names for its added tokens.

    llguidance tokenizes what a grammar forces. A text that looks like an added token (a schema may have any) would become
    that token, which stands for no text in a grammar.
    """
    body = json.loads(tokenizer.backend_tokenizer.to_str())
    body["padding"] = body["truncation"] = None
    names = {token["content"]: f"<|added {token['id']}|>" for token in body["added_tokens"]}
    for token in body["added_tokens"]:
        token["content"] = names[token["content"]]
    vocabulary = body["model"]["vocab"]
    if isinstance(vocabulary, dict):
        body["model"]["vocab"] = {names.get(text, text): id for text, id in vocabulary.items()}
    else:  # Unigram's: text and score
        body["model"]["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if body["model"].get("unk_token") in names:
        body["model"]["unk_token"] = names[body["model"]["unk_token"]]
    return json.dumps(body)


def _first_line(text: str) -> str:
    return " ".join(text.partition("\n<state>")[0].split())
