"""Commands that hold memories, and do what is due of them."""

from typing import Annotated

import typer

from sfm_graph.cli.connection import Target, ask
from sfm_graph.cli.options import COORDINATES, Config, Namespace, Reference, Url, given


def hold(reference: Reference, namespace: Namespace = "default", url: Url = None, config: Config = None) -> None:
    """Hold a memory: until it is released nothing forgets or erases it."""
    ask(Target(url, config), "POST", "/hold", body={"namespace": namespace, "coord": reference})


def release(reference: Reference, namespace: Namespace = "default", url: Url = None, config: Config = None) -> None:
    """Let go of a memory that is held."""
    ask(Target(url, config), "POST", "/release", body={"namespace": namespace, "coord": reference})


def decay(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, only say what would be done.")] = False,
    limit: Annotated[int | None, typer.Option(help="At most so many memories, to 1,000; 100 by default.")] = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Do now what is due of a namespace's memories: summarise, forget, erase."""
    body = given(namespace=namespace, dry_run=dry_run, limit=limit)
    ask(Target(url, config), "POST", "/decay", body=body)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(context_settings=COORDINATES)(hold)
    app.command(context_settings=COORDINATES)(release)
    app.command()(decay)
