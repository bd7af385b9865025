"""The embedded database: PostgreSQL 18 with pgvector, run in a data directory, shared by all who open it.

What lies in a data directory:

    postgres/        the database, 0700, owned by the user that the server runs as (`account`)
    postgres.conf    the tuned settings (`settings`), written at every start
    postgres.log     what the server says; over 10 MB it moves to postgres.log.1
    socket/          the Unix socket, 0700: who can open it is the superuser, nobody else can connect.
                     Where the path is too long for a socket: a private folder in the temporary directory
    start.lock       held alone while the server is started or stopped
    users.lock       held shared by each user of the server; who gets it alone is the last one, and stops it

The kernel drops both locks when their holder dies, so a killed process never blocks the next one. It does
leave the server running: the next user takes it over as it is, settings included, and its exit stops it.
"""

import asyncio
import fcntl
import logging
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from psycopg.conninfo import make_conninfo

from sfm_graph.errors import DatabaseUnavailable
from sfm_graph.store.embedded.process import (
    keep_log_short,
    lock_file,
    locked_alone,
    mutex,
    run,
    shorten,
    tail,
    uninterrupted,
)
from sfm_graph.store.embedded.site import (
    PidFile,
    Site,
    exists,
    is_server,
    make_ready,
    new_folder,
    new_socket_dir,
    pid_file,
    prepare,
    put_in_place,
    storage_errors,
)

_log = logging.getLogger(__name__)
_START_SECONDS = 60.0  # a crash recovery of max_wal_size ends within this on an ordinary disk
_RETRY_SECONDS = 15.0  # the backends of a killed server need about 1 s to notice
_REPORT_SECONDS = 5.0
_TRANSIENT = ("shared memory block", "lock file")
# The builtin C.UTF-8 sorts by code point and knows the letters of Unicode, the same on every machine.
_INITDB = (
    "--username=postgres",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--data-checksums",
    "--auth-local=trust",
    "--auth-host=reject",
)
_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


class _Answer(Enum):
    READY = auto()
    BUSY = auto()
    DEAD = auto()


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedServer:
    """A running server, valid inside `embedded_postgres`."""

    data_dir: Path
    socket_dir: Path
    _site: Site
    _users: BinaryIO

    @property
    def pid(self) -> int | None:
        """Process id of the server now; None while it is dead, or when it runs in another container."""
        found = pid_file(self._site.database)
        return found.pid if found and is_server(found.pid, self._site.database) else None

    def superuser_dsn(self, database: str = "postgres") -> str:
        """Connection string of the superuser `postgres`; stays good over restarts by `ensure_running`."""
        return make_conninfo(host=str(self.socket_dir), port=5432, user="postgres", dbname=database)

    async def ensure_running(self) -> None:
        """Return once the server answers, restarting it if it died. Calls at the same time cause one restart.

        Raises DatabaseUnavailable when it does not start, or when its `embedded_postgres` has been left.
        """
        async with mutex(self.data_dir):
            if self._users.closed:
                raise DatabaseUnavailable(f"the embedded database in {self.data_dir} has been closed")
            await _bring_up(self._site, self.socket_dir)


@asynccontextmanager
async def embedded_postgres(
    data_dir: Path, settings: Mapping[str, str] = _NO_SETTINGS
) -> AsyncIterator[EmbeddedServer]:
    """A server on `data_dir`, made, started or joined; stopped on exit when nobody else uses it.

    settings: PostgreSQL settings over the tuned ones, used if this call is what starts the server. The ones
    that keep it private (no TCP, its socket) stay. `fsync: off` is for tests: a crash may lose everything.
    A server still in crash recovery after 60 s is left to finish it. Raises DatabaseUnavailable.
    """
    site = await asyncio.to_thread(prepare, data_dir, settings)
    with lock_file(site.data_dir / "users.lock") as users:
        socket_dir = await _join(site, users)
        housekeeping = asyncio.create_task(keep_log_short(site.log))
        try:
            yield EmbeddedServer(site.data_dir, socket_dir, site, users)
        finally:
            housekeeping.cancel()
            await uninterrupted(_leave(site, users))


async def _join(site: Site, users: BinaryIO) -> Path:
    async with mutex(site.data_dir):
        fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
        try:
            return await _bring_up(site, new_socket_dir(site.data_dir))
        except asyncio.CancelledError:
            await uninterrupted(_stop_if_last(site, users))
            raise


async def _leave(site: Site, users: BinaryIO) -> None:
    try:
        async with mutex(site.data_dir):
            await _stop_if_last(site, users)
    except DatabaseUnavailable as exc:
        _log.warning("the embedded PostgreSQL was not stopped: %s", exc)


async def _stop_if_last(site: Site, users: BinaryIO) -> None:
    found = pid_file(site.database)
    if not locked_alone(users) or not found or not is_server(found.pid, site.database):
        return
    await run(site, "pg_ctl", "stop", "-D", str(site.database), "-m", "fast", "-w", "-t", "60")
    if is_server(found.pid, site.database):
        _log.warning("the embedded PostgreSQL in %s has not stopped yet: %s", site.data_dir, tail(site.log))
    elif found.socket_dir and found.socket_dir.parent != site.data_dir:
        with suppress(OSError):
            found.socket_dir.rmdir()


async def _bring_up(site: Site, socket_dir: Path) -> Path:
    """Create, start or find the server; the folder of its socket. Under the mutex."""
    with storage_errors(site.data_dir):
        await _create_if_absent(site)
        return await _wait_until_ready(site, socket_dir)


async def _wait_until_ready(site: Site, socket_dir: Path) -> Path:
    clock = asyncio.get_running_loop().time
    began = reported = clock()
    while clock() - began < _START_SECONDS:
        found = pid_file(site.database)
        answer = await _ask(site, found)
        if found and found.socket_dir and answer is _Answer.READY:
            return found.socket_dir
        if answer is _Answer.BUSY:
            if clock() - reported > _REPORT_SECONDS:
                reported = clock()
                _log.info("waiting for the embedded PostgreSQL in %s: %s", site.data_dir, tail(site.log, 1))
            await asyncio.sleep(0.05)
            continue
        said = await _start(site, socket_dir, found)
        if said and (clock() - began > _RETRY_SECONDS or not any(word in said for word in _TRANSIENT)):
            raise DatabaseUnavailable(f"the embedded PostgreSQL in {site.data_dir} does not start: {said}")
        await asyncio.sleep(0.25 if said else 0)
    raise DatabaseUnavailable(
        f"the embedded PostgreSQL in {site.data_dir} is not ready after {_START_SECONDS:.0f} s. It is left "
        f"to go on, most likely with crash recovery: try again later, and see {site.log}"
    )


async def _ask(site: Site, found: PidFile | None) -> _Answer:
    """How the server does. The socket is asked first: it also reaches a server in another container."""
    if found and found.socket_dir:
        status = await run(site, "pg_isready", "-q", "-h", str(found.socket_dir), "-p", "5432", "-t", "3")
        if status == 0:
            return _Answer.READY
        if status == 1:
            return _Answer.BUSY
    return _Answer.BUSY if found and is_server(found.pid, site.database) else _Answer.DEAD


async def _create_if_absent(site: Site) -> None:
    """initdb beside the final place, then rename: a half-made database is never taken for a whole one."""
    if await asyncio.to_thread(exists, site):
        return
    folder = await asyncio.to_thread(new_folder, site)
    try:
        quick = ("--no-sync",) if site.settings.get("fsync") == "off" else ()
        if await run(site, "initdb", "-D", str(folder), *_INITDB, *quick):
            raise DatabaseUnavailable(f"no database could be made in {site.data_dir}: {tail(site.log)}")
        await asyncio.to_thread(put_in_place, site, folder)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _start(site: Site, socket_dir: Path, found: PidFile | None) -> str:
    """Start the server and wait until it is ready or still recovering; else what it said."""
    if found and not found.pid:
        await asyncio.sleep(1)  # a server that is just writing its pid file is done by then
    await asyncio.to_thread(shorten, site.log)
    size = await asyncio.to_thread(make_ready, site, socket_dir)
    # pg_ctl detaches the server into a session of its own, which the terminal's Ctrl-C does not reach.
    # The folder goes in by PGDATA: pg_ctl would put -D through a shell.
    if await run(site, "pg_ctl", "start", "-w", "-t", f"{_START_SECONDS:.0f}") == 0:
        return ""
    new = pid_file(site.database)
    return "" if new and is_server(new.pid, site.database) else tail(site.log, since=size) or "(nothing)"
