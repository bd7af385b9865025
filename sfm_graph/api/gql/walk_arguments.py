"""The arguments that walks share, and the filter on links that they make together."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import strawberry

from sfm_graph.api.gql.where import LinkWhere, link_where_of
from sfm_graph.domain import inputs
from sfm_graph.domain.link import Direction
from sfm_graph.domain.walk import PathMode, RankBy, WalkFilter

strawberry.enum(
    PathMode,
    description="Which of the paths between two memories; none of them meets a memory twice, and parallel links make "
    "several paths. SHORTEST_K: the k shortest, or with `weighted` the k cheapest. ALL_SHORTEST: those with the "
    "fewest links. SIMPLE: any, the shortest first. In order of length, then of their link ids from the start; "
    "weighted in order of cost, then length.",
)
strawberry.enum(
    RankBy,
    description="What memories are ranked by. PAGERANK: how often a random walk is there that follows a link with "
    "probability 0.85, chosen in proportion to its strength 1 / (1 + weight), and else starts again at a seed, or "
    "without seeds anywhere. DEGREE: how many links are followed from it. JACCARD: of all neighbours of it and of a "
    "seed, the part that they share. ADAMIC_ADAR: the sum of 1 / ln(number of neighbours) over the neighbours that "
    "it shares with a seed. WEAK_COMPONENTS: groups in which a path joins every two memories, whichever way links "
    "lead; the score is the size of the group. STRONG_COMPONENTS: groups in which paths along the links join any "
    "two both ways. COMMUNITIES: groups that are more densely linked inside than to the rest (Leiden, by modularity "
    "of strengths, whichever way links lead). JACCARD and ADAMIC_ADAR need seeds, PAGERANK may have some, the others "
    "take none. Without seeds memories that have no link are left out.",
)


@strawberry.input(description="The time at which something is looked at.")
class AsOf:
    """Which state of things a walk follows."""

    valid: datetime | None = strawberry.field(
        description="The time at which links have to be valid; null: now.", default=None
    )


FollowedArg = Annotated[
    LinkWhere | None, strawberry.argument(description="Which links are followed; all when not given.")
]
AsOfArg = Annotated[
    AsOf | None, strawberry.argument(description="The time at which links have to be valid; null: now.")
]


def walk_of(
    direction: Direction, types: Sequence[str] | None, where: LinkWhere | None, as_of: AsOf | None
) -> WalkFilter:
    """Which links a walk follows, from the arguments that every walk has. Raises InvalidInput."""
    at = as_of.valid if as_of else None
    return WalkFilter(direction, inputs.link_types(types), link_where_of(where), at)
