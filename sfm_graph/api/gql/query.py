"""The queries. All fields of one request see the same snapshot."""

from datetime import datetime
from typing import Annotated

import strawberry

from sfm_graph.api.gql import history as versions
from sfm_graph.api.gql import reads, walk_reads
from sfm_graph.api.gql.access import ApiKeyConnection, AuditConnection
from sfm_graph.api.gql.connections import MemoryConnection, RecallConnection
from sfm_graph.api.gql.consolidation import Duplicates
from sfm_graph.api.gql.context import GraphInfo
from sfm_graph.api.gql.copies import CopyConnection
from sfm_graph.api.gql.inputs import MemoryOrder, MemoryRef, RecallWeights
from sfm_graph.api.gql.jobs import Job
from sfm_graph.api.gql.namespaces import Namespace, NamespaceConnection
from sfm_graph.api.gql.scalars import (
    AfterArg,
    DirectionArg,
    FirstArg,
    HopsArg,
    MaxHopsArg,
    NamespaceArg,
    TypesArg,
    Vector,
    WeightedArg,
    resolver,
)
from sfm_graph.api.gql.types import Memory, Node
from sfm_graph.api.gql.walk_arguments import AsOfArg, FollowedArg, moment_of, walk_of
from sfm_graph.api.gql.walk_connections import NeighborConnection, RankConnection
from sfm_graph.api.gql.walks import Path, Subgraph
from sfm_graph.api.gql.where import WhereArg, where_of
from sfm_graph.domain import validate
from sfm_graph.domain.audit import AuditFilter
from sfm_graph.domain.duplicates import DEFAULT_THRESHOLD
from sfm_graph.domain.identity import DEFAULT_NAMESPACE
from sfm_graph.domain.link import Direction
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.domain.page import page_size
from sfm_graph.domain.walk import MAX_PATH_HOPS, PathMode, RankBy, RankQuery

RefArg = Annotated[MemoryRef, strawberry.argument(description="Which memory.")]
FromArg = Annotated[MemoryRef, strawberry.argument(description="Where it starts.", name="from")]
ToArg = Annotated[MemoryRef, strawberry.argument(description="Where it ends.")]
FromVersionArg = Annotated[int, strawberry.argument(description="The version before.", name="from")]
ToVersionArg = Annotated[int, strawberry.argument(description="The version after.")]
AuditedArg = Annotated[
    str | None, strawberry.argument(description="Only who has this name, such as key:7; or the name of a key.")
]
AuditedInArg = Annotated[str | None, strawberry.argument(description="Only what was about this namespace.")]
DeniedArg = Annotated[bool, strawberry.argument(description="Only what was denied.")]
ThresholdArg = Annotated[
    float, strawberry.argument(description="The least cosine of two memories that say the same, 0.8 to 1.")
]
OutgoingArg = Annotated[
    bool, strawberry.argument(description="The copies from the namespace instead; needs the scope admin.")
]
GroupsArg = Annotated[int, strawberry.argument(description="At most so many groups, 1 to 100.")]
SinceArg = Annotated[datetime | None, strawberry.argument(description="Nothing from before.")]


@strawberry.type(description="Reading. All fields of one request see the same snapshot of the database.")
class Query:
    """The root of queries."""

    @resolver("A memory or a link by its global id; null when there is none.")
    async def node(
        self, info: GraphInfo, id: Annotated[strawberry.ID, strawberry.argument(description="The global id.")]
    ) -> Node | None:
        return (await reads.nodes(info.context, [id]))[0]

    @resolver("Memories and links by their global ids, in order; null where there is none.")
    async def nodes(
        self,
        info: GraphInfo,
        ids: Annotated[list[strawberry.ID], strawberry.argument(description="At most 100 global ids.")],
    ) -> list[Node | None]:
        return await reads.nodes(info.context, ids)

    @resolver("One memory by its id, key or coordinate; null when there is none.")
    async def memory(
        self, info: GraphInfo, ref: RefArg, namespace: NamespaceArg = DEFAULT_NAMESPACE, as_of: AsOfArg = None
    ) -> Memory | None:
        return await reads.memory(info.context, moment_of(as_of), namespace, ref)

    @resolver("A page of memories, by id unless ordered otherwise.")
    async def memories(
        self,
        info: GraphInfo,
        namespace: NamespaceArg = DEFAULT_NAMESPACE,
        where: WhereArg = None,
        order_by: Annotated[MemoryOrder | None, strawberry.argument(description="By id when null.")] = None,
        as_of: AsOfArg = None,
        first: FirstArg = 20,
        after: AfterArg = None,
    ) -> MemoryConnection:
        return await reads.memories(info.context, moment_of(as_of), namespace, where, order_by, first, after)

    @resolver(
        "The memories that a text recalls, best first: found by vectors and by words, their own and those of their "
        "windows in a sequence, raised where the query says their name, author or date, and pulled towards the best "
        "few along links and shared names. Only what is valid; as many as asked for while there are as many."
    )
    async def recall(
        self,
        info: GraphInfo,
        query: Annotated[str, strawberry.argument(description="What to recall, in plain words.")],
        namespace: NamespaceArg = DEFAULT_NAMESPACE,
        first: FirstArg = 10,
        kinds: Annotated[
            list[MemoryKind] | None, strawberry.argument(description="Only these kinds; any when empty.")
        ] = None,
        where: WhereArg = None,
        as_of: AsOfArg = None,
        weights: Annotated[
            RecallWeights | None,
            strawberry.argument(description="How much each part counts; null: the defaults."),
        ] = None,
        embedding: Annotated[
            Vector | None, strawberry.argument(description="The query's vector, instead of the computed one.")
        ] = None,
        near: Annotated[
            MemoryRef | None,
            strawberry.argument(description="A memory, or any coordinate, that hits should rather be near to."),
        ] = None,
        expand: Annotated[
            int, strawberry.argument(description="Up to so many memories linked with hits come along, 0 to 20.")
        ] = 0,
        diversity: Annotated[
            float, strawberry.argument(description="How much likeness to better hits costs, 0 to 1.")
        ] = 0.0,
        fold: Annotated[
            bool, strawberry.argument(description="Whether near-duplicates of a better hit are folded into it.")
        ] = False,
        rerank: Annotated[
            bool, strawberry.argument(description="Whether the service's reranker, if it has one, takes part.")
        ] = True,
        explain: Annotated[bool, strawberry.argument(description="Whether edges have an explanation.")] = True,
    ) -> RecallConnection:
        asked = reads.recall_query(
            namespace, query, first=first, kinds=kinds, where=where, weights=weights, embedding=embedding, near=near,
            expand=expand, diversity=diversity, fold=fold, rerank=rerank,
        )  # fmt: skip
        return await reads.recall(info.context, moment_of(as_of), namespace, asked, explain=explain)

    @resolver("The memories within `depth` links of any start, and every link between them that the walk follows.")
    async def traverse(
        self,
        info: GraphInfo,
        start: Annotated[list[MemoryRef], strawberry.argument(description="Where to start: 1 to 100 memories.")],
        namespace: NamespaceArg = DEFAULT_NAMESPACE,
        depth: Annotated[int, strawberry.argument(description="How many links away, from 0 to 10.")] = 1,
        direction: DirectionArg = Direction.BOTH,
        types: TypesArg = None,
        where: FollowedArg = None,
        as_of: AsOfArg = None,
        limit: Annotated[int, strawberry.argument(description="The most memories, from 1 to 10,000.")] = 100,
    ) -> Subgraph:
        walk = walk_of(direction, types, where)
        return await walk_reads.subgraph(info.context, moment_of(as_of), namespace, start, walk, depth, limit)

    @resolver("The memories around one, by hops, then by the id of the link that reached them.")
    async def neighbors(
        self,
        info: GraphInfo,
        ref: RefArg,
        namespace: NamespaceArg = DEFAULT_NAMESPACE,
        hops: HopsArg = 1,
        direction: DirectionArg = Direction.BOTH,
        types: TypesArg = None,
        where: WhereArg = None,
        link_where: FollowedArg = None,
        as_of: AsOfArg = None,
        first: FirstArg = 20,
        after: AfterArg = None,
    ) -> NeighborConnection:
        walk, kept, moment = walk_of(direction, types, link_where), where_of(where), moment_of(as_of)
        start = ref.within(namespace)
        return await walk_reads.neighbors(info.context, moment, namespace, start, walk, kept, hops, first, after)

    @resolver(
        "The shortest path between two memories; null when there is none. From a memory to itself it has no links."
    )
    async def shortest_path(
        self,
        info: GraphInfo,
        from_: FromArg,
        to: ToArg,
        namespace: NamespaceArg = DEFAULT_NAMESPACE,
        direction: DirectionArg = Direction.BOTH,
        types: TypesArg = None,
        weighted: WeightedArg = False,
        max_hops: MaxHopsArg = MAX_PATH_HOPS,
        where: FollowedArg = None,
        as_of: AsOfArg = None,
    ) -> Path | None:
        walk, moment = walk_of(direction, types, where), moment_of(as_of)
        ends = from_.within(namespace), to.within(namespace)
        return await walk_reads.path(info.context, moment, namespace, ends, walk, weighted, max_hops)

    @resolver(
        "Several paths between two memories, in order; empty when there is none. From a memory to itself there is "
        "one, without links."
    )
    async def paths(
        self,
        info: GraphInfo,
        from_: FromArg,
        to: ToArg,
        namespace: NamespaceArg = DEFAULT_NAMESPACE,
        k: Annotated[int, strawberry.argument(description="The most paths, from 1 to 100.")] = 3,
        mode: Annotated[PathMode, strawberry.argument(description="Which paths.")] = PathMode.SHORTEST_K,
        direction: DirectionArg = Direction.BOTH,
        types: TypesArg = None,
        weighted: Annotated[
            bool, strawberry.argument(description="Least sum of link weights; with SHORTEST_K only.")
        ] = False,
        max_hops: MaxHopsArg = MAX_PATH_HOPS,
        where: FollowedArg = None,
        as_of: AsOfArg = None,
    ) -> list[Path]:
        walk, moment = walk_of(direction, types, where), moment_of(as_of)
        ends = from_.within(namespace), to.within(namespace)
        return await walk_reads.paths(info.context, moment, namespace, ends, walk, mode, k, weighted, max_hops)

    @resolver("The best memories of a namespace by its links, or of what is around seeds.")
    async def rank(
        self,
        info: GraphInfo,
        namespace: NamespaceArg = DEFAULT_NAMESPACE,
        seeds: Annotated[
            list[MemoryRef] | None, strawberry.argument(description="At most 100 memories to rank from.")
        ] = None,
        by: Annotated[RankBy, strawberry.argument(description="What memories are ranked by.")] = RankBy.PAGERANK,
        first: Annotated[int, strawberry.argument(description="How many, from 1 to 1,000.")] = 20,
        direction: DirectionArg = Direction.BOTH,
        types: TypesArg = None,
        where: FollowedArg = None,
        as_of: AsOfArg = None,
        unlinked: Annotated[
            bool,
            strawberry.argument(
                description="Without what a seed is linked to already, so that the rest are suggestions for links; "
                "with JACCARD and ADAMIC_ADAR only."
            ),
        ] = False,
    ) -> RankConnection:
        query = RankQuery(by, walk_of(direction, types, where), first, unlinked)
        return await walk_reads.rank(info.context, moment_of(as_of), namespace, seeds, query)

    @resolver(
        "A memory's versions, the newest first; a forgotten one by its id, or the key or coordinate it last had."
    )
    async def history(
        self,
        info: GraphInfo,
        ref: RefArg,
        namespace: NamespaceArg = DEFAULT_NAMESPACE,
        first: FirstArg = 20,
        after: AfterArg = None,
    ) -> versions.MemoryVersionConnection:
        return await versions.of_memory(info.context, namespace, ref.within(namespace), first, after)

    @resolver("A link's versions, the newest first; of one that was removed, too.")
    async def link_history(
        self,
        info: GraphInfo,
        id: Annotated[strawberry.ID, strawberry.argument(description="The link's global id.")],
        first: FirstArg = 20,
        after: AfterArg = None,
    ) -> versions.LinkVersionConnection:
        return await versions.of_link(info.context, *versions.named_link(id), first, after)

    @resolver("What differs between two versions of a memory, by path.")
    async def diff(
        self,
        info: GraphInfo,
        ref: RefArg,
        from_: FromVersionArg,
        to: ToVersionArg,
        namespace: NamespaceArg = DEFAULT_NAMESPACE,
    ) -> list[versions.Difference]:
        return await versions.diff(info.context, namespace, ref.within(namespace), from_, to)

    @resolver("What is in a namespace.")
    async def stats(
        self, info: GraphInfo, namespace: NamespaceArg = DEFAULT_NAMESPACE, as_of: AsOfArg = None
    ) -> Namespace:
        moment = moment_of(as_of)
        async with info.context.reading(moment) as view:
            found = await info.context.services.namespaces.get(view, validate.namespace(namespace))
        return Namespace.from_domain(found, moment)

    @resolver("Memories of one kind that say the same: what `mergeMemories` could make one.")
    async def duplicates(
        self,
        info: GraphInfo,
        namespace: NamespaceArg = DEFAULT_NAMESPACE,
        threshold: ThresholdArg = DEFAULT_THRESHOLD,
        first: GroupsArg = 20,
    ) -> Duplicates:
        async with info.context.reading() as view:
            found = await info.context.services.duplicates.propose(
                view, validate.namespace(namespace), threshold=threshold, first=first
            )
        await info.context.spend(sum(1 + len(one.duplicates) for one in found.groups))
        return Duplicates.from_domain(found)

    @resolver("A page of namespaces, by name.")
    async def namespaces(self, info: GraphInfo, first: FirstArg = 20, after: AfterArg = None) -> NamespaceConnection:
        async with info.context.reading() as view:
            page = await info.context.services.namespaces.list(view, first=page_size(first), after=after)
        return NamespaceConnection.of(page, after)

    @resolver("A page of the copies into a namespace, or out of it, by id; those that have ended, too.")
    async def copies(
        self,
        info: GraphInfo,
        namespace: NamespaceArg = DEFAULT_NAMESPACE,
        first: FirstArg = 20,
        after: AfterArg = None,
        outgoing: OutgoingArg = False,
    ) -> CopyConnection:
        return await CopyConnection.read(info, namespace, first, after, outgoing=outgoing)

    @resolver("A page of API keys, by id: those whose scopes and namespaces the caller's own token covers.")
    async def api_keys(self, info: GraphInfo, first: FirstArg = 20, after: AfterArg = None) -> ApiKeyConnection:
        return await ApiKeyConnection.read(info, first, after)

    @resolver("A page of the audit log, the newest first: what is about namespaces that the caller reaches.")
    async def audit_log(
        self,
        info: GraphInfo,
        first: FirstArg = 20,
        after: AfterArg = None,
        principal: AuditedArg = None,
        namespace: AuditedInArg = None,
        denied: DeniedArg = False,
        since: SinceArg = None,
    ) -> AuditConnection:
        return await AuditConnection.read(info, first, after, AuditFilter(principal, namespace, denied, since))

    @resolver("Background work of a namespace: how far it has come, and why it failed.")
    async def jobs(self, info: GraphInfo, namespace: NamespaceArg = DEFAULT_NAMESPACE) -> list[Job]:
        async with info.context.reading() as view:
            found = await info.context.services.jobs.list(view, validate.namespace(namespace))
        return [Job.from_domain(one) for one in found]
