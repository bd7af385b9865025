"""Background work as GraphQL objects."""

from datetime import datetime
from typing import Self

import strawberry
from strawberry.scalars import JSON

from sfm_graph.domain import job


@strawberry.type(description="Background work of a namespace, such as extraction.")
class Job:
    """One kind of work."""

    name: str = strawberry.field(description="What it is.")
    due_at: datetime | None = strawberry.field(description="When it runs again if there is anything to do.")
    ran_at: datetime | None = strawberry.field(description="When it last ended; null: never.")
    error: str | None = strawberry.field(description="Why the last run failed; null when it did not.")
    progress: JSON = strawberry.field(description="Figures of its own.")

    @classmethod
    def from_domain(cls, one: job.Job) -> Self:
        """The GraphQL form."""
        return cls(
            name=one.name, due_at=one.due_at, ran_at=one.ran_at, error=one.error, progress=JSON(dict(one.progress))
        )
