"""Where settings come from, and which are refused."""

import pickle
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from deployment_variables import consumer_variables

from sfm_graph import settings
from sfm_graph.errors import SettingsError
from sfm_graph.settings import READ_ELSEWHERE, Settings, load_settings, variable_names


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sfm.yaml"
    path.write_text("POSTGRES_URL: postgresql://file/x\nport: 1\nSFM_HOST: localhost\nREDIS_URL: redis://file\n")
    return path


def test_the_environment_wins_over_the_file_and_an_option_over_both(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFM_PORT", "2")
    found = load_settings(file)
    assert (found.port, found.host) == (2, "localhost")
    assert load_settings(file, port=3).port == 3
    assert load_settings().host == "127.0.0.1"
    assert pickle.loads(pickle.dumps(found)) == found


def test_what_belongs_together_may_come_from_different_places(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_MODE", "cloud_managed")
    monkeypatch.setenv("SFM_CACHE", "redis")
    assert load_settings(file).has_redis
    with pytest.raises(SettingsError, match="POSTGRES_URL"):
        load_settings()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"cache": "redis"}, "REDIS_URL"),
        ({"api_token": "x" * 20, "api_token_file": "token"}, "SOMA_API_TOKEN_FILE"),
        ({"jwt_issuer": "https://issuer"}, "SFM_JWT_JWKS_URL"),
        ({"jwt_jwks_url": "https://issuer/keys"}, "SFM_JWT_AUDIENCE"),
        ({"jwt_jwks_url": "https://u:secret@issuer/keys"}, "SFM_JWT_JWKS_URL"),
        ({"otlp_endpoint": "collector:4318"}, "SFM_OTLP_ENDPOINT"),
        ({"rate_limit_classes": "search=0"}, "SFM_RATE_LIMIT_CLASSES"),
        ({"rate_limit_classes": "find=10"}, "SFM_RATE_LIMIT_CLASSES"),
        ({"rate_limit_window_seconds": 0}, "SOMA_RATE_LIMIT_WINDOW_SECONDS"),
        ({"workers": 0}, "UVICORN_WORKERS"),
        ({"cors_origins": "*"}, "SFM_CORS_ORIGINS"),
        ({"cors_origins": "https://app.example/"}, "SFM_CORS_ORIGINS"),
        ({"cors_origins": "https://a.example, app.example"}, "SFM_CORS_ORIGINS"),
    ],
)
def test_a_wrong_value_is_named(
    values: dict[str, object], named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=named):
        load_settings(**values)


def test_limits_of_classes() -> None:
    assert load_settings(rate_limit_classes="search=100, write=50").class_limits == {"search": 100, "write": 50}


def test_every_soma_variable_has_its_other_name() -> None:
    names = {name for field in Settings.model_fields for name in variable_names(field)}
    assert {f"SFM_{name.removeprefix('SOMA_')}" for name in names if name.startswith("SOMA_")} <= names


@pytest.mark.usefixtures("file")
def test_the_other_name_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFM_API_TOKEN", "x" * 20)
    monkeypatch.setenv("SFM_RATE_LIMIT_MAX", "5")
    found = load_settings()
    assert (found.has_token, found.is_open, found.rate_limit_max) == (True, False, 5)


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SFM_API_TOKENS", "SFM_API_TOKEN"),
        ("SFM_RATE_LIMT_MAX", "SFM_RATE_LIMIT_MAX"),
        ("sfm_prot", "SFM_PORT"),
        ("SOMA_API_TOKNE", "SOMA_API_TOKEN"),
        ("SFM_AUDIT_RETENTION_DAY", "SFM_AUDIT_RETENTION_DAYS"),
        ("SFM_ZZZZZZ", ""),
    ],
)
def test_a_variable_that_nobody_reads_is_refused(name: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "secret-value")
    with pytest.raises(SettingsError, match=f"{name.upper()} in the environment is no setting") as refused:
        load_settings()
    assert (f"did you mean {meant}?" in str(refused.value)) == bool(meant)
    assert "secret-value" not in str(refused.value)
    monkeypatch.delenv(name)
    Path(".env").write_text(f"{name}=secret-value\n")
    with pytest.raises(SettingsError, match=f"{name.upper()} in .env is no setting"):
        load_settings()


@pytest.mark.usefixtures("file")
def test_variables_of_others_are_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {
        **dict.fromkeys(consumer_variables() | READ_ELSEWHERE - {"SFM_CONFIG"}, "x"),
        "SFM_GRAPH_SERVICE_HOST": "10.0.0.1",
        "SFM_GRAPH_SERVICE_PORT": "9595",
        "SFM_GRAPH_SERVICE_PORT_HTTP": "9595",
        "SFM_GRAPH_PORT": "tcp://10.0.0.1:9595",
        "SFM_GRAPH_PORT_9595_TCP": "tcp://10.0.0.1:9595",
        "SFM_GRAPH_PORT_9595_TCP_ADDR": "10.0.0.1",
        "SFM_EMPTY": "",
        "SOMA_BRAIN_URL": "http://brain",
        "SOMA_LOG_LEVEL": "debug",
    }
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    assert load_settings().port == 9595


@pytest.mark.usefixtures("file")
def test_options_of_other_peoples_consumers_are_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFM_PAGER_URL", "x")
    with pytest.raises(SettingsError, match="SFM_PAGER_URL"):
        load_settings()
    installed = EntryPoints([EntryPoint("pager", "pager:open", "sfm_consumers.consumers")])
    monkeypatch.setattr(settings, "entry_points", lambda *, group: installed.select(group=group))
    assert load_settings().port == 9595


@pytest.mark.usefixtures("file")
def test_a_field_is_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "API_TOKEN", "WORKERS"):
        monkeypatch.setenv(name, "7")
    Path(".env").write_text("CACHE=redis\n")
    found = load_settings()
    assert (found.host, found.port, found.has_token, found.workers, found.cache) == (
        "127.0.0.1",
        9595,
        False,
        1,
        "none",
    )


@pytest.mark.usefixtures("file")
def test_a_file_that_cannot_be_read_is_named() -> None:
    Path(".env").write_bytes(b"SFM_PORT=\xff\n")
    with pytest.raises(SettingsError, match=r"\.env cannot be read"):
        load_settings()


def test_all_that_jwts_lack_is_named() -> None:
    with pytest.raises(SettingsError, match="SFM_JWT_AUDIENCE, and SFM_JWT_JWKS_URL or SFM_JWT_PUBLIC_KEY_FILE"):
        load_settings(jwt_issuer="https://issuer")
