"""The command that moves namespaces to another model."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_graph.cli.connection import Target
from sfm_graph.cli.options import Config
from sfm_graph.cli.output import say, show
from sfm_graph.cli.progress import count_bar
from sfm_graph.errors import Conflict, NamespaceNotFound

if TYPE_CHECKING:
    from sfm_graph.services.reembed import Reembedded
    from sfm_graph.services.registry import Services


def reembed(
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="The namespace to move; `default` by default.")
    ] = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", help="Move every namespace.")] = False,
    words: Annotated[
        bool, typer.Option("--words", help="Also make words, names, windows and linkers' links anew.")
    ] = False,
    progress: Annotated[
        bool | None,
        typer.Option("--progress/--no-progress", help="Show progress on stderr; by default on a terminal."),
    ] = None,
    config: Config = None,
) -> None:
    """Move namespaces to the model of the settings while the service goes on; run it again to go on.

    Exits 1 when another process was at one of them.
    """
    if namespace is not None and all_namespaces:
        raise typer.BadParameter("give one namespace or all, not both", param_hint="--all-namespaces")
    done, busy = asyncio.run(_reembed(Target(None, config), namespace, all_namespaces, words, progress))
    show({"namespaces": done})
    if busy:
        say(f"other processes are re-embedding: {', '.join(busy)}")
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(reembed)


async def _reembed(
    target: Target, namespace: str | None, all_namespaces: bool, words: bool, progress: bool | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """What was done to each namespace, and those that others are at."""
    async with target.services() as services:
        if not all_namespaces:
            return [await _one(services, namespace or "default", words, progress)], []
        done: list[dict[str, Any]] = []
        busy: list[str] = []
        for name in await services.reembed.names():
            try:
                done.append(await _one(services, name, words, progress))
            except Conflict:
                busy.append(name)
            except NamespaceNotFound:
                continue  # deleted meanwhile
        return done, busy


async def _one(services: "Services", name: str, words: bool, progress: bool | None) -> dict[str, Any]:
    with count_bar(f"reembed {name}", progress) as bar:
        return _as_json(await services.reembed.run(name, words=words, progress=bar))


def _as_json(done: "Reembedded") -> dict[str, Any]:
    return {
        "namespace": done.namespace,
        "from": done.before,
        "to": done.after,
        "memories": done.memories,
        "windows": done.windows,
        "words": done.reworded,
        "seconds": round(done.seconds, 2),
    }
