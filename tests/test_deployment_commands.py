"""The commands that docs/deployment.md and docs/backup.md have people type: each is one that exists, word by word."""

import re
import shlex
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from deployment_chart import merged, profile, render, rendered
from deployment_variables import known_variables

from sfm_graph.cli import app
from sfm_graph.settings import LogFormat

ROOT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
needs_helm = pytest.mark.skipif(find_spec("helm_python") is None, reason="no wheel of Helm for this machine")
PAGES = ("deployment.md", "backup.md")


def lines(page: str) -> list[list[str]]:
    """The words of each command of a page, those of several lines joined, without files for stdin and stdout."""
    text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
    block = "\n".join(re.findall(r"^    (\S.*)$", text, flags=re.MULTILINE))
    known = ("docker ", "kubectl ", "helm ", "sfm ")
    return [shlex.split(re.sub(r" [<>] \S+$", "", one)) for one in block.splitlines() if one.startswith(known)]


def after(words: list[str]) -> list[str] | None:
    """What is run inside: the words after a container's, service's or pod's name; None when nothing is."""
    match words:
        case ["docker", "exec", _, *inside] | ["docker", "compose", "--profile", _, "exec", _, *inside]:
            return inside
        case ["kubectl", "exec", _, "--", *inside]:
            return inside
        case ["docker", *_] if "-euc" in words:
            return ["sh", *words[words.index("-euc") :]]
    return None


INSIDE = [inside for page in PAGES for words in lines(page) if (inside := after(words))]


def check(words: list[str]) -> None:
    group = typer.main.get_command(app)
    while hasattr(group, "commands"):
        group, words = group.commands[words[0]], words[1:]
    group.make_context("sfm", words).close()


@pytest.mark.parametrize("words", INSIDE, ids=" ".join)
def test_what_runs_inside_is_a_command(words: list[str]) -> None:
    match words:
        case ["sfm", *rest]:
            check(rest)
        case ["sh", "-euc", script]:
            (command,) = [one.split()[1:] for one in script.split("; ") if one.startswith("sfm ")]
            check(command)
        case [program, *_]:
            assert program in {"psql", "ls", "cat", "rm"}


@pytest.mark.parametrize(
    ("page", "start"),
    [
        ("deployment.md", "docker exec sfm sfm keys create"),
        ("deployment.md", "docker compose --profile core exec sfm sfm keys create"),
        ("deployment.md", "kubectl exec deployment/sfm-sfm-graph -- sfm keys create"),
        ("deployment.md", "kubectl exec deployment/sfm-sfm-graph-tools -- sfm keys create"),
        ("backup.md", "docker exec sfm sfm backup"),
        ("backup.md", "docker compose --profile core exec sfm sfm backup"),
        ("backup.md", "kubectl create job --from=cronjob/"),
    ],
)
def test_each_way_has_its_commands(page: str, start: str) -> None:
    assert any(" ".join(words).startswith(start) for words in lines(page))


def test_compose_is_asked_for_what_it_has() -> None:
    for page in PAGES:
        for words in lines(page):
            if words[:2] == ["docker", "compose"] and {"exec", "stop"} & set(words):
                name = words[words.index("exec" if "exec" in words else "stop") + 1]
                assert words[3] in COMPOSE["services"][name]["profiles"]


def given(words: list[str]) -> dict[str, Any]:
    """The values of a `helm install` or `upgrade`: a profile, prod-ha for yours, and what it sets."""
    values = profile("local-dev" if any("local-dev" in word for word in words) else "prod-ha")
    for option, setting in pairwise(words):
        if option == "--set":
            path, _, value = setting.partition("=")
            more: Any = {"true": True}.get(value, value)
            for key in reversed(path.split(".")):
                more = {key: more}
            values = merged(values, {} if path == "auth.token" else more)
    return values


@needs_helm
def test_helm_takes_the_values() -> None:
    commands = [words for page in PAGES for words in lines(page) if words[0] == "helm"]
    assert len(commands) >= 6
    assert {one.refusal for one in render(*map(given, commands))} == {None}


@needs_helm
def test_pods_are_those_of_the_chart() -> None:
    own = {
        f"{one['kind'].lower()}/{one['metadata']['name']}"
        for chart in rendered().values()
        for one in chart.of("Deployment", "CronJob", "Job")
    }
    for page in PAGES:
        for words in lines(page):
            named = [
                word.removeprefix("--from=")
                for word in words
                if re.search(r"^(--from=)?(deployment|job|cronjob)/", word)
            ]
            assert set(named) <= own, page


def test_the_override_is_one_of_compose() -> None:
    (text,) = re.findall(
        r"```yaml\n(services:.*?)```", (ROOT / "docs" / "deployment.md").read_text(), flags=re.DOTALL
    )
    (changed,) = yaml.safe_load(text)["services"].items()
    name, one = changed
    assert set(one) <= set(COMPOSE["services"][name])
    assert set(one["environment"]) <= known_variables()
    assert one["environment"]["SFM_LOG_FORMAT"] in set(LogFormat)
