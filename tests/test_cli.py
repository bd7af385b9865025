"""The `sfm` command, mostly called in this process; as a process of its own where that is the point."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from sfm_graph.cli import app
from sfm_graph.cli.welcome import url_of, welcome
from sfm_graph.settings import Settings, is_loopback, load_settings, variable_names

ROOT = Path(__file__).parent.parent
runner = CliRunner()


@pytest.fixture
def database(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this test work on its own database."""
    for name in [name for name in os.environ if name.startswith(("SFM_", "POSTGRES_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("POSTGRES_URL", database_dsn)


def sfm(*arguments: str, exit_code: int = 0, stdin: str | None = None) -> Any:
    """The JSON on stdout; of a refused command the JSON on stderr."""
    result = runner.invoke(app, arguments, input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout if result.stdout or exit_code == 0 else result.stderr)


@pytest.mark.usefixtures("database")
def test_a_walk_through_every_command_on_memories() -> None:
    stored = sfm("store", "-1,2.5,0", '{"task": "document SFM"}', "--kind", "semantic", "--importance", "5")
    assert (stored["coordinate"], stored["kind"], stored["importance"]) == ([-1.0, 2.5, 0.0], "semantic", 5.0)
    assert sfm("get", "-1,2.5,0") == stored
    remembered = sfm("remember", "Ada met Babbage", "--key", "met", "--payload", '{"year": 1833}')
    assert (remembered["content"], remembered["payload"]) == ("Ada met Babbage", {"year": 1833})
    updated = sfm("store", "key:met", "--content", "Ada met Babbage in 1833", "--expected-version", "1")
    assert updated["version"] == 2

    assert [one["key"] for one in sfm("recall", "who met?", "-k", "1")["matches"]] == ["met"]
    (hit,) = sfm("recall", "document", "--filters", '{"task": "document SFM"}', "--scores")["results"]
    assert hit["memory"]["id"] == stored["id"]

    linked = sfm("link", "-1,2.5,0", "key:met", "--type", "cites", "--weight", "2", "--properties", '{"p": 1}')
    assert (linked["type"], linked["weight"], linked["properties"]) == ("cites", 2.0, {"p": 1})
    (around,) = sfm("neighbors", "key:met", "--type", "cites", "--direction", "in")["neighbors"]
    assert around["memory"]["id"] == stored["id"]
    path = sfm("path", "key:met", "-1,2.5,0", "--weighted")
    assert (path["found"], path["cost"], "paths" in path) == (True, 2.0, False)
    several = sfm("path", "key:met", "-1,2.5,0", "-k", "2", "--mode", "simple", "--where", '{"weight": {"gt": 1}}')
    assert [one["cost"] for one in several["paths"]] == [1.0]
    assert (
        sfm("path", "key:met", "-1,2.5,0", "--valid-at", "2001-01-01", "--where", '{"weight": 1}')["found"] is False
    )
    assert sfm("neighbors", "key:met", "--where", '{"type": "other"}')["neighbors"] == []
    drawn = sfm("traverse", "key:met", "-1,2.5,0", "--depth", "0", "--limit", "5")
    assert (drawn["nodes"]["key"], drawn["links"]["weight"]) == ([None, "met"], [2.0])
    best = sfm("rank", "key:met", "--limit", "1")
    assert (best["results"][0]["memory"]["key"], best["truncated"]) == ("met", True)
    assert {one["score"] for one in sfm("rank", "--by", "degree", "--type", "cites")["results"]} == {1.0}
    assert sfm("unlink", "-1,2.5,0", "key:met")["count"] == 1
    assert sfm("path", "key:met", "-1,2.5,0")["found"] is False

    box = sfm("range", "-9,-9,-9", "9,9,9", "--first", "1")
    assert box["memories"] == [stored]
    (second,) = sfm("range", "-9,-9,-9", "9,9,9", "--after", box["next"])["memories"]
    assert second["key"] == "met"
    (counted,) = sfm("stats", "-n", "default")["namespaces"]
    assert counted["memories"] == {"episodic": 1, "semantic": 1}
    assert sfm("delete", "key:met", "--expected-version", "9", exit_code=1)["code"] == "version_conflict"
    assert sfm("delete", "key:met") == {"deleted": True}
    # A forgotten memory is erased by the key that it last had.
    assert sfm("delete", "key:met", "--erase") == {"deleted": True}
    assert sfm("delete", "key:met", "--erase") == {"deleted": False}


@pytest.mark.usefixtures("database")
def test_namespaces_are_apart() -> None:
    sfm("store", "1,2,3", '{"a": 1}', "-n", "team/one")
    assert sfm("get", "1,2,3", "-n", "other", exit_code=1)["code"] == "memory_not_found"
    assert [one["name"] for one in sfm("stats")["namespaces"]] == ["team/one"]


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["get", "9,9,9"], "memory_not_found"),
        (["store", "nan,1", "{}"], "invalid_coordinate"),
        (["store", "1,x", "{}"], "invalid_coordinate"),
        (["remember", "x", "--importance", "nan"], "invalid_input"),
        (["remember", "x", "--kind", "none"], "invalid_input"),
        (["recall", "x", "-k", "0"], "invalid_input"),
        (["link", "1,2", "3,4"], "memory_not_found"),
        (["path", "1", "2", "--k", "0"], "invalid_input"),
        (["neighbors", "1", "--valid-at", "yesterday"], "invalid_input"),
        (["neighbors", "1", "--where", '{"kind": "entity"}'], "invalid_input"),
        (["traverse", "1", "--depth", "-1"], "invalid_input"),
        (["rank", "--by", "jaccard"], "invalid_input"),
        (["export", "-n", "nowhere"], "namespace_not_found"),
    ],
)
def test_what_the_service_refuses_exits_1(arguments: list[str], code: str) -> None:
    assert sfm(*arguments, exit_code=1)["code"] == code


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["recall"],
        ["recall", "x", "--nothing"],
        ["store", "1,2", "not json"],
        ["store", "1,2", "[1]"],
        ["recall", "x", "--filters", "{"],
        ["neighbors", "1", "--where", "["],
        ["traverse"],
        ["unlink", "1,2"],
        ["store", "key:a", "{}", "--key", "b"],
        ["import", "/nowhere.ndjson"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFM_PORT", "none")
    problem = sfm("stats", exit_code=1)
    assert problem["code"] == "settings_error"
    assert "SFM_PORT" in problem["detail"]


@pytest.mark.usefixtures("database")
def test_import_and_export(tmp_path: Path) -> None:
    file = tmp_path / "memories.ndjson"
    lines = [
        '{"type": "link", "source": {"key": "a"}, "target": {"key": "b"}, "link_type": "next"}',
        '{"type": "memory", "key": "a", "content": "first"}',
        '{"id": "b", "text": "second", "metadata": {"title": "B"}}',
    ]
    file.write_text("\n".join(lines))
    summary = sfm("import", str(file))
    assert summary["memories"] == {"created": 2, "updated": 0, "unchanged": 0}
    assert summary["links"] == {"created": 1, "updated": 0, "unchanged": 0}
    again = sfm("import", str(file))
    assert (again["memories"]["unchanged"], again["links"]["unchanged"]) == (2, 1)

    copy = tmp_path / "copy.ndjson"
    assert runner.invoke(app, ["export", "-o", str(copy)]).stdout == ""
    printed = runner.invoke(app, ["export"]).stdout
    assert printed == copy.read_text()
    restored = sfm("import", "-", "-n", "copy", stdin=printed)
    assert (restored["memories"]["created"], restored["links"]["created"]) == (2, 1)

    untouched = tmp_path / "untouched"
    sfm("export", "-n", "nowhere", "-o", str(untouched), exit_code=1)
    assert not untouched.exists()


@pytest.mark.usefixtures("database")
def test_a_refused_line_is_reported_with_its_place(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.ndjson", tmp_path / "bad.ndjson"
    good.write_text('{"type": "memory", "key": "a", "content": "x"}\n')
    bad.write_text('{"type": "memory", "key": "b", "content": "x"}\nnot json\n')
    result = runner.invoke(app, ["import", str(good), str(bad)])
    summary = json.loads(result.stdout)
    assert (result.exit_code, summary["memories"]["created"], summary["failed"]) == (1, 2, 1)
    (failure,) = summary["failures"]
    assert (failure["path"], failure["line"], failure["code"]) == (str(bad), 2, "invalid_json")


@pytest.mark.usefixtures("database")
def test_a_folder_of_markdown(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.md").write_text(
        "# Owls\n\nOwls sleep by day.\n\n## Food\n\nMice, see [[b]] and [gone](gone.md).\n"
    )
    (tmp_path / "sub" / "b.md").write_text("# Mice\n\nMice eat grain.\n")
    summary = sfm("import", str(tmp_path), "-n", "docs")
    assert summary["memories"]["created"] == 5
    assert [(one["code"], one["line"]) for one in summary["failures"]] == [("unresolved_link", 7)]
    assert sfm("recall", "who sleeps by day?", "-k", "1", "-n", "docs")["matches"][0]["key"] == "a.md#owls"
    reached = sfm("neighbors", "key:a.md#food", "--type", "links_to", "-n", "docs")["neighbors"]
    assert [one["memory"]["key"] for one in reached] == ["sub/b.md"]
    again = sfm("import", str(tmp_path / "a.md"), "-n", "docs")
    assert again["memories"] == {"created": 0, "updated": 0, "unchanged": 3}


@pytest.mark.usefixtures("database")
def test_progress_is_shown_where_it_is_wanted(tmp_path: Path) -> None:
    file = tmp_path / "memories.ndjson"
    file.write_text('{"type": "memory", "key": "a", "content": "x"}\n')
    assert "memories.ndjson" in runner.invoke(app, ["import", str(file), "--progress"]).stderr
    assert runner.invoke(app, ["import", str(file)]).stderr == ""


@pytest.mark.usefixtures("database")
def test_store_bulk_is_all_or_none(tmp_path: Path) -> None:
    file = tmp_path / "memories.ndjson"
    file.write_text('{"key": "a", "content": "x"}\n\n{"key": "b", "weight": 1}\n')
    assert sfm("store-bulk", str(file), exit_code=1)["code"] == "invalid_input"
    assert sfm("stats")["namespaces"] == []
    done = sfm("store-bulk", str(file), "--partial")
    assert (done["stored"], [one["index"] for one in done["failed"]]) == (1, [1])
    assert sfm("store-bulk", "-", stdin="{", exit_code=1)["code"] == "invalid_json"


def test_schema_is_written_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sfm("schema", "--check", exit_code=1)["code"] == "schema_drift"
    assert runner.invoke(app, ["schema", "--write"]).exit_code == 0
    assert runner.invoke(app, ["schema", "--check"]).exit_code == 0
    assert (tmp_path / "graphql/schema.graphql").read_text() == runner.invoke(app, ["schema"]).stdout


@pytest.mark.usefixtures("database")
def test_migrate_and_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    migrated = sfm("migrate")
    assert migrated["database"] == "external"
    assert migrated["schema"] >= 1
    monkeypatch.setenv("SFM_PORT", "0")
    checks = {check["check"]: check for check in sfm("doctor", "--json")}
    assert list(checks) == [
        "python",
        "settings",
        "port",
        "database",
        "server",
        "connections",
        "role",
        "access",
        "embedder",
    ]
    assert all(check["ok"] for check in checks.values())
    assert "pgvector" in checks["server"]["found"]
    table = runner.invoke(app, ["doctor"]).stdout
    assert [line.split()[0] for line in table.splitlines()] == ["ok"] * len(checks)
    monkeypatch.setenv("POSTGRES_URL", "postgresql://127.0.0.1:1/none")
    failed = runner.invoke(app, ["doctor", "--json"])
    assert failed.exit_code == 1
    (database,) = [one for one in json.loads(failed.stdout) if one["check"] == "database"]
    assert not database["ok"]
    assert database["found"].startswith("the database cannot be reached: ")


def test_an_unreachable_server_exits_1() -> None:
    assert sfm("get", "1,2", "--url", "http://127.0.0.1:1", exit_code=1)["code"] == "unreachable"
    assert sfm("export", "--url", "http://127.0.0.1:1", exit_code=1)["code"] == "unreachable"
    assert sfm("get", "1,2", "--url", "nonsense", exit_code=1)["code"] == "unreachable"


def test_help_loads_nothing_heavy() -> None:
    program = "import sys, sfm_graph.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert {"sfm_graph.cli", "typer"} <= set(loaded.stdout.split())
    assert not {"fastapi", "httpx", "numpy", "psycopg", "sqlalchemy", "strawberry"} & set(loaded.stdout.split())


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", True), ("::1", True), ("[::1]", True),
    ("localhost", True), ("127.8.8.8", True), ("0.0.0.0", False), ("::", False), ("example.com", False)])  # fmt: skip
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_addresses_for_people() -> None:
    assert url_of("127.0.0.1", 9595) == "http://localhost:9595"
    assert url_of("0.0.0.0", 80) == url_of("[::]", 80) == "http://localhost:80"
    assert url_of("::1", 80) == "http://[::1]:80"


@pytest.mark.usefixtures("database")
def test_serving_beyond_loopback_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFM_HOST", "0.0.0.0")
    monkeypatch.setenv("SFM_LOG_LEVEL", "error")
    problem = sfm("serve", exit_code=1)
    assert problem["code"] == "host_refused"
    assert "SFM_HOST" in problem["detail"]
    (command,) = re.findall(r"sfm (keys create .*)", problem["detail"])
    assert sfm(*shlex.split(command))["namespaces"] == ["*"]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder without settings or data, which the database's user can reach."""
    for name in [name for name in os.environ if name.startswith(("SFM_", "POSTGRES_"))]:
        monkeypatch.delenv(name)
    made = Path(tempfile.mkdtemp(prefix="sfm-test-"))
    monkeypatch.chdir(made)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.parametrize("arguments", [["keys", "list"], ["audit"], ["followers"],
    ["keys", "create", "a", "--scope", "read", "--namespace", "*"]])  # fmt: skip
def test_what_needs_a_database_makes_none(arguments: list[str], folder: Path) -> None:
    problem = sfm(*arguments, exit_code=1)
    assert problem["code"] == "not_found"
    assert all(word in problem["detail"] for word in (str(folder / "data"), "SFM_DATA_DIR", "sfm migrate"))
    assert not (folder / "data").exists()


def test_a_new_database_is_announced(folder: Path) -> None:
    assert runner.invoke(app, ["stats"]).stderr == f"new database in {folder / 'data'}\n"
    assert runner.invoke(app, ["stats"]).stderr == ""


@pytest.mark.usefixtures("database")
def test_an_expiry_says_what_it_can_be() -> None:
    create = ["keys", "create", "a", "--scope", "read", "--namespace", "*", "--expires"]
    problem = sfm(*create, "soon", exit_code=1)
    assert problem["code"] == "invalid_input"
    assert "30d, 12h or never" in problem["detail"]
    assert sfm(*create, "never")["expires_at"] is None


@pytest.mark.usefixtures("database")
def test_a_namespace_that_looks_like_a_prefix() -> None:
    create = ["keys", "create", "a", "--scope", "read", "--namespace"]
    said = runner.invoke(app, [*create, "team/"]).stderr
    assert "'team/*'" in said
    assert "'team/*'" not in runner.invoke(app, ["keys", "create", "b", *create[3:], "team/*"]).stderr


@pytest.mark.parametrize(
    ("given", "keys", "expected"),
    [
        ({}, False, "Access    open to all programs of this machine"),
        ({}, True, "Access    by API keys"),
        ({"api_token": "x" * 20}, True, "Access    by a token, API keys"),
        (
            {"jwt_issuer": "https://issuer", "jwt_audience": "us", "jwt_jwks_url": "https://issuer/keys"},
            False,
            "Access    by JWTs of https://issuer",
        ),
    ],
)
def test_the_greeting_says_who_may_ask(
    given: dict[str, Any], expected: str, folder: Path, capsys: pytest.CaptureFixture[str], *, keys: bool
) -> None:
    welcome(load_settings(**given), "http://localhost:1", keys=keys)
    said = capsys.readouterr().err
    assert expected in said
    assert "SFM_ALLOWED_HOSTS" not in said


def test_the_greeting_warns_of_names_that_nobody_elsewhere_uses(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {"host": "0.0.0.0", "api_token": "x" * 20}
    welcome(load_settings(**given), "http://localhost:1", keys=False)
    assert "SFM_ALLOWED_HOSTS" in capsys.readouterr().err
    welcome(load_settings(**given, allowed_hosts="memory.example"), "http://localhost:1", keys=False)
    assert "SFM_ALLOWED_HOSTS" not in capsys.readouterr().err


@contextmanager
def served(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A server on a free port: its process, its URL and what it said at the start."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SFM_", "POSTGRES_"))}
    with subprocess.Popen(
        [sys.executable, "-c", "from sfm_graph.cli import main; main()", "serve", "--port", "0"], cwd=ROOT,
        env={**environment, "SFM_DATA_DIR": str(data_dir)}, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        said = ""
        while "Overview" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        url = re.search(r"serves (\S+)", said)
        assert url
        yield process, url[1], said
        process.kill()


def test_serving() -> None:
    data_dir = Path(tempfile.mkdtemp(prefix="sfm-test-"))
    try:
        with served(data_dir) as (first, url, said), served(data_dir) as (second, other, _):
            assert "Ctrl-C" in said
            assert re.findall(r"  (http\S+)$", said, re.MULTILINE) == [f"{url}/graphql", f"{url}/docs", f"{url}/"]
            for page in (f"{url}/", f"{url}/docs", f"{other}/readyz"):
                assert httpx.get(page).status_code == 200
            sfm("remember", "shared by both", "--key", "k", "--url", url)
            assert sfm("get", "key:k", "--url", other)["content"] == "shared by both"
            assert sfm("import", "-", "--url", other, stdin='{"id": "d", "text": "x"}')["memories"]["created"] == 1
            exported = runner.invoke(app, ["export", "--url", url])
            assert len(exported.stdout.splitlines()) == 2
            assert sfm("export", "-n", "nowhere", "--url", url, exit_code=1)["code"] == "namespace_not_found"
            assert sfm("serve", "--port", url.rpartition(":")[2], exit_code=1)["code"] == "port_in_use"
            for process, stop in ((first, signal.SIGTERM), (second, signal.SIGINT)):
                process.send_signal(stop)
                assert process.wait(30) == 0
        assert not (data_dir / "postgres" / "postmaster.pid").exists()
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


def test_every_command_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    sections = {section.split("\n")[0]: section for section in re.split(r"^### ", page, flags=re.MULTILINE)[1:]}
    group = typer.main.get_command(app)
    assert sections.keys() == group.commands.keys()  # type: ignore[attr-defined]
    for name, section in sections.items():
        assert re.search(rf"^    .*\bsfm {re.escape(name)}\b", section, re.MULTILINE), name


def test_every_documented_option_exists() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    group = typer.main.get_command(app)
    for name, rest in re.findall(r"^    .*?\bsfm ([\w-]+)(.*)$", page, re.MULTILINE):
        command = group.commands[name]  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            command = command.commands[rest.split()[0]]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = set(re.findall(r"(?<=\s)--?[a-z][\w-]*", re.sub(r"'[^']*'|\"[^\"]*\"", "", rest)))
        assert used <= known, name


def test_every_setting_has_its_row() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    rows = {}
    for line in page.splitlines():
        if line.startswith("| `"):
            name, variables, default, meaning = (cell.strip() for cell in line.strip("|").split(" | "))
            assert meaning
            rows[name.strip("`")] = (re.findall(r"`([^`]+)`", variables), default.strip("`"))
    expected = {}
    for name, field in Settings.model_fields.items():
        value = field.default.value if isinstance(field.default, Enum) else field.default
        expected[name] = (variable_names(name), "" if value is None else str(value))
    assert rows == expected
