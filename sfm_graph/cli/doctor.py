"""What the service needs, checked one by one."""

import asyncio
import errno
import http.client
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sfm_graph.adapters.buses.reaching import reached_bus
from sfm_graph.cli.welcome import CALLED_LOCALLY, means
from sfm_graph.errors import EventBusUnavailable, SettingsError, SfmError
from sfm_graph.runtime import open_runtime
from sfm_graph.services.health import MOST_UNREAD, DatabaseFacts
from sfm_graph.services.registry import Services
from sfm_graph.settings import ANY_HOST, Settings, is_loopback, load_settings
from sfm_graph.store.followers import StoredPosition
from sfm_graph.store.roles import OWNER_ROLE, SERVICE_ROLE, advice

OLDEST_PYTHON = (3, 11)
PROBE_SECONDS = 5.0
MAX_REPORT_BYTES = 1_000_000
# How to ask what listens on all addresses.
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
# Those of superusers, and of commands beside the service.
KEPT_CONNECTIONS = 5
# A follower that has not read a change for so long is not just busy.
LATE_SECONDS = 600.0
# States that need nobody: an index that is loaded or catches up says so, and does.
GOING_ON = ("up", "loading", "lagging", "standby")
ADVICE = {
    "qdrant": "recall goes on in Postgres; look at QDRANT_URL and its key, and whether it runs",
    "cache": "answers are worked out anew; look at REDIS_URL, and whether it runs",
    "limits": "each process counts for itself; look at REDIS_URL, and whether it runs",
}


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
    results.append(await asyncio.to_thread(_port, settings))
    if settings.is_called_locally:
        results.append(Result("names", True, CALLED_LOCALLY))
    try:
        async with open_runtime(settings, maintenance=False) as services:
            results += await _opened(services)
    except SettingsError as error:
        # Only what opens it finds out: a token's file, a key, a model.
        results = [one for one in results if one.check != "settings"]
        results.append(Result("settings", False, str(error)))
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
            if error.errno == errno.EADDRINUSE and _serves(host, settings):
                return Result("port", True, f"{host} port {settings.port}: sfm_graph serves here")
            advice = f"{host} port {settings.port}: {error.strerror}; another service? SFM_PORT chooses another port"
            return Result("port", False, advice)
    return Result("port", True, f"{host} port {settings.port} is free")


def _serves(host: str, settings: Settings) -> bool:
    """Whether what has the port is this service: its readiness has parts that others' has not."""
    names = settings.host_names - {ANY_HOST}
    connection = http.client.HTTPConnection(_LOCAL.get(host, host), settings.port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/readyz", headers={"Host": min(names, default="localhost")})
        report = json.loads(connection.getresponse().read(MAX_REPORT_BYTES))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return False
    finally:
        connection.close()
    return isinstance(report, dict) and isinstance(report.get("parts"), dict) and "maintenance" in report["parts"]


async def _opened(services: Services) -> list[Result]:
    report = await services.health.report()
    state = report.parts["database"]
    database = Result("database", report.ready, f"{state['kind']}, {state.get('reason', 'answers')}")
    found = await services.health.database()
    results = [
        database,
        Result("server", True, f"PostgreSQL {found.server_version}, pgvector {found.vector_version}"),
        _connections(services.settings, found.max_connections),
        _role(found),
        await _access(services),
        Result("embedder", True, str(services.recalls.model)),
        *await _bus(services.settings),
        *(_part(name, report.parts[name]) for name in ("qdrant", "cache", "limits") if name in report.parts),
    ]
    return [*results, *[await _follower(services, one) for one in (await services.health.change_log()).followers]]


def _connections(settings: Settings, most: int) -> Result:
    wanted = settings.workers * settings.pool_max_size
    found = f"{wanted} at most, {settings.pool_max_size} of each process; the server has {most}"
    if wanted + KEPT_CONNECTIONS <= most:
        return Result("connections", True, found)
    return Result("connections", False, f"{found}; make SFM_POOL_MAX_SIZE smaller, or max_connections larger")


def _role(found: DatabaseFacts) -> Result:
    if found.is_superuser:
        return Result("role", False, f"{found.role}, a superuser; {advice(found.login)}")
    if found.role != SERVICE_ROLE:
        return Result("role", True, f"{found.role} owns the tables, a weaker wall; {advice(found.role)}")
    if found.owns_tables:
        advised = f"as a superuser: revoke {OWNER_ROLE} from {SERVICE_ROLE}"
        return Result("role", False, f"{found.role} has the rights of the tables' owner; {advised}")
    login = "" if found.login == found.role else f", taken on by {found.login}"
    return Result("role", True, f"{found.role}{login}: only the rights that statements use")


async def _access(services: Services) -> Result:
    settings = services.settings
    ways = means(settings, keys=await services.keys.exist())
    if ways:
        return Result("access", True, f"by {', '.join(ways)}")
    if is_loopback(settings.host):
        return Result("access", True, f"open to all programs of this machine ({settings.host}); a token closes it: "
                      "SOMA_API_TOKEN, or `sfm keys`")  # fmt: skip
    advised = "set SOMA_API_TOKEN or SOMA_API_TOKEN_FILE, or SFM_HOST=127.0.0.1"
    return Result("access", False, f"{settings.host} is reached from elsewhere and nobody needs a token; {advised}")


async def _bus(settings: Settings) -> list[Result]:
    try:
        place = await reached_bus(settings, timeout_seconds=PROBE_SECONDS)
    except EventBusUnavailable as error:
        advised = "changes wait in the log until it is back; look at its address, TLS and password in the settings"
        return [Result("event bus", False, f"{error.message}; {advised}")]
    return [] if place is None else [Result("event bus", True, f"{place} answers")]


def _part(name: str, state: Mapping[str, Any]) -> Result:
    """What the service goes on without: only what is away is wrong, not what is still catching up."""
    told = ", ".join(f"{key} {value}" for key, value in state.items() if key != "status")
    found = f"{state['status']}{': ' if told else ''}{told}"
    if state["status"] in GOING_ON:
        return Result(name, True, found)
    return Result(name, False, f"{found}; {ADVICE[name]}")


async def _follower(services: Services, one: StoredPosition) -> Result:
    unread, oldest = await services.health.unread(one)
    name = f"{one.key.name} {one.key.shard + 1}/{one.key.shards}"
    if oldest is None:
        return Result("follower", True, f"{name} has read everything")
    seconds = max(0.0, (datetime.now(UTC) - oldest).total_seconds())
    found = (
        f"{name} has {unread}{'+' if unread == MOST_UNREAD else ''} changes to read, the oldest {seconds:.0f} s old"
    )
    if seconds < LATE_SECONDS:
        return Result("follower", True, found)
    advised = f"is its process running? If it is gone for good: sfm followers --forget {one.key.name}"
    return Result("follower", False, f"{found}; the log is kept for it; {advised}")
