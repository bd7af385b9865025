"""Commands that copy memories between namespaces."""

from typing import Annotated

import typer

from sfm_graph.cli.connection import Target, ask
from sfm_graph.cli.options import After, Config, Direction, First, LinkTypes, Namespace, Url, given, json_object

Outgoing = Annotated[
    bool, typer.Option("--outgoing", help="Of copies from the namespace, not into it; needs the scope admin.")
]


def copy(
    source: Annotated[str, typer.Argument(help="The namespace to copy from.")],
    start: Annotated[
        list[str] | None,
        typer.Option("--start", "-s", help="A memory to start from: 1,2,3 or key:...; may be repeated."),
    ] = None,
    depth: Annotated[int | None, typer.Option(help="How many links to go from there, to 10; 0 by default.")] = None,
    direction: Direction = "both",
    types: LinkTypes = None,
    where: Annotated[str | None, typer.Option(help="Which memories, instead of --start: a JSON filter.")] = None,
    limit: Annotated[int | None, typer.Option(help="More memories than so many are refused, to 10,000.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Keep the copies in step with their sources.")] = False,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Copy memories of another namespace, with the links among them."""
    body = given(
        namespace=namespace, source=source, start=start, depth=depth, direction=direction, types=types,
        where=json_object(where, "--where"), limit=limit, follow=follow,
    )  # fmt: skip
    ask(Target(url, config), "POST", "/copies", body=body)


def copies(
    first: First = 20,
    after: After = None,
    outgoing: Outgoing = False,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """List the copies into a namespace, those that have ended, too."""
    query = {"namespace": namespace, "first": first, "after": after, "outgoing": "true" if outgoing else None}
    ask(Target(url, config), "GET", "/copies", query=query)


def revoke_copy(
    number: Annotated[int, typer.Argument(help="The copy's id.")],
    forget: Annotated[bool, typer.Option("--forget", help="Forget the copied memories, too.")] = False,
    outgoing: Outgoing = False,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """End a copy: it is kept in step no longer."""
    query = {
        "namespace": namespace, "forget": "true" if forget else None, "outgoing": "true" if outgoing else None,
    }  # fmt: skip
    ask(Target(url, config), "DELETE", f"/copies/{number}", query=query)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(copy)
    app.command()(copies)
    app.command("revoke-copy")(revoke_copy)
