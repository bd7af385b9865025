"""How Redis and Kafka are reached: by TLS, with passwords; and what is said of settings that cannot work."""

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from redis_server import RedisServer, free_port, redis_server

from sfm_consumers.sources.kafka import connection_of
from sfm_consumers.sources.redis_client import open_redis as open_for_consumers
from sfm_graph.adapters.buses.kafka_options import producer_options
from sfm_graph.adapters.buses.redis_streams import RedisStreamsBus
from sfm_graph.adapters.rate_limits.redis import RedisRateLimiter
from sfm_graph.adapters.redis.connection import kind_of, open_redis, place_of
from sfm_graph.domain.event import Event
from sfm_graph.domain.rate import Limit
from sfm_graph.errors import EventBusUnavailable, SettingsError
from sfm_graph.settings import load_settings

PASSWORD = "a-secret"


class Authority:
    """A certificate authority of a directory, and what it signs."""

    def __init__(self, directory: Path, name: str) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl on the path")
        self._directory = directory
        self.certificate, self._key = directory / f"{name}-ca.crt", directory / f"{name}-ca.key"
        _openssl("req", "-x509", *_new_key(self._key), "-subj", f"/CN={name}", "-out", self.certificate)

    def sign(self, name: str, *, address: str = "127.0.0.1") -> tuple[Path, Path]:
        """A certificate for an address, and its key."""
        certificate, key, asked = (self._directory / f"{name}.{kind}" for kind in ("crt", "key", "csr"))
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName=IP:{address}\n")
        _openssl("req", *_new_key(key), "-subj", f"/CN={name}", "-out", asked)
        _openssl(
            "x509", "-req", "-in", asked, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial",
            "-days", "2", "-extfile", extensions, "-out", certificate,
        )  # fmt: skip
        return certificate, key


def _new_key(key: Path) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-keyout", str(key)]


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "theirs")


@pytest.fixture(scope="module")
def tls_server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis with a password whose `tls_port` speaks TLS."""
    certificate, key = authority.sign("redis")
    tls_port = free_port()
    options = {
        "tls_port": str(tls_port),
        "tls_cert_file": str(certificate),
        "tls_key_file": str(key),
        "tls_ca_cert_file": str(authority.certificate),
        "tls_auth_clients": "no",
        "requirepass": PASSWORD,
    }
    with redis_server(tmp_path_factory.mktemp("redis"), **options) as server:
        server.tls_port = tls_port  # type: ignore[attr-defined]
        yield server


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[Redis]:
    client = open_redis(load_settings(**settings), timeout_seconds=5)
    try:
        yield client
    finally:
        await client.aclose()


def by_host(server: Any, **more: Any) -> dict[str, Any]:
    return {"redis_host": "127.0.0.1", "redis_port": server.tls_port, "redis_password": PASSWORD, **more}


async def test_tls_by_host(tls_server: RedisServer, authority: Authority) -> None:
    async with opened(**by_host(tls_server, redis_tls=True, redis_ssl_ca_location=authority.certificate)) as client:
        assert await client.ping()
        async with opened(**by_host(tls_server)) as plain:
            with pytest.raises(RedisError):
                await plain.ping()


async def test_tls_by_url_with_the_password_beside_it(tls_server: Any, authority: Authority) -> None:
    url = f"rediss://127.0.0.1:{tls_server.tls_port}/1"
    settings = {"redis_url": url, "redis_ssl_ca_location": authority.certificate, "redis_password": PASSWORD}
    async with opened(**settings) as client:
        assert await client.ping()
        assert client.connection_pool.connection_kwargs["db"] == 1
    # The password of the URL goes before the other.
    wrong = f"rediss://:wrong@127.0.0.1:{tls_server.tls_port}/1"
    async with opened(**{**settings, "redis_url": wrong}) as client:
        with pytest.raises(RedisError, match=r"(?i)password"):
            await client.ping()


async def test_a_user_that_the_url_does_not_name(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with opened(redis_url=server.url) as client:
            await client.acl_setuser("ada", enabled=True, passwords=[f"+{PASSWORD}"], keys="*", commands=["+@all"])
        for url in (server.url, f"redis://ada@127.0.0.1:{server.port}/0"):
            async with opened(redis_url=url, redis_username="ada", redis_password=PASSWORD) as client:
                assert await client.acl_whoami() == "ada"


async def test_a_certificate_that_nobody_vouches_for_is_named(
    tls_server: Any, authority: Authority, stranger: Authority
) -> None:
    # Without a file the system's certificates count, and none of those vouches for it either.
    for ca in (stranger.certificate, None):
        settings = by_host(tls_server, redis_tls=True, redis_ssl_ca_location=ca)
        async with opened(**settings) as client:
            with pytest.raises(RedisError) as refused:
                await client.ping()
            assert kind_of(refused.value).startswith("its certificate is not trusted: ")
            assert PASSWORD not in repr(refused.value) + repr(client) + str(refused.value)
        bus = await RedisStreamsBus.open(load_settings(**settings))
        with pytest.raises(EventBusUnavailable, match="its certificate is not trusted"):
            await bus.publish([an_event()])
        await bus.aclose()
        limiter = await RedisRateLimiter.open(load_settings(**settings))
        assert "its certificate is not trusted" in (await limiter.state())["reason"]
        assert (await limiter.take("a", Limit(1, 60.0))).allowed
        await limiter.aclose()
    url = f"rediss://:{PASSWORD}@127.0.0.1:{tls_server.tls_port}/0?ssl_ca_certs={authority.certificate}"
    async with opened(redis_url=url) as client:
        assert await client.ping()


async def test_a_certificate_of_another_host_is_refused(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.sign("elsewhere", address="192.0.2.1")
    tls_port = free_port()
    options = {"tls_port": str(tls_port), "tls_cert_file": str(certificate), "tls_key_file": str(key)}
    options |= {"tls_ca_cert_file": str(authority.certificate), "tls_auth_clients": "no"}
    with redis_server(tmp_path, **options):
        async with opened(
            redis_host="127.0.0.1", redis_port=tls_port, redis_tls=True,
            redis_ssl_ca_location=authority.certificate,
        ) as client:  # fmt: skip
            with pytest.raises(RedisError) as refused:
                await client.ping()
            assert "IP address mismatch" in kind_of(refused.value)


async def test_a_server_that_refuses_us_by_tls_is_told_apart(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.sign("strict")
    tls_port = free_port()
    options = {"tls_port": str(tls_port), "tls_cert_file": str(certificate), "tls_key_file": str(key)}
    options |= {"tls_ca_cert_file": str(authority.certificate), "tls_auth_clients": "yes"}
    ours, our_key = authority.sign("us")
    url = f"rediss://127.0.0.1:{tls_port}/0"
    with redis_server(tmp_path, **options):
        async with opened(redis_url=url, redis_ssl_ca_location=authority.certificate) as client:
            with pytest.raises(RedisError) as refused:
                await client.ping()
            assert kind_of(refused.value).startswith(("TLS failed", "ConnectionError"))
        shown = f"{url}?ssl_certfile={ours}&ssl_keyfile={our_key}"
        async with opened(redis_url=shown, redis_ssl_ca_location=authority.certificate) as client:
            assert await client.ping()


async def test_everything_on_redis_works_by_tls(tls_server: Any, authority: Authority) -> None:
    settings = load_settings(
        **by_host(tls_server, redis_tls=True, redis_ssl_ca_location=authority.certificate), rate_limit_max=1
    )
    bus = await RedisStreamsBus.open(settings)
    await bus.publish([an_event()])
    await bus.aclose()
    limiter = await RedisRateLimiter.open(settings)
    assert [(await limiter.take("a", Limit(1, 60.0))).allowed for _ in range(2)] == [True, False]
    assert await limiter.state() == {"kind": "redis", "status": "up"}
    await limiter.aclose()
    consumer = open_for_consumers(settings)
    assert await consumer.ping()
    await consumer.aclose()


def an_event() -> Event:
    return Event(topic="a.memory", key="a", log="log", sequence=1, attributes=(), data=b"{}", ends=False)


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({}, "REDIS_URL"),
        ({"redis_host": f"redis://:{PASSWORD}@host"}, "REDIS_HOST"),
        ({"redis_host": f"{PASSWORD}@host"}, "REDIS_HOST"),
        ({"redis_url": f"http://:{PASSWORD}@host"}, "REDIS_URL"),
        ({"redis_url": f"unix://:{PASSWORD}@/run/redis.sock"}, "REDIS_URL"),
        ({"redis_url": f"redis://:{PASSWORD}@host/0?max_connections=many"}, "REDIS_URL"),
        ({"redis_url": f"redis://:{PASSWORD}@host/0?no_such={PASSWORD}"}, "REDIS_URL"),
        ({"redis_url": f"redis://:{PASSWORD}@host/0?connection_class=x"}, "REDIS_URL"),
        ({"redis_url": f"rediss://:{PASSWORD}@host/0?ssl_ca_certs=/nowhere"}, "REDIS_URL"),
        ({"redis_url": f"redis://:{PASSWORD}@host/0", "redis_tls": True}, "REDIS_TLS"),
        ({"redis_host": "host", "redis_ssl_ca_location": "/nowhere"}, "REDIS_SSL_CA_LOCATION"),
        ({"redis_host": "host", "redis_tls": True, "redis_ssl_ca_location": "/nowhere"}, "REDIS_SSL_CA_LOCATION"),
        ({"redis_host": "host", "redis_tls": True, "redis_ssl_ca_location": __file__}, "REDIS_SSL_CA_LOCATION"),
        (
            {"redis_url": "rediss://host/0?ssl_cert_reqs=none", "redis_ssl_ca_location": "/nowhere"},
            "REDIS_SSL_CA_LOCATION",
        ),
    ],
)
def test_settings_that_cannot_work_name_the_variable(settings: dict[str, Any], variable: str) -> None:
    given = load_settings(**settings)
    for opening in (lambda: open_redis(given, timeout_seconds=1), lambda: open_for_consumers(given)):
        with pytest.raises(SettingsError, match=f"^{variable}: ") as refused:
            opening()
        shown: BaseException | None = refused.value
        while shown is not None:
            assert PASSWORD not in repr(shown) + str(shown)
            shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)


async def test_a_client_shows_where_it_connects_and_no_secret() -> None:
    async with opened(redis_url="rediss://ada:a-secret@Example.test:7000/3") as client:
        assert place_of(client) == "example.test:7000"
        assert PASSWORD not in repr(client) + repr(client.connection_pool)
    async with opened(redis_url="redis://[::1]/3") as client:
        assert place_of(client) == "::1:6379"


# Kafka


def kafka(**settings: Any) -> dict[str, Any]:
    given = {"kafka_bootstrap_servers": "localhost:9092", "kafka_security_protocol": "SSL", **settings}
    options = connection_of(load_settings(**given))
    assert set(options) <= set(producer_options(load_settings(**given)))
    return options


def test_kafka_is_shown_the_clients_certificate(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.sign("client")
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    files = [
        {"kafka_ssl_cert_location": certificate, "kafka_ssl_key_location": key},
        {"kafka_ssl_cert_location": both},
    ]
    for given in files:
        context = kafka(kafka_ssl_ca_location=authority.certificate, **given)["ssl_context"]
        assert shown_to(authority, context) == "client"
    assert shown_to(authority, kafka(kafka_ssl_ca_location=authority.certificate)["ssl_context"]) is None


def shown_to(authority: Authority, context: ssl.SSLContext) -> str | None:
    """The name that a server which asks for a certificate of the authority is shown; None: it refuses the client."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*authority.sign("broker"))
    server.load_verify_locations(authority.certificate)
    server.verify_mode = ssl.CERT_REQUIRED
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = context.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    pending = [client_side, server_side]
    while pending:
        for side in list(pending):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                if error.reason != "PEER_DID_NOT_RETURN_A_CERTIFICATE":
                    raise
                return None
            pending.remove(side)
    found: Any = server_side.getpeercert()
    return str(dict(pair for (pair,) in found["subject"])["commonName"])


def test_kafka_files_that_cannot_be_used_name_the_variable(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.sign("client")
    _, other_key = authority.sign("other")
    locked = tmp_path / "locked.key"
    _openssl("ec", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked)
    missing = tmp_path / "missing"
    cert_variable, key_variable = "KAFKA_SSL_CERTIFICATE_LOCATION", "KAFKA_SSL_KEY_LOCATION"
    for given_certificate, given_key, variable in [
        (missing, key, cert_variable),
        (tmp_path, key, cert_variable),
        (certificate, missing, key_variable),
        (certificate, other_key, key_variable),
        (certificate, locked, key_variable),
        (certificate, None, cert_variable),
        (None, key, cert_variable),
    ]:
        with pytest.raises(SettingsError, match=f"^{variable}: "):
            kafka(kafka_ssl_cert_location=given_certificate, kafka_ssl_key_location=given_key)
    with pytest.raises(SettingsError, match="KAFKA_SECURITY_PROTOCOL"):
        kafka(kafka_ssl_cert_location=certificate, kafka_ssl_key_location=key, kafka_security_protocol="PLAINTEXT")
