"""GraphQL errors as they leave the service: each with the code that every other face uses."""

import logging
from collections.abc import Iterable
from typing import Any

from graphql import GraphQLError, GraphQLSyntaxError

from sfm_graph.api.problems import INTERNAL_ERROR
from sfm_graph.errors import QueryTooComplex, SfmError
from sfm_graph.telemetry.counters import REFUSALS

# The document, its variables or the request itself is not valid GraphQL for this schema.
GRAPHQL_INVALID = "graphql_invalid"
MAX_ERRORS = 50
MAX_MESSAGE_CHARS = 1_000

_log = logging.getLogger(__name__)


def rendered(errors: Iterable[GraphQLError]) -> list[dict[str, Any]]:
    """The `errors` of a response: at most 50, each with `extensions.code`; the unexpected ones say no more."""
    return [_rendered(error) for error in list(errors)[:MAX_ERRORS]]


def log_unexpected(errors: Iterable[GraphQLError]) -> None:
    """Log what `rendered` hides, with its traceback."""
    for error in errors:
        cause = cause_of(error)
        if _code(error, cause) == INTERNAL_ERROR:
            _log.error("unexpected error at %s", error.path, exc_info=cause)


def _rendered(error: GraphQLError) -> dict[str, Any]:
    cause = cause_of(error)
    code = _code(error, cause)
    REFUSALS.add(code)
    shown = error.formatted
    shown["extensions"] = {"code": code}
    if isinstance(cause, SfmError):
        shown["message"] = cause.message
        if cause.details:
            shown["extensions"]["details"] = cause.details
    elif isinstance(cause, RecursionError):
        shown["message"] = "the request is nested too deeply"
    elif cause is not None:
        shown["message"] = "internal error"
    # A message may repeat what was sent, which may hold what no answer can: a lone surrogate.
    shown["message"] = shown["message"][:MAX_MESSAGE_CHARS].encode("utf-8", "replace").decode()
    return dict(shown)


def cause_of(error: GraphQLError) -> Exception | None:
    """The exception that was raised; None for an error of GraphQL itself."""
    cause = error.original_error
    while isinstance(cause, GraphQLError):
        cause = cause.original_error
    return cause


def _code(error: GraphQLError, cause: Exception | None) -> str:
    if isinstance(cause, SfmError):
        return cause.code
    # The parser's own limits, on tokens and on nesting, say so.
    aborted = isinstance(error, GraphQLSyntaxError) and error.message.endswith("Parsing aborted.")
    if aborted or isinstance(cause, RecursionError):
        return QueryTooComplex.code
    return GRAPHQL_INVALID if cause is None else INTERNAL_ERROR
