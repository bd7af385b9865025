"""Rerankers behind HTTP: text-embeddings-inference, or whatever speaks Jina's and Cohere's /rerank."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import SecretStr

from sfm_graph.adapters.models.json_http import JsonEndpoint, Refused
from sfm_graph.errors import RerankerUnavailable

_MAX_TEXT_CHARS = 8_000
_MAX_ANSWER_BYTES = 16 * 1024**2
_CONNECTIONS = 8


class HttpReranker:
    """A Reranker that asks a server once for all texts, and never twice: a recall does not wait that long.

    With a model's name it speaks Jina's and Cohere's form (also vLLM, Infinity, llama.cpp), without one
    text-embeddings-inference's, whose servers have a single model.
    """

    def __init__(self, endpoint: JsonEndpoint, model: str | None) -> None:
        self._endpoint = endpoint
        self._model = model

    @classmethod
    def open(cls, url: str, model: str | None, *, api_key: SecretStr | None = None, timeout_ms: int = 10_000) -> Self:
        """A reranker at `url`/rerank. No request is made. Raises SettingsError for a key that cannot be one."""
        endpoint = JsonEndpoint(
            f"{url.rstrip('/')}/rerank",
            api_key,
            timeout_seconds=timeout_ms / 1000,
            max_answer_bytes=_MAX_ANSWER_BYTES,
            connections=_CONNECTIONS,
            error=RerankerUnavailable,
            key_variable="SFM_RERANKER_API_KEY",
        )
        return cls(endpoint, model)

    @property
    def name(self) -> str:
        return self._model or "text-embeddings-inference"

    async def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float64]:
        """As the port says. When a server gives logits, these are their sigmoids."""
        if not texts:
            return np.empty(0)
        try:
            answer = await self._endpoint.post(self._body(_cut(query), [_cut(text) for text in texts]), attempts=1)
            return _parsed(answer, len(texts))
        except Refused as refused:
            raise self._endpoint.failure(str(refused)) from None
        except (TypeError, ValueError, KeyError, AttributeError) as exc:
            raise self._endpoint.failure(f"answered with wrong scores: {exc}") from None

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._endpoint.aclose()

    def _body(self, query: str, texts: list[str]) -> dict[str, Any]:
        if self._model is None:
            return {"query": query, "texts": texts, "raw_scores": False, "truncate": True}
        return {"model": self._model, "query": query, "documents": texts, "top_n": len(texts)}


def _cut(text: str) -> str:
    return text[:_MAX_TEXT_CHARS].encode("utf-8", "replace").decode()


def _parsed(answer: Any, count: int) -> NDArray[np.float64]:
    """The scores by their index. Raises ValueError, TypeError, KeyError, AttributeError for any other form."""
    rows, field = (answer, "score") if isinstance(answer, list) else (answer["results"], "relevance_score")
    scores = np.full(count, np.nan)
    for row in rows:
        index, score = row["index"], row[field]
        if type(index) is not int or not 0 <= index < count or not isinstance(score, int | float):
            raise ValueError("not a number for each text")
        scores[index] = score
    if len(rows) != count or not np.isfinite(scores).all():
        raise ValueError("not one finite number for each text")
    if scores.min() < 0.0 or scores.max() > 1.0:
        return 0.5 * (1.0 + np.tanh(0.5 * scores))
    return scores
