"""What the composition root decides: roles, TLS, settings that stop the start."""

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from sfm_graph.errors import SettingsError
from sfm_graph.runtime import external_conninfo
from sfm_graph.services.registry import Services
from sfm_graph.settings import load_settings
from sfm_graph.store.database import Database


async def test_the_service_is_no_superuser(services: Services, database_dsn: str) -> None:
    database = Database(database_dsn, role="sfm_service")
    await database.open()
    try:
        async with database.raw() as connection:
            cursor = await connection.execute("select rolsuper, rolname from pg_roles where rolname = current_user")
            assert await cursor.fetchone() == (False, "sfm_service")
    finally:
        await database.close()


def test_tls_settings_reach_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_URL", "postgresql://user:secret@db.example:6432/memory")
    monkeypatch.setenv("POSTGRES_SSL_MODE", "verify-full")
    monkeypatch.setenv("POSTGRES_SSL_ROOT_CERT", "/certs/root.pem")
    settings = load_settings()
    assert settings.postgres_url is not None
    assert "secret" not in repr(settings)
    parts = conninfo_to_dict(external_conninfo(settings.postgres_url.get_secret_value(), settings))
    assert (parts["host"], parts["port"], parts["dbname"]) == ("db.example", "6432", "memory")
    assert (parts["sslmode"], parts["sslrootcert"]) == ("verify-full", str(Path("/certs/root.pem")))


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("SFM_PORT", "many", "SFM_PORT"),
        ("SFM_EMBEDDER", "magic", "SFM_EMBEDDER"),
        ("MEMORY_MODE", "cloud_managed", "POSTGRES_URL"),
    ],
)
def test_a_wrong_value_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=named):
        load_settings()
