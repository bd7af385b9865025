"""The schema: types, limits and caches put together, and its text."""

from functools import cache
from typing import Any

import strawberry
from graphql import GraphQLError
from strawberry.exceptions import MissingQueryError
from strawberry.extensions import MaxTokensLimiter, ParserCache, ValidationCache
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError

from sfm_graph.api.gql.completion import CountingExecutor
from sfm_graph.api.gql.errors import log_unexpected
from sfm_graph.api.gql.limits import MAX_TOKENS, RequestLimits
from sfm_graph.api.gql.mutation import Mutation
from sfm_graph.api.gql.query import Query
from sfm_graph.api.gql.scalars import SCALARS
from sfm_graph.api.gql.subscription import Subscription
from sfm_graph.api.gql.tracing import Traced
from sfm_graph.api.gql.types import Link, Memory

_OF_THE_REQUEST = (MissingQueryError, CannotGetOperationTypeError, InvalidOperationTypeError)


class _Schema(strawberry.Schema):
    def process_errors(self, errors: list[GraphQLError], execution_context: Any = None) -> None:
        """Log what is the service's own fault; what a caller did wrong is answered, not logged."""
        for error in errors:
            # Of a stream, strawberry wraps what it raises where there is one answer.
            if isinstance(error.original_error, _OF_THE_REQUEST):
                error.original_error = None
        log_unexpected(errors)


@cache
def build_schema() -> strawberry.Schema:
    """The schema, made once."""
    return _Schema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        types=[Memory, Link],
        # Classes and factories: an instance would be shared by requests that run at the same time.
        extensions=[lambda: MaxTokensLimiter(MAX_TOKENS), RequestLimits, ParserCache, ValidationCache, Traced],
        execution_context_class=CountingExecutor,
        config=StrawberryConfig(scalar_map=SCALARS),
    )


def schema_sdl() -> str:
    """The schema in the GraphQL schema language, as committed in `graphql/schema.graphql`."""
    return build_schema().as_str() + "\n"
