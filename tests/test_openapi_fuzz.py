"""Every REST operation, fuzzed from the OpenAPI document over a socket: nothing is answered with a 5xx."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr
from schemathesis import GenerationMode

from sfm_graph.api.authentication import OPEN_PATHS
from sfm_graph.app import create_app
from sfm_graph.settings import load_settings

EXAMPLES = 12
# What turns a request away from what is stored.
DEFLECTING = {"namespace", "after", "id", "expected_version"}
DOCUMENT = create_app(load_settings()).openapi()
STORED = b"".join(
    b'{"type":"memory","key":"%c","coordinate":[%d,0,0],"content":"plan","payload":{"a":1}}\n' % (key, place)
    for place, key in enumerate(b"abc")
) + b"".join(
    b'{"type":"link","source":{"key":"%c"},"target":{"key":"%c"},"link_type":"next"}\n' % tuple(ends)
    for ends in (b"ab", b"bc")
)
VALID, INVALID = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
# An operation that takes nothing cannot be given anything invalid.
CASES = [
    pytest.param(method, path, mode, id=f"{method.upper()} {path} {mode.value}")
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    for mode in ((VALID, INVALID) if operation["parameters"] or "requestBody" in operation else (VALID,))
]


def test_the_document_says_what_needs_a_token() -> None:
    (scheme,) = DOCUMENT["components"]["securitySchemes"].items()
    assert scheme[0] == "bearer"
    assert (scheme[1]["type"], scheme[1]["scheme"]) == ("http", "bearer")
    assert DOCUMENT["security"] == [{"bearer": []}]
    operations = [(path, one) for path, item in DOCUMENT["paths"].items() for one in item.values()]
    assert {path for path, one in operations if one.get("security") == []} == OPEN_PATHS & DOCUMENT["paths"].keys()
    for path, one in operations:
        refusals = {"401", "403", "429"} & one["responses"].keys()
        assert refusals == (set() if path in OPEN_PATHS else {"401", "403", "429"}), path


@schemathesis.serializer("application/x-ndjson")
def lines(_: Any, value: Any) -> bytes:
    """What stands for lines: a text as it is, anything else as JSON."""
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def base_url(server_dsn: str, worker_id: str) -> Iterator[str]:
    """A served app on a database of this module's own."""
    name = f"fuzz_{worker_id}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template sfm_template").format(sql.Identifier(name)))
        dsn = make_conninfo(server_dsn, dbname=name)
        app = create_app(load_settings(postgres_url=SecretStr(dsn), pool_max_size=4))
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        base = f"http://127.0.0.1:{port}"
        httpx.post(
            f"{base}/import", content=STORED, headers={"Content-Type": "application/x-ndjson"}
        ).raise_for_status()
        yield base
        server.should_exit = True
        thread.join()
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def steer(case: Any) -> None:
    """Let a request meet what is stored, which chance would hardly do."""
    existing = {"coord": "key:a", "frm": "0,0,0", "to": "key:c", "from_coord": "key:a", "to_coord": "1,0,0"}
    existing |= {"start": "key:a", "seed": "key:b", "where": '{"weight": {"lte": 1}}'}
    kept = {name: value for name, value in (case.query or {}).items() if name not in DEFLECTING}
    case.query = {name: existing.get(name, value) for name, value in kept.items()}
    case.headers = {}
    if case.path_parameters:
        case.path_parameters = {"coordinate": "key:b", "name": "default", "id": "1"}
    if isinstance(case.body, dict):
        ends = {name: {"key": "a"} for name in ("from_coord", "to_coord") if name in case.body}
        case.body = {name: value for name, value in case.body.items() if name not in DEFLECTING} | ends


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_no_operation_fails(base_url: str, method: str, path: str, mode: GenerationMode) -> None:
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method]

    @given(case=operation.as_strategy(generation_mode=mode), steered=st.booleans())
    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    def run(case: Any, steered: bool) -> None:
        if steered and mode is VALID:
            steer(case)
        answer = case.call(base_url=base_url)
        assert answer.status_code < 500, (answer.status_code, answer.text, case.as_curl_command())

    run()
