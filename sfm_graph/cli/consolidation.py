"""Commands that consolidate episodes, propose duplicates and merge memories."""

import asyncio
from typing import Annotated, Any

import typer

from sfm_graph.cli.connection import Target, answer_of, ask
from sfm_graph.cli.options import COORDINATES, Config, Namespace, Reference, Url, given
from sfm_graph.cli.output import show
from sfm_graph.cli.progress import count_bar


def consolidate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, only say what would be made.")] = False,
    progress: Annotated[
        bool | None,
        typer.Option("--progress/--no-progress", help="Show progress on stderr; by default on a terminal."),
    ] = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Make semantic memories of episodes that belong together; run it again for those that come later."""
    show(asyncio.run(_consolidate(Target(url, config), namespace, dry_run, progress)))


async def _consolidate(target: Target, namespace: str, dry_run: bool, progress: bool | None) -> dict[str, Any]:
    """Calls, one after the other, until everything was looked at; a dry run keeps no place, and is one call."""
    done: dict[str, Any] = {}
    body = {"namespace": namespace, "dry_run": dry_run}
    with count_bar(f"consolidate {namespace}", progress) as bar:
        async with target.client() as client:
            while True:
                part = await answer_of(client, "POST", "/consolidate", json=body)
                for name in ("created", "updated", "put_off", "episodes"):
                    part[name] += done.get(name, 0)
                part["groups"] = (done.get("groups", []) + part["groups"])[:100]
                done = part
                bar(done["episodes"], done["episodes"])
                if done["complete"] or dry_run:
                    return done


def duplicates(
    threshold: Annotated[float | None, typer.Option(help="The least cosine, 0.8 to 1; 0.97 by default.")] = None,
    first: Annotated[int | None, typer.Option(help="At most so many groups, to 100; 20 by default.")] = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Propose memories of one kind that say the same, to be merged."""
    query = given(namespace=namespace, threshold=threshold, first=first)
    ask(Target(url, config), "GET", "/duplicates", query=query)


def merge(
    reference: Reference,
    others: Annotated[list[str], typer.Argument(help="The memories that go into it, named in the same way.")],
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Merge memories into the first one, with their links; they are forgotten."""
    body = {"namespace": namespace, "into": reference, "from": others}
    ask(Target(url, config), "POST", "/merge", body=body)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(consolidate)
    app.command()(duplicates)
    app.command(context_settings=COORDINATES)(merge)
