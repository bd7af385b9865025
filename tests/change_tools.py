"""What tests of the change stream share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from sfm_graph.domain.change import Change
from sfm_graph.domain.change_filter import ChangeFilter
from sfm_graph.services.changes.pages import ChangePage
from sfm_graph.services.registry import Services
from sfm_graph.store.database import Database

EVERYTHING = ChangeFilter()


async def page(
    services: Services, after: str | None = None, wanted: ChangeFilter = EVERYTHING, first: int = 1_000,
    namespace: str = "demo",
) -> ChangePage:  # fmt: skip
    """One page, in a view of its own."""
    async with services.views.open() as view:
        return await services.changes.page(view, namespace, after, wanted, first)


async def everything(
    services: Services, after: str | None = None, wanted: ChangeFilter = EVERYTHING, first: int = 3,
    namespace: str = "demo",
) -> list[Change]:  # fmt: skip
    """All changes from a cursor on, in small pages."""
    found: list[Change] = []
    while True:
        part = await page(services, after, wanted, first, namespace)
        found += [one.change for one in part.changes]
        after = part.cursor
        if not part.more:
            return found


async def until(condition: Callable[[], Awaitable[bool] | bool], seconds: float = 20.0) -> None:
    """Wait for something; fails when it does not come."""
    async with asyncio.timeout(seconds):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Database]:
    """A database as the service opens it."""
    database = Database(dsn, role="sfm_service", max_size=4)
    await database.open()
    try:
        yield database
    finally:
        await database.close()
