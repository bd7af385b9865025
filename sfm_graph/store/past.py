"""Reading what was known at an earlier moment: the same statements, over views that undo what was committed since.

The moment is on the scale of commits' stamps. A transaction is stamped when it commits, later than all it has seen,
so that what was known at a moment never changes: it follows the order of commits, and ends with retention or erasure.
"""

import asyncio
import re
from datetime import datetime, timedelta
from functools import cache

from psycopg import sql

from sfm_graph.errors import InvalidInput, KnownExpired
from sfm_graph.store.database import Database, ReadSession
from sfm_graph.store.statements import statement

# Clocks of callers may be ahead by so much: a moment that near is waited for.
AHEAD = timedelta(seconds=1)
_TABLES = re.compile(r"\b(from|join)(\s+)(memories|links|words|names|embeddings)\b", re.IGNORECASE)


def then(text: str) -> str:
    """A statement over the views of the past."""
    return _TABLES.sub(r"\1\2\3_then", text)


@cache
def _named(name: str) -> str:
    return then(statement(name))


class PastSession(ReadSession):
    """A read session whose statements see memories and links, and what finds them, as they were known at a moment.

    The change log and namespaces themselves are as they are now.
    """

    def _statement(self, name: str) -> str:
        return _named(name)

    def _built(self, query: sql.Composable | str) -> sql.Composable | str:
        text = query if isinstance(query, str) else query.as_string(self._connection)
        return sql.SQL(then(text))


async def settle(database: Database, known: datetime) -> None:
    """Wait until nothing that was stamped up to a moment is still to be committed.

    Raises InvalidInput for a moment that is still to come.
    """
    while True:
        row = await database.single("known_now", known=known)
        missing: timedelta = row[0] if row else timedelta(0)
        if missing <= timedelta(0):
            break
        if missing > AHEAD:
            raise InvalidInput("known lies in the future: nobody can say what will be known", field="known")
        await asyncio.sleep(missing.total_seconds())
    await database.single("known_settle")


async def as_of(session: ReadSession, known: datetime) -> PastSession:
    """A session in the same transaction that sees what was known at a settled moment. Raises KnownExpired."""
    (known_from,) = await session.one("known_begin", known=known.isoformat())
    if known < known_from:
        raise KnownExpired(
            f"what was known before {known_from.isoformat()} is not kept here; "
            "of what an import of everything brought earlier versions are in the history alone",
            known_from=known_from.isoformat(),
        )
    return PastSession(session._connection, session.snapshot)
