"""The content policy on what is about to be written, off the event loop where it takes long."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from sfm_graph.domain.content_policy import ContentPolicy, screened, screened_properties
from sfm_graph.domain.link import Link, NewLink
from sfm_graph.domain.memory import MemoryPatch, NewMemory
from sfm_graph.errors import SfmError
from sfm_graph.services.indexing import IndexingRules
from sfm_graph.services.refusals import refuse

# All patterns on so many characters take about a millisecond. Of short texts, of which a payload may have many, each
# takes as long as one of ten times its length, and a memory at least as long as one of a hundred characters.
INLINE_CHARS = 10_000
_PER_PAYLOAD_BYTE, _PER_MEMORY = 10, 100
_TOLD = ("title", "content", "payload")
_SCREENED = (*_TOLD, "embedding")


@dataclass(frozen=True, slots=True)
class WriteRules:
    """What of a namespace decides how a memory is stored: what it may say, and how it is made findable."""

    indexing: IndexingRules
    policy: ContentPolicy | None


async def screen(
    given: Mapping[int, NewMemory], policy: ContentPolicy | None, failed: dict[int, SfmError], *, partial: bool
) -> Mapping[int, NewMemory]:
    """The memories as the policy lets them be stored, by place; what it refuses is noted, or raised."""
    if policy is None:
        return given
    if _is_short(given.values()):
        return _screen(given, policy, failed, partial)
    return await asyncio.to_thread(_screen, given, policy, failed, partial)


def _is_short(given: Iterable[NewMemory]) -> bool:
    """Whether looking at all of it takes no longer than the event loop may."""
    size = 0
    for memory in given:
        size += _PER_MEMORY + len(memory.content) + len(memory.title or "")
        if size <= INLINE_CHARS and memory.payload:
            size += _PER_PAYLOAD_BYTE * len(orjson.dumps(memory.payload))
        if size > INLINE_CHARS:
            return False
    return True


def _screen(
    given: Mapping[int, NewMemory], policy: ContentPolicy, failed: dict[int, SfmError], partial: bool
) -> dict[int, NewMemory]:
    kept: dict[int, NewMemory] = {}
    for index, memory in given.items():
        try:
            kept[index] = screened(memory, policy)
        except SfmError as error:
            refuse(failed, index, error, partial)
    return kept


async def screen_patches(
    merged: Mapping[int, tuple[MemoryPatch, NewMemory]], policy: ContentPolicy | None
) -> dict[int, tuple[MemoryPatch, NewMemory]]:
    """Patches with the memories that they lead to, by place: of those that say something else than before, the whole
    memory is looked at, and what the policy changes is part of the patch. Raises ContentRefused."""
    told = {place: memory for place, (patch, memory) in merged.items() if not patch.changes.keys().isdisjoint(_TOLD)}
    kept = await screen(told, policy, {}, partial=False)
    return {
        place: (_with_changes(patch, memory, kept.get(place, memory)), kept.get(place, memory))
        for place, (patch, memory) in merged.items()
    }


def _with_changes(patch: MemoryPatch, before: NewMemory, after: NewMemory) -> MemoryPatch:
    changed = {
        name: getattr(after, name) for name in _SCREENED if getattr(after, name) is not getattr(before, name)
    }  # fmt: skip
    return replace(patch, changes={**patch.changes, **changed}) if changed else patch


async def screen_made(memory: NewMemory, policy: ContentPolicy | None, own_keys: frozenset[str]) -> NewMemory:
    """A memory that the service makes of others, in whose payload some keys are its own. Raises ContentRefused."""
    if policy is None:
        return memory
    return await asyncio.to_thread(screened, memory, policy, own_keys)


async def screen_stored_links(given: Sequence[Link], policy: ContentPolicy | None) -> list[Link]:
    """Links that come back, with the properties that the policy of now lets them have. Raises ContentRefused."""
    if policy is None:
        return list(given)
    return await asyncio.to_thread(
        lambda: [replace(one, properties=screened_properties(one.properties, policy)) for one in given]
    )


async def screen_links(
    given: Mapping[int, NewLink], policy: ContentPolicy | None, failed: dict[int, SfmError], *, partial: bool
) -> Mapping[int, NewLink]:
    """The links with the properties that the policy lets them have, by place; as above."""
    if policy is None:
        return given
    return await asyncio.to_thread(_screen_links, given, policy, failed, partial)


def _screen_links(
    given: Mapping[int, NewLink], policy: ContentPolicy, failed: dict[int, SfmError], partial: bool
) -> dict[int, NewLink]:
    kept: dict[int, NewLink] = {}
    for index, link in given.items():
        try:
            kept[index] = replace(link, properties=screened_properties(link.properties or {}, policy))
        except SfmError as error:
            refuse(failed, index, error, partial)
    return kept


async def screen_document(document: Mapping[str, Any], policy: ContentPolicy | None) -> Mapping[str, Any]:
    """A link's new properties. Raises ContentRefused."""
    return document if policy is None else await asyncio.to_thread(screened_properties, document, policy)
