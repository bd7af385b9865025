"""Recall in a context: two recalls on one snapshot, ranked together."""

from dataclasses import replace

from sfm_graph.domain.context import ContextHit, RecallContext, rank_in_context
from sfm_graph.domain.recall import MAX_RECALL, Recall, RecallQuery, pool_size
from sfm_graph.services.recall.recalls import Recalls
from sfm_graph.services.view import View


async def recall_in_context(
    recalls: Recalls, view: View, namespace: str, query: RecallQuery, context: RecallContext
) -> list[ContextHit]:
    """The `first` best memories for a query in a context, best first; errors as of `Recalls.recall`."""
    pool = replace(query, first=min(pool_size(query.first), MAX_RECALL), rerank=False)
    by_query = await recalls.recall(view, namespace, pool, counted=False)
    by_text = Recall(())
    if context.text is not None:
        by_context = replace(pool, text=context.text, embedding=None)
        by_text = await recalls.recall(view, namespace, by_context, counted=False)
    hits = rank_in_context(by_query, by_text, context, query.first)
    await recalls.count(view, namespace, (hit.memory.id for hit in hits))
    return hits
