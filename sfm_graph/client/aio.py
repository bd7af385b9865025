"""The async memory system: one namespace of the graph, over the services of this process."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Unpack

from sfm_graph.api.exports import export_request, exported
from sfm_graph.api.rest import answers
from sfm_graph.client.changes import ChangeMethods
from sfm_graph.client.fields import (
    AsOf,
    Json,
    LinkFields,
    MemoryFields,
    MemoryType,
    RecallOptions,
    Reference,
    StoredFields,
)
from sfm_graph.client.foresight import ForesightMethods
from sfm_graph.client.history import HistoryMethods
from sfm_graph.client.opening import as_json
from sfm_graph.client.walks import WalkMethods
from sfm_graph.domain import inputs, recall_inputs, validate
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.domain.page import MAX_PAGE, page_size
from sfm_graph.domain.recall import MAX_RECALL, Recall, RecallQuery, RecallWeights
from sfm_graph.domain.where import box, parse_filters
from sfm_graph.services.links import LinkRequest

_CHUNK_BYTES = 256 * 1024


class AsyncMemorySystem(HistoryMethods, WalkMethods, ForesightMethods, ChangeMethods):
    """One namespace of the memory graph. Opened by `async with`; its methods raise Unavailable outside of it.

    settings: fields of Settings, above the environment and the YAML file `config`. TEST without a `data_dir` or
    POSTGRES_URL works in a folder that is deleted at the end.
    """

    async def store_memory(
        self,
        coordinate: Reference,
        payload: Mapping[str, Any] | None = None,
        memory_type: MemoryType | str = MemoryKind.EPISODIC,
        key: str | None = None,
        **fields: Unpack[MemoryFields],
    ) -> Json:
        """Store a memory at a coordinate, or at a key; what is stored there already is updated."""
        ref = self._ref(coordinate)
        return await self.remember(
            payload, memory_type=memory_type, key=key or ref.key, coordinate=ref.coordinate, **fields
        )

    async def remember(
        self,
        payload: Mapping[str, Any] | None = None,
        *,
        memory_type: MemoryType | str = MemoryKind.EPISODIC,
        key: str | None = None,
        coordinate: Sequence[float] | None = None,
        **fields: Unpack[MemoryFields],
    ) -> Json:
        """Store a memory: at a key or a coordinate, or else wherever the service likes."""
        given = {"payload": payload, "kind": memory_type, "key": key, "coordinate": coordinate, **fields}
        stored = await self._services.memory_writes.store(self._namespace, given)
        return as_json(answers.memory_json(stored.memory))

    async def store_many(self, items: Sequence[Mapping[str, Any]], *, partial: bool = False) -> Json:
        """Store up to 10,000 memories in one transaction, all or none; with `partial` what can be stored.

        Items have the fields of `remember`, and `kind`. Answers stored (a count), failed and memories.
        """
        done = await self._services.memory_writes.store_many(self._namespace, items, partial=partial)
        return as_json(answers.bulk_json(done))

    async def get(self, ref: Reference, **as_of: Unpack[AsOf]) -> Json:
        """One memory. Raises MemoryNotFound."""
        async with self._view(as_of) as view:
            found = await self._services.memory_reads.get(view, self._namespace, self._ref(ref))
        return as_json(answers.memory_json(found))

    async def retrieve(self, ref: Reference, **as_of: Unpack[AsOf]) -> Json | None:
        """One memory, or None."""
        async with self._view(as_of) as view:
            (found,) = await self._services.memory_reads.look_up(view, self._namespace, [self._ref(ref)])
        return None if found is None else as_json(answers.memory_json(found))

    async def update(self, ref: Reference, **fields: Unpack[StoredFields]) -> Json:
        """Replace the given fields of a memory. Raises MemoryNotFound, VersionConflict."""
        updated = await self._services.memory_writes.update(self._namespace, self._ref(ref), fields)
        return as_json(answers.memory_json(updated))

    async def forget(self, ref: Reference, *, expected_version: int | None = None) -> bool:
        """Take a memory with its links out of every answer; False when there is none."""
        writes = self._services.memory_writes
        refs = [self._ref(ref)]
        return bool(await writes.forget_many(self._namespace, refs, expected_version=expected_version))

    delete = forget

    async def erase(self, ref: Reference, *, expected_version: int | None = None) -> bool:
        """Forget a memory and purge it from the change log; a forgotten one is found by its id, last key or place."""
        writes = self._services.memory_writes
        refs = [self._ref(ref)]
        return bool(await writes.erase_many(self._namespace, refs, expected_version=expected_version))

    async def hold(self, ref: Reference) -> Json:
        """Let nothing forget or erase a memory until it is released. Raises MemoryNotFound."""
        return as_json(answers.memory_json(await self._services.holds.hold(self._namespace, self._ref(ref))))

    async def release(self, ref: Reference) -> Json:
        """Let go of a memory that is held. Raises MemoryNotFound."""
        return as_json(answers.memory_json(await self._services.holds.release(self._namespace, self._ref(ref))))

    async def decay(self, *, dry_run: bool = False, limit: int = 100) -> Json:
        """Do up to `limit` of what is due of the memories, or say what would be done. Raises NamespaceNotFound."""
        done = await self._services.fading.decay(self._namespace, dry_run=dry_run, limit=limit)
        return as_json(answers.decay_json(done))

    async def recall(self, query: str, top_k: int = 5, **options: Unpack[RecallOptions]) -> list[Json]:
        """The memories that fit a query best, best first."""
        found = await self._recalled(query, top_k, **options)
        return [as_json(answers.memory_json(hit.memory)) for hit in found.hits]

    async def recall_with_scores(self, query: str, top_k: int = 5, **options: Unpack[RecallOptions]) -> list[Json]:
        """As `recall`, each memory with its score in [0, 1] and the legs that add up to it."""
        found = await self._recalled(query, top_k, **options)
        return [as_json(answers.hit_json(hit)) for hit in found.hits]

    async def _recalled(self, query: str, top_k: int, **options: Unpack[RecallOptions]) -> Recall:
        kind, embedding = options.get("kind"), options.get("embedding")
        kinds = [kind] if isinstance(kind, str) else kind or ()
        question = RecallQuery(
            text=validate.text(query, "query", max_chars=validate.MAX_QUERY_CHARS),
            first=validate.integer(top_k, "top_k", low=1, high=MAX_RECALL),
            kinds=tuple(validate.choice(one, MemoryKind, "kind") for one in kinds),
            where=parse_filters(options.get("filters")),
            weights=_weights(options),
            embedding=None if embedding is None else validate.embedding(embedding),
            near=None if options.get("near") is None else inputs.memory_ref(self._namespace, options["near"]),
            expand=recall_inputs.expand(options.get("expand", 0)),
            diversity=recall_inputs.diversity(options.get("diversity", 0.0)),
            fold=bool(options.get("fold", False)),
            rerank=bool(options.get("rerank", True)),
        )
        async with self._view(options) as view:
            return await self._services.recalls.recall(view, self._namespace, question)

    async def keyword_search(
        self,
        term: str,
        *,
        exact: bool = False,
        case_sensitive: bool = False,
        first: int = MAX_PAGE,
        after: str | None = None,
        **as_of: Unpack[AsOf],
    ) -> Json:
        """Memories that hold every word of `term`, or words that begin so: `results`, and `next` for `after`."""
        async with self._view(as_of) as view:
            page = await self._services.memory_reads.with_words(
                view, self._namespace, term, exact=exact, case_sensitive=case_sensitive, first=page_size(first),
                after=after,
            )  # fmt: skip
        return as_json(answers.page_json("results", page))

    async def range(
        self,
        low: Sequence[float],
        high: Sequence[float],
        *,
        kind: MemoryType | str | None = None,
        first: int = MAX_PAGE,
        after: str | None = None,
        **as_of: Unpack[AsOf],
    ) -> Json:
        """Memories in a coordinate box, its borders included: `memories`, and `next` for `after`."""
        wanted = None if kind is None else validate.choice(kind, MemoryKind, "kind")
        async with self._view(as_of) as view:
            page = await self._services.memory_reads.in_box(
                view, self._namespace, box(low, high), kind=wanted, first=page_size(first), after=after
            )
        return as_json(answers.page_json("memories", page))

    async def link_memories(
        self,
        source: Reference,
        target: Reference,
        type: str | None = None,
        weight: float | None = None,
        properties: Mapping[str, Any] | None = None,
        **fields: Unpack[LinkFields],
    ) -> Json:
        """Link two memories; the same ends and type again update the link. Raises MemoryNotFound.

        weight: a cost >= 0, 1 by default.
        """
        given = {"type": type, "weight": weight, "properties": properties, **fields}
        stored = await self._services.links.link(self._namespace, source, target, given)
        return as_json(answers.link_json(stored.link))

    async def link_many(self, links: Sequence[Mapping[str, Any]]) -> list[Json]:
        """Make up to 10,000 links in one transaction, all or none: `source`, `target` and fields of a link each."""
        ends = ("source", "target")
        requests = [
            LinkRequest(one.get("source"), one.get("target"), {k: v for k, v in one.items() if k not in ends})
            for one in links
        ]
        done = await self._services.links.link_many(self._namespace, requests)
        return [as_json(answers.link_json(one.link)) for one in done.stored]

    async def unlink(self, source: Reference, target: Reference, type: str | None = None) -> int:
        """Remove the links from one memory to another, of one type or any; how many there were."""
        type_ = None if type is None else inputs.link_type(type)
        ends = self._ref(source), self._ref(target)
        return len(await self._services.links.unlink_between(self._namespace, *ends, type_))

    async def stats(self, **as_of: Unpack[AsOf]) -> Json:
        """What is in the namespace. Raises NamespaceNotFound before its first write."""
        async with self._view(as_of) as view:
            found = await self._services.namespaces.statistics(view, self._namespace)
        return as_json(answers.statistics_json(found))

    async def export(
        self,
        path: Path | str,
        *,
        format: str = "ndjson",
        everything: bool = False,
        vectors: bool = True,
        **as_of: Unpack[AsOf],
    ) -> int:
        """Write the namespace into a file, as NDJSON or `graphml`; its size in bytes. Raises NamespaceNotFound.

        everything: all of it, as `import_` restores it; with or without `vectors`.
        """
        asked = export_request({"format": format, "everything": everything, "vectors": vectors, **as_of})
        chunks = exported(self._services, self._namespace, asked)
        async with aclosing(chunks):
            await anext(chunks)
            first, size = await anext(chunks), 0
            with await asyncio.to_thread(open, path, "wb") as file:
                size += await asyncio.to_thread(file.write, first)
                async for chunk in chunks:
                    size += await asyncio.to_thread(file.write, chunk)
        return size

    async def import_(self, path: Path | str, *, everything: bool = False) -> Json:
        """Store the records of an NDJSON file; counts, and failures with their lines. Again: what is new.

        everything: restore an export of everything into a namespace that never held anything.
        """
        transfer = self._services.transfer
        take = transfer.import_everything if everything else transfer.import_ndjson
        report = await take(_chunks_of(path), self._namespace)
        return as_json(report.as_json())


async def _chunks_of(path: Path | str) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(open, path, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk


def _weights(options: Mapping[str, Any]) -> RecallWeights:
    if not options.get("hybrid", True):
        return recall_inputs.DENSE_ONLY
    weights = options.get("weights")
    return recall_inputs.recall_weights({} if weights is None else weights)
