"""The Dockerfile and what it puts into the image, as far as that can be told without Docker (docs/deployment.md)."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

from deployment_http import answering
from deployment_variables import known_variables, secret_variables

ROOT = Path(__file__).parent.parent
HEALTHY = ROOT / "helm" / "sfm-graph" / "files" / "image" / "healthy.py"


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, the first of them its FROM; what precedes them is left out."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: list[list[tuple[str, str]]] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if not line.strip():
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, rest.strip()))
    return found


def instructions(stage: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for one, rest in stage if one == word]


def variables(stage: list[tuple[str, str]]) -> dict[str, str]:
    pairs = [pair.partition("=") for rest in instructions(stage, "ENV") for pair in shlex.split(rest)]
    return {name: value for name, _, value in pairs}


BUILD, RUN = stages()


def test_what_runs_is_not_what_builds() -> None:
    assert instructions(BUILD, "FROM") == ["${PYTHON_IMAGE} AS build"]
    assert instructions(RUN, "FROM") == ["${PYTHON_IMAGE}"]
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+(\.\d+)?-slim-\w+", image)
    assert [rest for rest in instructions(RUN, "COPY") if "--from=build" in rest] == [
        "--from=build /opt/sfm /opt/sfm"
    ]
    removal = " ".join(instructions(RUN, "RUN"))
    assert "pip uninstall --yes pip" in removal
    assert "ensurepip" in removal
    assert "apt-get" not in (ROOT / "Dockerfile").read_text()


def test_it_runs_as_a_user_of_its_own() -> None:
    (user,) = instructions(RUN, "USER")
    uid, gid = user.split(":")
    assert int(uid) >= 10_000
    # The embedded database looks its user up by number.
    (made,) = instructions(RUN, "RUN")
    assert f"useradd --uid {uid} --gid {gid}" in made
    assert f"install -d -o {uid} -g {gid} -m 0750 /data" in made
    later = [word for word, _ in RUN[[word for word, _ in RUN].index("USER") + 1 :]]
    assert not {"RUN", "COPY", "ADD", "USER"} & set(later)


def test_it_stops_and_starts_as_the_service_expects() -> None:
    assert instructions(RUN, "ENTRYPOINT") == ['["sfm"]']
    assert instructions(RUN, "CMD") == ['["serve"]']
    assert instructions(RUN, "STOPSIGNAL") == ["SIGTERM"]
    assert instructions(RUN, "VOLUME") == ['["/data"]']
    assert instructions(RUN, "EXPOSE") == [variables(RUN)["SFM_PORT"]]
    (health,) = instructions(RUN, "HEALTHCHECK")
    assert health.endswith('CMD ["python", "/opt/sfm/healthy.py", "http"]')
    # Settings are read from `.env` in the current folder, which must not be one that is written.
    assert instructions(RUN, "WORKDIR") == ["/opt/sfm"]


def test_its_variables_are_read_and_hold_no_secret() -> None:
    given = variables(RUN)
    assert set(given) <= known_variables()
    assert not set(given) & secret_variables()
    assert given["OPENBLAS_NUM_THREADS"] == "1"
    arguments = {rest.partition("=")[0] for stage in (BUILD, RUN) for rest in instructions(stage, "ARG")}
    assert arguments == {"VERSION"}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert instructions(RUN, "ARG") == [f"VERSION={version}"]


def copied() -> list[str]:
    return [
        source
        for stage in (BUILD, RUN)
        for rest in instructions(stage, "COPY")
        if "--from" not in rest
        for source in rest.split()[:-1]
    ]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    allowed = [Path(line[1:]) for line in lines if line.startswith("!")]
    for source in copied():
        assert (ROOT / source).exists()
        assert any(Path(source).is_relative_to(one) for one in allowed), f"{source} does not reach the build"
    for one in allowed:
        assert any(Path(source).is_relative_to(one) for source in copied()), f"{one} is not needed"


def test_the_build_has_what_the_wheel_takes() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*wheel["only-include"], "pyproject.toml", "README.md", "LICENSE", "consumers"} <= set(copied())
    (install,) = [rest for rest in instructions(BUILD, "RUN") if "venv" in rest]
    assert "--only-binary :all:" in install
    assert "--constraint requirements.txt" in install
    assert "[fastembed,qdrant]" in install
    assert "/wheels/sfm_graph_consumers-" in install


def healthy(*arguments: object, **variables: str) -> int:
    command = [sys.executable, str(HEALTHY), *map(str, arguments)]
    given = {"SFM_PORT": "1", **variables}
    return subprocess.run(command, check=False, capture_output=True, env=given).returncode


def test_healthy_by_its_answer() -> None:
    # The Host is one that the service takes by default.
    with answering(lambda path, host: 200 if (path, host) == ("/healthz", "localhost") else 503) as port:
        assert healthy("http", port) == 0
        assert healthy("http", port, "/readyz") == 1
    assert healthy("http", port) == 1
    assert healthy("http") == 1, "nobody listens on port 1"
    assert healthy("moves") == 1, "there is no other check"


def test_healthy_asks_by_a_name_that_is_served() -> None:
    with answering(lambda path, host: 200 if host == "memory.example" else 403) as port:
        assert healthy("http", port, SFM_ALLOWED_HOSTS="memory.example, other.example") == 0
        assert healthy("http", port, SFM_ALLOWED_HOSTS="other.example,memory.example") == 1
    for names in ("", ",", "*", "memory.example,localhost"):
        with answering(lambda path, host: 200 if host == "localhost" else 403) as port:
            assert healthy("http", port, SFM_ALLOWED_HOSTS=names) == 0
