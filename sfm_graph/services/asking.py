"""What writes say to hooks, and what hooks make of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from sfm_graph.domain import inputs
from sfm_graph.domain.extraction import AGENT as EXTRACTION
from sfm_graph.domain.identity import Entity, MemoryRef, encode_global_id
from sfm_graph.domain.link import Link, LinkPatch, NewLink, StoredLink
from sfm_graph.domain.memory import Memory, MemoryPatch, NewMemory, StoredMemory
from sfm_graph.domain.states import link_state, memory_state
from sfm_graph.errors import HookRefused, InvalidInput, SfmError
from sfm_graph.services.access.agents import current_agent
from sfm_graph.services.hooks import Hooks
from sfm_graph.services.memory_batch import CheckedMemories
from sfm_graph.services.refusals import refuse

# What an embedding stands for.
_TEXT = frozenset({"title", "content"})
_NOT_SHOWN = frozenset({"embedding", "expected_version"})
# By what a stored memory is named, which no hook changes.
_PLACES = frozenset({"id", "key", "coordinate"})
_MEMORY_NAMES = tuple(one.name for one in fields(NewMemory) if one.name not in _NOT_SHOWN)
_LINK_NAMES = tuple(
    one.name for one in fields(NewLink) if one.name not in {"source", "target", *_NOT_SHOWN}
)  # fmt: skip


async def asked_memories(hooks: Hooks, namespace: str, checked: CheckedMemories, *, partial: bool) -> CheckedMemories:
    """The batch as its writer signs it and hooks let it be stored.

    Raises HookRefused, and what validation raises of what a hook has changed; with `partial` they are the items'.
    """
    agent = current_agent()
    given = dict(checked.given)
    if agent is not None:
        given = {index: one if one.agent else replace(one, agent=agent) for index, one in given.items()}
    if not given or not hooks.on("before_store"):
        return CheckedMemories(given, checked.failed)
    failed = dict(checked.failed)
    places = list(given)
    try:
        changes = await hooks.before_store(namespace, "store", lambda: map(_memory_item, given.values()))
    except HookRefused as error:
        if not partial:
            raise
        return CheckedMemories({}, {**failed, **{index: _copy(error) for index in places}})
    kept: dict[int, NewMemory] = {}
    for index, change in zip(places, changes, strict=True):
        try:
            kept[index] = _changed_memory(given[index], change)
        except SfmError as error:
            refuse(failed, index, error, partial)
    return CheckedMemories(kept, failed)


def _copy(error: HookRefused) -> HookRefused:
    return HookRefused(error.message, **error.details)


def _changed_memory(memory: NewMemory, change: Mapping[str, Any] | HookRefused) -> NewMemory:
    if isinstance(change, HookRefused):
        raise change
    if not change:
        return memory
    asked = {name: getattr(memory, name) for name in _MEMORY_NAMES}
    made = inputs.something_to_remember(inputs.new_memory({**asked, **change}))
    keeps = all(getattr(made, name) == getattr(memory, name) for name in _TEXT)
    return replace(
        made,
        embedding=made.embedding if "embedding" in change else memory.embedding if keeps else None,
        expected_version=memory.expected_version,
    )


async def asked_patches(hooks: Hooks, namespace: str, patches: Sequence[MemoryPatch]) -> list[MemoryPatch]:
    """Updates as their writer signs them and hooks let them be made. Raises as above."""
    agent = current_agent()
    signed = [_signed(patch, agent) for patch in patches]
    if not signed or not hooks.on("before_store"):
        return signed
    changes = await hooks.before_store(namespace, "update", lambda: (_patch_item(namespace, one) for one in signed))
    return [_changed_patch(patch, change) for patch, change in zip(signed, changes, strict=True)]


def _signed(patch: MemoryPatch, agent: str | None) -> MemoryPatch:
    """An update without an agent takes out the one before: somebody else has written it now."""
    return patch if "agent" in patch.changes else replace(patch, changes={**patch.changes, "agent": agent})


def _changed_patch(patch: MemoryPatch, change: Mapping[str, Any] | HookRefused) -> MemoryPatch:
    if isinstance(change, HookRefused):
        raise change
    change = {name: value for name, value in change.items() if name not in _PLACES}
    if not change:
        return patch
    made = inputs.memory_patch(patch.ref, change)
    changes = {**patch.changes, **made.changes}
    if changes.keys() & _TEXT and made.changes.keys() & _TEXT and "embedding" not in made.changes:
        changes.pop("embedding", None)
    return replace(patch, changes=changes)


async def asked_made(
    hooks: Hooks, namespace: str, operation: str, memory: NewMemory, stored: MemoryRef | None,
    others: Sequence[Mapping[str, Any]] = (),
) -> NewMemory:  # fmt: skip
    """A memory that the service makes of what is stored, as hooks let it be; `stored`: the one in whose place.

    `others`: items of what is written with it, of which hooks may refuse any but change none. Key and coordinate
    stay. Raises as above.
    """
    if not hooks.on("before_store"):
        return memory
    item = {**_memory_item(memory), **(ref_item(namespace, stored) if stored else {})}
    change, *rest = await hooks.before_store(namespace, operation, lambda: [item, *others])
    for one in rest:
        if isinstance(one, HookRefused):
            raise one
    if isinstance(change, HookRefused):
        raise change
    return _changed_memory(memory, {name: value for name, value in change.items() if name not in _PLACES})


def signed_links(given: Mapping[int, NewLink]) -> Mapping[int, NewLink]:
    """Links as their writer signs them."""
    agent = current_agent()
    if agent is None:
        return given
    return {index: one if one.agent else replace(one, agent=agent) for index, one in given.items()}


def signed_link_patches(patches: Sequence[LinkPatch]) -> list[LinkPatch]:
    """As above, of updates."""
    agent = current_agent()
    return [
        one if "agent" in one.changes else replace(one, changes={**one.changes, "agent": agent}) for one in patches
    ]


def callers_links(given: Mapping[int, NewLink], failed: dict[int, SfmError], *, partial: bool) -> dict[int, NewLink]:
    """Those that callers may sign so; extraction takes what bears its name for its own. Raises InvalidInput, or with
    `partial` notes it."""
    kept = {index: one for index, one in given.items() if one.agent != EXTRACTION}
    for index in given.keys() - kept.keys():
        refuse(failed, index, _taken_name(), partial)
    return kept


def require_callers_patches(patches: Sequence[LinkPatch]) -> None:
    """As above, of updates: all or none."""
    if any(one.changes.get("agent") == EXTRACTION for one in patches):
        raise _taken_name()


def _taken_name() -> InvalidInput:
    return InvalidInput(f"{EXTRACTION!r} signs the links of the service's own extraction", field="agent")


def _memory_item(memory: NewMemory) -> dict[str, Any]:
    return {name: _shown(getattr(memory, name)) for name in _MEMORY_NAMES}


def _patch_item(namespace: str, patch: MemoryPatch) -> dict[str, Any]:
    changes = {name: _shown(value) for name, value in patch.changes.items() if name not in _NOT_SHOWN}
    return {**ref_item(namespace, patch.ref), **changes}


def _shown(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def ref_item(namespace: str, ref: MemoryRef) -> dict[str, Any]:
    """A reference as hooks see it."""
    if ref.id is not None:
        return {"id": encode_global_id(Entity.MEMORY, namespace, ref.id)}
    return {"key": ref.key} if ref.key is not None else {"coordinate": ref.coordinate}


def link_items(namespace: str, links: Mapping[int, NewLink]) -> Iterator[dict[str, Any]]:
    """Links to make, as hooks see them."""
    for link in links.values():
        yield {
            "source": ref_item(namespace, link.source),
            "target": ref_item(namespace, link.target),
            **{name: _shown(getattr(link, name)) for name in _LINK_NAMES},
        }


def stored_link_fields(namespace: str, links: Sequence[Link]) -> Iterator[dict[str, Any]]:
    """Links that move or come back, as hooks see them: with their ids."""
    for link in links:
        yield {
            "id": encode_global_id(Entity.LINK, namespace, link.id),
            "source": ref_item(namespace, MemoryRef(id=link.source_id)),
            "target": ref_item(namespace, MemoryRef(id=link.target_id)),
            **{name: _shown(getattr(link, name)) for name in _LINK_NAMES},
        }


def link_patch_items(namespace: str, patches: Sequence[LinkPatch]) -> Iterator[dict[str, Any]]:
    """Links to change, as hooks see them."""
    for patch in patches:
        changes = {name: _shown(value) for name, value in patch.changes.items()}
        yield {"id": encode_global_id(Entity.LINK, namespace, patch.id), **changes}


def id_items(entity: Entity, namespace: str, ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    """What is to go or is gone, as hooks see it."""
    return ({"id": encode_global_id(entity, namespace, one)} for one in ids)


def memory_done(memory: Memory, operation: str) -> dict[str, Any]:
    """A memory that is stored now, as hooks see it."""
    return {**memory_state(memory), "id": memory.global_id, "operation": operation}


def stored_items(stored: Sequence[StoredMemory]) -> Iterator[dict[str, Any]]:
    """Memories that were stored, as hooks see them."""
    return (memory_done(one.memory, one.operation.value) for one in stored)


def stored_link_items(stored: Sequence[StoredLink]) -> Iterator[dict[str, Any]]:
    """Links that were made, as hooks see them."""
    for one in stored:
        ends = {
            name: encode_global_id(Entity.MEMORY, one.link.namespace, row)
            for name, row in (("source_id", one.link.source_id), ("target_id", one.link.target_id))
        }
        yield {**link_state(one.link), **ends, "id": one.link.global_id, "operation": one.operation.value}
