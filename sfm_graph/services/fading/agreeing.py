"""Hooks are asked before memories are let go that nobody asked to forget."""

import time
from collections.abc import Sequence
from typing import Final

from sfm_graph.domain.identity import Entity, MemoryId
from sfm_graph.errors import HookRefused
from sfm_graph.services.asking import id_items
from sfm_graph.services.hooks import Hooks

# Of memories that are refused together each is asked about alone, for so long; the others are kept for now.
ASKED_SECONDS: Final = 5.0


async def agreed(
    hooks: Hooks, namespace: str, operation: str, ids: Sequence[MemoryId]
) -> tuple[list[MemoryId], HookRefused | None]:
    """Those of the memories that hooks let go, in order, and the last refusal. Before any of them is locked."""
    if not ids or not hooks.on("before_forget"):
        return list(ids), None
    refusal = await _refusal(hooks, namespace, operation, ids)
    if refusal is None:
        return list(ids), None
    until = time.monotonic() + ASKED_SECONDS
    kept: list[MemoryId] = []
    for one in ids if len(ids) > 1 else ():
        if time.monotonic() >= until:
            break
        found = await _refusal(hooks, namespace, operation, [one])
        if found is None:
            kept.append(one)
        else:
            refusal = found
    return kept, refusal


async def _refusal(hooks: Hooks, namespace: str, operation: str, ids: Sequence[MemoryId]) -> HookRefused | None:
    try:
        await hooks.before("before_forget", namespace, operation, lambda: id_items(Entity.MEMORY, namespace, ids))
    except HookRefused as error:
        return error
    return None


async def told(hooks: Hooks, namespace: str, operation: str, gone: Sequence[MemoryId]) -> None:
    """Tell hooks what is gone."""
    if gone and hooks.on("after_forget"):
        items = list(id_items(Entity.MEMORY, namespace, gone))
        await hooks.after("after_forget", namespace, operation, lambda: items, lambda: items)
