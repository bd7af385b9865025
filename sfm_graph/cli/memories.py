"""Commands that store, show, find and remove memories."""

from typing import Annotated, Any

import typer

from sfm_graph.cli.connection import Target, ask, if_match, memory_path
from sfm_graph.cli.options import (
    COORDINATES,
    After,
    Config,
    ExpiresAt,
    First,
    Kind,
    KnownAt,
    Namespace,
    Reference,
    Url,
    ValidAt,
    Version,
    given,
    json_object,
)

_Payload = Annotated[str | None, typer.Option("--payload", "-p", help="A JSON object of your own.")]
_Content = Annotated[str | None, typer.Option(help="The text to search by; by default the payload's texts.")]
_Title = Annotated[str | None, typer.Option(help="Its name; searched with the content.")]
_Key = Annotated[str | None, typer.Option(help="Your own id for it, unique in the namespace.")]
_Importance = Annotated[float | None, typer.Option(help="How much it matters, from 0.")]
_From = Annotated[str | None, typer.Option("--valid-from", help="ISO 8601 time from which it is valid.")]
_To = Annotated[str | None, typer.Option("--valid-to", help="ISO 8601 time at which it stops being valid.")]


def store(
    reference: Annotated[str, typer.Argument(metavar="COORDINATE", help="Where to store it: 1,2,3 or key:...")],
    payload: Annotated[str | None, typer.Argument(help="A JSON object of your own.")] = None,
    kind: Kind = None,
    content: _Content = None,
    title: _Title = None,
    key: _Key = None,
    importance: _Importance = None,
    valid_from: _From = None,
    valid_to: _To = None,
    expires_at: ExpiresAt = None,
    expected_version: Version = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Store a memory at a coordinate or key; what is stored there already is updated."""
    place = _place(reference, key)
    fields = given(
        namespace=namespace, payload=json_object(payload, "PAYLOAD"), kind=kind, content=content, title=title,
        importance=importance, valid_from=valid_from, valid_to=valid_to, expires_at=expires_at,
        expected_version=expected_version,
    )  # fmt: skip
    ask(Target(url, config), "POST", "/store", body={**fields, **place})


def remember(
    content: Annotated[str | None, typer.Argument(metavar="TEXT", help="What to remember.")] = None,
    payload: _Payload = None,
    kind: Kind = None,
    title: _Title = None,
    key: _Key = None,
    importance: _Importance = None,
    valid_from: _From = None,
    valid_to: _To = None,
    expires_at: ExpiresAt = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Store a memory where the server likes; the answer says where."""
    fields = given(
        namespace=namespace, content=content, payload=json_object(payload, "--payload"), kind=kind, title=title,
        key=key, importance=importance, valid_from=valid_from, valid_to=valid_to, expires_at=expires_at,
    )  # fmt: skip
    ask(Target(url, config), "POST", "/remember", body=fields)


def recall(
    query: Annotated[str, typer.Argument(help="What to look for, in words.")],
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many memories.")] = 5,
    kind: Kind = None,
    filters: Annotated[str | None, typer.Option(help='A filter as JSON: {"importance": {"gte": 2}}.')] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Explain each score.")] = False,
    hybrid: Annotated[bool, typer.Option(help="Without hybrid: by vectors alone.")] = True,
    weights: Annotated[
        str | None, typer.Option(help='How much parts count, as JSON: {"window": 0, "name": 1}.')
    ] = None,
    near: Annotated[
        str | None, typer.Option(help="A memory (key:…, id:…) or any coordinate that hits should rather be near to.")
    ] = None,
    expand: Annotated[int | None, typer.Option(help="Up to so many memories linked with hits come along.")] = None,
    diversity: Annotated[float | None, typer.Option(help="How much likeness to better hits costs, 0 to 1.")] = None,
    fold: Annotated[bool | None, typer.Option("--fold", help="Leave near-duplicates of a better hit out.")] = None,
    valid_at: ValidAt = None,
    known_at: KnownAt = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """The memories that fit a query best, best first."""
    fields = given(
        namespace=namespace, query=query, top_k=top_k, kind=kind, filters=json_object(filters, "--filters"),
        hybrid=hybrid, weights=json_object(weights, "--weights"), near=near, expand=expand, diversity=diversity,
        fold=fold, valid_at=valid_at, known_at=known_at,
    )  # fmt: skip
    ask(Target(url, config), "POST", "/recall_with_scores" if scores else "/recall", body=fields)


def get(
    reference: Reference,
    valid_at: ValidAt = None,
    known_at: KnownAt = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """One memory."""
    query = {"namespace": namespace, "valid_at": valid_at, "known_at": known_at}
    ask(Target(url, config), "GET", memory_path(reference), query=query)


def delete(
    reference: Reference,
    erase: Annotated[bool, typer.Option("--erase", help="Also purge it from the change log.")] = False,
    expected_version: Version = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Forget a memory with its links, or erase it; `deleted` is false when there is none."""
    ask(
        Target(url, config), "DELETE", memory_path(reference), query={"namespace": namespace, "erase": erase},
        headers=if_match(expected_version),
    )  # fmt: skip


def range_(
    low: Annotated[str, typer.Argument(metavar="MIN", help="The least coordinate: 0,0,0.")],
    high: Annotated[str, typer.Argument(metavar="MAX", help="The greatest: 1,1,1. Both are included.")],
    kind: Kind = None,
    valid_at: ValidAt = None,
    known_at: KnownAt = None,
    first: First = 20,
    after: After = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """The memories in a coordinate box, in coordinate order."""
    query = {
        "namespace": namespace, "min": low, "max": high, "kind": kind, "valid_at": valid_at, "known_at": known_at,
        "first": first, "after": after,
    }  # fmt: skip
    ask(Target(url, config), "GET", "/range", query=query)


def stats(
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Only this one.")] = None,
    valid_at: ValidAt = None,
    known_at: KnownAt = None,
    first: First = 20,
    after: After = None,
    url: Url = None,
    config: Config = None,
) -> None:
    """What is stored, by namespace."""
    page = {"namespace": namespace} if namespace is not None else {"first": first, "after": after}
    query = {**page, "valid_at": valid_at, "known_at": known_at}
    ask(Target(url, config), "GET", "/stats", query=query)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(context_settings=COORDINATES)(store)
    app.command()(remember)
    app.command()(recall)
    app.command(context_settings=COORDINATES)(get)
    app.command(context_settings=COORDINATES)(delete)
    app.command("range", context_settings=COORDINATES)(range_)
    app.command()(stats)


def _place(reference: str, key: str | None) -> dict[str, Any]:
    """The fields that say where to store. Raises BadParameter, InvalidCoordinate."""
    if reference.startswith("key:"):
        if key is not None:
            raise typer.BadParameter("give the key once", param_hint="--key")
        return {"key": reference.removeprefix("key:")}
    from sfm_graph.domain.validate import coordinate_from_text

    return given(coordinate=coordinate_from_text(reference), key=key)
