"""Commands that predict, report outcomes, reflect, and show background work."""

from typing import Annotated

import typer

from sfm_graph.cli.connection import Target, ask
from sfm_graph.cli.options import COORDINATES, Config, Namespace, Reference, Url, given

_Key = Annotated[str | None, typer.Option("--key", help="An idempotency key: the same again gives the first answer.")]
_Agent = Annotated[str | None, typer.Option(help="Who writes this.")]


def predict(
    context: Annotated[str | None, typer.Argument(help="What is going on.")] = None,
    around: Annotated[str | None, typer.Option(help="A memory that it is around: 1,2,3 or key:... or id:...")] = None,
    first: Annotated[int, typer.Option("--first", help="How many predictions at most, 1 to 10.")] = 3,
    agent: _Agent = None,
    key: _Key = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Predict what comes next; each prediction is stored with its evidence."""
    body = given(namespace=namespace, context=context, around=around, first=first, agent=agent)
    ask(Target(url, config), "POST", "/predict", body=body, headers=_headers(key))


def outcome(
    prediction: Reference,
    what: Annotated[str, typer.Argument(metavar="OUTCOME", help="What happened.")],
    correct: Annotated[bool | None, typer.Option("--correct/--wrong", help="Whether it came true.")] = None,
    value: Annotated[float | None, typer.Option(help="Instead, how far it came true, from 0 to 1.")] = None,
    agent: _Agent = None,
    key: _Key = None,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Report what became of a prediction; the answer has its error."""
    body = given(namespace=namespace, prediction=prediction, outcome=what, correct=correct, value=value, agent=agent)
    ask(Target(url, config), "POST", "/outcomes", body=body, headers=_headers(key))


def reflect(
    since: Annotated[str | None, typer.Option(help="ISO 8601 time, or how long ago: 12h, 30d, 2w.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")] = False,
    namespace: Namespace = "default",
    url: Url = None,
    config: Config = None,
) -> None:
    """Look back for what errs again and again, surprises, is stale or contradicts; insights are stored."""
    body = given(namespace=namespace, since=since, dry_run=dry_run)
    ask(Target(url, config), "POST", "/reflect", body=body)


def jobs(namespace: Namespace = "default", url: Url = None, config: Config = None) -> None:
    """Background work of a namespace: how far it has come, and why it failed."""
    ask(Target(url, config), "GET", "/jobs", query={"namespace": namespace})


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Content-Type": "application/json", "Idempotency-Key": key}


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for named in (predict, outcome):
        app.command(context_settings=COORDINATES)(named)
    for plain in (reflect, jobs):
        app.command()(plain)
