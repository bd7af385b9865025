"""What the service needs, checked one by one."""

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sfm_graph.errors import SettingsError, SfmError
from sfm_graph.runtime import open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.settings import Settings, load_settings

OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Result:
    """One check: what was looked at, whether it is well, and what was found or what to do."""

    check: str
    ok: bool
    found: str

    def as_json(self) -> dict[str, Any]:
        """The form of `sfm doctor --json`."""
        return asdict(self)


async def checks(config: Path | None) -> list[Result]:
    """Every check in order. What depends on one that failed is left out."""
    version = ".".join(map(str, sys.version_info[:3]))
    results = [Result("python", sys.version_info >= OLDEST_PYTHON, version)]
    try:
        settings = load_settings(config)
    except SettingsError as error:
        return [*results, Result("settings", False, str(error))]
    results.append(Result("settings", True, _sources(config, settings)))
    if settings.postgres_url is None:
        results.append(_data_dir(settings.data_dir))
    results.append(_port(settings))
    try:
        async with open_runtime(settings, maintenance=False) as services:
            results += await _opened(services)
    except SfmError as error:
        results.append(Result("database", False, error.message))
    return results


def table(results: Sequence[Result]) -> str:
    """The results for people, a line each."""
    width = max(len(result.check) for result in results)
    return "".join(f"{'ok  ' if one.ok else 'FAIL'}  {one.check:<{width}}  {one.found}\n" for one in results)


def _sources(config: Path | None, settings: Settings) -> str:
    files = [str(path) for path in (config, Path(".env")) if path is not None and path.exists()]
    set_here = sorted(settings.model_fields_set)
    return f"files: {', '.join(files) or 'none'}; set: {', '.join(set_here) or 'none, all defaults'}"


def _data_dir(path: Path) -> Result:
    folder = path.expanduser().resolve()
    nearest = next(one for one in (folder, *folder.parents) if one.exists())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    return Result("data directory", writable, str(folder) if writable else f"{nearest} cannot be written to")


def _port(settings: Settings) -> Result:
    host = settings.host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, settings.port))
        except OSError as error:
            advice = f"{host} port {settings.port}: {error.strerror}; another service? SFM_PORT chooses another port"
            return Result("port", False, advice)
    return Result("port", True, f"{host} port {settings.port} is free")


async def _opened(services: Services) -> list[Result]:
    report = await services.health.report()
    state = report.parts["database"]
    database = Result("database", report.ready, f"{state['kind']}, {state.get('reason', 'answers')}")
    found = await services.health.database()
    return [
        database,
        Result("server", True, f"PostgreSQL {found.server_version}, pgvector {found.vector_version}"),
        Result("role", not found.is_superuser, f"{found.role}{', a superuser' if found.is_superuser else ''}"),
        Result("embedder", True, str(services.recalls.model)),
    ]
