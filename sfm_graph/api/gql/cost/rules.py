"""What each field costs. The unit is a memory or a link that is read, as in `Context.spend`, which counts what is
really read: a cost is never less than that.

A field that only hands on what its object holds is free, as the leaves are: what is counted is what they hang on.
Every other field, and every field that answers objects or a list, has its rule in `RULES`; a test walks the schema.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from sfm_graph.api.gql.context import COLUMNS_PER_NODE, KNOWN_NODES, MAX_NODES, SEARCH_NODES
from sfm_graph.api.gql.cost.arguments import Arguments
from sfm_graph.domain.duplicates import MAX_MEMBERS
from sfm_graph.domain.fading import MAX_DECAY
from sfm_graph.domain.foresight import MAX_PREDICTIONS
from sfm_graph.domain.insights import MAX_INSIGHTS
from sfm_graph.domain.page import MAX_PAGE
from sfm_graph.domain.recall import MAX_EXPAND
from sfm_graph.domain.validate import MAX_BULK_ITEMS
from sfm_graph.domain.walk import MAX_HOPS, MAX_PATH_HOPS, MAX_PATHS, MAX_RANKED, MAX_WALK_RESULTS
from sfm_graph.services.walks import MAX_SUBGRAPH_LINKS

Amount = Callable[[Arguments], int]

# One transaction, as much time as ten memories take to read and to answer.
WRITE: Final = 10
# A ranking of all memories goes through all links, in another process; a namespace is deleted row by row.
WHOLE_GRAPH: Final = 10 * SEARCH_NODES
# The columns of as many memories and links as a walk finds at most.
COLUMNS: Final = (MAX_WALK_RESULTS + MAX_SUBGRAPH_LINKS) // COLUMNS_PER_NODE


def nothing(_: Arguments) -> int:
    """0, whatever the arguments."""
    return 0


def one(_: Arguments) -> int:
    """1, whatever the arguments."""
    return 1


def constant(amount: int) -> Amount:
    """The same, whatever the arguments."""
    return lambda _: amount


def number(name: str, most: int = MAX_PAGE) -> Amount:
    """An integer argument, which execution refuses above `most`."""
    return lambda given: given.number(name, most)


@dataclass(frozen=True, slots=True)
class Rule:
    """A field costs `own`, and for each object that it answers `read` and what is selected in it.

    It answers `count` objects, and `per_page` more for each place of the page around it. `page`: the places of the
    page that it is itself, for the fields in it.
    """

    own: Amount = nothing
    count: Amount = one
    per_page: int = 0
    read: int = 0
    page: Amount = nothing


def _dated(rule: Rule) -> Rule:
    """Of a field that may be read as of a moment: more, where it asks what was known then."""

    def own(given: Arguments) -> int:
        return rule.own(given) + (KNOWN_NODES if given.has("asOf", "known") else 0)

    return replace(rule, own=own)


def _search(page: Amount, more: Amount = nothing) -> Rule:
    return Rule(lambda given: SEARCH_NODES + more(given) + page(given), page=page)


def _neighbors() -> Rule:
    def more(given: Arguments) -> int:
        return given.number("hops", MAX_HOPS) * given.number("first", MAX_PAGE)

    return _dated(_search(number("first"), more))


def _traverse() -> Rule:
    def own(given: Arguments) -> int:
        depth, limit = given.number("depth", MAX_HOPS), given.number("limit", MAX_WALK_RESULTS)
        return SEARCH_NODES + given.items("start", most=MAX_PAGE) + depth * limit

    return _dated(Rule(own, page=number("limit", MAX_WALK_RESULTS)))


def _paths(many: Amount) -> Rule:
    def own(given: Arguments) -> int:
        # Each may have so many links, and one memory more.
        hops = given.number("maxHops", MAX_PATH_HOPS)
        return SEARCH_NODES + many(given) * (hops + 2 * hops + 1)

    return _dated(Rule(own, count=many, page=number("maxHops", MAX_PATH_HOPS)))


def _rank_extra(given: Arguments) -> int:
    seeds = given.items("seeds", most=MAX_PAGE)
    return seeds if seeds or given.text("by") == "DEGREE" else WHOLE_GRAPH


def _batch() -> Rule:
    def items(given: Arguments) -> int:
        return given.items("input", "items", most=MAX_BULK_ITEMS)

    return Rule(lambda given: WRITE + items(given), page=items)


def _forget_many(given: Arguments) -> int:
    refs = given.items("input", "refs", most=MAX_BULK_ITEMS)
    return WRITE + (refs or (MAX_BULK_ITEMS if given.has("input", "where") else 0))


def _unlink(given: Arguments) -> int:
    # Between two memories there may be as many as one transaction removes.
    by_ends = given.has("input", "source") or given.has("input", "target")
    return WRITE + (MAX_BULK_ITEMS if by_ends else 0)


def _recall_page(given: Arguments) -> int:
    return given.number("first", MAX_PAGE) + given.number("expand", MAX_EXPAND)


# Held by the object already.
_HELD = Rule()
_READ = Rule(read=1)
# As many as the page around it has places.
_PAGE = Rule(count=nothing, per_page=1)
_READ_PAGE = Rule(count=nothing, per_page=1, read=1)
_WRITE = Rule(constant(WRITE))

RULES: Final[Mapping[str, Rule]] = {
    "Query.node": _READ,
    "Query.nodes": Rule(count=lambda given: given.items("ids", most=MAX_PAGE), read=1),
    "Query.memory": _dated(_READ),
    "Query.memories": _dated(_search(number("first"))),
    "Query.recall": _dated(_search(_recall_page)),
    "Query.traverse": _traverse(),
    "Query.neighbors": _neighbors(),
    "Query.shortestPath": _paths(one),
    "Query.paths": _paths(number("k", MAX_PATHS)),
    "Query.rank": _dated(_search(number("first", MAX_RANKED), _rank_extra)),
    "Query.history": _search(number("first")),
    "Query.linkHistory": _search(number("first")),
    "Query.diff": Rule(constant(2), count=nothing),
    "Query.stats": _dated(_READ),
    "Query.duplicates": Rule(constant(WHOLE_GRAPH), page=number("first")),
    "Query.namespaces": _search(number("first")),
    "Query.jobs": Rule(one, count=constant(10)),
    "Query.copies": _search(number("first")),
    "Query.apiKeys": _search(number("first")),
    "Query.auditLog": _search(number("first")),
    "Mutation.storeMemory": _WRITE,
    "Mutation.remember": _WRITE,
    "Mutation.rememberMany": _batch(),
    "Mutation.updateMemory": _WRITE,
    "Mutation.forget": _WRITE,
    "Mutation.forgetMany": Rule(_forget_many),
    "Mutation.erase": _WRITE,
    "Mutation.holdMemory": _WRITE,
    "Mutation.releaseMemory": _WRITE,
    "Mutation.decay": Rule(constant(WRITE + MAX_DECAY), page=constant(MAX_DECAY)),
    "Mutation.consolidate": Rule(constant(WHOLE_GRAPH), page=constant(MAX_PAGE)),
    "Mutation.mergeMemories": Rule(constant(WRITE + MAX_BULK_ITEMS)),
    "Mutation.link": _WRITE,
    "Mutation.linkMany": _batch(),
    "Mutation.updateLink": _WRITE,
    "Mutation.unlink": Rule(_unlink),
    "Mutation.restore": _WRITE,
    "Mutation.restoreLink": _WRITE,
    # A recall, what followed, and up to 10 memories with their links.
    "Mutation.predictNext": Rule(constant(2 * SEARCH_NODES + 2 * WRITE), page=constant(MAX_PREDICTIONS)),
    "Mutation.reportOutcome": Rule(constant(2 * WRITE)),
    # Some 50 searches, and up to 50 memories with their links.
    "Mutation.reflect": Rule(constant(WHOLE_GRAPH), page=constant(MAX_INSIGHTS)),
    "Mutation.copyMemories": Rule(constant(SEARCH_NODES + 2 * MAX_BULK_ITEMS)),
    "Mutation.revokeCopy": Rule(constant(WRITE + MAX_BULK_ITEMS)),
    "Mutation.createNamespace": _WRITE,
    "Mutation.updateNamespace": _WRITE,
    "Mutation.deleteNamespace": Rule(constant(WHOLE_GRAPH)),
    "Mutation.createApiKey": _WRITE,
    "Mutation.revokeApiKey": _WRITE,
    "Subscription.changes": Rule(lambda given: SEARCH_NODES if given.has("around") else 0, read=1),
    "CopyConnection.edges": _PAGE,
    "CopyConnection.pageInfo": _HELD,
    "CopyEdge.node": _HELD,
    "CopyMemoriesPayload.copy": _HELD,
    "RevokeCopyPayload.copy": _HELD,
    "Memory.provenance": _READ,
    # Up to 100 rows of an index.
    "Memory.accesses": Rule(one, count=constant(1)),
    "Memory.coordinate": _HELD,
    "Memory.links": _dated(Rule(number("first"), page=number("first"))),
    "Memory.neighbors": _neighbors(),
    "Memory.similar": _dated(_search(number("first"))),
    "Memory.pathTo": _paths(one),
    "Memory.history": _search(number("first")),
    "Link.history": _search(number("first")),
    "MemoryVersionConnection.edges": _PAGE,
    "MemoryVersionConnection.pageInfo": _HELD,
    "MemoryVersionEdge.node": _HELD,
    "MemoryVersion.memory": _HELD,
    "LinkVersionConnection.edges": _PAGE,
    "LinkVersionConnection.pageInfo": _HELD,
    "LinkVersionEdge.node": _HELD,
    "LinkVersion.link": _HELD,
    "RestorePayload.memory": _HELD,
    # As many as were forgotten with it, which nobody knows before.
    "RestorePayload.links": Rule(count=constant(MAX_PAGE), read=1),
    "RestoreLinkPayload.link": _HELD,
    "Link.source": _READ,
    "Link.target": _READ,
    "LinkConnection.edges": _PAGE,
    "LinkConnection.pageInfo": _HELD,
    "LinkEdge.node": _HELD,
    "MemoryConnection.edges": _PAGE,
    "MemoryConnection.pageInfo": _HELD,
    "MemoryEdge.node": _HELD,
    "NeighborConnection.edges": _PAGE,
    "NeighborConnection.pageInfo": _HELD,
    "NeighborConnection.counts": Rule(constant(SEARCH_NODES)),
    "NeighborEdge.node": _HELD,
    "NeighborEdge.link": _HELD,
    "RecallConnection.edges": _PAGE,
    "RecallConnection.pageInfo": _HELD,
    "RecallEdge.node": _HELD,
    "RecallEdge.explanation": _HELD,
    "RecallEdge.duplicates": _HELD,
    "Explanation.legs": _HELD,
    "Explanation.path": _HELD,
    "RecallPath.nodes": Rule(count=constant(2)),
    "RecallPath.links": _READ,
    "RankConnection.edges": _PAGE,
    "RankConnection.pageInfo": _HELD,
    "RankEdge.node": _HELD,
    "Path.nodes": Rule(per_page=1),
    "Path.links": _PAGE,
    "Subgraph.nodes": _READ_PAGE,
    # Between few memories there may be many links; more than a request may read are refused before they are read.
    "Subgraph.links": Rule(count=constant(MAX_NODES), read=1),
    "Subgraph.compact": Rule(constant(COLUMNS)),
    "Namespace.settings": _HELD,
    "Namespace.model": _HELD,
    "Namespace.counts": Rule(constant(SEARCH_NODES)),
    "Namespace.hotBytes": Rule(constant(SEARCH_NODES)),
    "NamespaceSettings.payloadPaths": _HELD,
    "NamespaceSettings.functionalTypes": _HELD,
    "NamespaceCounts.memoriesByKind": _HELD,
    "NamespaceCounts.linksByType": _HELD,
    "NamespaceConnection.edges": _PAGE,
    "NamespaceConnection.pageInfo": _HELD,
    "NamespaceEdge.node": _HELD,
    "StoreMemoryPayload.memory": _HELD,
    "RememberPayload.memory": _HELD,
    "RememberManyPayload.failed": _PAGE,
    "RememberManyPayload.stored": _READ_PAGE,
    "StoredMemory.memory": _HELD,
    "UpdateMemoryPayload.memory": _HELD,
    "ForgetManyPayload.ids": _HELD,
    "HoldMemoryPayload.memory": _HELD,
    "ReleaseMemoryPayload.memory": _HELD,
    "DecayPayload.memories": _PAGE,
    "ConsolidatePayload.groups": _READ_PAGE,
    "ConsolidatedGroup.memory": _HELD,
    "ConsolidatedGroup.sources": _HELD,
    "Duplicates.groups": _READ_PAGE,
    "DuplicateGroup.kept": _HELD,
    "DuplicateGroup.duplicates": Rule(count=constant(MAX_MEMBERS), read=1),
    "Duplicate.memory": _HELD,
    "MergeMemoriesPayload.memory": _HELD,
    "MergeMemoriesPayload.merged": _HELD,
    "LinkPayload.link": _HELD,
    "LinkManyPayload.failed": _PAGE,
    "LinkManyPayload.stored": _READ_PAGE,
    "StoredLink.link": _HELD,
    "UpdateLinkPayload.link": _HELD,
    "UnlinkPayload.ids": _HELD,
    "PredictNextPayload.predictions": _PAGE,
    "Prediction.memory": _HELD,
    "ReportOutcomePayload.memory": _HELD,
    "ReportOutcomePayload.link": _HELD,
    "ReflectPayload.insights": _PAGE,
    "Insight.memory": _HELD,
    "Insight.evidence": _HELD,
    "Insight.links": _HELD,
    "CreateNamespacePayload.namespace": _HELD,
    "UpdateNamespacePayload.namespace": _HELD,
    "ApiKey.scopes": _HELD,
    "ApiKey.namespaces": _HELD,
    "ApiKeyConnection.edges": _PAGE,
    "ApiKeyConnection.pageInfo": _HELD,
    "ApiKeyEdge.node": _HELD,
    "AuditConnection.edges": _PAGE,
    "AuditConnection.pageInfo": _HELD,
    "AuditEdge.node": _HELD,
    "CreateApiKeyPayload.apiKey": _HELD,
    "RevokeApiKeyPayload.apiKey": _HELD,
    "Change.memory": _HELD,
    "Change.link": _HELD,
    "Change.before": _HELD,
    "Change.after": _HELD,
}
