"""Vectors for the speed benchmark: given, embedded from texts, or made up; more by expansion; exact answers."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving import say
from sfm_graph.cli.progress import progress_bar

DIMENSION = 384
BLOCK = 20_000
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Vectors:
    """Unit rows: `stored` (memories, D) in half precision, as the database keeps them, `asked` (queries, D)."""

    stored: NDArray[np.float16]
    asked: Floats
    described: str


async def vectors(memories: int, queries: int, file: Path | None, data: Path | None, model: Path | None) -> Vectors:
    """At least `memories` vectors and up to `queries` others from the same source.

    file: an .npy of rows, the last tenth of which are asked. data, model: texts and questions to
    embed (docs.jsonl and questions.jsonl in folders below `data`). Neither: a made-up mixture.
    """
    if file is not None:
        rows = np.load(file, mmap_mode="r")
        count = len(rows) // 10
        real, asked, name = _unit(rows[:-count]), _unit(rows[-count:]), file.name
    elif data is not None and model is not None:
        real, asked = await _embedded(data, model)
        name = f"texts of {data.name} embedded with {model.name}"
    else:
        real, asked = _mixture(min(memories, 20_000), queries)
        name = "a mixture of Gaussians"
    chosen = np.random.default_rng(5).permutation(len(asked))[:queries]
    stored, origin = _enough(real, memories), f"{len(real)} of {name}"
    if memories > len(real):
        origin += f", expanded to {memories}"
    return Vectors(stored, asked[chosen], origin)


def _enough(real: Floats, memories: int) -> NDArray[np.float16]:
    if memories <= len(real):
        return real[:memories].astype(np.float16)
    return np.concatenate([real.astype(np.float16), expanded(real, memories - len(real))])


def expanded(real: Floats, count: int, seed: int = 7) -> NDArray[np.float16]:
    """More vectors like real ones: means of three of a vector's 50 neighbours, and the difference of two others.

    The difference is scaled to .55. On MiniLM vectors of 10,769 passages and dialogue turns this keeps the local
    dimension (25 real, 27.5 expanded), the similarity of a question to its 10 nearest (median .46 and .45), and the
    recall@10 of HNSW (m 16, ef 40 / 100 / 200: .959 / .986 / .997 real, .972 / .992 / .998 expanded).
    """
    chosen = np.random.default_rng(seed)
    near = _neighbours(real, 50)
    made = np.empty((count, real.shape[1]), np.float16)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        base = chosen.integers(0, len(real), size)
        parts = near[base[:, None], chosen.integers(0, near.shape[1], (size, 3))]
        parts[:, 0] = base
        weights = chosen.dirichlet(np.full(3, 0.5), size).astype(np.float32)
        mean = np.einsum("np,npd->nd", weights, real[parts])
        noise = real[chosen.integers(0, len(real), size)] - real[chosen.integers(0, len(real), size)]
        noise /= np.linalg.norm(noise, axis=1)[:, None] + 1e-9
        made[start : start + size] = _unit(mean + 0.55 * noise)
    return made


def _neighbours(real: Floats, count: int) -> Ints:
    """Of each row the nearest rows, itself among them, in any order."""
    count = min(count, len(real) - 1)
    rows = [
        np.argpartition(-(real[start : start + 2_000] @ real.T), count, axis=1)[:, :count]
        for start in range(0, len(real), 2_000)
    ]
    return np.concatenate(rows)


def _mixture(count: int, queries: int) -> tuple[Floats, Floats]:
    """Topics within topics, as texts have them: 30 centres, 600 around those, vectors around these."""
    chosen = np.random.default_rng(3)
    scale = 1 / np.sqrt(DIMENSION)
    # Directions differ in variance, as a trained model's do: the noise has about 60 directions that count.
    spread = (1 / np.sqrt(1 + np.arange(DIMENSION) / 20)).astype(np.float32)
    spread *= np.sqrt(DIMENSION / (spread**2).sum())
    topics = chosen.standard_normal((30, DIMENSION)) * spread * scale
    themes = (
        0.6 * topics[chosen.integers(0, 30, 600)] + 0.8 * chosen.standard_normal((600, DIMENSION)) * spread * scale
    )
    made = [
        _unit(
            0.7 * themes[chosen.integers(0, 600, size)] + chosen.standard_normal((size, DIMENSION)) * spread * scale
        )
        for size in (count, queries)
    ]
    return made[0], made[1]


async def _embedded(data: Path, model: Path) -> tuple[Floats, Floats]:
    from sfm_graph.adapters.embedders.onnx import OnnxEmbedder
    from sfm_graph.adapters.models.source import ModelSource

    source = ModelSource(str(model), None, allow_unpinned=True, model_variable="--model", revision_variable="--model")
    embedder = await OnnxEmbedder.open(source)
    try:
        return (
            await _embed(embedder, _texts(data, "docs.jsonl", "text"), "Texts"),
            await _embed(embedder, _texts(data, "questions.jsonl", "question"), "Questions"),
        )
    finally:
        await embedder.aclose()


async def _embed(embedder: Any, texts: list[str], title: str) -> Floats:
    found = []
    with progress_bar(title, len(texts), None) as bar:
        for start in range(0, len(texts), 64):
            found.append(await embedder.embed(texts[start : start + 64]))
            bar.advance(len(found[-1]))
    return _unit(np.concatenate(found))


def _texts(data: Path, name: str, field: str) -> list[str]:
    lines = [line for path in sorted(data.rglob(name)) for line in path.read_text().splitlines()]
    return list(dict.fromkeys(json.loads(line)[field] for line in lines))


def _unit(rows: NDArray[Any]) -> Floats:
    wide = np.asarray(rows, np.float32)
    return wide / np.linalg.norm(wide, axis=1)[:, None]


async def exact(
    given: Vectors, memories: int, kept: dict[str, NDArray[np.bool_] | None], count: int
) -> dict[str, Ints]:
    """For each filter (a mask of the rows; None: all) and query the `count` nearest rows, best first."""
    say(f"computing the exact answers of {len(given.asked)} queries over {memories} vectors")
    return await asyncio.to_thread(_exact, given, memories, kept, count)


def _exact(given: Vectors, memories: int, kept: dict[str, NDArray[np.bool_] | None], count: int) -> dict[str, Ints]:
    asked = given.asked.astype(np.float16).astype(np.float32)
    rows = {name: np.empty((len(asked), 0), np.int64) for name in kept}
    scores = {name: np.empty((len(asked), 0), np.float32) for name in kept}
    for start in range(0, memories, BLOCK):
        all_scores = asked @ given.stored[start : min(start + BLOCK, memories)].astype(np.float32).T
        for name, mask in kept.items():
            places = np.arange(all_scores.shape[1])
            if mask is not None:
                places = places[mask[start : start + BLOCK]]
            rows[name] = np.concatenate([rows[name], np.broadcast_to(places + start, (len(asked), len(places)))], 1)
            scores[name] = np.concatenate([scores[name], all_scores[:, places]], 1)
            best = np.argsort(-scores[name], axis=1, kind="stable")[:, :count]
            rows[name] = np.take_along_axis(rows[name], best, 1)
            scores[name] = np.take_along_axis(scores[name], best, 1)
    return rows


def topics(stored: NDArray[np.float16], shares: dict[str, float]) -> dict[str, NDArray[np.bool_]]:
    """For each share the rows nearest to one vector that nothing was asked of: filters that go with meaning."""
    centre = stored[len(stored) // 2].astype(np.float32)
    nearness = np.concatenate(
        [stored[start : start + BLOCK].astype(np.float32) @ centre for start in range(0, len(stored), BLOCK)]
    )
    order = np.argsort(-nearness, kind="stable")
    masks = {}
    for name, share in shares.items():
        masks[name] = np.zeros(len(stored), np.bool_)
        masks[name][order[: round(share * len(stored))]] = True
    return masks
