"""The state of everything the service depends on."""

from dataclasses import dataclass
from typing import Any

from sfm_graph.errors import Unavailable
from sfm_graph.services.maintenance import Maintenance
from sfm_graph.store.database import Database
from sfm_graph.store.embedded import EmbeddedServer


@dataclass(frozen=True, slots=True)
class HealthReport:
    """`ready` is False while a required dependency is down; `parts` says of each what is the matter."""

    ready: bool
    parts: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What the database is, and as whom the service works in it."""

    server_version: str
    vector_version: str
    role: str
    is_superuser: bool


class Health:
    """Checks dependencies, and revives the embedded database when it died."""

    def __init__(self, database: Database, maintenance: Maintenance, server: EmbeddedServer | None) -> None:
        self._database = database
        self._maintenance = maintenance
        self._server = server

    async def report(self) -> HealthReport:
        """One round trip to each dependency."""
        try:
            await self._database.ping()
            database: dict[str, Any] = {"status": "up"}
        except Unavailable as error:
            database = {"status": "down", "reason": error.message}
            if self._server is not None:
                database["reason"] = await self._revived(self._server)
        database["kind"] = "embedded" if self._server is not None else "external"
        problem = self._maintenance.problem
        background = {"status": "up"} if problem is None else {"status": "waiting", "reason": problem}
        return HealthReport(database["status"] == "up", {"database": database, "maintenance": background})

    async def database(self) -> DatabaseFacts:
        """Raises DatabaseUnavailable."""
        async with self._database.read() as session:
            return DatabaseFacts(*await session.one("server_facts"))

    def pool(self) -> dict[str, int]:
        """The counters of the pool of database connections, by psycopg_pool's names."""
        return self._database.statistics()

    async def _revived(self, server: EmbeddedServer) -> str:
        try:
            await server.ensure_running()
        except Unavailable as error:
            return error.message
        return "the embedded database was away and has been started again"
