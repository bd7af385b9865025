"""A ledger in one SQLite file: for consumers that run on one machine."""

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from sfm_consumers.ledger import Place
from sfm_graph.errors import DatabaseUnavailable

_T = TypeVar("_T")
_Entry = tuple[str, Mapping[Place, int]]

# Long texts that all rows of a topic share stand once, in `scopes`: a row takes some 30 bytes and its key.
_TABLES = """
create table if not exists scopes (
    id integer primary key, consumer text not null, topic text not null, log text not null,
    unique (consumer, topic, log)
);
create table if not exists handled (
    scope integer not null, key text not null, sequence integer not null, primary key (scope, key)
) without rowid;
"""
_LAST = "select sequence from handled where scope = ? and key = ?"
_RECORD = """
insert into handled (scope, key, sequence) values (?, ?, ?)
on conflict (scope, key) do update set sequence = excluded.sequence where excluded.sequence > sequence
"""
# As many (topic, log) pairs as a reader of two topics meets in many restores.
_MAX_SCOPES = 1_000


class SqliteLedger:
    """Every statement runs in one thread; what several partitions record at a time shares one sync of the disk."""

    def __init__(self, path: Path, consumer: str, *, busy_seconds: float = 5.0) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._consumer = consumer
        self._scopes: dict[tuple[str, str], int] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._connection: sqlite3.Connection | None = None
        self._waiting: list[tuple[_Entry, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Make file and tables where there are none. Raises DatabaseUnavailable."""
        await self._in_thread(self._open)

    async def last(self, topic: str, places: Collection[Place]) -> Mapping[Place, int]:
        return await self._in_thread(lambda: self._read(topic, places))

    async def record(self, topic: str, handled: Mapping[Place, int]) -> None:
        if not handled:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(((topic, handled), done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting())
        await done

    async def aclose(self) -> None:
        if self._writer is not None:
            await self._writer
        await self._in_thread(self._close)
        self._thread.shutdown()

    async def _write_waiting(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting, []
            try:
                await self._in_thread(partial(self._write, [entry for entry, _ in taken]))
            except DatabaseUnavailable as error:
                for _, done in taken:
                    if not done.done():
                        done.set_exception(DatabaseUnavailable(error.message))
            else:
                for _, done in taken:
                    if not done.done():
                        done.set_result(None)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as error:
            raise DatabaseUnavailable(f"ledger {self._path}: {error}") from error

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self._path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("pragma journal_mode = wal")
            # WAL's default forgets the last commits when the power fails: their events would have a second effect.
            connection.execute("pragma synchronous = full")
            connection.executescript(_TABLES)
        except sqlite3.Error:
            connection.close()
            raise
        self._connection = connection

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._open()
        if self._connection is None:
            raise sqlite3.OperationalError("not open")
        return self._connection

    def _read(self, topic: str, places: Collection[Place]) -> Mapping[Place, int]:
        connection, found = self._opened(), {}
        for place in places:
            row = connection.execute(_LAST, (self._scope(topic, place.log), place.key)).fetchone()
            if row:
                found[place] = int(row[0])
        return found

    def _write(self, entries: Sequence[_Entry]) -> None:
        connection = self._opened()
        rows = [
            (self._scope(topic, place.log), place.key, sequence)
            for topic, handled in entries
            for place, sequence in handled.items()
        ]
        connection.execute("begin immediate")
        try:
            connection.executemany(_RECORD, rows)
            connection.execute("commit")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("rollback")
            raise

    def _scope(self, topic: str, log: str) -> int:
        if (topic, log) not in self._scopes:
            if len(self._scopes) >= _MAX_SCOPES:
                self._scopes.clear()
            self._scopes[topic, log] = self._find_scope(self._opened(), (self._consumer, topic, log))
        return self._scopes[topic, log]

    @staticmethod
    def _find_scope(connection: sqlite3.Connection, names: tuple[str, str, str]) -> int:
        connection.execute("insert or ignore into scopes (consumer, topic, log) values (?, ?, ?)", names)
        found = connection.execute("select id from scopes where consumer = ? and topic = ? and log = ?", names)
        return int(found.fetchone()[0])

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
