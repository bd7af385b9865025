"""What a command says: JSON on stdout, messages on stderr."""

from typing import Any, NoReturn

import orjson
import typer

_READABLE = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


def show(value: object) -> None:
    """A result."""
    typer.echo(orjson.dumps(value, option=_READABLE, default=str), nl=False)


def say(message: str) -> None:
    """A message to the person at the terminal."""
    typer.echo(message, err=True)


def fail(code: str, message: str, **details: Any) -> NoReturn:
    """A refusal as a JSON problem; exit 1."""
    fail_with({"code": code, "detail": message, **details})


def fail_with(problem: object) -> NoReturn:
    """As `fail`, for a problem that somebody else wrote."""
    typer.echo(orjson.dumps(problem, option=_READABLE, default=str), nl=False, err=True)
    raise typer.Exit(1)
