"""Feature hashing of words and their letters: vectors without a model, a download or a network.

Signed feature hashing as in Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning".
Texts that share words, word forms or spellings are near each other; synonyms are not.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.namespace import ModelIdentity
from sfm_graph.domain.words import STOP_WORDS, words

_STOP_WORD_WEIGHT = 0.1
_REPEAT_EXPONENT = 0.75  # a word's weight grows with its count to this power
_BASE = np.uint32(0x01000193)

_PIECE_CHARS = 4_096
_BLOCK_WORDS = 1_024
_GROUP_TEXTS = 128
_SLICE_SECONDS = 0.004


class HashingEmbedder:
    """An Embedder that needs nothing but the text; the same vectors everywhere, to float32 rounding.

    A text of 60 words takes some 0.1 ms alone and 0.04 ms among others. A thread would keep the interpreter lock
    from the event loop just the same, so embedding runs on the loop, in slices of a few milliseconds with other
    tasks' turns between them.
    """

    def __init__(self, dimension: int = 256) -> None:
        """Raises ValueError unless 1 <= dimension <= 65,536."""
        if not 1 <= dimension <= 65_536:
            raise ValueError(f"dimension must be in [1, 65536], not {dimension}")
        self._identity = ModelIdentity("hashing", "1", dimension)

    @property
    def identity(self) -> ModelIdentity:
        return self._identity

    @property
    def exact_scan_limit(self) -> int:
        return 100_000

    @property
    def dense_share(self) -> float:
        # recall@5 on 2WikiMultihop / LoCoMo: 65.0 / 53.5 at 0.2, 63.9 / 52.7 at 0.5.
        return 0.2

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self._identity.dimension), dtype=np.float32)
        slice_end = time.perf_counter() + _SLICE_SECONDS
        for start in range(0, len(texts), _GROUP_TEXTS):
            group = texts[start : start + _GROUP_TEXTS]
            sums = np.zeros((len(group), self._identity.dimension))
            for _ in _sum_features(group, sums):
                if time.perf_counter() > slice_end:
                    await asyncio.sleep(0)
                    slice_end = time.perf_counter() + _SLICE_SECONDS
            vectors[start : start + len(group)] = _normalised(sums)
        return vectors

    async def aclose(self) -> None:
        """Nothing is held."""


def _sum_features(texts: Sequence[str], sums: NDArray[np.float64]) -> Iterator[None]:
    """Adds the features of each text to its row of sums; yields after every step of bounded work."""
    rows: list[int] = []
    found: list[str] = []
    repeats: list[int] = []
    for row, text in enumerate(texts):
        counts: Counter[str] = Counter()
        for start in range(0, max(len(text), 1), _PIECE_CHARS):
            counts.update(words(text[start : start + _PIECE_CHARS]))  # one word in thousands is cut in two
            yield
        rows.extend(repeat(row, len(counts)))
        found.extend(counts)
        repeats.extend(counts.values())
        if len(found) >= _BLOCK_WORDS or row == len(texts) - 1:
            for at in range(0, len(found), _BLOCK_WORDS):
                block = slice(at, at + _BLOCK_WORDS)
                _add_words(rows[block], found[block], repeats[block], sums)
                yield
            rows, found, repeats = [], [], []


def _add_words(rows: list[int], found: list[str], repeats: list[int], sums: NDArray[np.float64]) -> None:
    """Adds each word and the trigrams of its letters, marked at both ends, to the word's row of sums."""
    letters = np.frombuffer(f"<{'><'.join(found)}>".encode("utf-32-le"), dtype=np.uint32)
    # A word of n letters and its two marks has n trigrams.
    sizes = np.fromiter(map(len, found), dtype=np.intp, count=len(found))
    ends = np.cumsum(sizes)
    begins_trigram = np.ones(len(letters), dtype=np.bool_)
    marks = ends + np.arange(1, 2 * len(found), 2)
    begins_trigram[marks] = begins_trigram[marks - 1] = False
    trigrams = (letters[:-2] * _BASE + letters[1:-1]) * _BASE + letters[2:]
    trigrams = _mixed(trigrams[begins_trigram[:-2]])
    whole = np.add.reduceat(trigrams, ends - sizes, dtype=np.uint32)

    stop = np.fromiter(map(STOP_WORDS.__contains__, found), dtype=np.bool_, count=len(found))
    weights = np.fromiter(repeats, dtype=np.float64, count=len(found)) ** _REPEAT_EXPONENT
    weights[stop] *= _STOP_WORD_WEIGHT
    places = np.fromiter(rows, dtype=np.intp, count=len(found)) * sums.shape[1]
    shares = weights / np.sqrt(sizes)  # all trigrams of a word together weigh as much as the word
    halves = weights * np.sqrt(0.5)

    hashes = np.concatenate([trigrams, _mixed(whole), _mixed(whole + np.uint32(1))])
    weights = np.concatenate([np.repeat(shares, sizes), halves, halves])
    places = np.concatenate([np.repeat(places, sizes), places, places])
    columns = (hashes & np.uint32(0x7FFFFFFF)) % np.uint32(sums.shape[1])
    signs = 1.0 - 2.0 * (hashes >> np.uint32(31))
    np.add.at(sums.reshape(-1), places + columns, weights * signs)


def _mixed(hashes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """MurmurHash3's 32-bit finaliser: every bit of the input reaches every bit of the output."""
    hashes ^= hashes >> np.uint32(16)
    hashes *= np.uint32(0x85EBCA6B)
    hashes ^= hashes >> np.uint32(13)
    hashes *= np.uint32(0xC2B2AE35)
    hashes ^= hashes >> np.uint32(16)
    return hashes


def _normalised(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    lengths[lengths == 0.0] = 1.0
    unit_rows: NDArray[np.float64] = rows / lengths[:, np.newaxis]
    return unit_rows
