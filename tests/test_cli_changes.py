"""`sfm changes`: what is kept in this process, what comes as a process of its own."""

import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from served import DEADLINE_SECONDS, Json, remember, serving
from typer.testing import CliRunner

from sfm_graph.cli import app
from sfm_graph.services.registry import Services

ROOT = Path(__file__).parent.parent
runner = CliRunner()


@pytest.fixture(autouse=True)
def database(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this test work on its own database."""
    for name in [name for name in os.environ if name.startswith(("SFM_", "POSTGRES_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("POSTGRES_URL", database_dsn)


def sfm(*arguments: str, exit_code: int = 0) -> tuple[list[Json], str]:
    """The lines on stdout, and stderr."""
    result = runner.invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def stored(key: str) -> None:
    """A memory, stored by the command."""
    assert runner.invoke(app, ["remember", f"about {key}", "--key", key]).exit_code == 0


def keys(lines: list[Json]) -> list[str]:
    return [line["after"]["key"] for line in lines]


class Running:
    """The command as a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> Json:
        """Its next line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            text = await self.process.stdout.readline()
        assert text, await self.errors()
        return json.loads(text)

    async def errors(self) -> str:
        """All that it says on stderr until it ends."""
        assert self.process.stderr is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            return (await self.process.stderr.read()).decode()

    async def said(self, text: str) -> None:
        """Wait until it says something on stderr."""
        assert self.process.stderr is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            while text not in (line := (await self.process.stderr.readline()).decode()):
                assert line

    async def ends(self) -> int:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.process.wait()


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from sfm_graph.cli import main; main()", *arguments, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=2**24,
    )  # fmt: skip
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def test_what_is_kept_is_shown_line_by_line() -> None:
    for key in ("a", "b", "c"):
        stored(key)
    assert runner.invoke(app, ["link", "key:a", "key:b", "--type", "cites"]).exit_code == 0
    lines, _ = sfm("changes")
    assert [line["entity"] for line in lines] == ["memory"] * 3 + ["link"]
    assert keys(sfm("changes", "--after", lines[0]["cursor"], "--entity", "memory")[0]) == ["b", "c"]
    assert [line["entity"] for line in sfm("changes", "--type", "cites")[0]] == ["link"]
    assert keys(sfm("changes", "--around", "key:c", "--hops", "0")[0]) == ["c"]
    assert sfm("changes", "--operation", "forget")[0] == []
    two, said = sfm("changes", "--first", "2", "--entity", "memory")
    assert keys(two) == ["a", "b"]
    assert f"--after {two[1]['cursor']}" in said
    assert "--entity memory" in said


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["-n", "nowhere"], "namespace_not_found"),
        (["-n", "nowhere", "--follow"], "namespace_not_found"),
        (["--after", "x"], "invalid_cursor"),
        (["--entity", "thing"], "invalid_input"),
        (["--around", "nothing"], "invalid_coordinate"),
        (["--hops", "9", "--around", "key:a"], "invalid_input"),
        (["--url", "http://127.0.0.1:1"], "unreachable"),
        (["--url", "http://127.0.0.1:1", "--follow"], "unreachable"),
    ],
)
def test_what_is_refused_exits_1(arguments: list[str], code: str) -> None:
    stored("a")
    _, said = sfm("changes", *arguments, exit_code=1)
    assert json.loads(said)["code"] == code


async def test_following_without_a_server_sees_what_others_write(services: Services) -> None:
    await remember(services, "old")
    async with running("changes", "--follow", "--after", "beginning") as command:
        assert keys([await command.line()]) == ["old"]
        await remember(services, "new")
        last = await command.line()
        assert keys([last]) == ["new"]
        command.process.send_signal(signal.SIGINT)
        said = await command.errors()
        assert await command.ends() == 0, said
    assert said.startswith("to go on: sfm changes --follow ")
    await remember(services, "newer")
    words = shlex.split(said.partition("sfm ")[2])
    async with running(*words, "--first", "1") as command:
        assert keys([await command.line()]) == ["newer"]
        assert await command.ends() == 0


async def test_following_a_server_outlives_it(services: Services) -> None:
    await remember(services, "a")
    async with serving(services) as served:
        port = int(served.address.rpartition(":")[2])
        following = running("changes", "-f", "--url", served.url, "--after", "beginning")
        command = await following.__aenter__()
        assert keys([await command.line()]) == ["a"]
    await command.said("waiting")
    await remember(services, "b")
    async with serving(services, port):
        assert keys([await command.line()]) == ["b"]
        await remember(services, "c")
        last = await command.line()
        assert keys([last]) == ["c"]
        command.process.send_signal(signal.SIGINT)
        said = await command.errors()
        assert await command.ends() == 0, said
        assert f"--url {served.url}" in said
    await following.__aexit__(None, None, None)


async def test_following_ends_with_the_namespace(services: Services) -> None:
    await remember(services, "a", namespace="brief")
    async with (
        serving(services) as served,
        running("changes", "-f", "-n", "brief", "--after", "beginning", "--url", served.url) as far,
        running("changes", "-f", "-n", "brief", "--after", "beginning") as near,
    ):
        for command in (far, near):
            assert (await command.line())["entity"] == "memory"
        await services.namespaces.delete("brief", confirm="brief")
        for command in (far, near):
            last = await command.line()
            assert (last["entity"], last["operation"]) == ("namespace", "erase")
            assert await command.ends() == 0


async def test_pages_and_refusals_of_a_server(services: Services) -> None:
    for key in ("a", "b", "c"):
        await remember(services, key)
    async with serving(services) as served:
        async with running("changes", "--url", served.url, "--first", "2") as command:
            assert keys([await command.line(), await command.line()]) == ["a", "b"]
            assert await command.ends() == 0
        async with running("changes", "-f", "--url", served.url, "--after", "x") as command:
            assert json.loads(await command.errors())["code"] == "invalid_cursor"
            assert await command.ends() == 1


async def test_an_export_says_how_to_follow_from_there(services: Services, tmp_path: Path) -> None:
    await remember(services, "a")
    async with serving(services) as served:
        for arguments in (["--url", served.url], []):
            async with running("export", "-o", str(tmp_path / "all.ndjson"), *arguments) as command:
                said = await command.errors()
                assert await command.ends() == 0
            assert '"key":"a"' in (tmp_path / "all.ndjson").read_text()
            await remember(services, "later", title=said)
            async with running(*shlex.split(said.partition("sfm ")[2]), "--first", "1") as command:
                assert (await command.line())["after"]["title"] == said
