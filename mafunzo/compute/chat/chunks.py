"""Tokenization by chunks: what stands in many texts, as most words do, is tokenized once.

A tokenizer cuts a text at its added tokens, splits the rest into words, and merges the bytes of each word to tokens. So there
are places that none of its tokens crosses, and what stands between two of them has the same ids wherever it stands:

    text      <|im_start|>user\nIt's late, isn't it?<|im_end|>
    chunks    <|im_start|> user | \nIt's |  late, |  isn't |  it? <|im_end|>

The ids of a chunk are the tokenizer's own; a dictionary keeps them by the chunk's text, from where they are joined.

Places that are taken, besides the ends of an added token:
- before a space, after a character that isn't white space;
- before a line break, after a letter or digit of ASCII.

That no token crosses them is proven from the tokenizer's parts, in one of two ways. Either its rule of splitting, a regular
expression that is known here, never matches across them: none of its alternatives goes on from such a character to a space or
line break, and none looks back. Or it doesn't split at all, and no token of its vocabulary holds such a place, so that no merge
can join what stands at its sides (SentencePiece's, and tokenizers of bytes). All other tokenizers get no chunks.
"""

import json
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Any

CACHED_CHUNKS = 1 << 17
"""The dictionary is emptied when it holds more: some 30 MB."""
CACHED_LENGTH = 32
"""Longer chunks, in characters, hardly ever stand in a second text: they are tokenized each time."""
_ENDS_OF_WORDS = "'s|'t|'re|'ve|'m|'ll|'d"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
KNOWN_RULES = frozenset(
    (
        # GPT-2
        rf"{_ENDS_OF_WORDS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+",
        # GPT-4 (cl100k), Llama 3, Phi-4; with single digits Qwen 2 and 3
        rf"(?i:{_ENDS_OF_WORDS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}",
        rf"(?i:{_ENDS_OF_WORDS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}",
        # GPT-4o (o200k), Phi-4-mini
        rf"[^\r\n\p{{L}}\p{{N}}]?[{_LETTERS[0]}]*[{_LETTERS[1]}]+(?i:{_ENDS_OF_WORDS})?"
        rf"|[^\r\n\p{{L}}\p{{N}}]?[{_LETTERS[0]}]+[{_LETTERS[1]}]*(?i:{_ENDS_OF_WORDS})?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}",
    )
)
"""Rules of splitting that match across none of the places above."""
_CHUNK = re.compile(r"\s*\S+(?:(?=[^\S ])(?!(?<=[0-9A-Za-z])\n)\s+\S*)*|\s+")
_SIMPLE_WORD = re.compile(" ?[A-Z]?[a-z]+")
"""One match of each of the rules."""
_WORD = re.compile(r"( ?[A-Za-z]+)([!-&(-/:-@\[-`{-~].*)", re.DOTALL)
"""A word, and what follows it from punctuation on, an apostrophe apart: none of the rules matches across."""
_WHITE_SPACE = "[\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*"
"""What an added token may swallow beside it."""
_ID = array("i").itemsize


class ChunkTokenizer:
    """Tokenizes texts by their chunks. `backend`: one for which `has_chunks` holds, without truncation and padding."""

    def __init__(self, backend: Any) -> None:
        tokens = sorted(backend.get_added_tokens_decoder().values(), key=lambda token: -len(token.content))
        self._added = re.compile(f"({'|'.join(map(_pattern, tokens)) or '(?!)'})")
        self._added_ids = _Ids(backend)
        self._prefix = " " if _has_prefix(backend) else ""
        splitters = list(_parts(backend.pre_tokenizer))
        is_of_bytes = any(body["type"] == "ByteLevel" for body in splitters)
        splits_words = is_of_bytes and any(map(_has_known_rule, splitters))
        self._chunks = _ChunkIds(_without_prefix(backend) if self._prefix else backend, splits_words)

    def encode(self, text: str, places: Iterable[int]) -> tuple["array[int]", list[int]]:
        """Return a text's ids and, for each of the places, the first token that starts at that character or after it."""
        parts = self._added.split(text)
        ids_by_part = [self._added_ids.of(part) if number % 2 else self._ids(part) for number, part in enumerate(parts)]
        ids = array("i")
        ids.frombytes(b"".join(ids_by_part))
        starts = list(accumulate(map(len, parts), initial=0))
        sizes = list(accumulate(map(len, ids_by_part), initial=0))
        tokens = []
        for place in places:
            part = min(bisect_left(starts, place), len(parts))
            token = sizes[part] // _ID
            if starts[part] > place:  # within the part before
                token = sizes[part - 1] // _ID + self._first_token(part - 1, parts[part - 1], place - starts[part - 1])
            tokens.append(token)
        return ids, tokens

    def _ids(self, part: str) -> bytes:
        """Return the ids of what stands between two added tokens, as the bytes of an array."""
        if not part:
            return b""
        first, *words = (self._prefix + part).split(" ")
        if words and first[-1:].isspace():
            return self._ids_of_glued(part)
        keys = [f" {first}", *words]
        ids = list(map(self._chunks.get, keys))
        try:
            return b"".join(ids)  # type: ignore[arg-type]
        except TypeError:  # some are new, and None stands for them
            return self._ids_of_new(part, keys, ids)

    def _ids_of_new(self, part: str, keys: Sequence[str], ids: Sequence[bytes | None]) -> bytes:
        if any(known is None and (not key or key[-1].isspace()) for key, known in zip(keys[1:], ids[1:], strict=True)):
            return self._ids_of_glued(part)
        of = self._chunks.of
        return b"".join([of(key) if known is None else known for key, known in zip(keys, ids, strict=True)])

    def _ids_of_glued(self, part: str) -> bytes:
        """Return the ids of a part in which a space stands beside other white space, where a token may join both."""
        return b"".join([self._chunks.of(_key(chunk)) for chunk in _CHUNK.findall(self._prefix + part)])

    def _first_token(self, number: int, part: str, place: int) -> int:
        """Return the first token of a part that starts at a character of it, not its first, or after that."""
        if number % 2:
            return self._added_ids.first_token(part, place)
        tokens = end = 0
        place += len(self._prefix)
        for match in _CHUNK.finditer(self._prefix + part):
            start, end = match.span()
            if end > place:
                return tokens + self._chunks.first_token(match.group(), place - start)
            tokens += len(self._chunks.of(_key(match.group()))) // _ID
        return tokens


class _Ids(dict[str, bytes]):
    """The ids of texts by the text, as the bytes of an array. All are forgotten when there are too many."""

    def __init__(self, backend: Any) -> None:
        super().__init__()
        self._backend = backend
        self._first_tokens: dict[tuple[str, int], int] = {}

    def of(self, key: str) -> bytes:
        """Return the ids of a key's text, tokenized now if it is new."""
        ids = self.get(key)
        if ids is None:
            ids = self._new(key)
            if len(key) <= CACHED_LENGTH:
                _make_room(self)
                self[key] = ids
        return ids

    def first_token(self, text: str, place: int) -> int:
        """Return the first token of a text that starts at a character or after it."""
        token = self._first_tokens.get((text, place))
        if token is None:
            offsets = self._backend.encode(text, add_special_tokens=False).offsets
            token = bisect_left(offsets, place, key=itemgetter(0))
            if len(text) <= CACHED_LENGTH:
                _make_room(self._first_tokens)
                self._first_tokens[text, place] = token
        return token

    def _new(self, key: str) -> bytes:
        return self._encoded(key)

    def _encoded(self, text: str) -> bytes:
        return array("i", self._backend.encode(text, add_special_tokens=False).ids).tobytes()


class _ChunkIds(_Ids):
    """The ids of chunks. Most are a word behind a space: it is their key, and all others' is their text behind a space.

    splits_words: whether one of the known rules splits them, so that no token crosses the end of a word before punctuation.
    """

    def __init__(self, backend: Any, splits_words: bool) -> None:
        super().__init__(backend)
        self._splits_words = splits_words
        self._model = backend.model

    def _new(self, key: str) -> bytes:
        chunk = key[1:] if key[0] == " " else " " + key
        if self._splits_words and _SIMPLE_WORD.fullmatch(chunk):
            tokens = self._model.tokenize(chunk.replace(" ", "Ġ"))  # the bytes that it stands for, and nothing to split
            return array("i", [token.id for token in tokens]).tobytes()
        if self._splits_words and (parts := _WORD.fullmatch(chunk)):
            return self.of(_key(parts[1])) + self.of(_key(parts[2]))
        return self._encoded(chunk)


def _key(chunk: str) -> str:
    word = chunk[1:]
    is_word = chunk[0] == " " and word and " " not in word and not word[-1].isspace()
    return word if is_word else " " + chunk


def _make_room(cache: dict[Any, Any]) -> None:
    if len(cache) >= CACHED_CHUNKS:
        cache.clear()


def has_chunks(backend: Any) -> bool:
    """Return whether it is proven that no token of a `tokenizers.Tokenizer` crosses the places that chunks end at."""
    normalizers, splitters = (list(_parts(part)) for part in (backend.normalizer, backend.pre_tokenizer))
    are_known = _are_known(normalizers) and all(_splits_safely(body, normalizers) for body in splitters)
    if not are_known or not _cuts_by_text(backend, bool(normalizers)):
        return False
    return any(map(_has_known_rule, splitters)) or _has_no_joint_token(backend, normalizers, splitters)


def _cuts_by_text(backend: Any, has_normalizer: bool) -> bool:
    """Return whether a search for the added tokens' texts, the longest first, finds them as the tokenizer does."""
    tokens = backend.get_added_tokens_decoder().values()
    is_normalized = {token.normalized for token in tokens}
    if backend.encode_special_tokens or len(is_normalized) > 1 or (has_normalizer and True in is_normalized):
        return False
    strips = any(token.lstrip or token.rstrip for token in tokens)
    has_white_space = any(re.search(r"\s", token.content) for token in tokens)
    return not (strips and has_white_space) and not any(token.single_word for token in tokens)


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the normalizers or pre-tokenizers that one consists of, as the tokenizer's file writes them."""
    bodies = [json.loads(part.__getstate__())] if part is not None else []
    while bodies:
        body = bodies.pop(0)
        children = body.get("normalizers") or body.get("pretokenizers")
        if children:
            bodies[:0] = children
        else:
            yield body


def _are_known(normalizers: Sequence[dict[str, Any]]) -> bool:
    """Return whether nothing that is normalized depends on what stands on the other side of a space."""
    if normalizers and normalizers[0] == {"type": "Prepend", "prepend": "▁"}:
        return len(normalizers) == 2 and _is_of_spaces(normalizers[1])
    return (
        not normalizers or normalizers == [{"type": "NFC"}] or (len(normalizers) == 1 and _is_of_spaces(normalizers[0]))
    )


def _has_prefix(backend: Any) -> bool:
    """Return whether each part of a text gets a space in front of it, as SentencePiece's do."""
    return any(body["type"] == "Prepend" for body in _parts(backend.normalizer))


def _without_prefix(backend: Any) -> Any:
    """Return a tokenizer that writes no space in front, with the same model and no added tokens."""
    from tokenizers import Tokenizer, normalizers

    other = Tokenizer(backend.model)
    other.normalizer, other.pre_tokenizer = normalizers.Replace(" ", "▁"), backend.pre_tokenizer
    return other


def _is_of_spaces(body: dict[str, Any]) -> bool:
    return body == {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def _splits_safely(body: dict[str, Any], normalizers: Sequence[dict[str, Any]]) -> bool:
    """Return whether a pre-tokenizer splits what stands between two of the places as if it stood alone."""
    match body["type"]:
        case "ByteLevel":
            return not body["add_prefix_space"]
        case "Digits":
            return True
        case "Split":
            is_idle = body["pattern"] == {"String": " "} and any(map(_is_of_spaces, normalizers))
            return _has_known_rule(body) or is_idle
    return False


def _has_known_rule(body: dict[str, Any]) -> bool:
    if body["type"] == "ByteLevel":
        return bool(body.get("use_regex", True))
    if body["type"] != "Split" or body["behavior"] != "Isolated" or body["invert"]:
        return False
    return body["pattern"].get("Regex") in KNOWN_RULES


def _has_no_joint_token(backend: Any, normalizers: Sequence[Any], splitters: Sequence[Any]) -> bool:
    """Return whether a tokenizer that splits nothing has no token with one of the places within it."""
    from tokenizers.models import BPE

    model = backend.model
    if not isinstance(model, BPE) or model.dropout or model.ignore_merges:
        return False
    if any(body["type"] == "ByteLevel" for body in splitters):
        space, line_break = "Ġ", "Ċ"
    else:
        space, line_break = "▁" if normalizers else " ", "\n"
    vocabulary = backend.get_vocab(with_added_tokens=False)
    if space not in vocabulary or not (line_break in vocabulary or model.byte_fallback):
        return False  # unknown characters may be joined
    joint = re.compile(f"[^{space}]{space}|[0-9A-Za-z]{line_break}")
    return not any(map(joint.search, vocabulary))


def _pattern(token: Any) -> str:
    """Return the regular expression of an added token, with the white space that it swallows."""
    before, after = (_WHITE_SPACE if strips else "" for strips in (token.lstrip, token.rstrip))
    return f"{before}{re.escape(token.content)}{after}"
