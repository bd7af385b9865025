"""A client of the Qdrant that the settings name."""

import logging
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sfm_graph.errors import SettingsError
from sfm_graph.settings import Settings

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient

log = logging.getLogger(__name__)

# Writes say how long they may take, and searches are not waited for so long (services/index_guard.py).
TIMEOUT_SECONDS = 5
CONNECTIONS = 32
EXTRA = "Qdrant needs one more package: pip install 'sfm-graph[qdrant]'"


def open_client(settings: Settings) -> "AsyncQdrantClient":
    """Connects with the first request. Raises SettingsError."""
    try:
        from qdrant_client import AsyncQdrantClient
    except ImportError as exc:
        raise SettingsError(EXTRA) from exc
    return AsyncQdrantClient(**client_arguments(settings))


def client_arguments(settings: Settings) -> dict[str, Any]:
    """What the client is made with. Raises SettingsError for settings that contradict each other."""
    url = _url(settings)
    arguments: dict[str, Any] = {
        "url": url,
        "port": settings.qdrant_port,
        "timeout": TIMEOUT_SECONDS,
        "pool_size": CONNECTIONS,
        # It would ask the server from a thread of its own, and warn where nobody looks.
        "check_compatibility": False,
        # A proxy named in the environment is not meant for a database.
        "trust_env": False,
    }
    if url.startswith("https://"):
        arguments["verify"] = _trust(settings)
    elif settings.qdrant_tls_cert is not None:
        raise SettingsError("QDRANT_TLS_CERT is given, but Qdrant is not reached by TLS: set QDRANT_TLS=true")
    if settings.qdrant_api_key is not None:
        # As a header, since the client's own argument switches to TLS by itself.
        arguments["headers"] = {"api-key": settings.qdrant_api_key.get_secret_value()}
        if not url.startswith("https://"):
            log.warning("the key of Qdrant travels unencrypted: QDRANT_TLS is off")
    return arguments


def _url(settings: Settings) -> str:
    if settings.qdrant_url is None:
        if settings.qdrant_host is None:
            raise SettingsError("QDRANT_URL or QDRANT_HOST is required")
        host = f"[{settings.qdrant_host}]" if ":" in settings.qdrant_host else settings.qdrant_host
        return f"{'https' if settings.qdrant_tls else 'http'}://{host}:{settings.qdrant_port}"
    if settings.qdrant_tls and urlsplit(settings.qdrant_url).scheme != "https":
        raise SettingsError("QDRANT_URL begins with http:// but QDRANT_TLS is true")
    return settings.qdrant_url


def _trust(settings: Settings) -> ssl.SSLContext:
    """The system's authorities, or those in the given file alone."""
    try:
        return ssl.create_default_context(cafile=settings.qdrant_tls_cert)
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(f"QDRANT_TLS_CERT: {settings.qdrant_tls_cert} holds no certificates: {exc}") from exc
