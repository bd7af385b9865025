"""The schemas of the routes that follow links. They describe; `domain.inputs` and `domain.validate` judge."""

from sfm_graph.api.rest.schemas import (
    AS_OF,
    LINK_TYPE,
    NAMESPACE_ONLY,
    REF_TEXT,
    Properties,
    flag,
    integer,
    many,
    string,
)
from sfm_graph.domain.link import Direction
from sfm_graph.domain.page import MAX_PAGE
from sfm_graph.domain.walk import (
    MAX_HOPS,
    MAX_PATH_HOPS,
    MAX_PATHS,
    MAX_RANKED,
    MAX_WALK_RESULTS,
    PathMode,
    RankBy,
)

MAX_NEIGHBOURS = 1_000
# References that a walk or a ranking starts from.
MAX_STARTS = MAX_PAGE

_WALK: Properties = {
    "type": many(LINK_TYPE, "Follow these types only; repeat the parameter for more", most=100),
    "direction": string("", enum=[one.value for one in Direction], default="both"),
    "where": string('Follow the links that this filter keeps, as JSON: `{"weight": {"lt": 2}}`'),
    **AS_OF,
}
NEIGHBOURS: Properties = {
    **NAMESPACE_ONLY,
    "coord": REF_TEXT,
    **_WALK,
    "hops": integer(1, MAX_HOPS, default=1),
    "limit": integer(1, MAX_NEIGHBOURS, default=100),
    "after": string("The `next` of the page before"),
}
PATH: Properties = {
    **NAMESPACE_ONLY,
    "frm": REF_TEXT,
    "to": REF_TEXT,
    **_WALK,
    "weighted": flag("Least sum of weights instead of fewest links"),
    "max_hops": integer(1, MAX_PATH_HOPS, default=MAX_PATH_HOPS),
    "k": integer(1, MAX_PATHS, "At most so many paths, in `paths`; 3 when only `mode` is given"),
    "mode": string("Which of several paths; shortest_k when only `k` is given", enum=[one.value for one in PathMode]),
}
TRAVERSE: Properties = {
    **NAMESPACE_ONLY,
    "start": many(REF_TEXT, "Where to start; repeat the parameter for more", least=1, most=MAX_STARTS),
    **_WALK,
    "depth": integer(0, MAX_HOPS, "How many links away", default=1),
    "limit": integer(1, MAX_WALK_RESULTS, "The most memories", default=100),
}
RANK: Properties = {
    **NAMESPACE_ONLY,
    "by": string("", enum=[one.value for one in RankBy], default=RankBy.PAGERANK.value),
    "seed": many(REF_TEXT, "Rank from these; repeat the parameter for more", most=MAX_STARTS),
    **_WALK,
    "limit": integer(1, MAX_RANKED, default=20),
    "unlinked": flag("Without what a seed is linked to already; with jaccard and adamic_adar"),
}
