"""Reranking: a cross-encoder reads the best few once more, within a deadline."""

import asyncio
import logging
from collections.abc import Sequence

import numpy as np

from sfm_graph.domain.deadline import at_most
from sfm_graph.domain.fusion import Floats
from sfm_graph.domain.memory import Memory
from sfm_graph.errors import SfmError
from sfm_graph.ports.reranker import Reranker
from sfm_graph.telemetry.stages import stage

log = logging.getLogger(__name__)

# Of each memory; a cross-encoder reads no more.
MAX_CHARS = 4_000


class Reranking:
    """A budgeted reranker, or none."""

    def __init__(self, reranker: Reranker | None, *, candidates: int, deadline_ms: int) -> None:
        self._reranker = reranker
        self.candidates = candidates if reranker is not None else 0
        self._deadline_seconds = deadline_ms / 1000

    @property
    def name(self) -> str | None:
        """The reranker's name, None without one."""
        return None if self._reranker is None else self._reranker.name

    async def scores(self, query: str, found: Sequence[Memory]) -> Floats | None:
        """How well each memory answers, in [0, 1]; None where nobody can say in time."""
        if self._reranker is None or not found:
            return None
        texts = [f"{memory.title or ''}\n{memory.content}"[:MAX_CHARS] for memory in found]
        try:
            async with asyncio.timeout(at_most(self._deadline_seconds)):
                with stage("recall.rerank"):
                    return np.clip(await self._reranker.scores(query[:MAX_CHARS], texts), 0.0, 1.0)
        except TimeoutError:
            log.warning("the reranker did not answer within %.3f s", self._deadline_seconds)
        except SfmError as error:
            log.warning("the reranker did not answer: %s", error.message)
        return None
