"""The changes around a memory: by the links that there are now, and those that the changes themselves show."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from sfm_graph.domain.change import Change
from sfm_graph.domain.change_filter import ChangeFilter
from sfm_graph.domain.identity import Entity, MemoryRef
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.errors import MemoryNotFound, WalkTooLarge
from sfm_graph.hot.walks.one_step import one_step
from sfm_graph.services.view import View
from sfm_graph.services.walk_runner import WalkRunner
from sfm_graph.store import memories

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
        if any(ends.values()) and await view.namespace(self._namespace) is not None:
            near = await self._memories(view, ends.values())
        return [one for one in changes if one.entity is Entity.NAMESPACE or not near.isdisjoint(ends[one.id])]

    async def _memories(self, view: View, shown: Iterable[tuple[int, ...]]) -> set[int]:
        beside: dict[int, set[int]] = defaultdict(set)
        for ends in shown:
            for one in ends:
                beside[one].update(ends)
        found = frontier = {self._centre}
        for _ in range(self._hops):
            frontier = await self._step(view, frontier, beside) - found
            if not frontier:
                break
            found = found | frontier
            if len(found) > MAX_MEMORIES:
                raise WalkTooLarge(
                    f"more than {MAX_MEMORIES} memories are within {self._hops} hops; ask for fewer hops"
                )
        return found

    async def _step(self, view: View, frontier: set[int], beside: dict[int, set[int]]) -> set[int]:
        ground = await self._runner.ground(view, self._namespace, WalkFilter())
        steps = await ground.run(np.array(sorted(frontier), np.int64), one_step, self._runner.work())
        return set(steps.targets.tolist()).union(*(beside[one] for one in frontier if one in beside))


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
