"""A published list of words that people rate as strongly negative: what is shown unasked is drawn from rows without them.

It is VADER's lexicon (Hutto and Gilbert 2014, MIT licence): each word with the mean of ten people's ratings from -4 to 4.
"""

import re
import zipfile
from collections.abc import Collection
from pathlib import Path

from mafunzo.dataset.wheel import fetch_wheel

NAME = "VADER 3.3.2"
STRONG = -2.0
"""The rating from which on down a word counts: "bad" (-2.5) and "illegal" (-2.6) do, "gun" (-1.4) doesn't."""

_SHA256 = "3bf1d243b98b1afad575b9f22bc2cb1e212b94ff89ca74f8a23a588d024ea311"
_FILE = "vaderSentiment/vader_lexicon.txt"
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def negative_words(cache: Path, offline: bool) -> frozenset[str]:
    """Return the list's strongly negative words, in lower case. Raises as `fetch_wheel` does."""
    with zipfile.ZipFile(fetch_wheel("vaderSentiment", "3.3.2", _SHA256, cache, offline)) as wheel:
        lines = wheel.read(_FILE).decode("utf-8").splitlines()
    ratings = (line.split("\t")[:2] for line in lines if line.strip())
    return frozenset(word.lower() for word, rating in ratings if float(rating) <= STRONG)


def has_word_of(text: str, words: Collection[str]) -> bool:
    """Return whether any word of the text, in whatever case, is one of `words`."""
    return any(word in words for word in _WORD.findall(text.lower()))
