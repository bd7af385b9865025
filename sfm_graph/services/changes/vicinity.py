"""The changes around a memory: by the links that there are now; of a memory that is gone, by those that it had."""

from collections.abc import Sequence

import numpy as np

from sfm_graph.domain.change import Change
from sfm_graph.domain.change_filter import ChangeFilter
from sfm_graph.domain.identity import Entity, MemoryRef
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.errors import MemoryNotFound, WalkTooLarge
from sfm_graph.hot.walks.one_step import one_step
from sfm_graph.services.view import View
from sfm_graph.services.walk_runner import WalkRunner
from sfm_graph.store import links, memories

# A vicinity is looked up again for every page of changes.
MAX_MEMORIES = 20_000


class Vicinity:
    """Keeps the changes around one memory."""

    def __init__(self, runner: WalkRunner, namespace: str, centre: int, hops: int) -> None:
        self._runner = runner
        self._namespace = namespace
        self._centre = centre
        self._hops = hops

    @classmethod
    async def of(cls, runner: WalkRunner, view: View, namespace: str, wanted: ChangeFilter) -> "Vicinity | None":
        """What `wanted.around` asks for, None when it asks for nothing. Raises MemoryNotFound."""
        if wanted.around is None:
            return None
        scope = await view.existing_namespace(namespace)
        return cls(runner, namespace, await _row_id(view, scope.id, namespace, wanted.around), wanted.hops)

    async def keep(self, view: View, changes: Sequence[Change]) -> list[Change]:
        """The changes of memories in the vicinity, and of links that touch one. Raises WalkTooLarge."""
        ends = {change.id: _ends(change) for change in changes}
        near: set[int] = set()
        scope = await view.namespace(self._namespace)
        if scope is not None and any(ends.values()):
            near = await self._memories(view, scope.id, {one for some in ends.values() for one in some})
        return [one for one in changes if one.entity is Entity.NAMESPACE or not near.isdisjoint(ends[one.id])]

    async def _memories(self, view: View, namespace_id: int, concerned: set[int]) -> set[int]:
        """The memories within the hops, and those of the concerned ones that were there before they went."""
        within = frontier = {self._centre}
        inner: set[int] = set()
        for _ in range(self._hops):
            inner = within
            frontier = await self._step(view, frontier) - within
            within = within | frontier
            if len(within) > MAX_MEMORIES:
                raise WalkTooLarge(
                    f"more than {MAX_MEMORIES} memories are within {self._hops} hops; ask for fewer hops"
                )
        gone = await memories.gone(view.session, namespace_id, concerned - within) if inner else []
        ends = await links.ever_at(view.session, namespace_id, gone) if gone else []
        return within.union(*((source, target) for source, target in ends if source in inner or target in inner))

    async def _step(self, view: View, frontier: set[int]) -> set[int]:
        if not frontier:
            return set()
        ground = await self._runner.ground(view, self._namespace, WalkFilter())
        steps = await ground.run(np.array(sorted(frontier), np.int64), one_step, self._runner.work())
        return set(steps.targets.tolist())


def _ends(change: Change) -> tuple[int, ...]:
    """The memories that a change is about; none of a link whose states were erased."""
    if change.entity is Entity.MEMORY:
        return (change.entity_id,)
    state = change.after() or change.before()
    return (state["source_id"], state["target_id"]) if change.entity is Entity.LINK and state else ()


async def _row_id(view: View, namespace_id: int, namespace: str, ref: MemoryRef) -> int:
    found = await memories.locate(view.session, namespace_id, [ref])
    if ref not in found:
        raise MemoryNotFound(f"no memory with {ref} in {namespace!r}", namespace=namespace)
    return found[ref]
