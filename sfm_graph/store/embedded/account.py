"""The operating system user that the embedded PostgreSQL runs as.

PostgreSQL refuses to run as root. Started by an ordinary user, the server runs as that user. Started by root
it runs as the owner of an existing database folder, else as `postgres` or `sfm-postgres` when there is one,
else as `sfm-postgres`, which is then made, and as `nobody` where no user can be made.

That user has to pass through the folders above the data directory and above the server's programs. Where it
cannot (a folder under /root, say), those folders, and no others, get the execute bit that it lacks: it may
pass through them, not list or read them. Each such change is logged.
"""

import logging
import os
import pwd
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from sfm_graph.errors import DatabaseUnavailable

_log = logging.getLogger(__name__)
_OWN_USER = "sfm-postgres"
_USERADD = (
    "--system",
    "--user-group",
    "--no-create-home",
    "--home-dir",
    "/nonexistent",
    "--shell",
    "/bin/false",
)


@dataclass(frozen=True, slots=True)
class Account:
    """A user to run as; `drops` says that the caller is root and must change to it."""

    name: str
    uid: int
    gid: int
    drops: bool


def server_account(database: Path) -> Account:
    """The user that serves the folder `database`, which need not exist. May make a user when called by root.

    Raises DatabaseUnavailable when the folder belongs to somebody else and the caller is not root.
    """
    owner = database.stat().st_uid if database.exists() else None
    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            raise DatabaseUnavailable(
                f"{database} belongs to user id {owner}: run as that user or as root, or set another data directory"
            )
        return Account(str(os.geteuid()), os.geteuid(), os.getegid(), drops=False)
    found = _by_uid(owner) if owner else None
    found = found or _by_name("postgres") or _by_name(_OWN_USER) or _made() or _by_name("nobody")
    if found is None:
        raise DatabaseUnavailable(
            "PostgreSQL does not run as root and no other user could be made: "
            "start as an ordinary user, or set POSTGRES_URL"
        )
    return found


def let_through(folder: Path, account: Account) -> None:
    """Let `account` pass through `folder` and all above it. Does nothing unless the caller is root."""
    if not account.drops:
        return
    for step in (folder, *folder.parents):
        info = step.stat()
        mode = stat.S_IMODE(info.st_mode)
        shift = 6 if info.st_uid == account.uid else 3 if info.st_gid == account.gid else 0
        if mode & (1 << shift):
            continue
        try:
            step.chmod(mode | (1 << shift))
        except OSError as exc:
            raise DatabaseUnavailable(
                f"user {account.name!r}, which runs PostgreSQL, cannot pass through {step} ({exc.strerror}): "
                "set a data directory elsewhere, or POSTGRES_URL"
            ) from exc
        _log.warning("user %r may now pass through %s, to reach the database", account.name, step)


def private_folder(folder: Path, account: Account) -> None:
    """Make `folder` if absent, reachable by `account` (and root) alone.

    Raises DatabaseUnavailable when a stranger owns it.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as exc:
        raise DatabaseUnavailable(f"{folder} cannot hold the database's socket: {exc.strerror}") from exc
    try:
        owner = os.fstat(opened).st_uid
        if owner not in (os.geteuid(), account.uid):
            raise DatabaseUnavailable(f"{folder} belongs to user id {owner}: remove it or set another data directory")
        os.fchmod(opened, 0o700)
        if account.drops:
            os.fchown(opened, account.uid, account.gid)
    finally:
        os.close(opened)


def take_over(folder: Path, account: Account) -> None:
    """Give `folder` and all in it to `account`: root has it, or another container's user, unknown here."""
    if not account.drops or folder.stat().st_uid == account.uid:
        return
    for path, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            os.chown(os.path.join(path, name), account.uid, account.gid, follow_symlinks=False)


def _made() -> Account | None:
    command = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if command is None:
        return None
    for _ in range(10):
        result = subprocess.run([command, *_USERADD, _OWN_USER], capture_output=True, text=True, check=False)
        found = _by_name(_OWN_USER)
        if found is not None:
            _log.info("user %r runs PostgreSQL", _OWN_USER)
            return found
        if "lock" not in result.stderr and "exists" not in result.stderr:  # another process makes it now
            break
        time.sleep(0.2)
    return None


def _by_name(name: str) -> Account | None:
    try:
        return _account(pwd.getpwnam(name))
    except KeyError:
        return None


def _by_uid(uid: int) -> Account | None:
    try:
        return _account(pwd.getpwuid(uid))
    except KeyError:
        return None


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, drops=True)
