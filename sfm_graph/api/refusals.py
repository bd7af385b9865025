"""How a request is refused before the app has seen it: in the form that its face has for errors."""

from collections.abc import Mapping

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sfm_graph.api.problems import headers_of, problem_of
from sfm_graph.errors import SfmError
from sfm_graph.telemetry.counters import REFUSALS

GRAPHQL_PATH = "/graphql"
POLICY_VIOLATION = 1008
_MAX_REASON_BYTES = 123


async def refuse(
    scope: Scope, receive: Receive, send: Send, error: SfmError, headers: Mapping[str, str] | None = None
) -> None:
    """Answer with an error: a problem document, for GraphQL its `errors`, for a WebSocket a close with the code."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": error.code[:_MAX_REASON_BYTES]})
        return
    response = refusal(error, scope["path"])
    # What follows on this connection may be the refused body.
    response.headers.update({"Connection": "close", **(headers or {})})
    await response(scope, receive, send)


def refusal(error: SfmError, path: str) -> Response:
    """The answer that tells of an error at a path."""
    if path != GRAPHQL_PATH:
        return problem_of(error, path)
    REFUSALS.add(error.code)
    extensions = {"code": error.code, **({"details": error.details} if error.details else {})}
    body = {"errors": [{"message": error.message, "extensions": extensions}]}
    return Response(orjson.dumps(body, default=str), error.http_status, headers_of(error), "application/json")
