"""The command that shows who was denied what, and what administrators did."""

import typer

from sfm_graph.cli.connection import Target, ask_graphql
from sfm_graph.cli.keys import next_of
from sfm_graph.cli.options import After, Config, First, Url
from sfm_graph.cli.output import show

_PAGE = """query ($first: Int!, $after: String) { auditLog(first: $first, after: $after) {
  edges { node { id at principal action scope namespace target allowed reason } }
  pageInfo { hasNextPage endCursor } } }"""


def audit(first: First = 20, after: After = None, url: Url = None, config: Config = None) -> None:
    """Denied actions and those of administrators, the newest first."""
    page = ask_graphql(Target(url, config), _PAGE, first=first, after=after)["auditLog"]
    show({"records": [edge["node"] for edge in page["edges"]], "next": next_of(page)})


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(audit)
