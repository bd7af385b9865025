"""Connections, sessions and transactions: the one border to psycopg.

Services open sessions here and thereby set the commit border; the other modules of the store only run statements
in a session that they are given.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any, Final, LiteralString, TypeVar

import orjson
import psycopg
from psycopg import AsyncConnection, AsyncCursor, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from sfm_graph.domain.deadline import out_of_time, remaining_seconds, within
from sfm_graph.errors import DatabaseFailure, DatabaseUnavailable, InvalidInput, Overloaded, SfmError
from sfm_graph.store.roles import OWNER_ROLE
from sfm_graph.store.statements import statement
from sfm_graph.store.vector_types import register_vector_types
from sfm_graph.telemetry import tracing
from sfm_graph.telemetry.stages import stage

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

# A request that would wait longer for a connection than others take to be done with theirs is refused at once.
_USE_SECONDS = 0.05
# A pool whose attempts fail waits longer and longer for the next one, and lets nobody else try meanwhile; one that
# gives up soon tries anew with the next request.
_RECONNECT_SECONDS = 2.0
# Per address; the network may swallow what is sent to a host that is away.
_CONNECT_SECONDS = 3
# A deadline's last moments are for the answer; a timeout of 0 would be none.
_LEAST_STATEMENT_MS = 1
# What was ended by the deadline was begun a moment after it was measured.
_NEARLY_SECONDS = 0.05

# One round trip for each.
_BEGIN_READING = "begin isolation level repeatable read read only; {}select pg_current_snapshot()::text"
# The transaction draws a number, smaller than the ids of its changes; the commit follows its stamp in one message.
_BEGIN_WRITING = (
    "begin isolation level read committed; {}select set_config('sfm.tx', nextval('change_ids')::text, true)"
)
_COMMIT = "select stamp_commit(); commit"

# What a span of SQL says beside the statement's name: neither its text nor its values.
_SPAN: Final = {"db.system.name": "postgresql"}

set_json_loads(orjson.loads)


# How long the database may take to answer a ping, and a busy pool to lend it a connection.
PING_SECONDS = 2.0
BUSY_SECONDS = 0.1


class Session:
    """Runs named statements on one connection, inside its transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def rows(self, name: str, /, **parameters: Any) -> list[Row]:
        """All rows of a named statement."""
        cursor = await self._execute(name, parameters)
        return await cursor.fetchall()

    async def mapped(self, name: str, convert: Callable[[Row], T], /, **parameters: Any) -> list[T]:
        """All rows of a named statement, converted in slices between which other tasks run."""
        cursor = await self._execute(name, parameters)
        found: list[T] = []
        while rows := await cursor.fetchmany(SLICE_ROWS):
            found += map(convert, rows)
            await asyncio.sleep(0)
        return found

    async def row(self, name: str, /, **parameters: Any) -> Row | None:
        """The first row of a named statement, or None."""
        cursor = await self._execute(name, parameters)
        return await cursor.fetchone()

    async def one(self, name: str, /, **parameters: Any) -> Row:
        """The row of a named statement that always has one, such as an aggregate."""
        row = await self.row(name, **parameters)
        if row is None:
            raise LookupError(f"statement {name} gave no row")
        return row

    async def run(self, name: str, /, **parameters: Any) -> None:
        """Run a named statement without a result."""
        await self._execute(name, parameters, binary=False)

    async def count(self, name: str, /, **parameters: Any) -> int:
        """Run a named statement; how many rows it wrote."""
        return (await self._execute(name, parameters, binary=False)).rowcount

    async def dynamic(self, query: sql.Composable | str, parameters: Any = None) -> list[Row]:
        """All rows of a built statement, planned for exactly its values: never prepared."""
        with tracing.inner("sql dynamic", "client", _SPAN):
            cursor = await self._connection.execute(self._built(query), parameters, binary=True, prepare=False)  # type: ignore[arg-type]
        return await cursor.fetchall()

    async def copy_out(self, query: sql.Composed) -> AsyncIterator[memoryview]:
        """The chunks of a binary COPY of a query's rows."""
        async with self._connection.cursor().copy(self._built(query)) as copy:  # type: ignore[arg-type]
            async for chunk in copy:
                yield memoryview(chunk)

    def _statement(self, name: str) -> LiteralString:
        """The text of a named statement as this session runs it."""
        return statement(name)

    def _built(self, query: sql.Composable | str) -> sql.Composable | str:
        """A built statement as this session runs it."""
        return query

    async def _execute(self, name: str, parameters: Any, *, binary: bool = True) -> AsyncCursor:
        if not tracing.is_on():
            return await self._connection.execute(self._statement(name), parameters, binary=binary)
        with tracing.inner(f"sql {name}", "client", _SPAN):
            return await self._connection.execute(self._statement(name), parameters, binary=binary)


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
        owner_conninfo: str | None = None,
        max_size: int = 16,
        timeout_seconds: float = 5.0,
        statement_timeout_ms: int = 30_000,
    ) -> None:
        """`role`: taken on by every connection; there is then one more that owns the tables. `owner_conninfo`: where
        that one can be taken on, should the connections of `conninfo` be unable to."""
        self._role = role
        self._owner = OWNER_ROLE if role else None
        self._owner_conninfo = owner_conninfo or conninfo
        self._statement_timeout_ms = statement_timeout_ms
        self._timeout_seconds = timeout_seconds
        self._pool = AsyncConnectionPool(
            conninfo,
            open=False,
            min_size=2,
            max_size=max_size,
            max_waiting=max(max_size, int(max_size * timeout_seconds / _USE_SECONDS)),
            timeout=timeout_seconds,
            reconnect_timeout=_RECONNECT_SECONDS,
            kwargs={"autocommit": True, **_connect_timeout(conninfo)},
            configure=self._configure,
        )
        self._conninfo = conninfo
        self._on_commit: list[Callable[[], None]] = []
        self._on_arrival: list[Callable[[WriteSession, str], Awaitable[None]]] = []
        # Which database the connections lead to, and how often that has changed.
        self._origin: str | None = None
        self.arrivals = 0

    async def _configure(self, connection: AsyncConnection) -> None:
        await self._settle_in(connection, self._role)
        if self._on_arrival:
            await self._arrive(connection)

    async def _settle_in(self, connection: AsyncConnection, role: str | None) -> None:
        if role:
            await connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
        await connection.execute("set timezone = 'UTC'")
        await self._set_timeout(connection)
        await register_vector_types(connection)

    async def _arrive(self, connection: AsyncConnection) -> None:
        (origin,) = await Session(connection).one("database_origin")
        if origin is None or origin == self._origin:
            return
        # The log's owner alone may rewrite it, which a restored one may need.
        async with self.owned() as connection:
            if (await Session(connection).one("database_origin"))[0] != origin:
                raise psycopg.OperationalError("connections lead to different servers")
            await connection.execute("set statement_timeout = 0")
            async with connection.transaction():
                for prepare in self._on_arrival:
                    await prepare(WriteSession(connection), origin)
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
            options: dict[str, Any] = {"autocommit": True, **_connect_timeout(self._conninfo)}
            async with await AsyncConnection.connect(self._conninfo, **options) as connection:
                await self._configure(connection)
                yield connection

    @asynccontextmanager
    async def owned(self) -> AsyncIterator[AsyncConnection]:
        """An autocommit connection beside the pool that owns the tables, for what makes or drops some, or an index.

        Raises DatabaseUnavailable.
        """
        with translated():
            async with await AsyncConnection.connect(self._owner_conninfo, autocommit=True) as connection:
                await self._settle_in(connection, self._owner)
                yield connection

    def statistics(self) -> dict[str, int]:
        """The pool's counters, by psycopg_pool's names."""
        return dict(self._pool.get_stats())

    @property
    def is_walled(self) -> bool:
        """Whether statements run as a role that owns nothing."""
        return self._role is not None

    async def ping(self) -> None:
        """One round trip; over a connection of its own while those of the pool are all in use, which says nothing
        about the database. Raises DatabaseUnavailable, after 2 seconds without an answer too."""
        try:
            async with asyncio.timeout(PING_SECONDS):
                with translated():
                    try:
                        async with self._pool.connection(timeout=BUSY_SECONDS) as connection:
                            await connection.execute("select 1")
                    except (PoolTimeout, TooManyRequests):
                        async with self.dedicated() as connection:
                            await connection.execute("select 1")
        except TimeoutError as exc:
            raise DatabaseUnavailable("the database does not answer") from exc

    @asynccontextmanager
    async def read(self) -> AsyncIterator[ReadSession]:
        """A session whose statements all see the snapshot of its first one; each has as long as the request has."""
        with translated():
            async with self._connected() as connection:
                try:
                    cursor = await connection.execute(_BEGIN_READING.format(self._bound()), prepare=False)
                    while cursor.nextset():
                        pass
                    row = await cursor.fetchone()
                    yield ReadSession(connection, row[0] if row else "")
                finally:
                    if not connection.closed:
                        await connection.execute("rollback", prepare=False)

    async def single(self, name: str, /, **parameters: Any) -> Row | None:
        """The first row of a named statement that reads, in a transaction of its own: one statement, one snapshot."""
        with translated():
            async with self._connected() as connection:
                return await Session(connection).row(name, **parameters)

    async def write(self, work: Callable[[WriteSession], Awaitable[T]]) -> T:
        """Run `work` in one transaction; repeat it whole when it loses a race. Committed when this returns.

        Each statement has as long as the request has left when the transaction begins.
        """
        for attempt in range(WRITE_ATTEMPTS):
            try:
                with translated(), stage("write.transaction"):
                    async with self._connected() as connection, self._transaction(connection):
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

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        async with AsyncExitStack() as stack:
            with stage("pool.wait"):
                connection = await stack.enter_async_context(self._pool.connection(within(self._timeout_seconds)))
            yield connection

    @asynccontextmanager
    async def _transaction(self, connection: AsyncConnection) -> AsyncIterator[None]:
        try:
            await connection.execute(_BEGIN_WRITING.format(self._bound() + _trace()), prepare=False)
            yield
            await connection.execute(_COMMIT, prepare=False)
        except BaseException:
            # After a statement that was cancelled the connection is idle in a failed transaction, or closed.
            if connection.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                with suppress(psycopg.Error):
                    await connection.execute("rollback", prepare=False)
            raise

    def _bound(self) -> str:
        """The statement that lets those after it take no longer than the request may; empty where they may anyway."""
        left = remaining_seconds()
        if left is None or left * 1000 >= self._statement_timeout_ms:
            return ""
        return f"set local statement_timeout = {max(_LEAST_STATEMENT_MS, int(left * 1000))}; "


def _trace() -> str:
    """The statement that lets changes say which request made them; empty where it is not traced."""
    found = tracing.traceparent()
    return f"set local sfm.trace = '{found}'; " if found is not None else ""


def _connect_timeout(conninfo: str) -> dict[str, int]:
    return {} if "connect_timeout" in conninfo_to_dict(conninfo) else {"connect_timeout": _CONNECT_SECONDS}


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
        raise _late() or Overloaded("the statement ran out of time; ask for less or try again") from exc
    except psycopg.errors.ProgramLimitExceeded as exc:
        raise InvalidInput("a value is larger than the database can index") from exc
    except (PoolTimeout, TooManyRequests) as exc:
        raise _late() or Overloaded("no database connection became free in time") from exc
    except (PoolClosed, psycopg.OperationalError, psycopg.InterfaceError) as exc:
        raise DatabaseUnavailable("the database cannot be reached") from exc
    except psycopg.DataError as exc:
        raise InvalidInput("a value is outside of what can be stored") from exc
    except psycopg.Error as exc:
        log.exception("the database refused a statement")
        raise DatabaseFailure("the database refused a statement; the service's log says more") from exc


def _late() -> SfmError | None:
    left = remaining_seconds()
    return out_of_time() if left is not None and left <= _NEARLY_SECONDS else None
