"""Where a page stands: what all connections have."""

from typing import Any, Self

import strawberry

from sfm_graph.domain.page import Page


@strawberry.type(description="Where a page stands in its listing.")
class PageInfo:
    """Relay's page information. Pages go forward only."""

    has_next_page: bool = strawberry.field(description="Whether more follow.")
    end_cursor: str | None = strawberry.field(description="Where the next page starts; null for an empty page.")
    has_previous_page: bool = strawberry.field(description="Whether this page was reached by a cursor.")
    start_cursor: str | None = strawberry.field(description="The cursor of the first edge.")

    @classmethod
    def of(cls, found: Page[Any], after: str | None) -> Self:
        """The information of a page that was asked for behind `after`."""
        first = found.cursors[0] if found.cursors else None
        return cls(
            has_next_page=found.has_next, end_cursor=found.end_cursor, has_previous_page=after is not None,
            start_cursor=first,
        )  # fmt: skip
