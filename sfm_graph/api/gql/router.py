"""The route of GraphQL: JSON by POST and GET, event streams, WebSockets, and GraphiQL for browsers."""

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from graphql import GraphQLError
from starlette.websockets import WebSocket
from strawberry.exceptions import MissingQueryError
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types.graphql import OperationType

from sfm_graph.api import sse
from sfm_graph.api.bodies import read_object
from sfm_graph.api.gql.context import Context
from sfm_graph.api.gql.errors import cause_of, rendered
from sfm_graph.api.gql.operations import (
    READS,
    READS_AND_WRITES,
    STREAMED,
    Answer,
    Asked,
    answers,
    asked_of,
    encoded,
    failure,
    is_subscription,
    only_answer,
    with_cost,
)
from sfm_graph.api.gql.schema import build_schema
from sfm_graph.api.gql.websocket import GraphqlSocket
from sfm_graph.api.pages import graphiql_page
from sfm_graph.api.problems import headers_of
from sfm_graph.api.streams import streams_of
from sfm_graph.domain.strict_json import parse_json
from sfm_graph.errors import RateLimited, SfmError, Unavailable
from sfm_graph.services.registry import Services

JSON = "application/json"
# Of the media types of GraphQL over HTTP, the one in which a refused document is a 400.
RESPONSE_JSON = "application/graphql-response+json"
_COMPLETE = sse.event("complete")


def graphql_router(services: Services) -> APIRouter:
    """The route `/graphql`. Errors are GraphQL errors with `extensions.code`, whatever is wrong."""
    router = APIRouter(include_in_schema=False)

    async def post(request: Request) -> Response:
        try:
            return await _answer(services, request, asked_of(await read_object(request)), READS_AND_WRITES)
        except SfmError as error:
            return _refusal(error)

    async def get(request: Request) -> Response:
        if "query" not in request.query_params and "text/html" in request.headers.get("accept", ""):
            return graphiql_page()
        try:
            return await _answer(services, request, asked_of(_parameters(request)), READS)
        except SfmError as error:
            return _refusal(error)

    async def socket(websocket: WebSocket) -> None:
        await GraphqlSocket(services, websocket, streams_of(websocket.app)).serve()

    router.add_api_route("/graphql", post, methods=["POST"])
    router.add_api_route("/graphql", get, methods=["GET"])
    router.add_api_websocket_route("/graphql", socket)
    return router


async def _answer(services: Services, request: Request, asked: Asked, allowed: Iterable[OperationType]) -> Response:
    accept = request.headers.get("accept", "")
    takes_events = sse.accepted(accept)
    if takes_events and is_subscription(asked):
        return await _subscription(services, request, asked)
    # Who takes both is given events of what cannot be answered otherwise.
    if takes_events and "json" not in accept:
        return await _as_events(services, asked, allowed)
    context = Context(services)
    try:
        result = await build_schema().execute(
            asked.query, variable_values=asked.variables, operation_name=asked.name, context_value=context,
            allowed_operation_types=allowed,
        )  # fmt: skip
    except MissingQueryError:
        return _refused(400, "the request has no `query`")
    except CannotGetOperationTypeError as error:
        return _refused(400, error.as_http_error_reason())
    except InvalidOperationTypeError as error:
        by_get = request.method == "GET"
        headers = {"Allow": "POST"} if by_get else None
        reason = error.as_http_error_reason(request.method)
        if error.operation_type is OperationType.SUBSCRIPTION:
            reason += "; ask with `Accept: text/event-stream`, or over a WebSocket"
        return _refused(405 if by_get else 400, reason, headers)
    finally:
        await context.close()
    # An error without a path is one of the document or the variables: nothing was executed, there is no data.
    executed = result.data is not None or any(error.path for error in result.errors or ())
    answer: dict[str, Any] = {"data": result.data} if executed else {}
    if result.errors:
        answer["errors"] = rendered(result.errors)
    answer = with_cost(answer, context)
    media_type = RESPONSE_JSON if RESPONSE_JSON in accept else JSON
    if executed:
        return _json(200, answer, media_type)
    status, waiting = _refused_with(result.errors or (), media_type)
    return _json(status, answer, media_type, waiting)


async def _subscription(services: Services, request: Request, asked: Asked) -> Response:
    """The answers as GraphQL over server-sent events has them, one connection for each operation."""
    await services.limits.admit("stream")
    context = Context(services)
    return sse.EventStream(
        _chunks(answers(context, asked, STREAMED)), streams_of(request.app),
        patience_seconds=services.settings.subscriber_patience_seconds, farewell=partial(_farewell, context),
    )  # fmt: skip


async def _as_events(services: Services, asked: Asked, allowed: Iterable[OperationType]) -> Response:
    """The one answer to what is no subscription, in the same form, but executed as any request is."""
    answer = await only_answer(Context(services), asked, allowed)
    body = sse.event("next", encoded(answer.body)) + _COMPLETE
    return Response(body, headers=sse.HEADERS, media_type=sse.MEDIA_TYPE)


async def _chunks(found: AsyncGenerator[Answer]) -> AsyncGenerator[sse.Chunk]:
    async with aclosing(found):
        async for answer in found:
            yield sse.Chunk(sse.event("next", encoded(answer.body)))
    yield sse.Chunk(_COMPLETE)


def _farewell(context: Context, error: SfmError | None, _: str | None) -> bytes:
    if error is None:
        return _COMPLETE
    body = {"data": None, "errors": failure(error, context.cursor)}
    return sse.event("next", encoded(body)) + _COMPLETE


def _parameters(request: Request) -> dict[str, Any]:
    """The members of a GET request: the last one of each name, `variables` as JSON."""
    given: dict[str, Any] = dict(request.query_params)
    if given.get("variables"):
        given["variables"] = parse_json(given["variables"].encode("utf-8", "replace"))
    return {name: value for name, value in given.items() if value != ""}


def _refused_with(errors: Iterable[GraphQLError], media_type: str) -> tuple[int, Mapping[str, str]]:
    """Status and headers for a document of which nothing was executed.

    GraphQL over HTTP answers 200 in `application/json`; not so what tells when to try again, which clients and
    proxies look for in the head.
    """
    error = next((found for one in errors if isinstance(found := cause_of(one), SfmError)), None)
    if isinstance(error, RateLimited | Unavailable):
        return error.http_status, headers_of(error)
    if media_type == JSON:
        return 200, {}
    return (400 if error is None else error.http_status), {}


def _refusal(error: SfmError) -> Response:
    return _json(error.http_status, {"errors": failure(error)}, JSON, headers_of(error))


def _refused(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return _json(status, {"errors": rendered([GraphQLError(message)])}, JSON, headers)


def _json(status: int, content: Any, media_type: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encoded(content), status, headers, media_type)
