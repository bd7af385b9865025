"""The state of everything the service depends on."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sfm_graph.errors import DatabaseUnavailable, Unavailable
from sfm_graph.services.changes.changes import Changes
from sfm_graph.services.changes.follower import Progress
from sfm_graph.services.changes.relay import Relay
from sfm_graph.services.changes.retention import Retention
from sfm_graph.services.maintenance import Maintenance
from sfm_graph.services.tasks import status
from sfm_graph.services.vector_indexing import VectorIndexing
from sfm_graph.store import change_partitions, followers, vector_points
from sfm_graph.store.database import Database
from sfm_graph.store.embedded import EmbeddedServer
from sfm_graph.store.followers import StoredPosition
from sfm_graph.store.roles import OWNER_ROLE

MOST_UNREAD = 10_000


@dataclass(frozen=True, slots=True)
class HealthReport:
    """`ready` is False while a required dependency is down; `parts` says of each what is the matter."""

    ready: bool
    parts: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What the database is, and as whom the service works in it: `login` is who connects, `role` whose rights
    statements have; `owns_tables`: that role has the rights of the tables' owner."""

    server_version: str
    vector_version: str
    role: str
    is_superuser: bool
    login: str
    owns_tables: bool
    max_connections: int


@dataclass(frozen=True, slots=True)
class ChangeLogFacts:
    """How many partitions the change log has, when it was last pruned (1970: never), and who reads it."""

    partitions: int
    pruned_at: datetime
    followers: Sequence[StoredPosition]


class Health:
    """Checks dependencies, and revives the embedded database when it died."""

    def __init__(
        self,
        database: Database,
        maintenance: Maintenance,
        changes: Changes,
        relay: Relay | None,
        retention: Retention,
        server: EmbeddedServer | None,
        vector_indexing: VectorIndexing | None = None,
        plugged: Mapping[str, Callable[[], Awaitable[dict[str, Any]]]] | None = None,
    ) -> None:
        """plugged: name -> the state of something that the service goes on without, as a part of the report."""
        self._database = database
        self._maintenance = maintenance
        self._changes = changes
        self._relay = relay
        self._retention = retention
        self._server = server
        self._vector_indexing = vector_indexing
        self._plugged = plugged or {}

    async def report(self) -> HealthReport:
        """One round trip to each dependency."""
        try:
            await self._database.ping()
            database: dict[str, Any] = {"status": "up"}
        except DatabaseUnavailable as error:
            database = {"status": "down", "reason": error.message}
            if self._server is not None:
                database["reason"] = await self._revived(self._server)
        database["kind"] = "embedded" if self._server is not None else "external"
        if not self._database.is_walled:
            database["wall"] = f"the service owns its tables: `sfm doctor` says how to use {OWNER_ROLE} instead"
        parts = {
            "database": database,
            "maintenance": status(self._maintenance.problem),
            "changes": {**status(self._changes.problem), "subscribers": self._changes.subscribers},
        }
        if self._retention.held_by is not None:
            parts["changes"]["held_by"] = self._retention.held_by
        if self._relay is not None:
            parts["relay"] = _relay(self._relay.progress)
        if self._vector_indexing is not None and database["status"] == "up":
            parts["qdrant"] = await self._vector_indexing.state()
        for name, state in self._plugged.items():
            parts[name] = await state()
        return HealthReport(database["status"] == "up", parts)

    async def ping(self) -> None:
        """One round trip to the database, of at most 2 seconds. Raises DatabaseUnavailable."""
        await self._database.ping()

    def relay(self) -> Sequence[Progress]:
        """How far each shard of the relay is; none without one."""
        return self._relay.progress if self._relay is not None else ()

    async def database(self) -> DatabaseFacts:
        """Raises DatabaseUnavailable."""
        async with self._database.read() as session:
            return DatabaseFacts(*await session.one("server_facts"))

    async def change_log(self) -> ChangeLogFacts:
        """Raises DatabaseUnavailable, Overloaded."""
        async with self._database.read() as session:
            partitions = len(await change_partitions.listed(session))
            pruned_at = await change_partitions.said_at(session)
            return ChangeLogFacts(partitions, pruned_at, await followers.everyone(session))

    async def unread(self, one: StoredPosition) -> tuple[int, datetime | None]:
        """How many changes a follower has not read, 10,000 at most, and since when. Raises DatabaseUnavailable."""
        async with self._database.read() as session:
            return await vector_points.lag(session, one.position.seen, MOST_UNREAD)

    def pool(self) -> dict[str, int]:
        """The counters of the pool of database connections, by psycopg_pool's names."""
        return self._database.statistics()

    async def _revived(self, server: EmbeddedServer) -> str:
        try:
            await server.ensure_running()
        except Unavailable as error:
            return error.message
        return "the embedded database was away and has been started again"


def _relay(shards: Sequence[Progress]) -> dict[str, Any]:
    """`standby`: another process relays, or none does."""
    active = [one for one in shards if one.active]
    problem = next((one.problem for one in shards if one.problem is not None), None)
    state = status(problem) if active or problem else {"status": "standby"}
    return {
        **state,
        "shards": len(active),
        "lag_seconds": round(max(one.lag_seconds for one in shards), 3),
    }
