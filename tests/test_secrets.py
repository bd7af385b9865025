"""Secrets stay out of logs, errors, answers and representations: all settings that hold one are tried."""

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr
from typer.testing import CliRunner

from sfm_graph.app import app_for
from sfm_graph.cli import app as command_line
from sfm_graph.domain.access import Scope
from sfm_graph.errors import SettingsError, SfmError
from sfm_graph.runtime import open_runtime
from sfm_graph.settings import Settings, load_settings, variable_names

MARK = "hush0hush0hush"
# Nobody listens there.
NOWHERE = "127.0.0.1:1"

SECRET_FIELDS = sorted(
    name
    for name, field in Settings.model_fields.items()
    if SecretStr in (field.annotation, *get_args(field.annotation))
)
# What takes each secret to where it could leak: that which speaks to something with it.
SPEAKING: dict[str, dict[str, Any]] = {
    "api_token": {},
    "embedding_api_key": {"embedder": "openai", "embedding_model": "m", "embedding_url": f"http://{NOWHERE}/v1"},
    "old_embedding_api_key": {
        "old_embedder": "openai", "old_embedding_model": "m", "old_embedding_url": f"http://{NOWHERE}/v1",
    },
    "predictor_api_key": {"predictor": "openai", "predictor_url": f"http://{NOWHERE}", "predictor_model": "m"},
    "reranker_api_key": {"reranker": "http", "reranker_url": f"http://{NOWHERE}"},
    "kafka_sasl_password": {
        "kafka_bootstrap_servers": NOWHERE, "kafka_security_protocol": "SASL_PLAINTEXT", "kafka_sasl_username": "u",
    },
    "redis_password": {"redis_host": "127.0.0.1", "redis_port": 1, "event_bus": "redis", "cache": "redis"},
    "redis_url": {"event_bus": "redis", "cache": "redis", "rate_limit_max": 1_000},
    "qdrant_api_key": {"qdrant_url": f"http://{NOWHERE}"},
    "postgres_url": {},
}  # fmt: skip
RERANKED = '{ recall(query: "m", rerank: true) { edges { score } } }'
VALUES = {"redis_url": f"redis://u:{MARK}@{NOWHERE}/0"}


def test_every_secret_is_tried() -> None:
    assert SPEAKING.keys() == set(SECRET_FIELDS)
    assert not [name for name in Settings.model_fields if name.endswith(("password", "token", "key"))
                and name not in SECRET_FIELDS and not name.endswith("ssl_key")]  # fmt: skip


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything that any library logs."""
    with caplog.at_level(logging.DEBUG):
        yield caplog


def _clean(*texts: str) -> None:
    for text in texts:
        place = text.find(MARK)
        assert place < 0, text[max(0, place - 300) : place + 100]


def _settings(field: str, dsn: str) -> Settings:
    url = dsn
    if field == "postgres_url":
        parts = conninfo_to_dict(dsn)
        # This server trusts everybody on its socket: the password goes along and is not asked for.
        url = f"postgresql://{parts['user']}:{MARK}@/{parts['dbname']}?host={parts['host']}"
        if "port" in parts:
            url += f"&port={parts['port']}"
    given: dict[str, Any] = {"postgres_url": SecretStr(url), **SPEAKING[field]}
    if field != "postgres_url":
        given[field] = VALUES.get(field, f"{MARK}-and-long-enough")
    return load_settings(**given, pool_max_size=4, maintenance_interval_ms=3_600_000)


@pytest.mark.parametrize("field", SECRET_FIELDS)
async def test_a_secret_shows_nowhere(field: str, database_dsn: str, heard: pytest.LogCaptureFixture) -> None:
    settings = _settings(field, database_dsn)
    _clean(repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump()))
    try:
        async with open_runtime(settings) as services:
            token = (await services.keys.create("reader", scopes=list(Scope), namespaces=["*"])).token
            app = app_for(services)
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
            ):
                client.headers["Authorization"] = f"Bearer {token}"
                answers = [
                    await client.post("/remember", json={"content": "a memory"}),
                    await client.post("/recall", json={"query": "memory"}),
                    await client.post("/predict", json={"context": "memory"}),
                    await client.post(
                        "/graphql", json={"query": '{ recall(query: "m", rerank: true) { edges { score } } }'}
                    ),
                    await client.get("/nowhere"),
                    *[await client.get(path) for path in ("/stats", "/health", "/metrics", "/openapi.json")],
                    await client.get("/memories", headers={"Authorization": f"Bearer {MARK}-wrong-token"}),
                ]
            for answer in answers:
                assert answer.status_code != 500, answer.text
                _clean(answer.text, str(answer.headers))
            _clean(repr(services.settings))
            assert token not in heard.text
    except SfmError as error:  # what cannot start without its dependency
        _clean(str(error), repr(error), "".join(traceback.format_exception(error)))
    assert heard.records
    _clean(heard.text)


@pytest.mark.parametrize("field", SECRET_FIELDS)
def test_a_refused_setting_does_not_repeat_a_secret(
    field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable_names(field)[0], f"\t{MARK}")
    monkeypatch.setenv("SFM_PORT", "no port")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    _clean(str(refused.value), repr(refused.value))


@pytest.mark.parametrize("field", SECRET_FIELDS)
def test_doctor_keeps_them(field: str, database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(field, database_dsn)
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        monkeypatch.setenv(variable_names(name)[0], text)
    done = CliRunner().invoke(command_line, ["doctor", "--json"])
    assert '"check"' in done.output, done.output
    _clean(done.output)


async def test_a_database_that_refuses_a_password_does_not_tell_it(heard: pytest.LogCaptureFixture) -> None:
    settings = load_settings(postgres_url=SecretStr(f"postgresql://u:{MARK}@{NOWHERE}/x?connect_timeout=2"))
    with pytest.raises(SfmError) as refused:
        async with open_runtime(settings):
            pass
    _clean(str(refused.value), "".join(traceback.format_exception(refused.value)), heard.text)


@pytest.mark.parametrize("url", [f"postgresql://u:{MARK}@[broken/x", f"postgresql://u:{MARK}@h:port/x", f"{MARK}"])
async def test_a_url_that_cannot_be_read_is_not_repeated(url: str, heard: pytest.LogCaptureFixture) -> None:
    with pytest.raises((SfmError, SettingsError)) as refused:
        async with open_runtime(load_settings(postgres_url=SecretStr(url))):
            pass
    _clean(str(refused.value), "".join(traceback.format_exception(refused.value)), heard.text)
