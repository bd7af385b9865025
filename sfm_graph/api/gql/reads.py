"""What several fields read: a page, or what a text recalls, counted against the request's bounds."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from sfm_graph.api.gql import connections, copies, types
from sfm_graph.api.gql.context import SEARCH_NODES, Context
from sfm_graph.api.gql.inputs import MemoryOrder, RecallWeights
from sfm_graph.api.gql.inputs import MemoryRef as RefInput
from sfm_graph.api.gql.loaders import FilterKey, LinksOf
from sfm_graph.api.gql.where import MemoryWhere, where_of
from sfm_graph.domain import identity, inputs, recall_inputs, validate
from sfm_graph.domain.as_of import NOW, AsOf
from sfm_graph.domain.identity import Entity, LinkId, MemoryId
from sfm_graph.domain.link import Direction
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.domain.page import MAX_PAGE, OrderBy, page_size
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.errors import MemoryNotFound, TooLarge


async def nodes(context: Context, ids: Sequence[str]) -> "list[types.Node | None]":
    """Memories and links by global id, in order. Raises InvalidInput for what is none, TooLarge for more than 100."""
    if len(ids) > MAX_PAGE:
        raise TooLarge(f"{len(ids)} ids; at most {MAX_PAGE} are looked up at once")
    named = [identity.decode_global_id(validate.text(one, "id", max_chars=1_000)) for one in ids]
    await context.spend(len(ids))
    return list(await asyncio.gather(*(_node(context, *one) for one in named)))


async def _node(context: Context, entity: Entity, namespace: str, row: int) -> "types.Node | None":
    # A namespace that comes out of an id: whether the caller reaches it, the service asks.
    validate.namespace(namespace)
    if entity is Entity.MEMORY:
        memory = await context.loaders(NOW).memories.load((namespace, MemoryId(row)))
        return types.Memory.from_domain(memory) if memory else None
    link = await context.loaders(NOW).links.load((namespace, LinkId(row)))
    return types.Link.from_domain(link) if link else None


async def provenance(context: Context, of: "types.Memory") -> copies.Provenance | None:
    """What a memory is a copy of."""
    await context.spend(1)
    found = await context.loaders(NOW).provenance.load((of.namespace, of.row))
    return None if found is None else copies.Provenance.from_domain(found)


async def accesses(context: Context, of: "types.Memory") -> list[copies.Access]:
    """Which agents recalled a memory."""
    await context.spend(1)
    found = await context.loaders(NOW).accesses.load((of.namespace, of.row))
    return [copies.Access.from_domain(one) for one in found]


async def memory(context: Context, as_of: AsOf, namespace: str, ref: RefInput) -> "types.Memory | None":
    """One memory by reference, or None; also for an id of another namespace."""
    try:
        named = ref.within(namespace)
    except MemoryNotFound:
        return None
    await context.spend(1)
    async with context.reading(as_of) as view:
        found = (await context.services.memory_reads.look_up(view, namespace, [named]))[0]
    return types.Memory.from_domain(found, as_of) if found else None


async def memories(
    context: Context,
    as_of: AsOf,
    namespace: str,
    where: MemoryWhere | None,
    order: MemoryOrder | None,
    first: int,
    after: str | None,
) -> "connections.MemoryConnection":
    """A page of the memories that a filter keeps."""
    validate.namespace(namespace)
    kept, size = where_of(where), page_size(first)
    by = OrderBy(order.field, order.descending) if order else OrderBy()
    await context.spend(SEARCH_NODES)
    async with context.reading(as_of) as view:
        page = await context.services.memory_reads.list(
            view, namespace, where=kept, order=by, first=size, after=after
        )
    return await connections.MemoryConnection.of(context, as_of, page, after)


async def end_of_link(context: Context, link: "types.Link", row: MemoryId) -> "types.Memory":
    """A memory that a link holds on to. Raises MemoryNotFound when it was forgotten since the link was written."""
    found = await context.loaders(link.as_of).memories.load((link.namespace, row))
    await context.spend(1)
    if found is None:
        raise MemoryNotFound("the memory was forgotten meanwhile", namespace=link.namespace)
    return types.Memory.from_domain(found, link.as_of)


async def links(
    context: Context,
    memory: "types.Memory",
    as_of: AsOf,
    direction: Direction,
    link_types: Sequence[str] | None,
    where: FilterKey,
    first: int,
    after: str | None,
) -> "connections.LinkConnection":
    """A page of a memory's links that a filter keeps; the pages of many memories are read together."""
    walk = WalkFilter(direction, inputs.link_types(link_types))
    wanted = LinksOf(memory.namespace, walk, where, page_size(first), after, memory.row)
    page = await context.loaders(as_of).link_pages.load(wanted)
    return await connections.LinkConnection.of(context, as_of, page, after)


def recall_query(
    namespace: str,
    text: str,
    *,
    first: int,
    kinds: Sequence[MemoryKind] | None,
    where: MemoryWhere | None,
    weights: RecallWeights | None,
    embedding: object,
    near: RefInput | None,
    expand: int,
    diversity: float,
    fold: bool,
    rerank: bool,
) -> RecallQuery:
    """A validated recall. Raises InvalidInput."""
    return RecallQuery(
        text=validate.text(text, "query", max_chars=validate.MAX_QUERY_CHARS),
        first=page_size(first),
        kinds=tuple(dict.fromkeys(kinds or ())),
        where=where_of(where),
        weights=recall_inputs.recall_weights(weights.given() if weights else {}),
        embedding=None if embedding is None else validate.embedding(embedding),
        near=None if near is None else near.within(namespace),
        expand=recall_inputs.expand(expand),
        diversity=recall_inputs.diversity(diversity),
        fold=fold,
        rerank=rerank,
    )


async def recall(
    context: Context, as_of: AsOf, namespace: str, query: RecallQuery, *, explain: bool
) -> "connections.RecallConnection":
    """The hits of a recall."""
    validate.namespace(namespace)
    await context.spend(SEARCH_NODES)
    async with context.reading(as_of) as view:
        found = await context.services.recalls.recall(view, namespace, query)
    return await connections.RecallConnection.of(context, as_of, found, explain=explain)


async def similar(
    context: Context, memory: "types.Memory", as_of: AsOf, first: int
) -> "connections.RecallConnection":
    """What a memory's own text recalls, without itself."""
    size = page_size(first)
    text = f"{memory.title or ''} {memory.content}"[: validate.MAX_QUERY_CHARS]
    await context.spend(SEARCH_NODES)
    async with context.reading(as_of) as view:
        found = await context.services.recalls.recall(
            view, memory.namespace, RecallQuery(text, size + 1), counted=False
        )
    others = tuple(hit for hit in found.hits if hit.memory.id != memory.row)
    kept = replace(found, hits=others[:size])
    return await connections.RecallConnection.of(context, as_of, kept, explain=True)
