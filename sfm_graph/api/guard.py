"""What every request must hold before anything of it is read: who may be spoken to as, from where, how much.

Without a token the service is open to whoever reaches its port, and any web page can make a browser on this machine
do that. So the Host must be a known name (or a page could rebind its own name to us), a write must say
`application/json` (which a page cannot send elsewhere without being let in, and nothing lets it in), and an
Origin, where a browser gives one, must be of a known host (WebSockets know no other border).
"""

from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfm_graph.api.headers import only
from sfm_graph.api.refusals import refuse
from sfm_graph.errors import AccessRefused, SfmError, TooLarge, UnsupportedMediaType
from sfm_graph.settings import ANY_HOST

JSON_TYPES = frozenset({"application/json"})
LINES_TYPES = JSON_TYPES | {"application/x-ndjson", "application/ndjson", "application/jsonl"}
# Routes that read their body as a stream of bounded lines.
STREAMED_PATHS = frozenset({"/import"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    # Of what is no page; pages say what they need.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


class Guard:
    """ASGI middleware that refuses what a foreign web page could send, and bodies beyond `max_body_bytes`.

    origins: those of pages elsewhere that may send what our own may.
    """

    def __init__(
        self, app: ASGIApp, *, host_names: Collection[str], max_body_bytes: int, origins: Collection[str] = ()
    ) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._host_names = frozenset(host_names)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the head of a request, bound its body, and add the security headers to the answer."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except SfmError as error:
            await refuse(scope, receive, _secured(send), error)
            return
        bounded = receive if scope["path"] in STREAMED_PATHS else self._bounded(receive)
        await self._app(scope, bounded, _secured(send))

    def _check(self, scope: Scope) -> None:
        if ANY_HOST not in self._host_names and host_of(only(scope, "host")) not in self._host_names:
            raise AccessRefused("this Host is not served; SFM_ALLOWED_HOSTS names those that are")
        websocket = scope["type"] == "websocket"
        method = "GET" if websocket else scope["method"]
        origin = only(scope, "origin")
        if origin and (websocket or method not in _SAFE_METHODS) and not self._is_known(origin, only(scope, "host")):
            raise AccessRefused("pages of this Origin may not use the service")
        if method not in _SAFE_METHODS:
            self._check_body(scope, method)

    def _is_known(self, origin: str, host: str) -> bool:
        if origin in self._origins:
            return True
        scheme, separator, authority = origin.partition("://")
        names = {host_of(host)} if ANY_HOST in self._host_names else self._host_names
        return scheme in ("http", "https") and bool(separator) and host_of(authority) in names

    def _check_body(self, scope: Scope, method: str) -> None:
        path, length = scope["path"], only(scope, "content-length")
        if method == "DELETE" and length in ("", "0") and not only(scope, "transfer-encoding"):
            return
        given = only(scope, "content-type").partition(";")[0].strip().lower()
        taken = LINES_TYPES if path in STREAMED_PATHS else JSON_TYPES
        if given not in taken:
            raise UnsupportedMediaType(f"the body must be {' or '.join(sorted(taken))}", given=given)
        if length.isdecimal() and path not in STREAMED_PATHS and int(length) > self._max_body_bytes:
            raise self._too_large()

    def _bounded(self, receive: Receive) -> Receive:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._max_body_bytes:
                    raise self._too_large()
            return message

        return counted

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._max_body_bytes} bytes")


def host_of(authority: str) -> str:
    """The host of `host:port` in lower case, an IPv6 address in its brackets; empty for anything malformed."""
    if authority.startswith("["):
        host, bracket, port = authority.partition("]")
        host += bracket
    else:
        host, colon, port = authority.partition(":")
        port = colon + port
    well_formed = not port or (port[0] == ":" and (port[1:].isdecimal() or port == ":"))
    return host.lower() if well_formed else ""


def _secured(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *(header for header in _SECURITY_HEADERS if header[0] not in present),
            ]
        await send(message)

    return with_headers
