"""GraphQL over HTTP: POST with JSON, GET for queries, and GraphiQL for browsers."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from graphql import GraphQLError
from strawberry.exceptions import MissingQueryError
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types.graphql import OperationType

from sfm_graph.api.bodies import read_object
from sfm_graph.api.gql.context import Context
from sfm_graph.api.gql.errors import rendered
from sfm_graph.api.gql.schema import build_schema
from sfm_graph.api.pages import graphiql_page
from sfm_graph.domain.strict_json import parse_json
from sfm_graph.errors import InvalidInput, SfmError
from sfm_graph.services.registry import Services

JSON = "application/json"
# Of the media types of GraphQL over HTTP, the one in which a refused document is a 400.
RESPONSE_JSON = "application/graphql-response+json"
_READS = frozenset({OperationType.QUERY})
_ALL = frozenset({OperationType.QUERY, OperationType.MUTATION})


def graphql_router(services: Services) -> APIRouter:
    """The route `/graphql`. Errors are GraphQL errors with `extensions.code`, whatever is wrong."""
    router = APIRouter(include_in_schema=False)

    async def post(request: Request) -> Response:
        try:
            return await _answer(services, request, await read_object(request), _ALL)
        except SfmError as error:
            return _refusal(error)

    async def get(request: Request) -> Response:
        if "query" not in request.query_params and "text/html" in request.headers.get("accept", ""):
            return graphiql_page()
        try:
            return await _answer(services, request, _parameters(request), _READS)
        except SfmError as error:
            return _refusal(error)

    router.add_api_route("/graphql", post, methods=["POST"])
    router.add_api_route("/graphql", get, methods=["GET"])
    return router


async def _answer(
    services: Services, request: Request, asked: Mapping[str, Any], allowed: Iterable[OperationType]
) -> Response:
    query, variables, name = _checked(asked)
    context = Context(services)
    try:
        result = await build_schema().execute(
            query, variable_values=variables, operation_name=name, context_value=context,
            allowed_operation_types=allowed,
        )  # fmt: skip
    except MissingQueryError:
        return _refused(400, "the request has no `query`")
    except CannotGetOperationTypeError as error:
        return _refused(400, error.as_http_error_reason())
    except InvalidOperationTypeError as error:
        by_get = request.method == "GET"
        headers = {"Allow": "POST"} if by_get else None
        return _refused(405 if by_get else 400, error.as_http_error_reason(request.method), headers)
    finally:
        await context.close()
    # An error without a path is one of the document or the variables: nothing was executed, there is no data.
    executed = result.data is not None or any(error.path for error in result.errors or ())
    answer: dict[str, Any] = {"data": result.data} if executed else {}
    if result.errors:
        answer["errors"] = rendered(result.errors)
    if RESPONSE_JSON not in request.headers.get("accept", ""):
        return _json(200, answer, JSON)
    return _json(200 if executed else 400, answer, RESPONSE_JSON)


def _checked(asked: Mapping[str, Any]) -> tuple[str | None, dict[str, Any], str | None]:
    query, variables, name = asked.get("query"), asked.get("variables"), asked.get("operationName")
    if not isinstance(query, str | None) or not isinstance(name, str | None):
        raise InvalidInput("query and operationName must be strings")
    if not isinstance(variables, dict | None):
        raise InvalidInput("variables must be an object")
    return query, variables or {}, name or None


def _parameters(request: Request) -> dict[str, Any]:
    """The members of a GET request: the last one of each name, `variables` as JSON."""
    given: dict[str, Any] = dict(request.query_params)
    if given.get("variables"):
        given["variables"] = parse_json(given["variables"].encode("utf-8", "replace"))
    return {name: value for name, value in given.items() if value != ""}


def _refusal(error: SfmError) -> Response:
    return _json(error.http_status, {"errors": rendered([GraphQLError(error.message, original_error=error)])}, JSON)


def _refused(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return _json(status, {"errors": rendered([GraphQLError(message)])}, JSON, headers)


def _json(status: int, content: Any, media_type: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content, default=str), status, headers, media_type)
