"""What becomes of memories that are merged into one, and of their links."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sfm_graph.domain import validate
from sfm_graph.domain.cues import MAX_ALIASES
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.link import Link, NewLink
from sfm_graph.domain.memory import Memory, NewMemory

ALIASES, MERGED_FROM = "aliases", "merged_from"
# What a merge itself writes into a payload.
OWN_KEYS = frozenset({ALIASES, MERGED_FROM})
# The ids of merged memories that are remembered: the last ones.
MAX_MERGED_FROM = 200
_BEGINNING, _END = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class MergeResult:
    """The memory that was kept, as it is now; the ids of those that went into it, ascending; what became of links.

    `moved`: links that lead from or to the kept one instead, several with one identity counted once; `dropped`:
    links between the merged ones, which would lead from the kept one to itself.
    """

    memory: Memory
    merged: tuple[MemoryId, ...]
    moved: int
    dropped: int


def merged_memory(kept: Memory, others: Sequence[Memory]) -> NewMemory:
    """What the kept one says afterwards.

    Its own title, content, validity and kind stay. Payload keys that it lacks are the others', of several the
    first's; titles of others become `aliases`, their ids `merged_from`. It is as important as the most important of
    them, and is kept as long as any of them. Raises TooLarge for a payload that cannot be stored.
    """
    payload: dict[str, Any] = dict(kept.payload)
    for other in others:
        for name, value in other.payload.items():
            if name not in (ALIASES, MERGED_FROM):
                payload.setdefault(name, value)
    title = kept.title or next((one.title for one in others if one.title), None)
    if (aliases := _aliases(title, kept, others)) is not None:
        payload[ALIASES] = aliases
    before = [id_ for one in (kept, *others) for id_ in _listed(one.payload.get(MERGED_FROM))]
    payload[MERGED_FROM] = list(dict.fromkeys([*before, *(one.global_id for one in others)]))[-MAX_MERGED_FROM:]
    ends = [one.expires_at for one in (kept, *others)]
    return NewMemory(
        kept.coordinate, kept.key, kept.kind, title, kept.content, validate.json_object(payload, "payload"),
        max(one.importance for one in (kept, *others)), kept.valid_from, kept.valid_to,
        expires_at=None if None in ends else max(end for end in ends if end is not None), agent=kept.agent,
    )  # fmt: skip


def _aliases(title: str | None, kept: Memory, others: Sequence[Memory]) -> list[Any] | None:
    """The kept one's, then the others' titles and aliases; None: as they are, which may be anything."""
    own = kept.payload.get(ALIASES)
    if own is not None and not isinstance(own, str | list):
        return None
    found = _listed(own)
    for other in others:
        found += [name for name in (other.title, *_listed(other.payload.get(ALIASES))) if isinstance(name, str)]
    names = [name for name in dict.fromkeys(name for name in found if isinstance(name, str)) if name != title]
    if own is None:
        return names[:MAX_ALIASES] or None
    return names[: max(MAX_ALIASES, len(_listed(own)))] if set(names) - set(map(str, _listed(own))) else None


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list) else [value] if isinstance(value, str) else []


def moved_links(
    kept: MemoryId, gone: Set[MemoryId], touching: Sequence[Link], own: Sequence[Link]
) -> tuple[list[NewLink], int]:
    """The links that stand afterwards in place of callers' links of merged memories, by beginning of validity; how
    many are dropped.

    `touching`: the links of merged memories by id, `own`: those of the kept one. Links of linkers are theirs to make.
    What has the same ends, type and beginning as another is one with it: the smaller weight, the later end, the
    properties of both, of which the kept one's own, then those of the older link stand.
    """
    dropped = 0
    found: dict[tuple[int, int, str, datetime | None], Link] = {}
    standing = {_identity(one): one for one in own if one.maker is None}
    for link in sorted(touching, key=lambda one: one.id):
        if link.maker is not None:
            continue
        source = kept if link.source_id in gone else link.source_id
        target = kept if link.target_id in gone else link.target_id
        if source == target:
            dropped += 1
            continue
        moved = replace(link, source_id=source, target_id=target)
        place = _identity(moved)
        other = found.get(place) or standing.get(place)
        found[place] = _joined(other, moved) if other else moved
    ordered = sorted(found.values(), key=lambda one: (one.valid_from or _BEGINNING, one.id))
    return [_new(one) for one in ordered], dropped


def _identity(link: Link) -> tuple[int, int, str, datetime | None]:
    return (link.source_id, link.target_id, link.type, link.valid_from)


def _joined(first: Link, second: Link) -> Link:
    ends = [one.valid_to or _END for one in (first, second)]
    properties: Mapping[str, Any] = {**second.properties, **first.properties}
    end = max(ends)
    return replace(
        first, weight=min(first.weight, second.weight), properties=properties,
        valid_to=None if end == _END else end,
    )  # fmt: skip


def _new(link: Link) -> NewLink:
    return NewLink(
        MemoryRef(id=link.source_id), MemoryRef(id=link.target_id), link.type, link.weight,
        validate.json_object(link.properties, "properties"), link.valid_from, link.valid_to, agent=link.agent,
    )  # fmt: skip
