"""The arguments that walks share, and the filter on links that they make together; and as of when things are read."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import strawberry
from strawberry import UNSET

from sfm_graph.api.gql.inputs import optional
from sfm_graph.api.gql.where import LinkWhere, link_where_of
from sfm_graph.domain import as_of as domain
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


@strawberry.input(
    description="As of when something is read: when it was true, and when it was known. What is left out is as "
    "around the field, at the top: now. What is null is now."
)
class AsOf:
    """Two times, which a field below another one has from that one."""

    valid: datetime | None = optional(
        "When it was true: only what was valid then. Without it recall and walks see what is valid now, and listings "
        "all that is known."
    )
    known: datetime | None = optional(
        "What was known then: what had been committed by that time, as it was. A request may name 3 such moments, as "
        "far back as the change log is kept."
    )

    def within(self, around: domain.AsOf) -> domain.AsOf:
        """Both times, what is not given as it is around."""
        return domain.AsOf(
            around.valid if self.valid is UNSET else self.valid, around.known if self.known is UNSET else self.known
        )


FollowedArg = Annotated[
    LinkWhere | None, strawberry.argument(description="Which links are followed; all when not given.")
]
AsOfArg = Annotated[
    AsOf | None,
    strawberry.argument(description="As of when, with all that hangs below. Null: as around the field."),
]


def walk_of(direction: Direction, types: Sequence[str] | None, where: LinkWhere | None) -> WalkFilter:
    """Which links a walk follows, from the arguments that every walk has. Raises InvalidInput."""
    return WalkFilter(direction, inputs.link_types(types), link_where_of(where))


def moment_of(as_of: AsOf | None, around: domain.AsOf = domain.NOW) -> domain.AsOf:
    """As of when a field is read that is read as of `around` unless it says otherwise."""
    return around if as_of is None else as_of.within(around)
