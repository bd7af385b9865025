"""The shipped consumers: webhook, audit and mirror, on real servers, files and databases."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import random
import stat
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr
from scripted_server import Reply, ScriptedServer, scripted_server
from served import serving

from sfm_consumers.contract import Poison, Received, Retry
from sfm_consumers.effects import audit, audit_verify, mirror, mirror_source, mirror_verify, webhook
from sfm_consumers.effects.audit_chain import Broken
from sfm_consumers.effects.http_answers import MAX_PAUSE_SECONDS, retry_after_seconds
from sfm_consumers.effects.mirror_http import Remote
from sfm_consumers.effects.mirror_state import MirrorState
from sfm_consumers.effects.mirror_tables import open_tables
from sfm_graph.adapters.buses.kafka_records import without_states
from sfm_graph.app import app_for
from sfm_graph.domain.change import Change, Operation
from sfm_graph.domain.event import LINK_EVENTS, MEMORY_EVENTS, Event, events_of
from sfm_graph.domain.identity import Entity, MemoryRef
from sfm_graph.errors import SettingsError, SfmError
from sfm_graph.runtime import open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.settings import load_settings

SECRET = "whsec_" + base64.b64encode(b"a key of more than sixteen bytes").decode()
SETTINGS = load_settings()
LOG = "0b7c1f6e"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Json = dict[str, Any]


def received(event: Event, partition: int = 0, position: int = 0) -> Received:
    return Received(event.topic, partition, str(position), event.key, dict(event.attributes), event.data)


def change(number: int, entity_id: int = 7, **fields: Any) -> Received:
    """An event of one memory."""
    given = {
        "id": number, "xid": 1, "namespace": "demo", "namespace_id": 1, "entity": Entity.MEMORY,
        "entity_id": entity_id, "operation": Operation.UPDATE, "at": AT, "before_json": None,
        "after_json": '{"content": "caf\\u00e9", "importance": 1.5}', **fields,
    }  # fmt: skip
    return received(events_of(Change(**given), LOG)[0])


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as opened:
        yield opened


# Webhook


async def opened_webhook(monkeypatch: pytest.MonkeyPatch, server: ScriptedServer, **options: str) -> webhook.Webhook:
    monkeypatch.setenv("SFM_WEBHOOK_SECRET", options.pop("secret", SECRET))
    consumer = await webhook.open(SETTINGS, {"url": f"{server.url}/hook", **options})
    assert isinstance(consumer, webhook.Webhook)
    return consumer


def check_signature(key: bytes, headers: dict[str, str], body: bytes, place: int = 0) -> None:
    """As a receiver would, from the scheme's text."""
    signed = headers["webhook-id"].encode() + b"." + headers["webhook-timestamp"].encode() + b"." + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"].split(" ")[place] == f"v1,{expected}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60


async def test_a_webhook_gets_signed_events_in_binary_mode(
    monkeypatch: pytest.MonkeyPatch, server: ScriptedServer
) -> None:
    server.script(Reply(status=204))
    other = "another-key-that-is-being-retired"
    consumer = await opened_webhook(monkeypatch, server, secret=f"{SECRET} {other}")
    event = change(5, namespace="dé mo")
    await consumer.handle([event])
    await consumer.aclose()
    (request,) = server.requests
    assert request.path == "/hook"
    assert request.body == event.value()
    headers = request.headers
    assert headers["content-type"] == "application/json"
    assert headers["idempotency-key"] == headers["webhook-id"] == headers["ce-id"] == f"{LOG}.5"
    assert headers["ce-subject"] == "d%C3%A9%20mo/7"
    assert headers["ce-type"] == "sfm_graph.memory.update"
    check_signature(b"a key of more than sixteen bytes", headers, event.data)
    check_signature(other.encode(), headers, event.data, place=1)


async def test_a_batch_is_one_signed_body(monkeypatch: pytest.MonkeyPatch, server: ScriptedServer) -> None:
    server.script(Reply())
    consumer = await opened_webhook(monkeypatch, server, batch="true")
    events = [change(5), change(6)]
    await consumer.handle(events)
    await consumer.aclose()
    (request,) = server.requests
    assert request.headers["content-type"] == "application/cloudevents-batch+json"
    assert [one["data"] for one in request.body] == [event.value() for event in events]
    assert [one["id"] for one in request.body] == [event.id for event in events]
    assert {one["datacontenttype"] for one in request.body} == {"application/json"}
    check_signature(b"a key of more than sixteen bytes", request.headers, batch_body(events))


def batch_body(events: Sequence[Received]) -> bytes:
    items = [
        orjson.dumps({**event.attributes, "datacontenttype": "application/json"})[:-1]
        + b',"data":'
        + event.data
        + b"}"
        for event in events
    ]
    return b"[" + b",".join(items) + b"]"


@pytest.mark.parametrize("status", [302, 401, 403, 404, 405, 407, 408, 421, 425, 429, 500, 503])
async def test_what_passes_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, server: ScriptedServer, status: int
) -> None:
    server.script(Reply(status=status, headers={"Retry-After": "7", "Location": "/elsewhere"}), Reply())
    consumer = await opened_webhook(monkeypatch, server)
    with pytest.raises(Retry) as refusal:
        await consumer.handle([change(5)])
    assert refusal.value.after_seconds == 7
    await consumer.handle([change(5)])
    await consumer.aclose()
    assert [request.path for request in server.requests] == ["/hook", "/hook"]
    assert len({request.headers["webhook-id"] for request in server.requests}) == 1


@pytest.mark.parametrize("answer", [b'Content-Length: 11\r\n\r\n{"ok":true}', b"Content-Length: 0\r\n\r\n"])
async def test_posts_share_a_connection(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(length.partition(b":")[2]))
                writer.write(b"HTTP/1.1 200 OK\r\n" + answer)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    monkeypatch.setenv("SFM_WEBHOOK_SECRET", SECRET)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        consumer = await webhook.open(SETTINGS, {"url": f"http://127.0.0.1:{port}/"})
        await consumer.handle([change(number) for number in range(5)])
        await consumer.aclose()
    assert connections == 1


async def test_what_was_delivered_is_not_sent_again_with_the_rest(
    monkeypatch: pytest.MonkeyPatch, server: ScriptedServer
) -> None:
    server.script(Reply(), Reply(status=503), Reply())
    consumer = await opened_webhook(monkeypatch, server)
    events = [change(5), change(6)]
    with pytest.raises(Retry):
        await consumer.handle(events)
    await consumer.handle(events)
    await consumer.aclose()
    assert [request.headers["ce-sequence"] for request in server.requests] == ["5", "6", "6"]


@pytest.mark.parametrize("batch", ["false", "true"])
async def test_a_refused_event_is_poison(monkeypatch: pytest.MonkeyPatch, server: ScriptedServer, batch: str) -> None:
    def judge(request: Any) -> Reply:
        bodies = request.body if isinstance(request.body, list) else [request.body]
        return Reply(status=422, body=b"x" * 500) if any(one.get("change") == 6 or one.get("sequence") == "6"
                                                         for one in bodies) else Reply()  # fmt: skip

    server.script(judge)
    consumer = await opened_webhook(monkeypatch, server, batch=batch)
    events = [change(5), change(6), change(8)]
    with pytest.raises(Poison) as poison:
        await consumer.handle(events)
    await consumer.aclose()
    assert poison.value.event is events[1]
    assert poison.value.reason == "the webhook answered 422: " + "x" * 200


async def test_what_a_receiver_says_cannot_write_into_a_terminal_or_log(
    monkeypatch: pytest.MonkeyPatch, server: ScriptedServer
) -> None:
    server.script(Reply(status=422, body="no\r\nERROR forged \x1b[31m\u202e\u00e9\x00".encode()))
    consumer = await opened_webhook(monkeypatch, server)
    with pytest.raises(Poison) as poison:
        await consumer.handle([change(5)])
    await consumer.aclose()
    assert poison.value.reason == r"the webhook answered 422: no\r\nERROR forged \x1b[31m\u202e\u00e9\x00".replace(
        r"\u00e9", "\u00e9"
    )


async def test_a_receiver_that_is_gone_gets_nothing_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, server: ScriptedServer
) -> None:
    server.script(Reply(status=410))
    consumer = await opened_webhook(monkeypatch, server)
    with pytest.raises(Retry) as refusal:
        await consumer.handle([change(5), change(6)])
    await consumer.aclose()
    assert refusal.value.after_seconds == MAX_PAUSE_SECONDS
    assert len(server.requests) == 1


async def test_a_slow_or_absent_receiver_is_a_retry(monkeypatch: pytest.MonkeyPatch, server: ScriptedServer) -> None:
    server.script(Reply(after_seconds=1.0))
    consumer = await opened_webhook(monkeypatch, server, timeout_ms="50")
    with pytest.raises(Retry):
        await consumer.handle([change(5)])
    await consumer.aclose()
    monkeypatch.setenv("SFM_WEBHOOK_URL", "http://127.0.0.1:9")
    absent = await webhook.open(SETTINGS, {})
    with pytest.raises(Retry, match="cannot be reached"):
        await absent.handle([change(5)])
    await absent.aclose()


def test_retry_after_is_read_and_capped() -> None:
    soon = datetime.fromtimestamp(time.time() + 100, tz=UTC)
    read = retry_after_seconds
    assert read("12") == 12
    assert read("9" * 5_000) == read("100000") == MAX_PAUSE_SECONDS
    found = read(format_datetime(soon, usegmt=True))
    assert found is not None
    assert 60 < found <= 100
    assert read("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert read(None) is read("soon") is read("-5") is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "SFM_WEBHOOK_URL is required"),
        ({"url": "http://example.org/"}, "https"),
        ({"url": "https://user:word@example.org/"}, "name or password"),
        ({"url": "ftp://example.org/"}, "must look like"),
        ({"url": "https://example.org:99999/"}, "must look like"),
        ({"url": "https://example.org/ x"}, "must look like"),
        ({"url": "https://example.org", "timeout_ms": "1e3"}, "timeout_ms"),
        ({"url": "https://example.org", "batch": "perhaps"}, "true or false"),
        ({"url": "https://example.org", "topics": "other"}, "topics"),
        ({"url": "https://example.org", "secret": SECRET}, "SFM_WEBHOOK_SECRET"),
        ({"url": "https://example.org", "colour": "red"}, "takes"),
    ],
)
async def test_wrong_options_are_named(monkeypatch: pytest.MonkeyPatch, options: dict[str, str], named: str) -> None:
    monkeypatch.setenv("SFM_WEBHOOK_SECRET", SECRET)
    with pytest.raises(SettingsError, match=named):
        await webhook.open(SETTINGS, options)


async def test_a_mirror_of_the_source_in_itself_is_refused(tmp_path: Path) -> None:
    options = {
        "target": "http://localhost:9595/",
        "source": "http://127.0.0.1:9595",
        "state": str(tmp_path / "state"),
    }
    with pytest.raises(SettingsError, match="the source itself"):
        await mirror.open(SETTINGS, options)
    assert not (tmp_path / "state").exists()


async def test_secrets_come_from_the_environment_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {"url": "https://example.org"}
    with pytest.raises(SettingsError, match="SFM_WEBHOOK_SECRET"):
        await webhook.open(SETTINGS, given)
    monkeypatch.setenv("SFM_WEBHOOK_SECRET_FILE", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="cannot read"):
        await webhook.open(SETTINGS, given)
    for wrong in ("short", "whsec_?"):
        (tmp_path / "none").write_text(wrong)
        with pytest.raises(SettingsError, match="must"):
            await webhook.open(SETTINGS, given)
    (tmp_path / "none").write_text(f"{SECRET}\n")
    await (await webhook.open(SETTINGS, given)).aclose()


# Audit


async def written(path: Path, *calls: Sequence[Received], **options: str) -> None:
    consumer = await audit.open(SETTINGS, {"file": str(path), **options})
    try:
        for events in calls:
            await consumer.handle(events)
    finally:
        await consumer.aclose()


def files_in(folder: Path, part: str = "") -> list[Path]:
    return sorted(one for one in folder.iterdir() if part in one.name)


def sequences(path: Path) -> list[int]:
    return [orjson.loads(line)["sequence"] for line in path.read_bytes().splitlines()]


async def test_an_audit_holds_each_event_once(tmp_path: Path) -> None:
    path = tmp_path / "audit.ndjson"
    end = {"entity": Entity.NAMESPACE, "entity_id": 1, "operation": Operation.ERASE, "after_json": None}
    ends = [received(one) for one in events_of(Change(9, 1, "demo", 1, at=AT, before_json=None, **end), LOG)]  # type: ignore[arg-type]
    await written(path, [change(1), change(2), change(2)], [change(3, 8), change(1)], ends[:1], ends[1:])
    # What the runner's ledger forgot, the file still knows.
    await written(path, [change(2), change(3, 8), change(4), *ends])
    assert sequences(path) == [1, 2, 3, 9, 4]
    first = orjson.loads(path.read_bytes().splitlines()[0])
    assert first["after"] == {"content": "café", "importance": 1.5}
    assert (first["id"], first["entity_id"], first["operation"]) == (f"{LOG}.1", 7, "update")
    found = audit_verify.verify_file(path)
    assert found.lines == 5
    assert found.last == orjson.loads(path.read_bytes().splitlines()[-1])["hash"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_hash_of_a_line_is_what_the_documentation_says(tmp_path: Path) -> None:
    path = tmp_path / "audit.ndjson"
    asyncio.run(written(path, [change(1), change(2)]))
    prev = "0" * 64
    for line in path.read_bytes().splitlines():
        record = orjson.loads(line)
        digest = record.pop("hash")
        assert record["prev"] == prev
        canonical = orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
        assert hashlib.sha256(prev.encode() + canonical).hexdigest() == digest
        prev = digest


async def test_tampering_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "audit.ndjson"
    await written(path, [change(number) for number in range(1, 6)])
    lines = path.read_bytes().splitlines(keepends=True)
    whole = b"".join(lines)
    assert audit_verify.main([str(path)]) == 0
    last = capsys.readouterr().out.split()[-1]
    changes = {
        "changed": [*lines[:2], lines[2].replace(b"caf", b"tea"), *lines[3:]],
        "removed": [*lines[:2], *lines[3:]],
        "swapped": [lines[0], lines[2], lines[1], *lines[3:]],
        "twice": [*lines[:2], *lines[1:]],
        "spaces": [lines[0].replace(b'":', b'": ', 1), *lines[1:]],
        "no start": lines[1:],
        "not JSON": [*lines[:4], b"{]\n"],
        "torn": [*lines[:4], lines[4][:-5]],
    }
    for what, tampered in changes.items():
        path.write_bytes(b"".join(tampered))
        assert audit_verify.main([str(path)]) == 1, what
        assert "line " in capsys.readouterr().err
    path.write_bytes(b"".join(lines[:4]))
    assert audit_verify.main([str(path)]) == 0, "a cut end shows by its last hash alone"
    assert audit_verify.main([str(path), "--last", last]) == 1
    path.write_bytes(whole)
    assert audit_verify.main([str(path), "--last", last]) == 0
    assert audit_verify.main([str(tmp_path / "none")]) == 2


@pytest.mark.parametrize("cut", [1, 20, 10_000])
async def test_a_torn_line_is_cut_off_and_its_event_written_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "audit.ndjson"
    # The second is longer than a block that is read at a time.
    large = change(2, after_json=orjson.dumps({"content": "x" * 3_000_000}).decode())
    await written(path, [change(1), large])
    path.write_bytes(path.read_bytes()[:-cut])
    await written(path, [change(1), large, change(3)])
    assert sequences(path) == [1, 2, 3]
    assert audit_verify.verify_file(path).lines == 3


async def test_an_audit_is_rotated_and_its_chain_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "audit [1].ndjson"
    for number in range(1, 21):
        await written(path, [change(number)], max_bytes="1500")
    files = files_in(tmp_path, ".ndjson.0")
    assert len(files) > 3
    assert files[0].name == "audit [1].ndjson.000001"
    assert all(one.stat().st_size <= 1_500 for one in [path, *files])
    assert audit_verify.verify_file(path).lines == 20
    # A crash right after the renaming: there is no current file.
    path.rename(tmp_path / f"audit [1].ndjson.{len(files) + 1:06}")
    await written(path, [change(20), change(21)], max_bytes="1500")
    assert sequences(path) == [21]
    assert audit_verify.verify_file(path).lines == 21
    files[1].unlink()
    with pytest.raises(Broken):
        audit_verify.verify_file(path)


async def test_an_audit_remembers_so_many_keys(tmp_path: Path) -> None:
    path = tmp_path / "audit.ndjson"
    await written(path, [change(number, entity_id=number) for number in range(1, 6)])
    await written(path, [change(number, entity_id=number) for number in (5, 4, 1)], remember="2")
    assert sequences(path) == [1, 2, 3, 4, 5, 1]


async def test_two_processes_do_not_write_one_audit(tmp_path: Path) -> None:
    path = tmp_path / "audit.ndjson"
    first = await audit.open(SETTINGS, {"file": str(path)})
    with pytest.raises(SettingsError, match="another process"):
        await audit.open(SETTINGS, {"file": str(path)})
    await first.aclose()
    await written(path, [change(1)])


async def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.ndjson"
    consumer = await audit.open(SETTINGS, {"file": str(path)})
    await consumer.handle([change(1)])
    write = audit.AuditFile._write

    def half(self: audit.AuditFile, data: bytes) -> None:
        write(self, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit.AuditFile, "_write", half)
    with pytest.raises(OSError, match="No space"):
        await consumer.handle([change(2), change(3)])
    monkeypatch.setattr(audit.AuditFile, "_write", write)
    await consumer.handle([change(2), change(3)])
    await consumer.aclose()
    assert sequences(path) == [1, 2, 3]
    assert audit_verify.verify_file(path).lines == 3


async def test_a_file_that_is_no_audit_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("one\ntwo\n")
    with pytest.raises(SettingsError, match="does not end in a line of an audit"):
        await audit.open(SETTINGS, {"file": str(path)})
    assert path.read_text() == "one\ntwo\n"
    for options in ({}, {"file": str(tmp_path / "no" / "folder")}, {"file": str(path), "max_bytes": "12"}):
        with pytest.raises(SettingsError):
            await audit.open(SETTINGS, options)


async def test_an_audit_tells_what_was_truncated_from_what_was_erased(tmp_path: Path) -> None:
    consumer = await audit.open(SETTINGS, {"file": str(tmp_path / "audit")})
    await consumer.handle([replace(one, data=without_states(one.data)) for one in [change(5)]] + [change(6)])
    await consumer.aclose()
    lines = [orjson.loads(line) for line in (tmp_path / "audit").read_bytes().splitlines()]
    assert [line.get("truncated") for line in lines] == [True, None]
    assert audit_verify.verify_file(tmp_path / "audit").lines == 2


@pytest.mark.parametrize("missing", ["entity", "namespace_id"])
async def test_a_line_without_its_fields_is_none_of_an_audit(tmp_path: Path, missing: str) -> None:
    file = tmp_path / "audit"
    consumer = await audit.open(SETTINGS, {"file": str(file)})
    await consumer.handle([change(5)])
    await consumer.aclose()
    line = orjson.loads(file.read_bytes())
    del line[missing]
    file.write_bytes(orjson.dumps(line) + b"\n")
    with pytest.raises(SettingsError, match="not a line of an audit"):
        await audit.open(SETTINGS, {"file": str(file)})


async def test_an_audit_in_a_table(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFM_AUDIT_POSTGRES_URL", as_url(database_dsn))
    consumer = await audit.open(SETTINGS, {})
    gone = change(3, operation=Operation.ERASE, after_json=None)
    await consumer.handle([change(1), change(2)])
    await consumer.handle([change(2), gone])
    await consumer.aclose()
    again = await audit.open(SETTINGS, {})
    await again.handle([change(1), gone])
    await again.aclose()
    async with await psycopg.AsyncConnection.connect(database_dsn) as connection:
        rows = await connection.execute("select id, operation, after ->> 'content' from sfm_audit order by sequence")
        assert await rows.fetchall() == [
            (f"{LOG}.1", "update", "café"), (f"{LOG}.2", "update", "café"), (f"{LOG}.3", "erase", None)
        ]  # fmt: skip


async def test_a_table_tells_what_was_truncated_also_one_of_an_earlier_release(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFM_AUDIT_POSTGRES_URL", as_url(database_dsn))
    await (await audit.open(SETTINGS, {})).aclose()
    async with await psycopg.AsyncConnection.connect(database_dsn, autocommit=True) as connection:
        await connection.execute("alter table sfm_audit drop column truncated")
        for _ in range(2):
            consumer = await audit.open(SETTINGS, {})
            cut = change(5)
            await consumer.handle([replace(cut, data=without_states(cut.data)), change(6)])
            await consumer.aclose()
        rows = await connection.execute("select sequence, truncated from sfm_audit order by sequence")
        assert await rows.fetchall() == [(5, True), (6, False)]


@pytest.mark.parametrize(
    "wrong", ["postgresql://u:geheim@h/d?colour=red", "postgresql://u:geheim@[h/d", "x://geheim"]
)
async def test_a_malformed_database_url_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv("SFM_AUDIT_POSTGRES_URL", wrong)
    with pytest.raises(SettingsError, match="SFM_AUDIT_POSTGRES_URL") as refusal:
        await audit.open(SETTINGS, {})
    assert "geheim" not in str(refusal.value)


async def test_what_no_row_holds_is_poison(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFM_AUDIT_POSTGRES_URL", as_url(database_dsn))
    consumer = await audit.open(SETTINGS, {})
    bad = change(2, after_json='{"content": "a\\u0000b"}')
    with pytest.raises(Poison) as poison:
        await consumer.handle([change(1), bad, change(3)])
    assert poison.value.event is bad
    await consumer.aclose()
    async with await psycopg.AsyncConnection.connect(database_dsn) as connection:
        rows = await connection.execute("select sequence from sfm_audit order by sequence")
        assert await rows.fetchall() == [(1,)]


async def test_an_audit_whose_database_is_away_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFM_AUDIT_POSTGRES_URL", "postgresql://nobody@127.0.0.1:9/none")
    with pytest.raises(Retry):
        await audit.open(SETTINGS, {"timeout_ms": "300"})


def as_url(dsn: str) -> str:
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    host, port = parts.get("host", ""), parts.get("port", 5432)
    password = f":{parts['password']}" if parts.get("password") else ""
    return f"postgresql://{parts.get('user')}{password}@/{parts['dbname']}?host={host}&port={port}"


# Mirror


class Unreliable(httpx.AsyncBaseTransport):
    """Loses some requests on their way, and some answers."""

    def __init__(self, inner: httpx.AsyncBaseTransport, chance: random.Random) -> None:
        self._inner = inner
        self._chance = chance
        self.loss = 0.0
        self.answers_to_lose = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._chance.random() < self.loss:
            raise httpx.ConnectError("lost on its way")
        response = await self._inner.handle_async_request(request)
        self.answers_to_lose -= 1
        if self._chance.random() < self.loss or self.answers_to_lose >= 0:
            raise httpx.ReadError("the answer was lost")
        return response


class Tap:
    """The events of a source, as a relay would make them, from its change log."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._last = 0
        self._names: dict[int, str] = {}

    async def take(self) -> list[Event]:
        """Those of the changes since the last call."""
        async with await psycopg.AsyncConnection.connect(self._dsn) as connection:
            for one in await (await connection.execute("select id, name from namespaces")).fetchall():
                self._names[one[0]] = one[1]
            rows = await (
                await connection.execute(
                    "select id, namespace_id, entity, entity_id, operation, at, before::text, after::text"
                    " from changes where id > %s and operation <> 'reindex' order by id",
                    (self._last,),
                )
            ).fetchall()
        events: list[Event] = []
        for number, namespace_id, entity, entity_id, operation, at, before, after in rows:
            self._last = number
            name = self._names.get(namespace_id) or orjson.loads(before or "{}").get("name")
            if name is not None:
                events += events_of(
                    Change(number, 1, name, namespace_id, Entity(entity), entity_id, Operation(operation), at, before,
                           after), LOG,
                )  # fmt: skip
        return events


PARTITIONS = 3


def partitioned(events: Sequence[Event]) -> dict[tuple[str, int], list[Received]]:
    """As a bus would hold them: each key in a partition of its topic, the end of a namespace in all."""
    found: dict[tuple[str, int], list[Received]] = {
        (topic, number): [] for topic in (MEMORY_EVENTS, LINK_EVENTS) for number in range(PARTITIONS)
    }
    for event in events:
        places = range(PARTITIONS) if event.key is None else [sum(event.key.encode()) % PARTITIONS]
        for place in places:
            queue = found[event.topic, place]
            queue.append(received(event, place, len(queue)))
    return found


@contextlib.asynccontextmanager
async def served(dsn: str) -> AsyncIterator[tuple[Services, httpx.AsyncBaseTransport]]:
    settings = load_settings(postgres_url=SecretStr(dsn), pool_max_size=8, maintenance_interval_ms=3_600_000)
    async with open_runtime(settings, maintenance=False) as services:
        app = app_for(services)
        async with app.router.lifespan_context(app):
            yield services, httpx.ASGITransport(app)


@pytest.fixture
def target_dsn(database_dsn: str, server_dsn: str) -> Iterator[str]:
    name = f"{psycopg.conninfo.conninfo_to_dict(database_dsn)['dbname']}_target"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template sfm_template").format(sql.Identifier(name)))
        yield make_conninfo(server_dsn, dbname=name)
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


class Pair:
    """A source, a target and what mirrors the one into the other."""

    def __init__(
        self, source: Services, routes: tuple[httpx.AsyncBaseTransport, httpx.AsyncBaseTransport], tap: Tap,
        state: Path, seed: int = 0,
    ) -> None:  # fmt: skip
        self.source = source
        self.tap = tap
        self.chance = random.Random(seed)
        self.routes = [Unreliable(route, self.chance) for route in routes]
        self._state = state

    def remote(self, number: int) -> Remote:
        return Remote("http://localhost:9595", None, 30.0, transport=self.routes[number])

    def mirror(
        self, *, reads: bool = False, names: dict[str, str] | None = None, linkers: bool = True
    ) -> mirror.Mirror:
        state = MirrorState(open_tables(self._state, "a test"))
        source = self.remote(0) if reads else None
        return mirror.Mirror(
            state, self.remote(1), source, names or {}, linkers_off=mirror.LINKERS if linkers else ()
        )

    async def rows(self, number: int, namespace: str, *, made: bool = True) -> mirror_verify.Rows:
        return await mirror_verify.rows_of(self.remote(number), namespace, made=made)

    async def equal(self, namespace: str, target: str | None = None, *, made: bool = True) -> int:
        """How many rows both hold; fails when they differ."""
        source = await self.rows(0, namespace, made=made)
        found = await self.rows(1, target or namespace, made=made)
        assert list(mirror_verify.differences(source, found)) == []
        return len(source)


@pytest.fixture
async def pair(database_dsn: str, target_dsn: str, tmp_path: Path) -> AsyncIterator[Pair]:
    async with served(database_dsn) as (source, here), served(target_dsn) as (_, there):
        yield Pair(source, (here, there), Tap(database_dsn), tmp_path / "mirror.sqlite")


COORDINATES = [[float(number), 0.0] for number in range(7)]
KEYS = [f"k{number}" for number in range(4)]
TITLES = ["Ada Lovelace", "Analytical Engine", "Charles Babbage"]


async def act(pair: Pair, namespace: str) -> None:
    """One random write to the source; what it refuses is no write."""
    chance, writes, links = pair.chance, pair.source.memory_writes, pair.source.links
    one, other = (MemoryRef(coordinate=tuple(chance.choice(COORDINATES))) for _ in range(2))
    what = chance.choices(
        ["store", "patch", "link", "unlink", "relink", "forget", "erase", "end"], [30, 8, 30, 5, 6, 8, 4, 1.5]
    )[0]
    period = chance.choice([{}, {"valid_from": "2024-05-01T00:00:00.25+02:00"}])
    fields = {"type": chance.choice(["a", "b"]), "weight": chance.choice([0, 1, 2.5]), **period}
    with contextlib.suppress(SfmError):
        match what:
            case "store":
                await writes.store(namespace, {
                    "coordinate": chance.choice(COORDINATES), "key": chance.choice([None, *KEYS]),
                    "title": chance.choice([None, *TITLES]), "content": f"met {chance.choice(TITLES)} again",
                    "payload": {"n": chance.choice([1, 1.0, 1e300, -0.0, None, "é"]), "session": "s"},
                    "kind": chance.choice(["episodic", "entity"]), "importance": chance.random(), **period,
                })  # fmt: skip
            case "patch":
                await writes.update(namespace, one, {"title": chance.choice([None, *TITLES]), "payload": {}})
            case "link":
                await links.link(namespace, list(one.coordinate or ()), list(other.coordinate or ()),
                                 {**fields, "properties": {"p": [chance.random()]}})  # fmt: skip
            case "unlink":
                await links.unlink_between(namespace, one, other, None)
            case "relink":
                await links.unlink_between(namespace, one, other, None)
                await links.link(namespace, list(one.coordinate or ()), list(other.coordinate or ()), fields)
            case "forget":
                await writes.forget_many(namespace, [one])
                if chance.random() < 0.5:  # a key or place that is taken again at once
                    await writes.store(namespace, {"coordinate": list(one.coordinate or ()), "content": "anew",
                                                   "key": chance.choice(KEYS)})  # fmt: skip
            case "erase":
                await writes.erase_many(namespace, [one])
            case "end":
                await pair.source.namespaces.delete(namespace, confirm=namespace)


async def delivered(pair: Pair, opened: mirror.Mirror, events: Sequence[Event], **kind: bool) -> mirror.Mirror:
    """Hand events over as a runner would in a bad hour; the mirror as it is at the end."""
    queues = {place: queue for place, queue in partitioned(events).items() if queue}
    places = dict.fromkeys(queues, 0)
    chance = pair.chance
    while any(places[place] < len(queue) for place, queue in queues.items()):
        place = chance.choice([one for one, queue in queues.items() if places[one] < len(queue)])
        # Now and then from further back: a rebalance, or a ledger that was lost.
        first = max(places[place] - chance.choice([0, 0, 0, 2, 50]), 0)
        batch = queues[place][first : places[place] + chance.randint(1, 8)]
        pair.routes[1].loss = chance.choice([0.0, 0.0, 0.1])
        try:
            await opened.handle(batch)
            places[place] = max(places[place], first + len(batch))
        except Retry:
            pass
        pair.routes[1].loss = 0.0
        if chance.random() < 0.03:
            await opened.aclose()
            opened = pair.mirror(**kind)
            await opened.begin()
    return opened


@pytest.mark.parametrize("seed", range(8))
async def test_the_mirror_equals_the_source_whatever_comes_in_whatever_order(pair: Pair, seed: int) -> None:
    pair.chance.seed(seed)
    events: list[Event] = []
    for _ in range(70):
        await act(pair, pair.chance.choice(["one", "two"]))
        # A relay that is late sees states purged, and of an ended namespace its end alone.
        if pair.chance.random() < 0.6:
            events += await pair.tap.take()
    events += await pair.tap.take()
    opened = await delivered(pair, pair.mirror(), events)
    try:
        assert await pair.equal("one") + await pair.equal("two") > 0
        assert opened._state.waiting() == (0, 0)
    finally:
        await opened.aclose()


@pytest.mark.parametrize("seed", range(4))
async def test_a_source_is_read_first_and_then_followed(pair: Pair, seed: int) -> None:
    pair.chance.seed(100 + seed)
    events: list[Event] = []
    for _ in range(40):
        await act(pair, "one")
        events += await pair.tap.take()
    # What the topic no longer holds; the end of a namespace before this one may be among what it does.
    del events[: pair.chance.randint(0, len(events))]
    opened = pair.mirror(reads=True)
    await opened.begin()
    try:
        assert await pair.equal("one") > 0
        for _ in range(40):
            await act(pair, "one")
            events += await pair.tap.take()
        opened = await delivered(pair, opened, events, reads=True)
        assert await pair.equal("one") > 0
    finally:
        await opened.aclose()


async def test_a_hub_is_read_with_all_its_links(pair: Pair) -> None:
    writes, links = pair.source.memory_writes, pair.source.links
    await writes.store_many("one", [{"key": f"m{number}", "content": "x"} for number in range(130)])
    for number in range(120):
        await links.link("one", {"key": "m0"}, {"key": f"m{number}"}, {"type": "to"})
    opened = pair.mirror(reads=True)
    await opened.begin()
    await opened.aclose()
    assert await pair.equal("one") == 250


async def test_links_of_linkers_are_left_to_the_target(pair: Pair) -> None:
    writes = pair.source.memory_writes
    await writes.store("one", {"key": "ada", "title": "Ada Lovelace", "content": "a"})
    await writes.store("one", {"key": "b", "content": "met Ada Lovelace"})
    await pair.source.links.link("one", {"key": "ada"}, {"key": "b"}, {"type": "knows"})
    opened = pair.mirror(names={"one": "copy"}, linkers=False)
    await opened.handle([received(one) for one in await pair.tap.take()])
    await opened.aclose()
    assert await pair.equal("one", "copy", made=False) == 3
    assert await pair.equal("one", "copy") == 4, "the target's own linker made the other one"
    assert await pair.rows(1, "one") == {}


async def test_the_end_of_a_namespace_leaves_what_others_wrote(pair: Pair) -> None:
    await pair.source.memory_writes.store("one", {"key": "a", "content": "a"})
    await pair.source.memory_writes.store("other", {"key": "x", "content": "x"})
    opened = pair.mirror()
    await opened.handle([received(one) for one in await pair.tap.take()])
    await pair.remote(1).call(
        "POST", "/store", body={"namespace": "one", "key": "own", "content": "the target's own"}
    )
    await pair.source.namespaces.delete("one", confirm="one")
    ends = [received(one) for one in await pair.tap.take()]
    assert len(ends) == 2
    for _ in range(2):
        for one in ends:
            await opened.handle([one])
    await opened.aclose()
    assert len(await pair.rows(1, "one")) == 1
    assert await pair.equal("other") == 1


async def test_erased_content_is_left_nowhere(pair: Pair, target_dsn: str, tmp_path: Path) -> None:
    await pair.source.memory_writes.store("one", {"key": "a", "content": "a very private matter"})
    created = await pair.tap.take()
    opened = pair.mirror()
    await opened.handle([received(one) for one in created])
    await pair.source.memory_writes.forget_many("one", [MemoryRef(key="a")])
    await opened.handle([received(one) for one in await pair.tap.take()])
    memory_id = int(orjson.loads(created[0].data)["entity_id"])
    await pair.source.memory_writes.erase_many("one", [MemoryRef(id=memory_id)])  # type: ignore[arg-type]
    await opened.handle([received(one) for one in await pair.tap.take()])
    await opened.handle([received(one) for one in created])  # a late redelivery
    await opened.aclose()
    async with await psycopg.AsyncConnection.connect(target_dsn) as connection:
        rows = await (await connection.execute("select coalesce(before, after) from changes")).fetchall()
        assert rows
        assert all(one[0] is None for one in rows)
    for file in files_in(tmp_path):
        assert b"private matter" not in file.read_bytes()


async def test_what_the_target_refuses_is_poison_and_the_rest_goes_on(pair: Pair) -> None:
    opened = pair.mirror()
    await pair.remote(1).call("POST", "/store", body={"namespace": "one", "coordinate": [9], "key": "taken",
                                                      "content": "x"})  # fmt: skip
    store = pair.source.memory_writes.store
    await store("one", {"coordinate": [1], "key": "free", "content": "a"})
    await store("one", {"coordinate": [2], "key": "taken", "content": "b"})
    await store("one", {"coordinate": [3], "content": "c"})
    events = [received(one) for one in await pair.tap.take()]
    with pytest.raises(Poison, match="coordinate_immutable") as poison:
        await opened.handle(events)
    assert poison.value.event is events[1]
    assert len(await pair.rows(1, "one")) == 3
    # Somebody makes room; the event is not taken for one that was handled.
    await pair.remote(1).call("DELETE", "/memories/9", query={"namespace": "one"})
    await opened.handle([events[1]])
    await opened.aclose()
    assert await pair.equal("one") == 3


async def test_malformed_events_are_poison(pair: Pair) -> None:
    opened = pair.mirror()
    await pair.source.memory_writes.store("one", {"coordinate": [1], "content": "a"})
    (good,) = await pair.tap.take()
    value = orjson.loads(good.data)
    wrong: list[Json] = [
        {**value, "namespace_id": "x"}, {**value, "namespace": 5}, {**value, "entity": "tree"},
        {**value, "after": []}, {**value, "after": {"version": 1}}, {**value, "before": [1]},
        {**value, "after": {**value["after"], "key": ["k"]}}, {**value, "entity_id": None},
        {**value, "after": {**value["after"], "coordinate": "here"}}, {**value, "entity": "link"},
        {**value, "entity_id": 1e300}, {},
    ]  # fmt: skip
    for one in wrong:
        event = received(Event(good.topic, good.key, LOG, 1, good.attributes, orjson.dumps(one), ends=False))
        with pytest.raises(Poison) as poison:
            await opened.handle([event])
        assert poison.value.event is event
    await opened.handle([received(good)])
    await opened.aclose()
    assert await pair.equal("one") == 1


async def test_a_restored_source_is_read_anew(pair: Pair) -> None:
    await pair.source.memory_writes.store("one", {"key": "a", "content": "a"})
    await pair.source.memory_writes.store("one", {"key": "lost", "content": "after the dump"})
    old = await pair.tap.take()
    opened = pair.mirror()
    await opened.handle([received(one) for one in old])
    await pair.source.memory_writes.forget_many("one", [MemoryRef(key="lost")])
    await pair.tap.take()
    await pair.source.memory_writes.store("one", {"key": "a", "content": "changed since"})
    (new,) = await pair.tap.take()
    attributes = {**dict(new.attributes), "source": "urn:sfm-graph:restored"}
    restored = Received(new.topic, 0, "1", new.key, attributes, new.data)
    with pytest.raises(Retry, match="restored"):
        await opened.handle([restored])
    assert len(await pair.rows(1, "one")) == 2, "nothing is removed while the source cannot be read"
    await opened.aclose()
    opened = pair.mirror(reads=True)
    await opened.begin()
    await opened.handle([restored])
    await opened.handle([received(one) for one in old])  # of the log that was left
    await opened.aclose()
    assert await pair.equal("one") == 1


async def test_a_state_file_belongs_to_one_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.sqlite"
    open_tables(path, "one target").close()
    with pytest.raises(ValueError, match="another mirror"):
        open_tables(path, "another target")
    monkeypatch.setenv("SFM_MIRROR_STATE", str(path))
    for options, named in (
        ({"target": "http://127.0.0.1:9"}, "another mirror"),
        ({"target": "http://127.0.0.1:9", "reload": "true"}, "source"),
        ({"target": "http://127.0.0.1:9", "namespaces": "a=c,b=c"}, "two namespaces"),
        ({"target": "http://127.0.0.1:9", "namespaces": "a=\x01"}, "must look like"),
        ({"target": "http://127.0.0.1:9", "links": "some"}, "one of"),
        ({"target": "http://127.0.0.1:9", "token": "x"}, "SFM_MIRROR_TOKEN"),
        ({"target": "http://elsewhere:80"}, "https"),
    ):
        with pytest.raises(SettingsError, match=named):
            await mirror.open(SETTINGS, options)
    held = open_tables(tmp_path / "held.sqlite", "x")
    monkeypatch.setenv("SFM_MIRROR_STATE", str(tmp_path / "held.sqlite"))
    with pytest.raises(SettingsError, match="another process"):
        await mirror.open(SETTINGS, {"target": "http://127.0.0.1:9"})
    held.close()


async def test_a_target_that_is_away_loses_nothing(pair: Pair) -> None:
    await pair.source.memory_writes.store("one", {"key": "a", "content": "a"})
    events = [received(one) for one in await pair.tap.take()]
    opened = pair.mirror()
    pair.routes[1].loss = 1.0
    with pytest.raises(Retry, match="lost on its way"):
        await opened.handle(events)
    await opened.aclose()
    pair.routes[1].loss = 0.0
    opened = pair.mirror()
    await opened.begin()  # what was taken in is not forgotten, even if it never came again
    await opened.aclose()
    assert await pair.equal("one") == 1


async def test_what_is_too_large_for_the_bus_is_read_from_the_source(pair: Pair) -> None:
    writes = pair.source.memory_writes
    await writes.store("one", {"coordinate": [1.0, 0.0], "content": "small"})
    opened = pair.mirror(reads=True)
    await opened.begin()
    await opened.handle([received(one) for one in await pair.tap.take()])
    await writes.update("one", MemoryRef(coordinate=(1.0, 0.0)), {"payload": {"grown": True}})
    await writes.store("one", {"coordinate": [2.0, 0.0], "content": "large at once"})
    await writes.store("two", {"coordinate": [1.0, 0.0], "content": "large in a namespace of its own"})
    await pair.source.links.link("one", [1.0, 0.0], [2.0, 0.0], {"type": "t"})
    await opened.handle([truncated(one) for one in await pair.tap.take()])
    assert await pair.equal("one") == 3
    assert await pair.equal("two") == 1
    await writes.forget_many("one", [MemoryRef(coordinate=(1.0, 0.0))])
    await opened.handle([truncated(one) for one in await pair.tap.take()])
    assert await pair.equal("one") == 1
    await opened.aclose()


async def test_only_what_is_too_large_for_the_bus_is_read(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = pair.source.memory_writes
    for number in (1.0, 2.0):
        await writes.store("one", {"coordinate": [number, 0.0], "content": f"memory {number}"})
    await pair.source.links.link("one", [1.0, 0.0], [2.0, 0.0], {"type": "t"})
    opened = pair.mirror(reads=True)
    await opened.begin()
    whole: list[str] = []
    pages = mirror_source.pages

    def counted(remote: Remote, namespace: str) -> AsyncIterator[mirror_source.SourcePage]:
        whole.append(namespace)
        return pages(remote, namespace)

    monkeypatch.setattr(mirror_source, "pages", counted)
    await pair.tap.take()
    await writes.update("one", MemoryRef(coordinate=(1.0, 0.0)), {"payload": {"grown": True}, "title": "T"})
    await pair.source.links.link("one", [1.0, 0.0], [2.0, 0.0], {"type": "t", "properties": {"grown": True}})
    await writes.store("one", {"coordinate": [3.0, 0.0], "content": "passing"})
    await writes.forget_many("one", [MemoryRef(coordinate=(3.0, 0.0))])
    events = await pair.tap.take()
    # What is gone already when it is read stays away, and an event that comes again changes nothing.
    for _ in range(2):
        await opened.handle([truncated(one) for one in events])
        assert await pair.equal("one") == 3
    assert whole == []
    # A source that cannot find it by its id is read whole.
    await writes.update("one", MemoryRef(coordinate=(1.0, 0.0)), {"payload": {"grown": "more"}})
    [event] = await pair.tap.take()
    strange = orjson.dumps({**orjson.loads(event.data), "id": "no id"})
    await opened.handle([truncated(replace(event, data=strange))])
    assert await pair.equal("one") == 3
    assert whole == ["one"]
    await opened.aclose()


async def test_a_large_state_that_the_target_refuses_is_poison(pair: Pair) -> None:
    await pair.source.memory_writes.store("one", {"coordinate": [1.0], "content": "a", "key": "k"})
    opened = pair.mirror(reads=True)
    await opened.begin()
    await pair.tap.take()
    await pair.source.memory_writes.store("one", {"coordinate": [2.0], "content": "b", "key": "other"})
    remote = pair.remote(1)
    await remote.call("POST", "/store_bulk", body={"namespace": "one", "items": [
        {"coordinate": [9.0], "content": "a stranger's", "key": "other"}]})  # fmt: skip
    [event] = [truncated(one) for one in await pair.tap.take()]
    with pytest.raises(Poison, match="target refuses") as poison:
        await opened.handle([event])
    assert poison.value.event is event
    await opened.aclose()
    await remote.aclose()


async def test_what_is_too_large_for_the_bus_takes_nothing_away(pair: Pair) -> None:
    writes = pair.source.memory_writes
    await writes.store("one", {"coordinate": [1.0, 0.0], "content": "kept"})
    opened = pair.mirror()
    await opened.handle([received(one) for one in await pair.tap.take()])
    await writes.update("one", MemoryRef(coordinate=(1.0, 0.0)), {"payload": {"grown": True}})
    [one] = await pair.tap.take()
    with pytest.raises(Poison, match="source"):
        await opened.handle([truncated(one)])
    assert len(await pair.rows(1, "one")) == 1
    await opened.aclose()


def truncated(event: Event) -> Received:
    """As Kafka carries an event that is larger than its topic takes."""
    return received(replace(event, data=without_states(event.data)))


async def test_an_older_state_does_not_come_back(pair: Pair) -> None:
    for weight in (1, 2):
        await pair.source.memory_writes.store("one", {"coordinate": [1], "content": f"version {weight}"})
        await pair.source.links.link("one", [1], [1], {"weight": weight})
    events = [received(one) for one in await pair.tap.take()]
    opened = pair.mirror()
    await opened.handle(events)
    await opened.handle(events[:2])
    await opened.aclose()
    assert await pair.equal("one") == 2


async def test_what_was_written_without_an_answer_is_removed_too(pair: Pair) -> None:
    for number in (1, 2):
        await pair.source.memory_writes.store("one", {"coordinate": [number], "content": "x"})
    opened = pair.mirror()
    await opened.handle([received(one) for one in await pair.tap.take()])

    async def unanswered(events: Sequence[Event]) -> None:
        pair.routes[1].answers_to_lose = 1
        with pytest.raises(Retry, match="the answer was lost"):
            await opened.handle([received(one) for one in events])

    await pair.source.links.link("one", [1], [2], {})
    made = await pair.tap.take()
    await unanswered(made)
    assert len(await pair.rows(1, "one")) == 3
    await pair.source.links.unlink_between("one", MemoryRef(coordinate=(1,)), MemoryRef(coordinate=(2,)), None)
    # It comes again together with its end, and so never was to be made.
    await opened.handle([received(one) for one in [*made, *await pair.tap.take()]])
    assert await pair.equal("one") == 2
    await pair.source.memory_writes.store("one", {"coordinate": [3], "content": "y"})
    stored = await pair.tap.take()
    await unanswered(stored)
    assert len(await pair.rows(1, "one")) == 3
    await pair.source.memory_writes.forget_many("one", [MemoryRef(coordinate=(3,))])
    await opened.handle([received(one) for one in [*stored, *await pair.tap.take()]])
    await opened.aclose()
    assert await pair.equal("one") == 2


async def test_over_sockets_as_the_commands_do_it(
    database_dsn: str, target_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(database_dsn) as (source, _), served(target_dsn) as (target, _):
        async with serving(source) as here, serving(target) as there:
            await source.namespaces.put(
                "a b", settings={"payload_paths": ["n"], "linkers": {"mine": True}}, model=None
            )
            await source.memory_writes.store("a b", {"key": "ada", "title": "Ada Lovelace", "content": "a"})
            await source.memory_writes.store("a b", {"key": "b", "content": "met Ada Lovelace", "payload": {"n": 1}})
            monkeypatch.setenv("SFM_MIRROR_TARGET", there.url)
            given = {"source": here.url, "state": str(tmp_path / "mirror.sqlite"), "namespaces": "a b=copy"}
            verify = ["--namespace", "a b", "--target-namespace", "copy"]
            assert await verified(here.url, there.url, *verify) == 1
            await (await mirror.open(SETTINGS, given)).aclose()
            assert await verified(here.url, there.url, *verify) == 0
            found = await target.namespaces.put("copy", settings=None, model=None, existing=True)
            assert found.settings.payload_paths == (("n",),)
            assert dict(found.settings.linkers) == dict.fromkeys(["mine", *mirror.LINKERS], False)
            # Somebody meddles with the copy; reading all of it once more mends it.
            await target.memory_writes.store("copy", {"key": "b", "content": "changed"})
            assert await verified(here.url, there.url, *verify) == 1
            await (await mirror.open(SETTINGS, {**given, "reload": "true"})).aclose()
            assert await verified(here.url, there.url, *verify) == 0
        assert await verified(here.url, there.url, *verify) == 2


async def verified(*arguments: str) -> int:
    """The exit code of the command."""
    return await asyncio.to_thread(mirror_verify.main, arguments)
