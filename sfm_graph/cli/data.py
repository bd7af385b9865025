"""The data directory that a command without `--url` works on, which may be that of another folder than was meant."""

from pathlib import Path
from typing import TYPE_CHECKING

from sfm_graph.cli.output import fail, say

if TYPE_CHECKING:
    from sfm_graph.settings import Settings


def absent(settings: "Settings") -> Path | None:
    """The data directory where a database would be made; None where there is one already, or an external one."""
    if settings.postgres_url is not None:
        return None
    folder = settings.data_dir.expanduser().resolve()
    return None if (folder / "postgres").exists() else folder


def announce(settings: "Settings") -> None:
    """Say that a database is about to be made, and where."""
    folder = absent(settings)
    if folder is not None:
        say(f"new database in {folder}")


def must_exist(settings: "Settings") -> None:
    """Exit 1 where there is no database yet."""
    folder = absent(settings)
    if folder is not None:
        fail(
            "not_found",
            f"there is no database in {folder}: work in the folder of the service, or set SFM_DATA_DIR to its data "
            "directory, or ask the service with --url where the command has it; `sfm migrate` makes a new one",
        )
