"""Commands about what memories and links were."""

from typing import Annotated

import typer

from sfm_graph.cli.connection import Target, ask, memory_path
from sfm_graph.cli.options import (
    COORDINATES,
    After,
    Config,
    First,
    Namespace,
    Reference,
    Url,
    Version,
    given,
)

_Memory = Annotated[str | None, typer.Argument(help="A memory: 1,2,3 or key:... or id:...; it may be forgotten.")]
_Link = Annotated[str | None, typer.Option("--link", help="A link by its id, instead of a memory.")]
_Which = Annotated[int | None, typer.Option("--version", help="Which version; by default the last one that is kept.")]


def history(
    reference: _Memory = None,
    link: _Link = None,
    first: First = 20,
    after: After = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """The versions of a memory, or of a link, the newest first; forgotten ones too."""
    query = {"namespace": namespace, "first": first, "after": after}
    if link is not None:
        _alone(reference)
        ask(Target(url, config), "GET", "/link/history", query={**query, "id": link})
    else:
        ask(Target(url, config), "GET", f"{memory_path(_given(reference))}/history", query=query)


def diff(
    reference: Reference,
    before: Annotated[int, typer.Argument(metavar="FROM", help="The version before.")],
    after: Annotated[int, typer.Argument(metavar="TO", help="The version after.")],
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """What differs between two versions of a memory, by path."""
    query = {"namespace": namespace, "from": before, "to": after}
    ask(Target(url, config), "GET", f"{memory_path(reference)}/diff", query=query)


def revert(
    reference: _Memory = None,
    link: _Link = None,
    version: _Which = None,
    links: Annotated[bool, typer.Option(help="With the links that were forgotten together with it.")] = True,
    expected_version: Version = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Bring a memory, or a link, back to a version; a forgotten one under the id that it had."""
    body = given(namespace=namespace, version=version, expected_version=expected_version)
    if link is not None:
        _alone(reference)
        ask(Target(url, config), "POST", "/link/restore", body={**body, "id": link})
    else:
        body |= {"coord": _given(reference), "links": links}
        ask(Target(url, config), "POST", "/memories/restore", body=body)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (history, diff, revert):
        app.command(context_settings=COORDINATES)(command)


def _given(reference: str | None) -> str:
    if reference is None:
        raise typer.BadParameter("give a memory, or --link")
    return reference


def _alone(reference: str | None) -> None:
    if reference is not None:
        raise typer.BadParameter("give a memory or --link, not both")
