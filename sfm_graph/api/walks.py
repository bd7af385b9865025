"""What the faces share of walks: subgraphs as columns."""

from collections.abc import Sequence
from typing import Any

from sfm_graph.domain.identity import Entity, encode_global_id
from sfm_graph.domain.walk import Subgraph
from sfm_graph.store.memories import Outline


def subgraph_columns(namespace: str, found: Subgraph, outlines: Sequence[Outline]) -> dict[str, Any]:
    """A subgraph as columns: `nodes` in its order, `links` with the places of their ends.

    100,000 links take about 0.1 s: to be called in a thread.
    """
    return {
        "nodes": {
            "id": [encode_global_id(Entity.MEMORY, namespace, one.id) for one in outlines],
            "key": [one.key for one in outlines],
            "kind": [one.kind for one in outlines],
            "title": [one.title for one in outlines],
            "importance": [one.importance for one in outlines],
        },
        "links": {
            "id": [encode_global_id(Entity.LINK, namespace, one) for one in found.links.tolist()],
            "source": found.sources.tolist(),
            "target": found.targets.tolist(),
            "type": [found.type_names[place] for place in found.types.tolist()],
            "weight": found.weights.tolist(),
        },
    }
