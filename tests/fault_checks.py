"""What is to hold after a fault run, read from the source itself, the bus, the audits and both services."""

import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from fault_processes import DatabaseServer
from fault_writers import HELD, NAMESPACE, Writer

from sfm_consumers.effects.audit_verify import verify_file
from sfm_consumers.effects.mirror_http import Remote
from sfm_consumers.effects.mirror_verify import differences, rows_of
from sfm_graph.domain.event import TOPICS

# Of an entity: its kind, the namespace's id and its id. What is compared are its changes' ids, in their order.
Entity = tuple[str, int, int]
History = dict[Entity, list[int]]

_UNDELIVERED = """
select count(*) from changes c left join followers f on f.name = 'relay:kafka'
where c.operation <> 'reindex' and (f.name is null or not (
    pg_visible_in_snapshot(c.xid, f.seen)
    or (f.until is not null and pg_visible_in_snapshot(c.xid, f.until) and c.id <= f.last_id)))"""

_STAMPS = """
select after -> 'payload' ->> 'stamp' from changes where entity = 'memory' and after ->> 'key' like 'shared-%%'"""


async def undelivered(database: DatabaseServer) -> int:
    """Changes beyond the relay's stored position."""
    return int((await database.rows(_UNDELIVERED))[0][0])


async def history(database: DatabaseServer) -> History:
    """What the source's log says."""
    found: History = defaultdict(list)
    for entity, namespace, entity_id, change in await database.rows(
        "select entity, namespace_id, entity_id, id from changes where operation <> 'reindex' order by id"
    ):
        found[entity, namespace, entity_id].append(change)
    return dict(found)


def audited(path: Path) -> History:
    """What the audit's file says, line by line."""
    found: History = defaultdict(list)
    for line in path.read_bytes().splitlines():
        record = json.loads(line)
        found[record["entity"], record["namespace_id"], record["entity_id"]].append(record["sequence"])
    return dict(found)


async def audited_in_table(dsn: str) -> History:
    """What the audit's table says, in the order in which rows were inserted; none before it is made."""
    found: History = defaultdict(list)
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        (there,) = await (await connection.execute("select to_regclass('sfm_audit')")).fetchone() or (None,)
        if there is not None:
            query = "select entity, namespace_id, entity_id, sequence from sfm_audit order by ctid"
            for entity, namespace, entity_id, sequence in await (await connection.execute(query)).fetchall():
                found[entity, namespace, entity_id].append(sequence)
    return dict(found)


@dataclass(frozen=True)
class Bus:
    """Everything that is on the bus, and what a reader that drops what it has seen makes of it."""

    records: int
    histories: History
    dead_letters: int


async def read_bus(bootstrap: str) -> Bus:
    """Read both topics from beginning to end."""
    histories: History = defaultdict(list)
    last: dict[tuple[TopicPartition, bytes | None], int] = {}
    records = 0
    async with _connected(bootstrap) as (admin, consumer):
        ends = await consumer.end_offsets(await _partitions(admin, *TOPICS))
        consumer.assign(list(ends))
        while any([await consumer.position(one) < end for one, end in ends.items()]):
            for where, found in (await consumer.getmany(timeout_ms=200)).items():
                records += len(found)
                for record in found:
                    value = json.loads(record.value)
                    if value["change"] > last.get((where, record.key), 0):
                        last[where, record.key] = value["change"]
                        entity = (value["entity"], value["namespace_id"], value["entity_id"])
                        histories[entity].append(value["change"])
        letters = await _partitions(admin, *(f"{topic}.dlq" for topic in TOPICS))
        dead = sum((await consumer.end_offsets(letters)).values()) if letters else 0
    return Bus(records, dict(histories), dead)


async def unconfirmed(bootstrap: str, groups: Iterable[str]) -> int:
    """Messages that groups have not confirmed yet."""
    async with _connected(bootstrap) as (admin, consumer):
        ends = await consumer.end_offsets(await _partitions(admin, *TOPICS))
        behind = 0
        for group in groups:
            committed = await admin.list_consumer_group_offsets(group)
            behind += sum(end - (committed[one].offset if one in committed else 0) for one, end in ends.items())
        return behind


@asynccontextmanager
async def _connected(bootstrap: str) -> AsyncIterator[tuple[AIOKafkaAdminClient, AIOKafkaConsumer]]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    try:
        await admin.start()
        await consumer.start()
        yield admin, consumer
    finally:
        await consumer.stop()
        await admin.close()


async def _partitions(admin: AIOKafkaAdminClient, *topics: str) -> list[TopicPartition]:
    """Those of the topics that there are."""
    there = sorted(set(topics) & set(await admin.list_topics()))
    if not there:
        return []
    described = await admin.describe_topics(there)
    return [TopicPartition(topic["topic"], one["partition"]) for topic in described for one in topic["partitions"]]


async def mirror_differences(source_port: int, target_port: int) -> list[str]:
    """By the mirror's own verifier."""
    source, target = (Remote(f"http://127.0.0.1:{port}", None, 60) for port in (source_port, target_port))
    try:
        return list(differences(await rows_of(source, NAMESPACE), await rows_of(target, NAMESPACE)))
    finally:
        await source.aclose()
        await target.aclose()


async def exported(port: int) -> list[str]:
    """The lines of `/export`, sorted: everything but ids, versions and times of a namespace."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/export", params={"namespace": NAMESPACE})
        answer.raise_for_status()
        return sorted(answer.text.splitlines())


def assert_same(found: Mapping[Entity, list[int]], wanted: Mapping[Entity, list[int]], where: str) -> None:
    """Each change once, those of one entity in order. AssertionError says which are lost, too many, out of order."""
    lost, strange, disordered = Counter[int](), Counter[int](), []
    for entity in wanted.keys() | found.keys():
        have, want = found.get(entity, []), wanted.get(entity, [])
        lost += Counter(want) - Counter(have)
        strange += Counter(have) - Counter(want)
        if have != want and sorted(have) == want:
            disordered.append((entity, have))
    assert not lost, f"{where}: {len(lost)} changes lost, {sorted(lost)[:10]}"
    assert not strange, f"{where}: {len(strange)} changes too many, {sorted(strange)[:10]}"
    assert not disordered, f"{where}: {len(disordered)} out of order, {disordered[:5]}"


def assert_chain(path: Path, lines: int) -> None:
    """The audit's lines vouch for each other."""
    assert verify_file(path).lines == lines


async def assert_acknowledged(database: DatabaseServer, lines: Iterable[str], writers: Iterable[Writer]) -> None:
    """The source holds what it has acknowledged: the exact state of each writer's own, all it said of the shared."""
    memories, links = {}, {}
    for line in map(json.loads, lines):
        if line["type"] == "memory":
            memories[line.get("key")] = line
        elif line["link_type"] == "writes":
            links[line["source"].get("key"), line["target"].get("key")] = line["weight"]
    assert memories[HELD]["title"] == "late"
    for writer in writers:
        stored = {key: memories[key]["payload"]["stamp"] if key in memories else None for key in writer.own}
        assert stored == writer.own
        linked = {ends: weight for ends, weight in links.items() if set(ends) <= writer.own.keys()}
        assert linked == writer.links
    said = {row[0] for row in await database.rows(_STAMPS)}
    lost = set().union(*(writer.stamps for writer in writers)) - said
    assert not lost, f"{len(lost)} acknowledged stores are not in the log"
