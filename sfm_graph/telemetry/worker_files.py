"""The folder in which workers keep their metrics: who owns it, what the dead leave there, and the sum of all.

Prometheus' client gives each worker files of its own and never takes any away. The parent of the workers adds what an
ended one has counted to the files of all ended ones, so that counters never fall and the folder stays as large as the
number of workers that live.
"""

import fcntl
import logging
import os
import shutil
import stat
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

log = logging.getLogger(__name__)

_PREFIX: Final = "sfm-graph-metrics-"
# Locked for as long as the folder's owner lives.
_OWNER: Final = "owner"
# Shared by those who read all files, exclusive for who adds some up: no scrape sees what was counted twice or never.
_READERS: Final = "readers"
# Counts of all that have ended; any other file is named by its process.
_ENDED: Final = "ended"
_SUMMED: Final = ("counter", "histogram")
# A worker that is stopped in the middle of a scrape must not hold up its parent.
_PATIENCE_SECONDS: Final = 2.0


@contextmanager
def metrics_folder() -> Iterator[Path]:
    """An empty folder for the workers of this process, removed at the end. Removes those of processes that are gone.

    Raises OSError.
    """
    _remove_abandoned(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        with (folder / f"{_OWNER}.new").open("w") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            # Nobody finds it before it is locked.
            (folder / f"{_OWNER}.new").rename(folder / _OWNER)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fold(folder: Path, process: int) -> bool:
    """Add what an ended worker has counted to that of all ended ones, and remove its files. It must be gone.

    False: not now, since somebody reads them for longer than 2 s or the folder is full; ask again. Blocks.
    """
    try:
        for gauge in folder.glob(f"gauge_*_{process}.db"):
            gauge.unlink()
        with (folder / _READERS).open("a") as readers:
            if not _locked(readers.fileno()):
                return False
            for kind in _SUMMED:
                _add(folder / f"{kind}_{process}.db", folder / f"{kind}_{_ENDED}.db")
    except OSError as exc:
        log.warning("the metrics of worker %d cannot be added up yet: %s", process, exc)
        return False
    return True


def page_of_all(folder: Path) -> bytes:
    """What all workers have counted, and the gauges of those that live, in Prometheus' text format. Blocks."""
    registry = CollectorRegistry()
    with (folder / _READERS).open("a") as readers:
        fcntl.flock(readers, fcntl.LOCK_SH)
        MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _locked(file: int) -> bool:
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.01)


def _add(one: Path, total: Path) -> None:
    if not one.exists():
        return
    sums = _read(total)
    for key, value in _read(one).items():
        sums[key] = sums.get(key, 0.0) + value
    part = total.with_suffix(".part")
    part.write_bytes(_packed(sums))
    part.replace(total)
    one.unlink()


def _packed(sums: Mapping[str, float]) -> bytes:
    """As `MmapedDict` has it, which is not asked: on a full disk a write to mapped memory ends the process."""
    entries = []
    for key, value in sums.items():
        text = key.encode()
        padded = text + b" " * (8 - (len(text) + 4) % 8)
        entries.append(struct.pack(f"i{len(padded)}sdd", len(text), padded, value, 0.0))
    body = b"".join(entries)
    return struct.pack("ii", 8 + len(body), 0) + body


def _read(file: Path) -> dict[str, float]:
    """What a file holds; of one whose worker was killed while it wrote, what stands before that."""
    found: dict[str, float] = {}
    # An empty one: its worker was killed before it wrote anything.
    if not file.exists() or not file.stat().st_size:
        return found
    with suppress(RuntimeError, struct.error, UnicodeDecodeError):
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
            found[key] = value
    return found


def _remove_abandoned(place: Path) -> None:
    for folder in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if _is_own(folder) and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_own(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _is_abandoned(folder: Path) -> bool:
    """By its lock, not by a process id: those of another container mean nothing here. Raises OSError."""
    with (folder / _OWNER).open() as owner:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True
