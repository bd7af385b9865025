"""How Redis is reached, from the `redis_*` settings. No error, name or `repr` here holds a password."""

import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError

from sfm_graph.errors import SettingsError
from sfm_graph.settings import Settings

_URL_HINT = "REDIS_URL: must look like redis://user:password@host:6379/0, or rediss:// for TLS"
_HOST = re.compile(r"[A-Za-z0-9_.:-]{1,255}")


class TlsConnection(SSLConnection):
    """A connection whose TLS is set up already: reading certificates anew takes milliseconds each time."""

    def __init__(self, *, prepared_tls: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = prepared_tls


def open_redis(settings: Settings, *, timeout_seconds: float, retries: int = 0) -> Redis:
    """A client on `redis_url`, else on `redis_host` and `redis_port`. It connects with its first use.

    Connecting is given up after `timeout_seconds`; commands have no timeout: put `asyncio.timeout` around them, since
    the client's own swallows cancellations at times on Python 3.11. What fails for want of a connection is repeated
    `retries` times, each a little later. Answers are bytes. The caller closes it by `aclose`.

    Raises SettingsError, naming the variable, when neither is given or one of the settings cannot be used.
    """
    connection_class, options = _reached(settings)
    options |= {
        "socket_timeout": None,
        "socket_connect_timeout": timeout_seconds,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.1), retries),
        "protocol": 2,
    }
    try:
        # Unknown options in the URL are met here, instead of with the first use.
        probe = connection_class(**{name: value for name, value in options.items() if name != "max_connections"})
        if isinstance(probe, SSLConnection):
            connection_class = TlsConnection
            options["prepared_tls"] = _tls(probe, settings.redis_ssl_ca_location)
        elif settings.redis_ssl_ca_location is not None:
            raise SettingsError("REDIS_SSL_CA_LOCATION: is for TLS, by rediss:// in REDIS_URL, or by REDIS_TLS")
        pool = ConnectionPool(connection_class=connection_class, **options)
    except SettingsError:
        raise
    except OSError as error:
        raise SettingsError(f"REDIS_URL: cannot use a file of its options: {error}") from None
    except (TypeError, ValueError, RedisError):
        raise SettingsError(_URL_HINT) from None
    return Redis.from_pool(pool)


def place_of(client: Redis) -> str:
    """`host:port` of a client's server."""
    options = client.connection_pool.connection_kwargs
    return f"{options['host']}:{options.get('port', 6379)}"


def kind_of(error: BaseException) -> str:
    """What went wrong, without the error's own text: that may quote the command, and so what it carried."""
    untrusted = error.__context__
    if isinstance(untrusted, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {untrusted.verify_message}"
    if isinstance(untrusted, ssl.SSLError):
        return f"TLS failed: {untrusted.reason or type(untrusted).__name__}"
    code = re.match(r"[A-Z]+\b", str(error)) if isinstance(error, RedisError) else None
    return f"{type(error).__name__} {code[0]}" if code else type(error).__name__


def _reached(settings: Settings) -> tuple[type[Connection], dict[str, Any]]:
    if settings.redis_url is not None:
        options = _url_options(settings.redis_url.get_secret_value())
        if settings.redis_tls and options.get("connection_class") is not SSLConnection:
            raise SettingsError("REDIS_TLS: REDIS_URL goes without TLS, which is rediss://")
    elif settings.redis_host is not None:
        if not _HOST.fullmatch(settings.redis_host):
            raise SettingsError("REDIS_HOST: must be the name or the address of a host, without a port")
        options = {"host": settings.redis_host, "port": settings.redis_port}
        if settings.redis_tls:
            options["connection_class"] = SSLConnection
    else:
        raise SettingsError("REDIS_URL: required, or REDIS_HOST")
    if settings.redis_username is not None:
        options.setdefault("username", settings.redis_username)
    if settings.redis_password is not None:
        options.setdefault("password", settings.redis_password.get_secret_value())
    return options.pop("connection_class", Connection), options


def _url_options(url: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url)
        understood = parts.scheme in ("redis", "rediss") and parts.hostname and re.fullmatch(r"/?\d*", parts.path)
        options: dict[str, Any] = {"port": parts.port or 6379, **parse_url(url)}
    except (TypeError, ValueError, RedisError):
        raise SettingsError(_URL_HINT) from None
    if not understood:
        raise SettingsError(_URL_HINT)
    return options


def _tls(connection: SSLConnection, ca: Path | None) -> ssl.SSLContext:
    """The TLS that a connection's options ask for; with a file of the settings, that file's certificates and no
    others are trusted."""
    asked = connection.ssl_context
    if ca is None:
        return asked.get()
    if asked.ca_certs or asked.ca_data or asked.ca_path or asked.cert_reqs is not ssl.CERT_REQUIRED:
        raise SettingsError("REDIS_SSL_CA_LOCATION: REDIS_URL says otherwise which certificates are trusted")
    try:
        context = ssl.create_default_context(cafile=str(ca))
    except (OSError, ValueError) as error:
        raise SettingsError(f"REDIS_SSL_CA_LOCATION: cannot use {ca}: {error}") from error
    context.check_hostname = asked.check_hostname
    if asked.certfile:
        context.load_cert_chain(asked.certfile, asked.keyfile, asked.password)
    return context
