"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

Namespace = Annotated[str, typer.Option("--namespace", "-n", help="The namespace to work in.")]
Url = Annotated[
    str | None,
    typer.Option(help="A running server, http://host:port, to ask instead of opening the database."),
]
Config = Annotated[Path | None, typer.Option(help="A YAML file of settings.", dir_okay=False)]
Kind = Annotated[str | None, typer.Option(help="episodic, semantic or entity.")]
Reference = Annotated[str, typer.Argument(help="A memory: 1,2,3 or key:... or id:...")]
LinkTypes = Annotated[list[str] | None, typer.Option("--type", "-t", help="Follow only this type; may be repeated.")]
Direction = Annotated[str, typer.Option(help="out, in or both.")]
LinkWhere = Annotated[str | None, typer.Option("--where", help="Follow only links that this JSON filter keeps.")]
ValidAt = Annotated[
    str | None, typer.Option("--valid-at", help="What was true then, an ISO 8601 time: only what was valid at it.")
]
KnownAt = Annotated[str | None, typer.Option("--known-at", help="What was known then, an ISO 8601 time.")]
ExpiresAt = Annotated[
    str | None, typer.Option("--expires-at", help="ISO 8601 time at which it is forgotten by itself.")
]
First = Annotated[int, typer.Option("--first", help="At most this many; the answer's `next` goes to --after.")]
After = Annotated[str | None, typer.Option(help="The `next` of the page before.")]
Version = Annotated[int | None, typer.Option("--expected-version", help="Refuse unless this version is stored.")]

# Coordinates may begin with a minus sign, which is no option.
COORDINATES = {"ignore_unknown_options": True}


def json_object(text: str | None, option: str) -> dict[str, Any] | None:
    """The object that an option's JSON text holds. Raises BadParameter."""
    if text is None:
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=option) from error
    if not isinstance(value, dict):
        raise typer.BadParameter("must be a JSON object", param_hint=option)
    return value


def walk_options(
    types: list[str] | None,
    direction: str,
    where: str | None,
    valid_at: str | None,
    known_at: str | None,
    namespace: str,
) -> dict[str, Any]:
    """What every walk is asked with. Raises BadParameter where the filter is no JSON object."""
    json_object(where, "--where")
    return {
        "namespace": namespace, "type": types, "direction": direction, "where": where, "valid_at": valid_at,
        "known_at": known_at,
    }  # fmt: skip


def given(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}
