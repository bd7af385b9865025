"""Storing what was extracted from one memory, and taking back what it no longer says."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sfm_graph.domain.extraction import ABOUT, AGENT, Extracted, FoundEntity
from sfm_graph.domain.identity import Entity, LinkId, MemoryId, MemoryRef, encode_global_id
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory, MemoryKind
from sfm_graph.domain.names import head_of, name_of
from sfm_graph.errors import MemoryNotFound
from sfm_graph.services.link_batch import LinkRequest
from sfm_graph.services.links import Links
from sfm_graph.services.memory_writes import MemoryWrites
from sfm_graph.store import extraction, linking, memories, namespaces
from sfm_graph.store.database import Database, Session

# Memories that share one name; the first that is an entity is meant.
_MOST_SO_CALLED = 20

_Ends = tuple[int, str, int]


class Extracting:
    """Writes through the services that callers write by: links, words, vectors and changes stay right."""

    def __init__(self, database: Database, memory_writes: MemoryWrites, links: Links) -> None:
        self._database = database
        self._memory_writes = memory_writes
        self._links = links

    async def store(self, namespace: str, namespace_id: int, memory: Memory, found: Extracted) -> None:
        """Bring the entities and links of a memory in line with what was found in it. An entity that exists already
        is only linked; a link that somebody else made is left alone. Nothing for a memory that is gone meanwhile."""
        entities = await self._entities(namespace, namespace_id, found.entities)
        wanted: dict[_Ends, dict[str, Any]] = {
            (memory.id, ABOUT, id_): {} for id_ in entities.values() if id_ != memory.id
        }
        for one in found.relations:
            source, target = entities.get(one.source), entities.get(one.target)
            if source is not None and target is not None and source != target:
                wanted[source, one.type, target] = {"confidence": one.confidence, "weight": one.weight}
        await self._bring_in_line(namespace, namespace_id, memory, wanted)

    async def withdraw(self, namespace: str, namespace_id: int, memory_id: int) -> None:
        """Remove the links that were extracted from a memory that is gone."""
        async with self._database.read() as session:
            evidence = encode_global_id(Entity.MEMORY, namespace, memory_id)
            made = await extraction.links(session, namespace_id, namespace, evidence)
        await self._unlink(namespace, made)

    async def _entities(self, namespace: str, namespace_id: int, found: Iterable[FoundEntity]) -> dict[str, MemoryId]:
        by_key = {one.key: one for one in found}
        known = await self._known(namespace_id, by_key)
        missing = [one for key, one in by_key.items() if key not in known]
        if missing:
            stored = await self._memory_writes.store_many(
                namespace, [_item(one) for one in missing], partial=True, skip_unchanged=True
            )
            known |= {one.memory.key: one.memory.id for one in stored.stored if one.memory.key is not None}
        return known

    async def _known(self, namespace_id: int, by_key: Mapping[str, FoundEntity]) -> dict[str, MemoryId]:
        """The entities that are there already: by key, or else by what they are called."""
        if not by_key:
            return {}
        names = {key: name_of(one.name) for key, one in by_key.items()}
        async with self._database.read() as session:
            located = await memories.locate(session, namespace_id, [MemoryRef(key=key) for key in by_key])
            called, _ = await linking.names(
                session, namespace_id, sorted({head_of(name) for name in names.values()}), _MOST_SO_CALLED
            )
        known: dict[str, MemoryId] = {}
        for key, name in names.items():
            others = called.get(name)
            entities = [id_ for id_, is_one in zip(*others, strict=True) if is_one] if others else []
            id_ = located.get(MemoryRef(key=key)) or next(iter(entities), None)
            if id_ is not None:
                known[key] = id_
        return known

    async def _bring_in_line(
        self, namespace: str, namespace_id: int, memory: Memory, wanted: Mapping[_Ends, Mapping[str, Any]]
    ) -> None:
        async with self._database.read() as session:
            made = await extraction.links(session, namespace_id, namespace, memory.global_id)
            taken = await _taken(session, namespace, namespace_id, wanted)
        await self._unlink(namespace, [one for one in made if _ends(one) not in wanted])
        requests = [
            _request(namespace, memory, ends, properties) for ends, properties in wanted.items() if ends not in taken
        ]
        if requests:
            try:
                await self._links.link_many(namespace, requests, partial=True, skip_unchanged=True, as_service=True)
            except MemoryNotFound:
                return

    async def _unlink(self, namespace: str, made: Iterable[Link]) -> None:
        ids = [LinkId(one.id) for one in made]
        if ids:
            await self._links.unlink_many(namespace, ids)


async def _taken(session: Session, namespace: str, namespace_id: int, wanted: Collection[_Ends]) -> set[_Ends]:
    """Which of the wanted links would replace, or close, one that somebody else made."""
    target = await namespaces.by_name(session, namespace)
    if target is None or not wanted:
        return set()
    sources, types = {ends[0] for ends in wanted}, sorted({ends[1] for ends in wanted})
    others = await extraction.taken(session, namespace_id, sources, types)
    stored = {(source, type_, end) for source, type_, end, _ in others}
    functional = {
        (source, type_)
        for source, type_, _, is_open in others
        if is_open and type_ in target.settings.functional_types
    }
    return {ends for ends in wanted if ends in stored or ends[:2] in functional}


def _ends(link: Link) -> _Ends:
    return link.source_id, link.type, link.target_id


def _item(one: FoundEntity) -> dict[str, Any]:
    return {
        "key": one.key, "kind": MemoryKind.ENTITY.value, "title": one.name, "content": one.name,
        "payload": {"type": one.type}, "agent": AGENT,
    }  # fmt: skip


def _request(namespace: str, memory: Memory, ends: _Ends, properties: Mapping[str, Any]) -> LinkRequest:
    source, type_, target = ends
    fields: dict[str, Any] = {"type": type_, "agent": AGENT, "properties": {"evidence": memory.global_id}}
    if "confidence" in properties:
        fields["weight"] = properties["weight"]
        # The memory itself is the evidence, not a quotation: what is erased there is not kept here.
        fields["properties"]["confidence"] = properties["confidence"]
    return LinkRequest(_id(namespace, source), _id(namespace, target), fields)


def _id(namespace: str, memory_id: int) -> dict[str, str]:
    return {"id": encode_global_id(Entity.MEMORY, namespace, memory_id)}
