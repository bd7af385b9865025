"""Any server that speaks OpenAI's /embeddings: OpenAI, Ollama, vLLM, text-embeddings-inference."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import SecretStr

from sfm_graph.adapters.embedders.learned import LearnedEmbedder, unit_rows
from sfm_graph.adapters.models.json_http import JsonEndpoint, Refused
from sfm_graph.domain.namespace import ModelIdentity
from sfm_graph.errors import EmbedderUnavailable

MAX_BATCH_TEXTS = 256
_MAX_BATCH_CHARS = 200_000
# About what models of 8,192 tokens take; memories are embedded in parts far below it, queries may be longer.
_MAX_TEXT_CHARS = 8_000
_MAX_ANSWER_BYTES = 64 * 1024**2
_BATCHES_PER_CALL = 4
_CONNECTIONS = 8
# A batch or a text is too large for the server.
_TOO_LARGE = frozenset({413, 422})
_LEAST_BATCH_TEXTS = 8


class OpenAiEmbedder(LearnedEmbedder):
    """Embeds over HTTP, several batches at a time."""

    def __init__(self, endpoint: JsonEndpoint, identity: ModelIdentity) -> None:
        super().__init__(identity)
        self._endpoint = endpoint
        self._connections = asyncio.Semaphore(_CONNECTIONS)
        self._batch_texts = MAX_BATCH_TEXTS

    @classmethod
    async def open(
        cls,
        url: str,
        model: str,
        *,
        revision: str | None = None,
        dimension: int | None = None,
        api_key: SecretStr | None = None,
        timeout_ms: int = 30_000,
        key_variable: str = "SFM_EMBEDDING_API_KEY",
    ) -> Self:
        """Asks the server for the dimension unless it is given; with it, the server may be away.

        Raises EmbedderUnavailable; SettingsError for a model whose vectors are too long.
        """
        endpoint = JsonEndpoint(
            f"{url.rstrip('/')}/embeddings",
            api_key,
            timeout_seconds=timeout_ms / 1000,
            max_answer_bytes=_MAX_ANSWER_BYTES,
            connections=_CONNECTIONS,
            error=EmbedderUnavailable,
            key_variable=key_variable,
        )
        try:
            if dimension is None:
                dimension = (await _embed(endpoint, model, ["dimension"])).shape[1]
            return cls(endpoint, ModelIdentity(model, revision or "1", dimension))
        except Refused as refused:
            await endpoint.aclose()
            raise endpoint.failure(str(refused)) from None
        except BaseException:
            await endpoint.aclose()
            raise

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._endpoint.aclose()

    async def _vectors(self, texts: Sequence[str]) -> NDArray[np.floating]:
        cut = [text[:_MAX_TEXT_CHARS].encode("utf-8", "replace").decode() for text in texts]
        vectors = np.empty((len(cut), self.identity.dimension))
        batches = _batches(cut, lambda: self._batch_texts)

        async def fill() -> None:
            for batch in batches:
                vectors[batch] = await self._batch(cut[batch])

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_BATCHES_PER_CALL):
                    group.create_task(fill())
        except* EmbedderUnavailable as failures:
            failed = failures.exceptions[0]
        else:
            return vectors
        raise failed

    async def _batch(self, texts: Sequence[str]) -> NDArray[np.float64]:
        try:
            async with self._connections:
                vectors = await _embed(self._endpoint, self.identity.name, texts)
        except Refused as refused:
            if len(texts) == 1 or refused.status not in _TOO_LARGE:
                raise self._endpoint.failure(str(refused)) from None
            return await self._halves(texts)
        if vectors.shape[1] != self.identity.dimension:
            found = f"vectors of {vectors.shape[1]} numbers; the model's have {self.identity.dimension}"
            raise self._endpoint.failure(f"answered with {found}")
        return vectors

    async def _halves(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """For servers that take fewer texts at once than we send; the next batches are as small."""
        half = len(texts) // 2
        first = await self._batch(texts[:half])
        self._batch_texts = min(self._batch_texts, max(half, _LEAST_BATCH_TEXTS))
        return np.concatenate([first, await self._batch(texts[half:])])


def _batches(texts: Sequence[str], max_texts: Callable[[], int]) -> Iterator[slice]:
    """Consecutive slices that hold all texts, none above what one request takes; the bound is asked each time."""
    start = 0
    while start < len(texts):
        end, chars = start + 1, len(texts[start])
        while end < len(texts) and end - start < max_texts() and chars + len(texts[end]) <= _MAX_BATCH_CHARS:
            chars += len(texts[end])
            end += 1
        yield slice(start, end)
        start = end


async def _embed(endpoint: JsonEndpoint, model: str, texts: Sequence[str]) -> NDArray[np.float64]:
    """One request; unit rows in the order of the texts. Raises Refused, EmbedderUnavailable."""
    answer = await endpoint.post({"model": model, "input": list(texts)})
    try:
        vectors = await asyncio.to_thread(_parsed, answer, len(texts))
    except (TypeError, ValueError, KeyError, AttributeError) as exc:
        raise endpoint.failure(f"answered with wrong embeddings: {exc}") from None
    return unit_rows(vectors)


def _parsed(answer: Any, count: int) -> NDArray[np.float64]:
    """The vectors of an answer by their index.

    Raises ValueError, TypeError, KeyError or AttributeError for any other form.
    """
    rows = answer["data"]
    if len(rows) != count:
        raise ValueError(f"{len(rows)} for {count} texts")
    ordered: list[Any] = [None] * count
    for place, row in enumerate(rows):
        index = row.get("index", place)
        if type(index) is not int or not 0 <= index < count or ordered[index] is not None:
            raise ValueError("their indexes are not those of the texts")
        ordered[index] = row["embedding"]
    vectors = np.array(ordered)
    if vectors.ndim != 2 or vectors.shape[1] == 0 or vectors.dtype.kind not in "fiu":
        raise ValueError("not lists of as many numbers each")
    return vectors.astype(np.float64)
