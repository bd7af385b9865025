"""What the OpenAPI document says of a route: the arguments of its decorator."""

from typing import Any

from sfm_graph.api.authentication import OPEN_PATHS
from sfm_graph.api.problems import MEDIA_TYPE
from sfm_graph.api.rest.schemas import NAME, REF_TEXT, Properties, Schema, component, string
from sfm_graph.domain import validate

_PROBLEM = {MEDIA_TYPE: {"schema": component("Problem")}}
_PROBLEMS = {
    "4XX": {"description": "A problem of the request", "content": _PROBLEM},
    "5XX": {"description": "A problem of the service; 503 says when to try again", "content": _PROBLEM},
}
_JSON = "application/json"
_PATH_PARAMETERS: Properties = {
    "coordinate": REF_TEXT,
    "id": string("Its number", pattern=r"^[1-9][0-9]{0,17}$"),
    "name": string("The namespace", least=1, most=validate.MAX_NAMESPACE_CHARS, pattern=r"^[a-z0-9_-]+$"),
}
_HEADERS = {
    "Idempotency-Key": string("The same key and body again within 24 hours gets the first answer", most=256, **NAME),
    "If-Match": string("The version that must be stored, else 409", pattern=r'^"[0-9]{1,9}"$'),
}
_SCHEME = "bearer"
_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "The static token, an API key or a JWT. A service that was given none of these asks for none.",
}
_WHOLE_SECONDS = {"type": "integer", "minimum": 0}


def _refusal(description: str, header: str, schema: Schema) -> dict[str, Any]:
    return {"description": description, "content": _PROBLEM, "headers": {header: {"schema": schema}}}


_REFUSALS = {
    "401": _refusal(
        "No bearer token, or one that is wrong, expired or revoked", "WWW-Authenticate", {"type": "string"}
    ),
    "403": {"description": "The token lacks the scope or the namespace that this needs", "content": _PROBLEM},
    "429": _refusal("The limit of this class of routes is used up", "Retry-After", _WHOLE_SECONDS),
}


def describe_access(document: dict[str, Any]) -> None:
    """Say in an OpenAPI document which operations need a token, and how they are refused."""
    document["components"]["securitySchemes"] = {_SCHEME: _BEARER}
    document["security"] = [{_SCHEME: []}]
    for path, item in document["paths"].items():
        for operation in item.values():
            if path in OPEN_PATHS:
                operation["security"] = []
            else:
                operation["responses"] = dict(sorted({**operation["responses"], **_REFUSALS}.items()))


def documented(
    summary: str,
    answer: Schema,
    *,
    body: Schema | None = None,
    query: Properties | None = None,
    path: str | None = None,
    headers: tuple[str, ...] = (),
    status: tuple[int, ...] = (200,),
    required: tuple[str, ...] = (),
    takes: str = _JSON,
    answers: str = _JSON,
) -> dict[str, Any]:
    """Keyword arguments for a router's decorator.

    body, query: the schemas that the route checks names against; `required` of `query`. path: the path's parameter.
    headers: from Idempotency-Key and If-Match. status: with which the answer comes.
    takes, answers: media types.
    """
    extra: dict[str, Any] = {
        "parameters": [
            *([_parameter("path", path, _PATH_PARAMETERS[path], required=True)] if path else []),
            *(_parameter("query", name, schema, required=name in required) for name, schema in (query or {}).items()),
            *(_parameter("header", name, _HEADERS[name], required=False) for name in headers),
        ],
        "responses": {
            **{str(one): {"description": summary, "content": {answers: {"schema": answer}}} for one in status},
            **_PROBLEMS,
        },
    }
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {takes: {"schema": body}}}
    return {"summary": summary, "openapi_extra": extra}


WRITE = ("Idempotency-Key",)
CONDITIONAL_WRITE = ("Idempotency-Key", "If-Match")


def _parameter(place: str, name: str, schema: Schema, *, required: bool) -> dict[str, Any]:
    description = schema.get("description", "")
    return {"name": name, "in": place, "required": required, "description": description, "schema": schema}
