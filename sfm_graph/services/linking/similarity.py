"""Similarity: each memory leads to those whose vectors are nearest to its own."""

from collections.abc import Iterable, Sequence, Set

from sfm_graph.domain.identity import MemoryId
from sfm_graph.services.linking.linker import Linker, WantedLink, Writes
from sfm_graph.services.linking.scope import Scope

NEIGHBOURS = 5
LEAST_COSINE = 0.6
# Of those that a memory may be near to, so many are looked at when it comes or changes.
MAX_NEAR = 100


class Similarity(Linker):
    """Links of type `similar` to the 5 memories of the highest cosine, at least 0.6, valid at the time of writing.

    The vector of a memory's beginning is compared with all parts of others; ties go to the lower id. Weight
    2 / cosine - 1, so that a link's strength is half of the cosine. Costs a vector search for each memory that is
    written and for each whose neighbours may have changed.
    """

    name = "similarity"
    link_type = "similar"

    async def touched(self, scope: Scope, ids: Sequence[MemoryId]) -> Set[MemoryId]:
        """Those that lose a neighbour."""
        return await scope.made_to(self.name, ids)

    async def affected(self, scope: Scope, writes: Writes) -> Set[MemoryId]:
        """Those that a written memory is near enough to, and nearer than their farthest neighbour."""
        near: dict[MemoryId, float] = {}
        for parts in (await scope.vectors(writes.written)).values():
            for vector in parts:
                found = await scope.nearest(vector, MAX_NEAR)
                for id_, cosine in zip(found.ids.tolist(), found.scores.tolist(), strict=True):
                    if cosine >= LEAST_COSINE and id_ not in writes.written:
                        near[id_] = max(cosine, near.get(id_, 0.0))
        made = await scope.made_from(self.name, near)
        return {id_ for id_, cosine in near.items() if _comes_in(cosine, made.get(id_, {}).values())}

    async def wanted(self, scope: Scope, sources: Sequence[MemoryId]) -> Iterable[WantedLink]:
        """Links to the nearest ones."""
        wanted: list[WantedLink] = []
        for source, parts in (await scope.vectors(sources)).items():
            found = await scope.nearest(parts[0], NEIGHBOURS + 1)
            ranked = zip(found.ids.tolist(), found.scores.tolist(), strict=True)
            others = [(id_, cosine) for id_, cosine in ranked if id_ != source and cosine >= LEAST_COSINE]
            wanted += [WantedLink(source, id_, _weight(cosine)) for id_, cosine in others[:NEIGHBOURS]]
        return wanted


def _comes_in(cosine: float, weights: Iterable[float]) -> bool:
    taken = list(weights)
    # A hair's breadth more than needed: the same pair's cosine may differ in its last bit the other way round.
    return len(taken) < NEIGHBOURS or _weight(cosine) <= max(taken) + 1e-6


def _weight(cosine: float) -> float:
    return 2 / min(cosine, 1.0) - 1
