"""Made-up texts with the word statistics of real ones: Zipf-distributed words, 60 to a text."""

import random
from collections.abc import Iterator
from itertools import accumulate

SYLLABLES = [a + b for a in "bcdfghjklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "in", "or", "al")]
VOCABULARY = 50_000
WORDS = 60


def texts(count: int, seed: int = 0) -> Iterator[str]:
    """`count` texts of 60 words, the same for the same seed."""
    chosen = random.Random(seed)
    vocabulary = _vocabulary()
    weights = list(accumulate(1 / (rank + 10) for rank in range(VOCABULARY)))
    for _ in range(count):
        yield " ".join(chosen.choices(vocabulary, cum_weights=weights, k=WORDS))


def queries(count: int, seed: int = 0) -> list[str]:
    """Queries of 8 words, each taken out of a text of that seed."""
    chosen = random.Random(seed + 1)
    return [" ".join(chosen.sample(text.split(), 8)) for text in texts(count, seed)]


def _vocabulary() -> list[str]:
    chosen = random.Random(42)
    found: dict[str, None] = {}
    while len(found) < VOCABULARY:
        found["".join(chosen.choices(SYLLABLES, k=chosen.randint(2, 4)))] = None
    return list(found)
