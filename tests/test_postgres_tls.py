"""TLS to Postgres: what the settings ask for is what the driver does, and what it refuses."""

import asyncio
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from sfm_graph.errors import DatabaseUnavailable
from sfm_graph.runtime import external_conninfo, open_runtime
from sfm_graph.settings import Settings, load_settings

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
GSS_REQUEST = struct.pack("!ii", 8, 80877104)


class Authority(NamedTuple):
    """A certificate authority, and a server's certificate of it."""

    root: Path
    certificate: Path
    key: Path


def _authority(folder: Path, name: str, host: str = "localhost") -> Authority:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl("req", "-x509", *curve, "-keyout", f"{name}-ca.key", "-out", f"{name}-ca.pem", "-subj", f"/CN={name}")
    openssl(
        "req", "-x509", *curve, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={host}",
        "-addext", f"subjectAltName=DNS:{host}", "-addext", "basicConstraints=critical,CA:FALSE",
        "-CA", f"{name}-ca.pem", "-CAkey", f"{name}-ca.key",
    )  # fmt: skip
    return Authority(folder / f"{name}-ca.pem", folder / f"{name}.pem", folder / f"{name}.key")


class Fake:
    """Speaks as much of PostgreSQL's protocol as TLS takes: answers the request for it, and shakes hands.

    `startups`: what clients said once they trusted it, their own certificate's name with it.
    """

    def __init__(self, shown: Authority | None, clients: Path | None = None) -> None:
        self._context: ssl.SSLContext | None = None
        if shown is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(shown.certificate, shown.key)
        if self._context is not None and clients is not None:
            self._context.load_verify_locations(clients)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self.startups: list[tuple[bytes, object]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    @contextmanager
    def serving(self) -> Iterator["Fake"]:
        """Answers until the end of the context."""
        thread = threading.Thread(target=self._serve, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                client.settimeout(5)
                try:
                    self._speak(client)
                except OSError:
                    continue

    def _speak(self, client: socket.socket) -> None:
        asked = client.recv(8)
        if asked == GSS_REQUEST:
            client.sendall(b"N")
            asked = client.recv(8)
        if asked != SSL_REQUEST or self._context is None:
            client.sendall(b"N")
            return
        client.sendall(b"S")
        with self._context.wrap_socket(client, server_side=True) as trusted:
            self.startups.append((trusted.recv(4096), trusted.getpeercert()))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that clients trust."""
    return _authority(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another one."""
    return _authority(tmp_path_factory.mktemp("theirs"), "theirs")


def _settings(port: int, **tls: object) -> Settings:
    url = f"postgresql://me:secret@localhost:{port}/memory?connect_timeout=10"
    return load_settings(postgres_url=SecretStr(url), **tls)


async def _refused(settings: Settings) -> str:
    """What the start says of a server that is not to be trusted."""
    with pytest.raises(DatabaseUnavailable) as caught:
        async with open_runtime(settings, maintenance=False):
            pass
    assert "secret" not in str(caught.value)
    return caught.value.message


async def test_a_server_without_tls_is_refused(ours: Authority) -> None:
    with Fake(None).serving() as server:
        settings = _settings(server.port, postgres_ssl_mode="verify-full", postgres_ssl_root_cert=ours.root)
        assert "server does not support SSL" in await _refused(settings)
    assert server.startups == []


async def test_a_certificate_of_another_authority_is_refused(ours: Authority, theirs: Authority) -> None:
    with Fake(theirs).serving() as server:
        for mode in ("verify-ca", "verify-full"):
            settings = _settings(server.port, postgres_ssl_mode=mode, postgres_ssl_root_cert=ours.root)
            assert "certificate verify failed" in await _refused(settings)
    # Nothing was said to it, the password least of all.
    assert [said for said, _ in server.startups if said] == []


async def test_a_certificate_for_another_host_is_refused(ours: Authority, tmp_path: Path) -> None:
    other = await asyncio.to_thread(_authority, tmp_path, "elsewhere", "db.example")
    with Fake(other).serving() as server:
        settings = _settings(server.port, postgres_ssl_mode="verify-full", postgres_ssl_root_cert=other.root)
        assert 'does not match host name "localhost"' in await _refused(settings)


async def test_a_trusted_server_is_spoken_to(ours: Authority) -> None:
    """The counterpart: the same handshake goes through where the authority is the trusted one."""
    with Fake(ours).serving() as server:
        settings = _settings(server.port, postgres_ssl_mode="verify-full", postgres_ssl_root_cert=ours.root)
        assert "certificate" not in await _refused(settings)
    assert any(b"user\0me\0" in said for said, _ in server.startups)


async def test_the_clients_certificate_is_shown(ours: Authority, theirs: Authority) -> None:
    await asyncio.to_thread(theirs.key.chmod, 0o600)
    with Fake(ours, clients=theirs.root).serving() as server:
        settings = _settings(
            server.port, postgres_ssl_mode="verify-full", postgres_ssl_root_cert=ours.root,
            postgres_ssl_cert=theirs.certificate, postgres_ssl_key=theirs.key,
        )  # fmt: skip
        await _refused(settings)
    assert any(b"user\0me\0" in said and shown for said, shown in server.startups)


def test_all_four_settings_reach_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MODE", "verify-full"), ("ROOT_CERT", "/c/root"), ("CERT", "/c/cert"), ("KEY", "/c/key")):
        monkeypatch.setenv(f"POSTGRES_SSL_{name}", value)
    monkeypatch.setenv("POSTGRES_URL", "postgresql://me@db.example/memory?sslmode=disable")
    settings = load_settings()
    assert settings.postgres_url is not None
    parts = conninfo_to_dict(external_conninfo(settings.postgres_url.get_secret_value(), settings))
    assert {name: parts[name] for name in ("sslmode", "sslrootcert", "sslcert", "sslkey")} == {
        "sslmode": "verify-full", "sslrootcert": "/c/root", "sslcert": "/c/cert", "sslkey": "/c/key",
    }  # fmt: skip
