"""Who sends a request: the caller that every service call under it is checked for."""

import ipaddress
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from sfm_graph.api.headers import only
from sfm_graph.api.refusals import refuse
from sfm_graph.domain.access import ANONYMOUS, LOCAL
from sfm_graph.domain.inputs import agent as checked_agent
from sfm_graph.errors import InvalidInput, SfmError, Unauthenticated
from sfm_graph.services.access.agents import HEADER, acting_for
from sfm_graph.services.access.guard import Caller, acting
from sfm_graph.services.access.policy import ScopesByNamespace
from sfm_graph.services.registry import Services
from sfm_graph.telemetry.counters import AUTHENTICATIONS

# What tells nothing of any namespace: that the service lives, and the pages with their files.
OPEN_PATHS = frozenset({"/ping", "/healthz", "/readyz", "/health", "/", "/docs", "/openapi.json"})
# Of these, what tells more to who may see it.
REPORT_PATHS = frozenset({"/readyz", "/health"})
OPEN_PREFIX = "/static/"
_SCHEME = "bearer "
# Of a request's scope: who was found to send it, to be shown.
PRINCIPAL = "sfm_graph.principal"
_LOCAL_SCOPE = "sfm_graph.local"
_NOBODY = Caller(ANONYMOUS, ScopesByNamespace())


class Authenticate:
    """ASGI middleware: no request reaches the app without a caller. One to an open path is anonymous, and may do
    nothing that is guarded. A WebSocket is so, too, until its first message says who it is.

    `as_local`: every request comes from this process itself.
    """

    def __init__(self, app: ASGIApp, *, as_local: bool = False) -> None:
        self._app = app
        self._as_local = as_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Find the caller by the bearer token, or refuse with 401."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            one = await self._caller(scope)
            agent = agent_of(scope)
        except SfmError as error:
            await refuse(scope, receive, send, error)
            return
        with acting(one), acting_for(agent):
            await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        if self._as_local:
            scope[_LOCAL_SCOPE] = True
            return _services(scope).authentication.local
        if scope["type"] == "websocket":
            return _NOBODY
        if is_open(scope):
            return await _caller_if_known(scope)
        return await caller_of(_services(scope), scope, bearer_token(only(scope, "authorization")))


def agent_of(scope: Scope) -> str | None:
    """The agent that a request says it comes from; a header's bytes are UTF-8. Raises InvalidInput."""
    given = only(scope, HEADER.lower())
    if not given:
        return None
    try:
        return checked_agent(given.encode("latin-1").decode())
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{HEADER} must be UTF-8", field=HEADER) from exc


async def _caller_if_known(scope: Scope) -> Caller:
    """The caller of a request that needs none: who has no token, or a wrong one, is nobody."""
    if scope["path"] not in REPORT_PATHS or not only(scope, "authorization"):
        return _NOBODY
    try:
        return await caller_of(_services(scope), scope, bearer_token(only(scope, "authorization")))
    except SfmError:
        return _NOBODY


async def socket_caller(services: Services, scope: Scope, payload: Mapping[str, Any]) -> Caller:
    """The caller of a WebSocket: by the head of its request, else by `Authorization` in the payload of its first
    message, since pages cannot set headers. Errors as of `caller_of`, and InvalidInput."""
    if scope.get(_LOCAL_SCOPE):
        return services.authentication.local
    given = [value for name, value in payload.items() if name.lower() == "authorization"]
    header = only(scope, "authorization") or (given[0] if given else "")
    if not isinstance(header, str):
        raise InvalidInput("Authorization must be a string", field="Authorization")
    return await caller_of(services, scope, bearer_token(header))


async def caller_of(services: Services, scope: Scope, token: str | None) -> Caller:
    """The caller who holds a token. Raises Unauthenticated, RateLimited for who guesses too often, Unavailable."""
    try:
        found = await services.authentication.caller(token, client_of(scope))
        if found.principal is LOCAL and not _came_by_loopback(scope):
            # Whatever the settings say that is listened on: the app may be served by another server.
            raise Unauthenticated("without a token the service is open on loopback only")
    except Unauthenticated:
        AUTHENTICATIONS.add("refused" if token is not None else "anonymous")
        if token is not None:
            await services.limits.admit_guess(client_of(scope))
        raise
    AUTHENTICATIONS.add(found.principal.name.partition(":")[0])
    scope[PRINCIPAL] = found.principal.shown
    return found


def _came_by_loopback(scope: Scope) -> bool:
    host = (scope.get("server") or ("",))[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a socket in the file system, or no socket at all
        return True


def client_of(scope: Scope) -> str:
    """The address that a request comes from."""
    return str((scope.get("client") or ("unknown",))[0])


def _services(scope: Scope) -> Services:
    services: Services = scope["app"].state.services
    return services


def is_open(scope: Scope) -> bool:
    """Whether a request is answered without a token."""
    path = scope["path"]
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX) or _wants_graphiql(scope) or _asks_for_leave(scope)


def bearer_token(header: str) -> str | None:
    """The token of an Authorization header; None for an empty one. Raises InvalidInput for another scheme."""
    if not header:
        return None
    if not header.lower().startswith(_SCHEME):
        raise InvalidInput("Authorization must be: Bearer <token>", field="Authorization")
    return header[len(_SCHEME) :].strip()


def _wants_graphiql(scope: Scope) -> bool:
    return (
        scope["path"] == "/graphql"
        and scope["method"] == "GET"
        and "query" not in QueryParams(scope["query_string"])
        and "text/html" in Headers(scope=scope).get("accept", "")
    )


def _asks_for_leave(scope: Scope) -> bool:
    # A preflight: browsers send it without credentials.
    return scope["method"] == "OPTIONS" and bool(only(scope, "access-control-request-method"))
