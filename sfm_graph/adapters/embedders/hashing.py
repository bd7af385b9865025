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
_WORD_SEEDS = (1, 2)  # a word is spread over two places: one collision then costs half of it
_TRIGRAM_SEED = 3

_BASE = np.uint32(0x01000193)
_SIGN_BIT = np.uint32(31)

_PIECE_CHARS = 8_192
_BLOCK_WORDS = 1_024
_GROUP_TEXTS = 512
_SLICE_SECONDS = 0.004


class HashingEmbedder:
    """An Embedder that needs nothing but the text; the same vectors everywhere, to float32 rounding.

    A text of 60 words costs less than handing it to a thread, and Python code in a thread would keep the
    interpreter lock from the event loop just the same. So embedding runs on the loop in slices of a few
    milliseconds and lets other tasks run between them.
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
    ends = np.cumsum(sizes + 2)
    is_trigram = np.ones(len(letters), dtype=np.bool_)
    is_trigram[ends - 1] = is_trigram[ends - 2] = False
    trigrams = (letters[:-2] * _BASE + letters[1:-1]) * _BASE + letters[2:]
    whole = np.add.reduceat(letters * _powers(ends, sizes), ends - sizes - 2, dtype=np.uint32)

    stop = np.fromiter(map(STOP_WORDS.__contains__, found), dtype=np.bool_, count=len(found))
    weights = np.fromiter(repeats, dtype=np.float64, count=len(found)) ** _REPEAT_EXPONENT
    weights[stop] *= _STOP_WORD_WEIGHT
    places = np.fromiter(rows, dtype=np.intp, count=len(found)) * sums.shape[1]
    for seed in _WORD_SEEDS:
        _add_hashed(whole, seed, places, weights / np.sqrt(len(_WORD_SEEDS)), sums)
    shares = np.repeat(weights / np.sqrt(sizes), sizes)
    _add_hashed(trigrams[is_trigram[:-2]], _TRIGRAM_SEED, np.repeat(places, sizes), shares, sums)


def _powers(ends: NDArray[np.intp], sizes: NDArray[np.intp]) -> NDArray[np.uint32]:
    """For each letter the power of the base that belongs to its distance from its word's end."""
    powers = np.cumprod(np.full(sizes.max() + 2, _BASE), dtype=np.uint32)
    distances = np.repeat(ends, sizes + 2) - np.arange(1, ends[-1] + 1)
    return powers[distances]


def _add_hashed(
    keys: NDArray[np.uint32],
    seed: int,
    places: NDArray[np.intp],
    weights: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> None:
    hashes = _mixed(keys + np.uint32(seed))
    columns = (hashes & np.uint32(0x7FFFFFFF)) % np.uint32(sums.shape[1])
    signed = np.where(hashes >> _SIGN_BIT, weights, -weights)
    np.add.at(sums.reshape(-1), places + columns, signed)


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
