"""An export of everything: the lines of one snapshot, page by page."""

import asyncio
import hashlib
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from sfm_graph.domain import everything as lines
from sfm_graph.domain.everything import AccessLine, VersionLine
from sfm_graph.domain.identity import Entity, LinkId, MemoryId
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.namespace import Namespace
from sfm_graph.services.view import View
from sfm_graph.store import everything as store
from sfm_graph.store import transfer

LINES_AT_ONCE = 5_000


class Export:
    """One export. It holds 8 bytes for each memory and link, and a page."""

    def __init__(self, view: View, target: Namespace, *, vectors: bool) -> None:
        self._session = view.session
        self._now = view.now
        self._target = target
        self._vectors = vectors and target.model is not None
        self._memory_ids = array("q")
        self._link_ids = array("q")
        self._hash = hashlib.sha256()
        self._counts: Counter[str] = Counter()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Whole lines in chunks of up to a few megabytes."""
        async for chunk in self._all():
            self._hash.update(chunk)
            yield chunk
        counts = {name: count for name, count in sorted(self._counts.items()) if count}
        yield lines.line("end", {"counts": counts, "sha256": self._hash.hexdigest()})

    async def _all(self) -> AsyncIterator[bytes]:
        yield await self._header()
        for part in (self._memories, self._links, self._versions, self._accesses):
            async for chunk in part():
                yield chunk

    async def _header(self) -> bytes:
        target, model = self._target, self._target.model
        self._memory_ids = await store.ids(self._session, target.id, Entity.MEMORY)
        self._link_ids = await store.ids(self._session, target.id, Entity.LINK)
        return lines.line("namespace", {
            "format": lines.FORMAT,
            "name": target.name,
            "exported_at": self._now,
            "known": await store.known(self._session),
            "settings": target.settings.as_json(),
            "model": None if model is None else {
                "name": model.identity.name, "revision": model.identity.revision,
                "dimension": model.identity.dimension,
            },
            "vectors": self._vectors,
        })  # fmt: skip

    async def _memories(self) -> AsyncIterator[bytes]:
        target, after, done = self._target, 0, 0
        while page := await transfer.memories_page(self._session, target.id, target.name, after):
            after = page[-1].id
            found: dict[int, list[bytes]] = {}
            if self._vectors and target.model is not None:
                found = await store.vectors(self._session, target.id, target.model.id, [one.id for one in page])
            numbers = _numbers(self._memory_ids, [one.id for one in page])
            async for chunk in self._numbered(
                Entity.MEMORY,
                done,
                numbers,
                lambda place, page=page, found=found: _memory(page[place], found),  # type: ignore[misc]
            ):
                yield chunk
            done = numbers[-1]
        async for chunk in self._numbered(Entity.MEMORY, done, [], None, len(self._memory_ids)):
            yield chunk

    async def _links(self) -> AsyncIterator[bytes]:
        target, after, done = self._target, 0, 0
        while rows := await transfer.links_page(self._session, target.id, target.name, after, made=True):
            page = [row[2] for row in rows]
            after = page[-1].id
            numbers = _numbers(self._link_ids, [one.id for one in page])
            async for chunk in self._numbered(
                Entity.LINK,
                done,
                numbers,
                lambda place, page=page: self._link_fields(page[place]),  # type: ignore[misc]
            ):
                yield chunk
            done = numbers[-1]
        async for chunk in self._numbered(Entity.LINK, done, [], None, len(self._link_ids)):
            yield chunk

    async def _numbered(
        self,
        entity: Entity,
        done: int,
        numbers: Sequence[int],
        fields: Callable[[int], dict[str, Any]] | None,
        last: int = 0,
    ) -> AsyncIterator[bytes]:
        """The lines of a page after number `done`, with those that are gone in between; up to `last` without one."""
        whole = iter(_lines(entity, done, numbers, fields, last))
        while some := await asyncio.to_thread(_some, whole):
            self._counts[entity.value] += sum(not gone for gone, _ in some)
            self._counts["gone"] += sum(gone for gone, _ in some)
            yield b"".join(text for _, text in some)

    async def _versions(self) -> AsyncIterator[bytes]:
        after = -(2**63)
        while page := await store.versions_page(self._session, self._target.id, after):
            after = page[-1][0]
            self._counts["version"] += len(page)
            yield await asyncio.to_thread(self._version_lines, page)

    async def _accesses(self) -> AsyncIterator[bytes]:
        after = (0, "")
        while page := await store.accesses_page(self._session, self._target.id, after):
            after = (page[-1].memory, page[-1].agent)
            self._counts["access"] += len(page)
            yield await asyncio.to_thread(self._access_lines, page)

    def _version_lines(self, page: Iterable[Sequence[Any]]) -> bytes:
        return b"".join(self._version_line(store.version_of(self._target.name, row).line) for row in page)

    def _version_line(self, one: VersionLine) -> bytes:
        ids = self._memory_ids if one.entity is Entity.MEMORY else self._link_ids
        return lines.line("version", {
            "entity": one.entity, "number": _numbers(ids, [one.number])[0], "operation": one.operation,
            "before": self._state(one.before), "after": self._state(one.after), "transaction": one.transaction,
            "at": one.at, "trace": one.trace,
        })  # fmt: skip

    def _state(self, state: Memory | Link | None) -> dict[str, Any] | None:
        if state is None:
            return None
        fields = lines.memory_fields(state) if isinstance(state, Memory) else self._link_fields(state)
        return {name: value for name, value in fields.items() if value is not None}

    def _link_fields(self, link: Link) -> dict[str, Any]:
        source, target = _numbers(self._memory_ids, [link.source_id, link.target_id])
        return lines.link_fields(replace(link, source_id=MemoryId(source), target_id=MemoryId(target), id=LinkId(0)))

    def _access_lines(self, page: Sequence[AccessLine]) -> bytes:
        numbers = _numbers(self._memory_ids, [one.memory for one in page])
        return b"".join(
            lines.line("access", {
                "memory": number, "agent": one.agent or None, "count": one.count, "last_at": one.last_at,
            })
            for number, one in zip(numbers, page, strict=True)
        )  # fmt: skip


def _numbers(ids: "array[int]", wanted: Sequence[int]) -> list[int]:
    """Places, from 1, of ids that are there."""
    return [bisect_left(ids, one) + 1 for one in wanted]


def _memory(memory: Memory, vectors: dict[int, list[bytes]]) -> dict[str, Any]:
    found = [lines.vector_text(one) for one in vectors.get(memory.id, [])]
    return {**lines.memory_fields(memory), "vectors": found or None}


def _lines(
    entity: Entity,
    done: int,
    numbers: Sequence[int],
    fields: Callable[[int], dict[str, Any]] | None,
    last: int,
) -> Iterator[tuple[bool, bytes]]:
    """Whether it is gone, and its line."""
    for place, number in enumerate(numbers):
        for gone in range(done + 1, number):
            yield True, lines.line("gone", {"entity": entity, "number": gone})
        done = number
        if fields is not None:
            yield False, lines.line(entity.value, {"number": number, **fields(place)})
    for gone in range(done + 1, last + 1):
        yield True, lines.line("gone", {"entity": entity, "number": gone})


def _some(whole: Iterator[tuple[bool, bytes]]) -> list[tuple[bool, bytes]]:
    return list(islice(whole, LINES_AT_ONCE))
