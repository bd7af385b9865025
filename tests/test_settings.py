"""Where settings come from, and which are refused."""

import pickle
from pathlib import Path

import pytest

from sfm_graph.errors import SettingsError
from sfm_graph.settings import load_settings


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
