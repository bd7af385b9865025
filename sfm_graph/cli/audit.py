"""The command that shows who was denied what, and what administrators did."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from sfm_graph.cli.connection import Target, ask_graphql
from sfm_graph.cli.keys import next_of
from sfm_graph.cli.options import After, Config, First, Url
from sfm_graph.cli.output import show

_PAGE = """query (
  $first: Int!, $after: String, $principal: String, $namespace: String, $denied: Boolean!, $since: DateTime
) {
  auditLog(
    first: $first, after: $after, principal: $principal, namespace: $namespace, denied: $denied, since: $since
  ) {
    edges { node {
      id at principal principal_name: principalName action scope namespace target allowed reason
    } }
    pageInfo { hasNextPage endCursor }
  }
}"""


def audit(
    principal: Annotated[str | None, typer.Option(help="Only this one: key:7, or the name of a key.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Only what was about this one.")] = None,
    denied: Annotated[bool, typer.Option("--denied", help="Only what was denied.")] = False,
    since: Annotated[str | None, typer.Option(help="90m, 12h, 30d or 2w ago, or an ISO 8601 time.")] = None,
    first: First = 20,
    after: After = None,
    url: Url = None,
    config: Config = None,
) -> None:
    """What was decided of denied actions and of those of administrators, the newest first."""
    from sfm_graph.domain.audit import start

    begin = start(since, datetime.now(UTC))
    page = ask_graphql(
        Target(url, config, existing=True), _PAGE, first=first, after=after, principal=principal,
        namespace=namespace, denied=denied, since=begin and begin.isoformat(),
    )["auditLog"]  # fmt: skip
    show({"records": [edge["node"] for edge in page["edges"]], "next": next_of(page)})


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(audit)
