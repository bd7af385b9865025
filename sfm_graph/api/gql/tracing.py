"""A span for each GraphQL query and mutation: its type and name, never its text, which may hold literals."""

from collections.abc import Iterator
from typing import Final

from strawberry.extensions import SchemaExtension
from strawberry.types.graphql import OperationType

from sfm_graph.telemetry import tracing

_MAX_NAME_CHARS: Final = 64


class Traced(SchemaExtension):
    """Spans around executions; subscriptions have none, since they last as long as their reader."""

    def on_execute(self) -> Iterator[None]:
        """Around the resolvers of one operation."""
        context = self.execution_context
        if not tracing.is_on() or context.operation_type is OperationType.SUBSCRIPTION:
            yield
            return
        kind, name = context.operation_type.value, (context.operation_name or "")[:_MAX_NAME_CHARS]
        # Over a WebSocket it begins a trace.
        with tracing.span(f"graphql {kind} {name}".rstrip()) as span:
            span.note("graphql.operation.type", kind)
            span.note("graphql.operation.name", name)
            yield
            if context.result is not None and context.result.errors:
                span.failed("graphql_errors")
