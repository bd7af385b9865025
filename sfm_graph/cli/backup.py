"""Commands that keep the memories safe: a backup while the service runs, and its way back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfm_graph.cli.options import Config
from sfm_graph.cli.output import fail, show
from sfm_graph.cli.progress import count_bar, progress_bar

if TYPE_CHECKING:
    from sfm_graph.settings import Settings

Shown = Annotated[
    bool | None, typer.Option("--progress/--no-progress", help="A bar on stderr; by default where it is a terminal.")
]


def backup(
    file: Annotated[Path, typer.Argument(help="Where to: a file that does not exist yet.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file once the new one is whole.")
    ] = False,
    progress: Shown = None,
    config: Config = None,
) -> None:
    """Back everything up into one file, also while the service runs: what was committed at one moment."""
    from sfm_graph.settings import load_settings

    show(asyncio.run(_backup(load_settings(config), file, overwrite, progress)))


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `sfm backup` wrote. Only one that you trust: it is SQL.")],
    data_dir: Annotated[Path | None, typer.Option(help="A new data directory; SFM_DATA_DIR by default.")] = None,
    progress: Shown = None,
    config: Config = None,
) -> None:
    """Bring a backup into a new data directory, or into an empty database (POSTGRES_URL): all of it or nothing."""
    from sfm_graph.settings import load_settings

    settings = load_settings(config, data_dir=data_dir)
    if data_dir is not None and settings.postgres_url is not None:
        fail(
            "settings_error", "POSTGRES_URL is set, so there is no data directory to restore into: unset one of them"
        )
    show(asyncio.run(_restore(settings, file, progress)))


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (backup, restore):
        app.command()(command)


async def _backup(settings: "Settings", file: Path, overwrite: bool, progress: bool | None) -> dict[str, object]:
    from sfm_graph.store.backup import back_up

    if settings.postgres_url is None and not await asyncio.to_thread((settings.data_dir / "postgres").exists):
        fail("not_found", f"there is no database in {settings.data_dir}; SFM_DATA_DIR names another data directory")
    written = 0
    async with _database(settings) as conninfo:
        with progress_bar("backing up", None, progress) as bar:

            def grown(nbytes: int) -> None:
                nonlocal written
                bar.advance(nbytes - written)
                written = nbytes

            return (await back_up(conninfo, file, overwrite=overwrite, on_size=grown)).as_json()


async def _restore(settings: "Settings", file: Path, progress: bool | None) -> dict[str, object]:
    from sfm_graph.store.backup import restore

    if not await asyncio.to_thread(file.is_file):
        fail("not_found", f"{file} is no file")
    async with _database(settings) as conninfo:
        with count_bar("restoring", progress) as bar:
            login = settings.postgres_url is None
            return (await restore(conninfo, file, login=login, on_entry=bar)).as_json()


@asynccontextmanager
async def _database(settings: "Settings") -> AsyncIterator[str]:
    """The connection string of who may do everything in the database."""
    from sfm_graph.runtime import EMBEDDED_DATABASE, external_conninfo
    from sfm_graph.store.embedded import embedded_postgres
    from sfm_graph.store.migrations import ensure_database

    if settings.postgres_url is not None:
        yield external_conninfo(settings.postgres_url.get_secret_value(), settings)
        return
    async with embedded_postgres(settings.data_dir) as server:
        await ensure_database(server.superuser_dsn(), EMBEDDED_DATABASE)
        yield server.superuser_dsn(EMBEDDED_DATABASE)
