"""Connections, sessions and transactions: the one border to psycopg.

Services open sessions here and thereby set the commit border; the other modules of the store only run statements
in a session that they are given.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import orjson
import psycopg
from psycopg import AsyncConnection, sql
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from sfm_graph.errors import DatabaseFailure, DatabaseUnavailable, InvalidInput, Overloaded, SfmError
from sfm_graph.store.statements import statement
from sfm_graph.store.vector_types import register_vector_types

log = logging.getLogger(__name__)

Row = tuple[Any, ...]
T = TypeVar("T")

# Losers of a race repeat the whole transaction; five rounds outlast 8 writers on one key.
WRITE_ATTEMPTS = 5
_RACES = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.UniqueViolation,
)

# Converting a row to an object takes about 10 us: a slice stalls the event loop for less than 5 ms.
SLICE_ROWS = 400

# One round trip for both.
_BEGIN_READING = "begin isolation level repeatable read read only; select pg_current_snapshot()::text"

set_json_loads(orjson.loads)


class Session:
    """Runs named statements on one connection, inside its transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def rows(self, name: str, /, **parameters: Any) -> list[Row]:
        """All rows of a named statement."""
        cursor = await self._connection.execute(statement(name), parameters, binary=True)
        return await cursor.fetchall()

    async def mapped(self, name: str, convert: Callable[[Row], T], /, **parameters: Any) -> list[T]:
        """All rows of a named statement, converted in slices between which other tasks run."""
        cursor = await self._connection.execute(statement(name), parameters, binary=True)
        found: list[T] = []
        while rows := await cursor.fetchmany(SLICE_ROWS):
            found += map(convert, rows)
            await asyncio.sleep(0)
        return found

    async def row(self, name: str, /, **parameters: Any) -> Row | None:
        """The first row of a named statement, or None."""
        cursor = await self._connection.execute(statement(name), parameters, binary=True)
        return await cursor.fetchone()

    async def one(self, name: str, /, **parameters: Any) -> Row:
        """The row of a named statement that always has one, such as an aggregate."""
        row = await self.row(name, **parameters)
        if row is None:
            raise LookupError(f"statement {name} gave no row")
        return row

    async def run(self, name: str, /, **parameters: Any) -> None:
        """Run a named statement without a result."""
        await self._connection.execute(statement(name), parameters)

    async def dynamic(self, query: sql.Composable | str, parameters: Any = None) -> list[Row]:
        """All rows of a built statement, planned for exactly its values: never prepared."""
        cursor = await self._connection.execute(query, parameters, binary=True, prepare=False)  # type: ignore[arg-type]
        return await cursor.fetchall()

    async def copy_out(self, query: sql.Composed) -> AsyncIterator[memoryview]:
        """The chunks of a binary COPY of a query's rows."""
        async with self._connection.cursor().copy(query) as copy:
            async for chunk in copy:
                yield memoryview(chunk)


class ReadSession(Session):
    """A repeatable-read, read-only transaction: every statement sees one snapshot.

    `snapshot` is that snapshot's text, good as a cursor: a transaction that writes nothing is in no cursor.
    """

    def __init__(self, connection: AsyncConnection, snapshot: str) -> None:
        super().__init__(connection)
        self.snapshot = snapshot


class WriteSession(Session):
    """A read-committed transaction that is committed when the work returns."""

    async def lock_table(self, name: str) -> None:
        """Let no other transaction write to a table or lock its rows until this one ends; waits its turn for it."""
        await self._connection.execute(sql.SQL("lock table {} in exclusive mode").format(sql.Identifier(name)))

    async def savepoint(self, name: str) -> None:
        """Note a point that `rollback_to` returns to."""
        await self._connection.execute(sql.SQL("savepoint {}").format(sql.Identifier(name)))

    async def rollback_to(self, name: str) -> None:
        """Undo what was done since a savepoint, and let go of the locks that were taken since."""
        await self._connection.execute(sql.SQL("rollback to savepoint {}").format(sql.Identifier(name)))


class Database:
    """A pool of connections to one Postgres database. Opened and closed by the composition root."""

    def __init__(
        self,
        conninfo: str,
        *,
        role: str | None = None,
        max_size: int = 16,
        timeout_seconds: float = 5.0,
        statement_timeout_ms: int = 30_000,
    ) -> None:
        self._role = role
        self._statement_timeout_ms = statement_timeout_ms
        self._pool = AsyncConnectionPool(
            conninfo,
            open=False,
            min_size=2,
            max_size=max_size,
            timeout=timeout_seconds,
            kwargs={"autocommit": True},
            configure=self._configure,
        )
        self._conninfo = conninfo
        self._on_commit: list[Callable[[], None]] = []
        self._on_arrival: list[Callable[[WriteSession, str], Awaitable[None]]] = []
        # Which database the connections lead to, and how often that has changed.
        self._origin: str | None = None
        self.arrivals = 0

    async def _configure(self, connection: AsyncConnection) -> None:
        if self._role:
            await connection.execute(sql.SQL("set role {}").format(sql.Identifier(self._role)))
        await connection.execute("set timezone = 'UTC'")
        await self._set_timeout(connection)
        await register_vector_types(connection)
        if self._on_arrival:
            await self._arrive(connection)

    async def _arrive(self, connection: AsyncConnection) -> None:
        (origin,) = await Session(connection).one("database_origin")
        if origin is None or origin == self._origin:
            return
        # A restored log may have to be rewritten.
        await connection.execute("set statement_timeout = 0")
        async with connection.transaction():
            for prepare in self._on_arrival:
                await prepare(WriteSession(connection), origin)
        await self._set_timeout(connection)
        self._origin = origin
        self.arrivals += 1

    async def _set_timeout(self, connection: AsyncConnection) -> None:
        await connection.execute(sql.SQL("set statement_timeout = {}").format(self._statement_timeout_ms))

    async def open(self) -> None:
        """Connect. Raises DatabaseUnavailable."""
        if self._on_arrival:
            # What is done on arrival may take longer than the pool would wait for its first connections.
            async with self.dedicated():
                pass
        with translated():
            await self._pool.open(wait=True, timeout=30)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    def on_commit(self, notify: Callable[[], None]) -> None:
        """Have something called after each transaction that this process has committed by `write`."""
        self._on_commit.append(notify)

    def on_arrival(self, prepare: Callable[[WriteSession, str], Awaitable[None]]) -> None:
        """Have something done in a transaction, given the name of the database's origin, before the first connection
        is used, and again when connections lead to another primary: one that was promoted or restored meanwhile."""
        self._on_arrival.append(prepare)

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[AsyncConnection]:
        """An autocommit connection beside the pool, for a lock that lives as long as it does.

        Its loss is noticed by the next statement on it. Raises DatabaseUnavailable.
        """
        with translated():
            async with await AsyncConnection.connect(self._conninfo, autocommit=True) as connection:
                await self._configure(connection)
                yield connection

    def statistics(self) -> dict[str, int]:
        """The pool's counters, by psycopg_pool's names."""
        return dict(self._pool.get_stats())

    async def ping(self) -> None:
        """One round trip. Raises DatabaseUnavailable."""
        with translated():
            async with self._pool.connection(timeout=2) as connection:
                await connection.execute("select 1")

    @asynccontextmanager
    async def read(self) -> AsyncIterator[ReadSession]:
        """A session whose statements all see the snapshot of its first one."""
        with translated():
            async with self._pool.connection() as connection:
                try:
                    cursor = await connection.execute(_BEGIN_READING)
                    cursor.nextset()
                    row = await cursor.fetchone()
                    yield ReadSession(connection, row[0] if row else "")
                finally:
                    if not connection.closed:
                        await connection.execute("rollback")

    async def single(self, name: str, /, **parameters: Any) -> Row | None:
        """The first row of a named statement that reads, in a transaction of its own: one statement, one snapshot."""
        with translated():
            async with self._pool.connection() as connection:
                return await Session(connection).row(name, **parameters)

    async def write(self, work: Callable[[WriteSession], Awaitable[T]]) -> T:
        """Run `work` in one transaction; repeat it whole when it loses a race. Committed when this returns."""
        for attempt in range(WRITE_ATTEMPTS):
            try:
                with translated():
                    async with self._pool.connection() as connection, connection.transaction():
                        done = await work(WriteSession(connection))
                for notify in self._on_commit:
                    notify()
                return done
            except LostRace as race:
                if attempt == WRITE_ATTEMPTS - 1:
                    raise Overloaded("other writers changed the same rows over and over; try again") from race
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - jitter, not a secret
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[AsyncConnection]:
        """An autocommit connection for maintenance, which may lift the statement timeout for itself."""
        with translated():
            async with self._pool.connection() as connection:
                try:
                    yield connection
                finally:
                    if not connection.closed:
                        await self._set_timeout(connection)


class LostRace(SfmError):
    """A transaction lost against another one; `Database.write` repeats it."""

    code = "overloaded"
    http_status = 503


@contextmanager
def translated() -> Iterator[None]:
    """Wrap driver errors at the border."""
    try:
        yield
    except _RACES as exc:
        raise LostRace(str(exc)) from exc
    except psycopg.errors.QueryCanceled as exc:
        raise Overloaded("the statement ran out of time; ask for less or try again") from exc
    except psycopg.errors.ProgramLimitExceeded as exc:
        raise InvalidInput("a value is larger than the database can index") from exc
    except (PoolTimeout, TooManyRequests) as exc:
        raise Overloaded("no database connection became free in time") from exc
    except (PoolClosed, psycopg.OperationalError, psycopg.InterfaceError) as exc:
        raise DatabaseUnavailable("the database cannot be reached") from exc
    except psycopg.DataError as exc:
        raise InvalidInput("a value is outside of what can be stored") from exc
    except psycopg.Error as exc:
        log.exception("the database refused a statement")
        raise DatabaseFailure("the database refused a statement; the service's log says more") from exc
