"""The project's own promises: dependencies, packaging, the commands that the README names."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
EXTRAS = [Requirement(line) for lines in PYPROJECT["project"]["optional-dependencies"].values() for line in lines]
DEVELOPMENT = [Requirement(line) for line in PYPROJECT["dependency-groups"]["dev"]]

# Joined here, so that this file does not name them either. Plain domains of Yarn and Go serve manuals too.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("registry", "yarnpkg", "com"),
        ("crates", "io"),
        ("proxy", "golang", "org"),
        ("maven", "org"),
        ("maven", "apache", "org"),
        ("rubygems", "org"),
        ("anaconda", "org"),
    ]
]


def repository_files() -> list[Path]:
    """What is tracked, or would be by `git add .`; ignored files are left out."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no list of the files that belong to it")
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return [path for name in names if name and (path := ROOT / name).is_file()]


def direct_names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def test_no_file_names_a_package_registry() -> None:
    files = repository_files()
    assert ROOT / "requirements.txt" in files
    found = {
        f"{path.relative_to(ROOT)}: {host}"
        for path in files
        for host in REGISTRY_HOSTS
        if host.encode() in path.read_bytes().lower()
    }
    assert found == set()


def test_graphql_folder_holds_no_python() -> None:
    # It would shadow graphql-core for whoever starts Python in the checkout.
    assert list((ROOT / "graphql").rglob("*.py")) == []


def test_direct_dependencies_are_documented() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text().split("## Not taken")[0]
    documented = re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) == direct_names(RUNTIME) | direct_names(EXTRAS) | direct_names(DEVELOPMENT)


def test_direct_dependencies_are_pinned_within_their_bounds() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]
    here = {canonicalize_name(pin.name): pin for pin in pins if pin.marker is None or pin.marker.evaluate()}
    extras = PYPROJECT["project"]["optional-dependencies"]
    installed = [Requirement(line) for line in extras["fastembed"] + extras["qdrant"]]
    for requirement in RUNTIME + installed + DEVELOPMENT:
        if requirement.marker is None or requirement.marker.evaluate():
            (pin,) = here[canonicalize_name(requirement.name)].specifier
            assert pin.operator == "=="
            assert requirement.specifier.contains(pin.version), f"{requirement}: pinned to {pin.version}"


def test_package_imports_only_what_it_declares() -> None:
    distributions = packages_distributions()
    # An extra of psycopg is a distribution of that name: psycopg-pool.
    extras = {f"{requirement.name}-{extra}" for requirement in RUNTIME for extra in requirement.extras}
    declared = direct_names(RUNTIME) | direct_names(EXTRAS) | extras
    undeclared = set()
    for path in (ROOT / "sfm_graph").rglob("*.py"):
        for module in imported_modules(ast.parse(path.read_text(), str(path))):
            if module in sys.stdlib_module_names or module == "sfm_graph":
                continue
            owners = {canonicalize_name(name) for name in distributions.get(module, [])}
            if not owners & declared:
                undeclared.add(f"{path.relative_to(ROOT)}: {module}")
    assert undeclared == set()


def imported_modules(tree: ast.Module) -> set[str]:
    """Top-level names of all absolute imports, also of those inside functions."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules.add(node.module.split(".")[0])
    return modules


def test_wheel_carries_sql_and_operations(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("sfm_graph-*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    for source, target in [("sql", "sfm_graph/sql"), ("graphql/operations", "sfm_graph/graphql_operations")]:
        folder = ROOT / source
        expected = {f"{target}/{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()}
        assert expected
        assert expected <= shipped
    assert "sfm_graph/py.typed" in shipped


def test_ci_runs_the_documented_commands() -> None:
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [shlex.split(line, comments=True) for line in script if line.startswith("make ")]
    assert commands == [["make", "check"], ["make", "audit"], ["make", "test"]]
    readme = (ROOT / "README.md").read_text()
    assert "make run" in readme
    assert "make test" in readme
