"""`audit`: every event once, for good, in a file whose lines vouch for each other or in a Postgres table."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from sfm_consumers.contract import Consumer, Options, Received
from sfm_consumers.effects.audit_chain import Broken
from sfm_consumers.effects.audit_file import AuditFile
from sfm_consumers.effects.audit_table import AuditTable
from sfm_consumers.effects.options import Given, postgres_url
from sfm_graph.errors import SettingsError
from sfm_graph.settings import Settings

_KNOWN = {"file", "max_bytes", "remember", "timeout_ms", "topics"}
_SECRET = "postgres_url"  # noqa: S105 the option's name


async def open(settings: Settings, options: Options) -> Consumer:
    """The consumer that writes to `file`, or to a table of SFM_AUDIT_POSTGRES_URL. Raises SettingsError, Retry."""
    given = Given("audit", options, _KNOWN, secrets=(_SECRET,))
    dsn, file = given.secret(_SECRET), given.text("file")
    if (dsn is None) == (file is None):
        raise SettingsError("give either --set file=... (SFM_AUDIT_FILE) or SFM_AUDIT_POSTGRES_URL")
    timeout = given.integer("timeout_ms", 10_000, low=10, high=300_000) / 1_000
    max_bytes = given.integer("max_bytes", 256 * 1024**2, low=1_000, high=2**40)
    remembered = given.integer("remember", 200_000, low=1, high=10**8)
    topics = given.topics()
    if dsn is not None:
        table = AuditTable(postgres_url("SFM_AUDIT_POSTGRES_URL", dsn), timeout)
        await table.open()
        return TableAudit(table, topics)
    written = AuditFile(Path(str(file)), max_bytes=max_bytes, remembered=remembered)
    try:
        await asyncio.to_thread(written.open)
    except Broken as error:
        written.close()
        raise SettingsError(f"SFM_AUDIT_FILE: {file} does not end in a line of an audit: {error}") from error
    except BlockingIOError as error:
        raise SettingsError(f"SFM_AUDIT_FILE: another process writes {file}") from error
    except OSError as error:
        written.close()
        raise SettingsError(f"SFM_AUDIT_FILE: {file}: {error.strerror}") from error
    return FileAudit(written, topics)


class FileAudit:
    """Writes events to a file, one call at a time."""

    name = "audit"

    def __init__(self, file: AuditFile, topics: Sequence[str]) -> None:
        self.topics = tuple(topics)
        self._file = file
        self._lock = asyncio.Lock()

    async def handle(self, events: Sequence[Received]) -> None:
        """On the disk when this returns."""
        async with self._lock:
            # Shielded: a cancelled call must not leave a thread that writes beside the next one.
            writing = asyncio.ensure_future(asyncio.to_thread(self._file.append, events))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await asyncio.gather(writing, return_exceptions=True)
                raise

    async def aclose(self) -> None:
        """Close the file."""
        async with self._lock:
            await asyncio.to_thread(self._file.close)


class TableAudit:
    """Writes events to a table."""

    name = "audit"

    def __init__(self, table: AuditTable, topics: Sequence[str]) -> None:
        self.topics = tuple(topics)
        self._table = table

    async def handle(self, events: Sequence[Received]) -> None:
        """Committed when this returns."""
        await self._table.append(events)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._table.aclose()
