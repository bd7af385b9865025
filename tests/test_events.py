"""Events keep to the published JSON Schemas, and these to what was released."""

import copy
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from schema_changes import incompatibilities

from sfm_graph.adapters.buses.kafka_records import without_states
from sfm_graph.domain.event import MEMORY_EVENTS, TOPICS, Event, events_of
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.inputs import link_patch
from sfm_graph.services.registry import Services
from sfm_graph.store.rows import CHANGE_COLUMNS, change_from_row

PUBLISHED = Path(__file__).parent.parent / "docs" / "events"
RELEASED = PUBLISHED / "released"
NS = "demo"
LOG = "5d0c2f8e-41a9-4c55-9a0c-0f1d6c6e2b7a"

formats = FormatChecker(formats=())


@formats.checks("date-time", raises=ValueError)
def _is_moment(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def schema_files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.schema.json"))
    assert found
    return found


def load(path: Path) -> dict[str, Any]:
    return orjson.loads(path.read_bytes())


def validators() -> dict[str, list[Draft202012Validator]]:
    """By `$id`, the schema as published and as released."""
    found: dict[str, list[Draft202012Validator]] = {}
    for path in schema_files(PUBLISHED) + schema_files(RELEASED):
        schema = load(path)
        found.setdefault(schema["$id"], []).append(Draft202012Validator(schema, format_checker=formats))
    return found


def check(event: Event) -> None:
    for validator in validators()[dict(event.attributes)["dataschema"]]:
        validator.validate(orjson.loads(event.data))


def logged(dsn: str) -> list[Event]:
    """The events of all changes in the log."""
    query = (
        f"select {CHANGE_COLUMNS} from (select c.*, 0 as found from changes c where c.operation <> 'reindex') s "
        "left join namespaces n on n.id = s.namespace_id order by s.id"
    )
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(query).fetchall()  # type: ignore[arg-type, call-overload]
    return [event for row in rows for event in events_of(change_from_row(row), LOG)]


@pytest.fixture
async def used(services: Services) -> Services:
    """A service that did everything to memories and links that leaves an event."""
    memories, links = services.memory_writes, services.links
    rich = {"key": "a", "title": 'Käufer "A"', "payload": {"deep": [1, None, {"before": '","before":'}]}}
    await memories.store_many(NS, [rich, *({"key": key, "content": key} for key in "bcd")])
    await memories.store(NS, {**rich, "importance": 0.25, "valid_from": "0001-01-01", "valid_to": "9999-12-31"})
    for target in "bcd":
        made = await links.link(NS, {"key": "a"}, {"key": target}, {"type": "knows", "properties": {"x": [1]}})
    await links.update_many(NS, [link_patch(made.link.id, {"weight": 2.5})])
    await links.link(NS, {"key": "a"}, {"key": "a"}, {"type": "is", "valid_to": "2020-01-01"})
    await links.unlink_many(NS, [made.link.id])
    await memories.forget_many(NS, [MemoryRef(key="b")])
    await memories.erase_many(NS, [MemoryRef(key="c")])
    return services


async def test_events_fit_their_schemas(used: Services, database_dsn: str) -> None:
    events = logged(database_dsn)
    for event in events:
        check(event)
    types = {dict(event.attributes)["type"] for event in events}
    assert types == {
        *(f"sfm_graph.memory.{done}" for done in ("create", "update", "forget", "erase")),
        *(f"sfm_graph.link.{done}" for done in ("create", "update", "forget")),
    }
    # Purged states, kept ones and those of links that a linker made are all among them.
    states = [(value["operation"], bool(value["before"]), bool(value["after"])) for value in map(_value, events)]
    assert {("create", False, True), ("create", False, False), ("update", True, True)} <= set(states)
    assert {("forget", True, False), ("forget", False, False), ("erase", False, False)} <= set(states)


async def test_events_without_states_fit_too(used: Services, database_dsn: str) -> None:
    for event in logged(database_dsn):
        value = orjson.loads(without_states(event.data))
        whole = orjson.loads(event.data)
        assert value == whole | {"before": None, "after": None, "truncated": True}
        for validator in validators()[dict(event.attributes)["dataschema"]]:
            validator.validate(value)


async def test_end_of_a_namespace_fits_its_schema(used: Services, database_dsn: str) -> None:
    await used.namespaces.delete(NS, confirm=NS)
    events = logged(database_dsn)
    assert [event.topic for event in events] == list(TOPICS)
    for event in events:
        check(event)
        assert _value(event)["namespace"] == _value(event)["id"] == NS
        assert event.key is None
        assert event.ends


def _value(event: Event) -> dict[str, Any]:
    return orjson.loads(event.data)


@pytest.mark.parametrize("path", schema_files(PUBLISHED), ids=lambda path: path.name)
def test_schemas_say_what_they_are(path: Path) -> None:
    schema = load(path)
    Draft202012Validator.check_schema(schema)
    entity, version = re.fullmatch(r"(\w+)\.v(\d+)\.schema\.json", path.name).groups()
    assert schema["$id"] == f"urn:sfm-graph:event:{entity}:{version}"
    described = [*schema["properties"].values()]
    for definition in schema.get("$defs", {}).values():
        described += definition["properties"].values()
    assert all(member.get("description") for member in described)


@pytest.mark.parametrize("entity", ["memory", "link"])
@pytest.mark.parametrize("member", ["change", "id", "operation", "before", "after"])
def test_schemas_miss_a_member(entity: str, member: str) -> None:
    value = load_example() if entity == "memory" else load_example() | {"entity": "link", "after": None}
    schema = load(PUBLISHED / f"{entity}.v1.schema.json")
    Draft202012Validator(schema).validate(value)
    del value[member]
    with pytest.raises(ValidationError, match=f"'{member}' is a required property"):
        Draft202012Validator(schema).validate(value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"entity": "link"},
        {"operation": "reindex"},
        {"change": "48211"},
        {"at": "yesterday"},
        {"at": "2026-03-01T12:30:00"},
        {"operation": "forget"},
        {"before": {}},
        {"after": {"id": 17}},
        {"truncated": True},
    ],
)
def test_schema_refuses(wrong: dict[str, Any]) -> None:
    (published, *_) = validators()["urn:sfm-graph:event:memory:1"]
    published.validate(load_example() | {"of_the_future": 1})
    with pytest.raises(ValidationError):
        published.validate(load_example() | wrong)


def load_example() -> dict[str, Any]:
    """The value that the page shows."""
    text = (PUBLISHED / "README.md").read_text()
    (block,) = re.findall(r"(?m)^    \{\n(?:^    .*\n)*^    \}$", text)
    return orjson.loads(block)


async def test_page_shows_a_valid_event(used: Services, database_dsn: str) -> None:
    for validator in validators()["urn:sfm-graph:event:memory:1"]:
        validator.validate(load_example())
    event = next(one for one in logged(database_dsn) if one.topic == MEMORY_EVENTS and not one.ends)
    assert load_example().keys() == _value(event).keys()
    assert load_example()["after"].keys() == _value(event)["after"].keys()


async def test_page_lists_the_headers(used: Services, database_dsn: str) -> None:
    text = (PUBLISHED / "README.md").read_text()
    listed = re.findall(r"(?m)^\| `(ce_\w+|content-type)` \|", text)
    attributes = logged(database_dsn)[0].attributes
    # That of traced requests alone.
    assert listed == [*(f"ce_{name}" for name, _ in attributes), "ce_traceparent", "content-type"]
    for path in schema_files(PUBLISHED):
        assert f"]({path.name})" in text


@pytest.mark.parametrize("path", schema_files(RELEASED), ids=lambda path: path.name)
def test_schemas_fit_what_was_released(path: Path) -> None:
    assert list(incompatibilities(load(path), load(PUBLISHED / path.name))) == []


def _memory(schema: dict[str, Any]) -> dict[str, Any]:
    return schema["$defs"]["memory"]


BREAKING: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "member removed": (lambda s: s["properties"].pop("at"), "/at: removed"),
    "state's member removed": (lambda s: _memory(s)["properties"].pop("title"), "/memory/title: removed"),
    "state removed": (lambda s: s["$defs"].clear(), "/memory: removed"),
    "retyped": (lambda s: s["properties"]["change"].update(type="string"), "/change: type changed"),
    "nullable": (
        lambda s: _memory(s)["properties"]["content"].update(type=["string", "null"]),
        "/memory/content: type changed",
    ),
    "items retyped": (
        lambda s: _memory(s)["properties"]["coordinate"]["items"].update(type="string"),
        "/memory/coordinate/items: type changed",
    ),
    "no longer required": (lambda s: s["required"].remove("id"), "/id: no longer required"),
    "nothing required": (lambda s: _memory(s).pop("required"), "/memory/version: no longer required"),
    "enum narrowed": (lambda s: s["properties"]["operation"]["enum"].remove("erase"), "/operation: enum changed"),
    "enum widened": (lambda s: s["properties"]["operation"]["enum"].append("merge"), "/operation: enum changed"),
    "const changed": (lambda s: s["properties"]["entity"].update(const="node"), "/entity: const changed"),
    "another id": (lambda s: s.update({"$id": "urn:else"}), "/: $id changed"),
    "closed": (lambda s: s.update(additionalProperties=False), "/: additionalProperties changed"),
    "alternative removed": (lambda s: s["properties"]["after"]["anyOf"].pop(), "/after/anyOf: changed"),
    "rule removed": (lambda s: s["allOf"].pop(), "/allOf: changed"),
    "rule changed": (
        lambda s: s["allOf"][0]["then"]["properties"]["before"].update(type="object"),
        "/allOf/0/then/before: type changed",
    ),
    "refused": (lambda s: s["properties"].update(namespace=False), "/namespace: changed"),
}
HARMLESS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": lambda s: None,
    "member added": lambda s: s["properties"].update(actor={"type": "string"}),
    "state's member added": lambda s: _memory(s)["properties"].update(tags={"type": "array"}),
    "member added and required": lambda s: (s["properties"].update(x={"type": "string"}), s["required"].append("x")),
    "described anew": lambda s: s["properties"]["at"].update(description="When."),
    "order of values": lambda s: s["properties"]["operation"]["enum"].reverse(),
    "definition added": lambda s: s["$defs"].update(person={"type": "object"}),
}


@pytest.mark.parametrize("case", BREAKING)
def test_breaking_change_is_refused(case: str) -> None:
    change, complaint = BREAKING[case]
    released = load(RELEASED / "memory.v1.schema.json")
    present = copy.deepcopy(released)
    change(present)
    assert complaint in list(incompatibilities(released, present))


@pytest.mark.parametrize("case", HARMLESS)
def test_harmless_change_is_let_pass(case: str) -> None:
    released = load(RELEASED / "memory.v1.schema.json")
    present = copy.deepcopy(released)
    HARMLESS[case](present)
    assert list(incompatibilities(released, present)) == []
