import asyncio
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sfm_graph.adapters.embedders.hashing import HashingEmbedder
from sfm_graph.ports.embedder import Embedder

GOLDEN_TEXT = "Naïve graphs remember 東京 👍"
# The first places of its vector that are not zero.
GOLDEN = {0: -0.199161, 3: 0.114986, 9: 0.125960, 25: 0.199161, 37: 0.281656, 50: -0.199161}

UNRELATED = [
    "The shortest path between two nodes was found with a bidirectional search.",
    "Whisk four eggs with sugar until pale, then fold in the melted chocolate.",
    "Her grandfather sailed from Lisbon to Brazil in the spring of 1911.",
    "Quarterly revenue fell by nine percent as fewer customers renewed contracts.",
    "Penguins huddle together during the Antarctic winter and take turns outside.",
    "Please restart the database server after changing its memory settings.",
    "The guitarist wrote most songs of that album in a cabin near the lake.",
    "Vaccines train our immune system by showing it a harmless piece of a virus.",
    "A judge ruled on Tuesday that the contract had never been signed.",
    "Snow closed both mountain passes, so the cyclists went home by train.",
]


async def _cosine(first: str, second: str) -> float:
    one, other = await HashingEmbedder().embed([first, second])
    return float(one @ other)


async def test_rows_are_unit_vectors_and_a_text_without_words_is_zero() -> None:
    texts = ["a", "", "the", "one two two", " \n-!?", "\0", "👍", "中文", "x" * 500, "word " * 20_000]
    vectors = await HashingEmbedder().embed(texts)
    assert vectors.shape == (len(texts), 256)
    assert vectors.dtype == np.float32
    wordless = [text in ("", " \n-!?", "\0") for text in texts]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), np.where(wordless, 0.0, 1.0), atol=1e-6)


async def test_vectors_are_the_same_on_every_machine() -> None:
    (vector,) = await HashingEmbedder().embed([GOLDEN_TEXT])
    assert np.flatnonzero(vector)[: len(GOLDEN)].tolist() == list(GOLDEN)
    np.testing.assert_allclose(vector[list(GOLDEN)], list(GOLDEN.values()), atol=1e-6)


def test_vectors_are_the_same_in_every_process() -> None:
    program = (
        "import asyncio, sys\n"
        "from sfm_graph.adapters.embedders.hashing import HashingEmbedder\n"
        "sys.stdout.write(asyncio.run(HashingEmbedder().embed([sys.argv[1]])).tobytes().hex())"
    )
    command = [sys.executable, "-c", program, GOLDEN_TEXT]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == asyncio.run(HashingEmbedder().embed([GOLDEN_TEXT])).tobytes().hex()


@given(st.lists(st.text(max_size=80), max_size=12))
def test_a_text_has_one_vector_whatever_it_is_embedded_with(texts: list[str]) -> None:
    async def both() -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        embedder = HashingEmbedder(64)
        return await embedder.embed(texts), [(await embedder.embed([text]))[0] for text in texts]

    together, alone = asyncio.run(both())
    assert together.shape == (len(texts), 64)
    for row, vector in zip(together, alone, strict=True):
        np.testing.assert_allclose(row, vector, atol=1e-6)


async def test_a_long_text_is_embedded_like_its_words() -> None:
    sentence = "alpha beta gamma delta "
    whole, part = await HashingEmbedder().embed([sentence * 5_000, sentence])
    assert whole @ part > 0.99


async def test_many_texts_come_in_order() -> None:
    embedder = HashingEmbedder()
    texts = [f"memory number {number}" if number % 7 else "" for number in range(1_500)]
    vectors = await embedder.embed(texts)
    for number in (0, 1, 511, 512, 1_023, 1_499):
        np.testing.assert_allclose(vectors[number], (await embedder.embed([texts[number]]))[0], atol=1e-6)


async def test_unrelated_texts_are_far_apart() -> None:
    vectors = await HashingEmbedder().embed(UNRELATED)
    cosines = (vectors @ vectors.T)[np.triu_indices(len(UNRELATED), 1)]
    assert abs(cosines.mean()) < 0.1
    assert cosines.max() < 0.35


@pytest.mark.parametrize(
    ("text", "related", "unrelated"),
    [
        ("shortest path in a graph", "shortst pahts in graphs", "melted chocolate with eggs"),
        ("database migration", "migrating databases", "antarctic penguins"),
        ("東京都に行った", "東京へ行く", "犬が好きです"),
        ("Who sailed to Brazil?", UNRELATED[2], UNRELATED[4]),
        ("restart the server", UNRELATED[5], UNRELATED[9]),
    ],
)
async def test_related_texts_and_typos_are_nearer(text: str, related: str, unrelated: str) -> None:
    assert await _cosine(text, related) > await _cosine(text, unrelated) + 0.1


async def test_stop_words_weigh_little_and_case_nothing() -> None:
    assert await _cosine("the cat and the dog", "CAT DOG") > 0.95
    assert await _cosine("of the", "of the") == pytest.approx(1.0)


async def test_large_batches_let_other_tasks_run() -> None:
    embedding = asyncio.ensure_future(HashingEmbedder().embed([GOLDEN_TEXT * 50] * 4_000))
    turns = 0
    while not embedding.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10
    assert embedding.result().shape == (4_000, 256)


async def test_identity_and_limit() -> None:
    embedder: Embedder = HashingEmbedder(dimension=100)
    identity = embedder.identity
    assert (identity.name, identity.revision, identity.dimension) == ("hashing", "1", 100)
    assert embedder.exact_scan_limit == 100_000
    assert (await embedder.embed([])).shape == (0, 100)
    await embedder.aclose()
    await embedder.aclose()


@pytest.mark.parametrize("dimension", [0, -1, 65_537])
def test_an_impossible_dimension_is_refused(dimension: int) -> None:
    with pytest.raises(ValueError, match="dimension"):
        HashingEmbedder(dimension)
