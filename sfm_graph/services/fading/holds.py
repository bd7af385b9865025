"""Legal holds: a held memory can be updated, but neither forgotten nor erased, whoever asks."""

from sfm_graph.domain.access import Scope
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.states import memory_from_state, memory_state
from sfm_graph.errors import MemoryNotFound
from sfm_graph.services.access.guard import needs
from sfm_graph.services.idempotency import IdempotencyKey, once
from sfm_graph.store import fading, memories, namespaces
from sfm_graph.store.database import Database, WriteSession


class Holds:
    """Holding memories, and letting go of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @needs(Scope.ADMIN)
    async def hold(self, namespace: str, ref: MemoryRef, *, key: IdempotencyKey | None = None) -> Memory:
        """Hold a memory; its version grows by one unless it is held already. Raises MemoryNotFound."""
        return await self._set(namespace, ref, "hold", key, held=True)

    @needs(Scope.ADMIN)
    async def release(self, namespace: str, ref: MemoryRef, *, key: IdempotencyKey | None = None) -> Memory:
        """Let go of a memory; it fades, and expires, as others do. Raises MemoryNotFound."""
        return await self._set(namespace, ref, "release", key, held=False)

    async def _set(
        self, namespace: str, ref: MemoryRef, operation: str, key: IdempotencyKey | None, *, held: bool
    ) -> Memory:
        async def work(session: WriteSession) -> Memory:
            target = await namespaces.lock_existing(session, namespace)
            if target is None:
                raise MemoryNotFound(f"no memory with {ref} in {namespace!r}", namespace=namespace)

            async def change() -> Memory:
                located = await memories.lock(session, target.id, namespace, [ref])
                if not located:
                    raise MemoryNotFound(f"no memory with {ref} in {namespace!r}", namespace=namespace)
                ids = [located[0].memory.id]
                await session.rows("memory_set_hold", namespace_id=target.id, ids=ids, held=held)
                if not held:
                    await fading.soon(session, target.id, ids)
                return (await memories.by_ids(session, target.id, namespace, ids))[ids[0]]

            return await once(
                session, target.id, operation, key, change, memory_state,
                lambda kept: memory_from_state(namespace, kept),
            )  # fmt: skip

        return await self._database.write(work)
