"""Commands that make and follow links."""

from typing import Annotated

import typer

from sfm_graph.cli.connection import Target, ask
from sfm_graph.cli.options import (
    COORDINATES,
    After,
    Config,
    Direction,
    KnownAt,
    LinkTypes,
    LinkWhere,
    Namespace,
    Reference,
    Url,
    ValidAt,
    Version,
    given,
    json_object,
    walk_options,
)

_Source = Annotated[str, typer.Argument(metavar="FROM", help="A memory: 1,2,3 or key:... or id:...")]
_Target = Annotated[str, typer.Argument(metavar="TO", help="Another, named likewise.")]


def link(
    source: _Source,
    target: _Target,
    type_: Annotated[
        str | None, typer.Option("--type", "-t", help="What the link means; `related` by default.")
    ] = None,
    weight: Annotated[float | None, typer.Option(help="Its cost: nearer is smaller; 1 by default.")] = None,
    properties: Annotated[str | None, typer.Option(help="A JSON object of your own.")] = None,
    valid_from: Annotated[str | None, typer.Option(help="ISO 8601 time from which it is valid.")] = None,
    valid_to: Annotated[str | None, typer.Option(help="ISO 8601 time at which it stops being valid.")] = None,
    expected_version: Version = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Link two memories; the same ends and type again update the link."""
    fields = given(
        namespace=namespace, from_coord=source, to_coord=target, type=type_, weight=weight,
        properties=json_object(properties, "--properties"), valid_from=valid_from, valid_to=valid_to,
        expected_version=expected_version,
    )  # fmt: skip
    ask(Target(url, config), "POST", "/link", body=fields)


def unlink(
    source: Annotated[str | None, typer.Argument(metavar="FROM", help="The memory that the links leave.")] = None,
    target: Annotated[str | None, typer.Argument(metavar="TO", help="The memory that they lead to.")] = None,
    type_: Annotated[str | None, typer.Option("--type", "-t", help="Only this type; any by default.")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="One link by its id, instead of its ends.")] = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Remove the links from one memory to another, or a link by its id."""
    if (id_ is None) == (source is None or target is None):
        raise typer.BadParameter("give FROM and TO, or --id")
    ends = {"from_coord": source, "to_coord": target, "type": type_} if id_ is None else {"id": id_}
    ask(Target(url, config), "DELETE", "/link", query={"namespace": namespace, **ends})


def neighbors(
    reference: Reference,
    hops: Annotated[int, typer.Option(help="How many links away at most.")] = 1,
    types: LinkTypes = None,
    direction: Direction = "both",
    where: LinkWhere = None,
    valid_at: ValidAt = None,
    known_at: KnownAt = None,
    limit: Annotated[int, typer.Option(help="At most this many memories; `next` goes to --after.")] = 100,
    after: After = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """The memories around one, nearest first, each with the link that leads to it."""
    query = {
        **walk_options(types, direction, where, valid_at, known_at, namespace), "coord": reference, "hops": hops,
        "limit": limit, "after": after,
    }  # fmt: skip
    ask(Target(url, config), "GET", "/neighbors", query=query)


def path(
    source: _Source,
    target: _Target,
    weighted: Annotated[bool, typer.Option("--weighted", help="Least sum of weights, not fewest links.")] = False,
    max_hops: Annotated[int | None, typer.Option(help="At most this many links.")] = None,
    k: Annotated[int | None, typer.Option("--k", "-k", help="At most this many paths, best first.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="Which of several paths: shortest_k, all_shortest or simple.")
    ] = None,
    types: LinkTypes = None,
    direction: Direction = "both",
    where: LinkWhere = None,
    valid_at: ValidAt = None,
    known_at: KnownAt = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """A shortest path between two memories; `found` is false when there is none. With --k or --mode several."""
    query = {
        **walk_options(types, direction, where, valid_at, known_at, namespace), "frm": source, "to": target,
        "weighted": weighted, "max_hops": max_hops, "k": k, "mode": mode,
    }  # fmt: skip
    ask(Target(url, config), "GET", "/shortest_path", query=query)


def traverse(
    starts: Annotated[list[str], typer.Argument(metavar="MEMORY", help="Where to start: 1,2,3 or key:... or id:...")],
    depth: Annotated[int, typer.Option(help="How many links away at most.")] = 1,
    types: LinkTypes = None,
    direction: Direction = "both",
    where: LinkWhere = None,
    valid_at: ValidAt = None,
    known_at: KnownAt = None,
    limit: Annotated[int, typer.Option(help="At most this many memories.")] = 100,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """What lies around memories, and every link between it, as columns."""
    query = {
        **walk_options(types, direction, where, valid_at, known_at, namespace), "start": starts, "depth": depth,
        "limit": limit,
    }  # fmt: skip
    ask(Target(url, config), "GET", "/traverse", query=query)


def rank(
    seeds: Annotated[
        list[str] | None,
        typer.Argument(metavar="SEED", help="Memories to rank from; without any, all are ranked."),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="pagerank, degree, jaccard, adamic_adar, weak_components, strong_components or communities."
        ),
    ] = "pagerank",
    unlinked: Annotated[
        bool, typer.Option("--unlinked", help="Without what a seed is linked to: suggestions for links.")
    ] = False,
    types: LinkTypes = None,
    direction: Direction = "both",
    where: LinkWhere = None,
    valid_at: ValidAt = None,
    known_at: KnownAt = None,
    limit: Annotated[int, typer.Option(help="At most this many memories.")] = 20,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """The best memories by their links."""
    query = {
        **walk_options(types, direction, where, valid_at, known_at, namespace), "by": by, "seed": seeds or None,
        "unlinked": unlinked, "limit": limit,
    }  # fmt: skip
    ask(Target(url, config), "GET", "/rank", query=query)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (link, unlink, neighbors, path, traverse, rank):
        app.command(context_settings=COORDINATES)(command)
