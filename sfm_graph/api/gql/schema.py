"""The schema: types, limits and caches put together, and its text."""

from functools import cache
from typing import Any

import strawberry
from graphql import GraphQLError
from strawberry.extensions import MaxTokensLimiter, ParserCache, ValidationCache
from strawberry.schema.config import StrawberryConfig

from sfm_graph.api.gql.errors import log_unexpected
from sfm_graph.api.gql.limits import MAX_TOKENS, RequestLimits
from sfm_graph.api.gql.mutation import Mutation
from sfm_graph.api.gql.query import Query
from sfm_graph.api.gql.scalars import SCALARS
from sfm_graph.api.gql.types import Link, Memory


class _Schema(strawberry.Schema):
    def process_errors(self, errors: list[GraphQLError], execution_context: Any = None) -> None:
        """Log what is the service's own fault; what a caller did wrong is answered, not logged."""
        log_unexpected(errors)


@cache
def build_schema() -> strawberry.Schema:
    """The schema, made once."""
    return _Schema(
        query=Query,
        mutation=Mutation,
        types=[Memory, Link],
        # Classes and factories: an instance would be shared by requests that run at the same time.
        extensions=[lambda: MaxTokensLimiter(MAX_TOKENS), RequestLimits, ParserCache, ValidationCache],
        config=StrawberryConfig(scalar_map=SCALARS),
    )


def schema_sdl() -> str:
    """The schema in the GraphQL schema language, as committed in `graphql/schema.graphql`."""
    return build_schema().as_str() + "\n"
