"""Errors as problem documents (RFC 9457): the one place where they become HTTP."""

import math
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from sfm_graph.errors import InvalidInput, NotFound, RateLimited, SfmError, Unauthenticated, Unavailable
from sfm_graph.telemetry import request_ids
from sfm_graph.telemetry.counters import REFUSALS

MEDIA_TYPE = "application/problem+json"
# The codes that stand for no class of `errors.py`, because nothing in the service raises them.
METHOD_NOT_ALLOWED = "method_not_allowed"
INTERNAL_ERROR = "internal_error"
# A pool or a lock is free again within a second, or a longer wait would not help either.
RETRY_AFTER_SECONDS = 1


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    instance: str | None = None,
    details: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document; `details` become members of their own beside the standard ones."""
    body = {
        **(details or {}),
        "type": f"urn:sfm-graph:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
    }
    if instance is not None:
        body["instance"] = instance
    REFUSALS.add(code)
    return Response(orjson.dumps(body, default=str), status, headers, MEDIA_TYPE)


def problem_of(error: SfmError, instance: str | None = None) -> Response:
    """The problem document of an error."""
    return problem(
        error.http_status,
        error.code,
        error.message,
        instance=instance,
        details=error.details,
        headers=headers_of(error),
    )


def headers_of(error: SfmError) -> dict[str, str]:
    """What an error's answer says beside its body: when trying again may help, how to authenticate."""
    if isinstance(error, Unavailable):
        return {"Retry-After": str(RETRY_AFTER_SECONDS)}
    if isinstance(error, RateLimited):
        return {"Retry-After": str(math.ceil(error.details.get("retry_after", RETRY_AFTER_SECONDS)))}
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": "Bearer"}
    return {}


def add_problem_handlers(app: FastAPI) -> None:
    """Let every error of the app be answered as a problem document."""
    app.add_exception_handler(SfmError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, SfmError):
        raise error
    return problem_of(error, request.url.path)


async def _on_invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    places = [".".join(map(str, one["loc"])) + ": " + str(one["msg"]) for one in error.errors()]
    return problem(400, InvalidInput.code, "; ".join(places), instance=request.url.path)


async def _on_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    code = {404: NotFound.code, 405: METHOD_NOT_ALLOWED}.get(error.status_code, InvalidInput.code)
    return problem(
        error.status_code,
        code if error.status_code < 500 else INTERNAL_ERROR,
        str(error.detail),
        instance=request.url.path,
        headers=error.headers,
    )


async def _on_disconnect(_: Request, __: Exception) -> Response:
    # Nobody reads it: the caller went away in the middle of its own body, which is no error of the service.
    return Response(status_code=400)


async def _on_unexpected(request: Request, _: Exception) -> Response:
    # The server logs the exception, which Starlette raises again after this answer.
    # Of all answers this one is made outside of the middleware that gives them their ids.
    ids = request_ids.current()
    return problem(
        500,
        INTERNAL_ERROR,
        "something went wrong; the server's log says what",
        instance=request.url.path,
        headers=None if ids is None else {request_ids.HEADER: ids.request},
    )
