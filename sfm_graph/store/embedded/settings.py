"""What the embedded PostgreSQL is tuned to."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from sfm_graph.errors import DatabaseUnavailable

_MB = 1024 * 1024
_NAME = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?")
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_bytes() -> int:
    """Memory that this process may use, in bytes: the machine's, or its container's limit when smaller."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in map(Path, _CGROUP_LIMITS):
        text = limit.read_text().strip() if limit.is_file() else "max"
        total = min(total, int(text)) if text.isdigit() else total
    return total


def shared_memory_bytes() -> int:
    """Room in /dev/shm, in bytes; 0 where there is none."""
    try:
        return shutil.disk_usage("/dev/shm").total  # noqa: S108 - asked for its size only
    except OSError:
        return 0


def tuned_settings(memory: int, shared_memory: int) -> dict[str, str]:
    """Server settings for a machine of `memory` bytes whose /dev/shm has room for `shared_memory` bytes."""
    maintenance = min(max(memory // 16, 64 * _MB), 1024 * _MB)
    return {
        # A quarter, the system's own cache holds the rest; beyond 1 GB only large machines gain.
        "shared_buffers": _megabytes(min(max(memory // 4, 128 * _MB), 1024 * _MB)),
        # No memory is taken by it: it tells the planner that index pages are most likely cached.
        "effective_cache_size": _megabytes(memory * 3 // 4),
        # 1/16 of memory, 64 MB to 1 GB: an HNSW build slows several times once its graph leaves this.
        "maintenance_work_mem": _megabytes(maintenance),
        # Containers give /dev/shm 64 MB, in which a parallel index build fails.
        "dynamic_shared_memory_type": "posix" if shared_memory > 2 * maintenance else "mmap",
        # Few checkpoints in a bulk import, at the price of a longer crash recovery.
        "max_wal_size": "4GB",
        # Spreads a checkpoint's writes instead of stalling requests.
        "checkpoint_completion_target": "0.9",
        # Full page images are most of the log under random updates.
        "wal_compression": "on",
        # Solid state disks: an index scan is worth it earlier than at the default 4.
        "random_page_cost": "1.1",
        # Compiling costs more than these short statements take.
        "jit": "off",
        # The pools of a few processes; each idle connection costs memory.
        "max_connections": "100",
        # An acknowledged write survives a crash. Only tests pass fsync: off.
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        # Off: backups and cold loads hold transactions. Who needs a bound sets it for the session.
        "idle_in_transaction_session_timeout": "0",
        # A user's data stays out of the log file: no statements, no rows of a failed constraint.
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
        "log_checkpoints": "off",
        "log_line_prefix": "%m [%p] ",
        # The same answers and messages on every machine.
        "log_timezone": "UTC",
        "timezone": "UTC",
        "lc_messages": "C",
        "cluster_name": "sfm_graph",
    }


def private_settings(socket_dir: Path) -> dict[str, str]:
    """What keeps the server private: no TCP, one Unix socket that only its owner may open."""
    return {
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_directories": str(socket_dir),
        "unix_socket_permissions": "0700",
        "logging_collector": "off",
        "log_destination": "stderr",
    }


def configuration(settings: Mapping[str, str]) -> str:
    """The text of a configuration file. Raises DatabaseUnavailable for what cannot be a setting."""
    lines = ["# Written at every start. ALTER SYSTEM overrides what stands here.\n"]
    for name, value in settings.items():
        if not _NAME.fullmatch(name) or not value.isprintable():
            raise DatabaseUnavailable(f"not a PostgreSQL setting: {name!r} = {value!r}")
        quoted = value.replace("\\", "\\\\").replace("'", "''")
        lines.append(f"{name} = '{quoted}'\n")
    return "".join(lines)


def _megabytes(size: int) -> str:
    return f"{size // _MB}MB"
