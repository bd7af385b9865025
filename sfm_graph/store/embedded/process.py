"""Running the server's programs, and the locks and the log that its users share."""

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO

from sfm_graph.errors import DatabaseUnavailable
from sfm_graph.store.embedded.site import Site, storage_errors

_log = logging.getLogger(__name__)
_LOCK_SECONDS = 120.0  # twice the longest start
_REPORT_SECONDS = 5.0
_LOG_BYTES = 10_000_000


@asynccontextmanager
async def mutex(data_dir: Path) -> AsyncIterator[None]:
    """Held by whoever starts or stops the server. Raises DatabaseUnavailable after 120 s of waiting."""
    with lock_file(data_dir / "start.lock") as lock:
        try:
            async with asyncio.timeout(_LOCK_SECONDS):
                while not locked_alone(lock):  # noqa: ASYNC110 - another process holds it; a thread cannot be cancelled
                    await asyncio.sleep(0.02)
        except TimeoutError as exc:
            raise DatabaseUnavailable(f"another process keeps {data_dir / 'start.lock'} locked") from exc
        yield


@contextmanager
def lock_file(path: Path) -> Iterator[BinaryIO]:
    """An open file to lock, made if absent, unlocked at the end. Child processes do not inherit it."""
    with storage_errors(path.parent):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "r+b", buffering=0) as file:
        try:
            yield file
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a child between fork and exec has a copy, which close alone leaves


def locked_alone(lock: BinaryIO) -> bool:
    """Try to hold `lock` alone, without waiting. A shared hold of it may be lost either way."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def run(site: Site, program: str, *arguments: str) -> int:
    """Exit status of one of the server's programs, its output in the log; cancelling interrupts it."""
    # A thread: uvloop's subprocesses cannot change the user.
    spawned = asyncio.create_task(asyncio.to_thread(_spawn, site, program, arguments))
    try:
        process = await asyncio.shield(spawned)
        ended = asyncio.create_task(asyncio.to_thread(process.wait))
        while not (await asyncio.wait({ended}, timeout=_REPORT_SECONDS))[0]:
            _log.info("%s is still at work in %s: %s", program, site.data_dir, tail(site.log, 1))
        return ended.result()
    except asyncio.CancelledError:
        process = await spawned
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.wait)
        raise
    except OSError as exc:
        raise DatabaseUnavailable(
            f"user {site.account.name!r} cannot run {site.programs / program} ({exc.strerror}): "
            "install the package readable for all, run as an ordinary user, or set POSTGRES_URL"
        ) from exc


def _spawn(site: Site, program: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    account = site.account
    # Asking needs no other user, and without one Python forks cheaply however large the process is.
    drops = account.drops and program != "pg_isready"
    with open(os.open(site.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        return subprocess.Popen(
            [site.programs / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={"LC_ALL": "C", "PATH": os.defpath, "PGDATA": str(site.database)},
            start_new_session=True,
            user=account.uid if drops else None,
            group=account.gid if drops else None,
            extra_groups=[] if drops else None,
        )


async def uninterrupted(work: Coroutine[None, None, None]) -> None:
    """Finish `work` whatever cancels the caller meanwhile, then let the cancellation go on."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


async def keep_log_short(log: Path) -> None:
    """Look after the size of the log once a minute, until cancelled."""
    while True:
        await asyncio.sleep(60)
        try:
            await asyncio.to_thread(shorten, log)
        except OSError as exc:
            _log.warning("%s cannot be shortened: %s", log, exc.strerror)


def shorten(log: Path) -> None:
    """Move a log of over 10 MB to <name>.1, in place of the last one. The server appends: it goes on at 0."""
    if not log.exists():
        return
    with open(log, "r+b") as file:
        if locked_alone(file) and os.fstat(file.fileno()).st_size > _LOG_BYTES:
            with open(log.with_name(log.name + ".1"), "wb") as old:
                shutil.copyfileobj(file, old)
            file.truncate(0)


def tail(log: Path, lines: int = 8, since: int = 0) -> str:
    """The last lines of the log beyond byte `since`, at most 4 kB."""
    try:
        with open(log, "rb") as file:
            file.seek(max(since, log.stat().st_size - 4096))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""
