"""The content policy: what memories and links may say, in every way of writing them."""

import threading
import time
from typing import Any

import pytest

from sfm_graph.domain.content_policy import Action, content_policy, screened, screened_properties
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.inputs import link_patch
from sfm_graph.domain.memory import NewMemory
from sfm_graph.domain.namespace import namespace_settings
from sfm_graph.domain.page import OrderBy
from sfm_graph.domain.patterns import FINDERS, PERSONAL, SECRETS, looks_random
from sfm_graph.domain.recall import RecallQuery
from sfm_graph.domain.where import EVERYTHING
from sfm_graph.errors import ContentRefused, InvalidInput
from sfm_graph.services import screening
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services

NS = "demo"
FOUND = {
    "aws_key": ["AKIAIOSFODNN7EXAMPLE"],
    "private_key": ["-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----"],
    "jwt": ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N"],
    "github_token": ["ghp_" + "a1B2" * 9, "github_pat_" + "a1B2" * 6],
    "slack_token": ["xoxb-123456789012-abcdefABCDEF"],
    "api_token": ["sk-proj-" + "aB3" * 10, "sk_live_" + "a1B2" * 5, "AIza" + "a1B2c" * 7],
    "password": ["password = 'Tr0ub4dor&3'", "API_KEY: 9f8a7b6c5d4e", "db_password=correct-horse-9"],
    "email": ["bob.smith+tag@mail.example.co.uk", "jörg@müller.de"[5:] and "joerg@müller.de"],
    "phone": ["+491701234567", "+1 (555) 123-4567"],
    "iban": ["DE89370400440532013000", "GB29 NWBK 6016 1331 9268 19", "DE89 3704 0044 0532 0130 00"],
    "credit_card": ["4111 1111 1111 1111", "378282246310005", "5555-5555-5555-4444"],
    "ssn": ["123-45-6789"],
}
NOT_FOUND = {
    "aws_key": ["AKIAIOSFODNN7EXAMPL", "XAKIAIOSFODNN7EXAMPLE"],
    "private_key": ["-----BEGIN CERTIFICATE-----"],
    "jwt": ["eyJ.eyJ.x", "hello.world.again"],
    "github_token": ["ghp_short"],
    "slack_token": ["xoxb-1"],
    "api_token": ["sk-ip this one", "risk-" + "a" * 30],
    "password": ["password: changing", "the token was aaaaaaaa1", "password=[redacted:password]"],
    "email": ["@", "a@b", "@example.com", "a@@b.com"],
    "phone": ["+0123456789", "+1234", "1701234567", "+1234567890123456"],
    "iban": ["DE89370400440532013001", "XX89370400440532013000", "DE8937040044053201300"],
    "credit_card": ["4111 1111 1111 1112", "1234567812345678", "41111111111111110", "+4915112345678"],
    "ssn": ["000-45-6789", "123-00-6789", "666-12-3456", "123-45-67890"],
}


def _policy(**rules: Any) -> Any:
    made = content_policy(rules)
    assert made is not None
    return made


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in FOUND.items() for text in texts])
def test_a_pattern_is_found_within_a_text_and_the_error_does_not_repeat_it(rule: str, text: str) -> None:
    said = f"Note: {text} and more"
    with pytest.raises(ContentRefused) as refused:
        screened(NewMemory(content=said), _policy(patterns={rule: "refuse"}))
    assert refused.value.details == {"rule": rule, "place": "content"}
    assert text not in str(refused.value)
    kept = screened(NewMemory(content=said), _policy(patterns={rule: "redact"}))
    assert f"[redacted:{rule}]" in kept.content
    assert kept.content.startswith("Note: ")
    assert kept.content.endswith(" and more")
    # What was redacted is left alone when it comes again.
    assert screened(kept, _policy(patterns={rule: "refuse"})).content == kept.content


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in NOT_FOUND.items() for text in texts])
def test_what_merely_looks_alike_is_left_alone(rule: str, text: str) -> None:
    said = NewMemory(content=f"Note: {text} and more")
    assert screened(said, _policy(patterns={rule: "refuse"})).content == said.content


def test_every_rule_is_tried() -> None:
    assert FOUND.keys() == NOT_FOUND.keys() == FINDERS.keys() == SECRETS.keys() | PERSONAL.keys()


@pytest.mark.parametrize(
    ("rule", "text", "found"),
    [
        ("credit_card", "Room 25 4111 1111 1111 1111", ["4111 1111 1111 1111"]),
        ("credit_card", "12-3 4111111111111111 378282246310005 12/26", ["4111111111111111", "378282246310005"]),
        ("credit_card", "7 " * 100 + "4111-1111-1111-1111 9 5", ["4111-1111-1111-1111"]),
        ("credit_card", "25 4111 1111 1111 1112", []),
        ("iban", "REF AB12 DE89 3704 0044 0532 0130 00", ["DE89 3704 0044 0532 0130 00"]),
        ("iban", "BE12 NO93 8601 1117 947 X", ["NO93 8601 1117 947"]),
    ],
)  # fmt: skip
def test_numbers_are_found_after_other_words_and_numbers(rule: str, text: str, found: list[str]) -> None:
    assert [text[one.start : one.end] for one in FINDERS[rule](text)] == found


SEEDS = (
    "a", "@", "a@", "a@a.", "eyJ", "eyJaaaaaaaa.eyJ", "-----BEGIN A PRIVATE KEY-----", "-----BEGIN A ", "password=",
    "password", "token: ", "4", "4 ", "4-4", "+1", "+1 ", "AB12 ", "A1", "DE89", "sk-", "ghp_", "xoxb-", "123-",
    "123-45-6789", " ", "token \t", "4111 ", "4111-1111-1111-1111 ", "BE89 ",
)  # fmt: skip


@pytest.mark.parametrize("rule", FINDERS)
def test_no_text_makes_a_search_slow(rule: str) -> None:
    # The largest content there may be; quadratic time would take minutes.
    started = time.monotonic()
    for seed in SEEDS:
        text = (seed * (1_000_000 // len(seed) + 1))[:1_000_000]
        assert all(0 <= one.start < one.end <= len(text) for one in FINDERS[rule](text))
    assert time.monotonic() - started < 60


def test_payloads_are_looked_at_at_any_depth_keys_and_long_numbers_too() -> None:
    memory = NewMemory(
        content="x",
        payload={
            "who": [{"mail": "carol@example.org"}], "dave@example.org": 1, "card": 4111111111111111, "n": 12,
            "password": "Tr0ub4dor&3", "quiet": "nothing",
        },
    )  # fmt: skip
    kept = screened(memory, _policy(patterns={"pii": "redact", "password": "redact"}))
    assert kept.payload == {
        "who": [{"mail": "[redacted:email]"}], "[redacted:email]": 1, "card": "[redacted:credit_card]", "n": 12,
        "password": "[redacted:password]", "quiet": "nothing",
    }  # fmt: skip
    with pytest.raises(ContentRefused) as refused:
        screened(memory, _policy(patterns={"email": "refuse"}))
    assert refused.value.details["place"] == "payload.who"


def test_keys_that_become_alike_stay_apart() -> None:
    memory = NewMemory(content="x", payload={"a@b.org": 1, "c@d.org": 2, "[redacted:email]": 3})
    kept = screened(memory, _policy(patterns={"email": "redact"}))
    assert sorted((kept.payload or {}).values()) == [1, 2, 3]
    assert "@" not in "".join(kept.payload or {})


def test_tags_say_what_is_there_now() -> None:
    policy = _policy(patterns={"email": "tag", "ssn": "tag"}, allowed_keys=["a"])
    tagged = screened(NewMemory(content="bob@example.com 123-45-6789", payload={"a": 1}), policy)
    assert tagged.payload == {"a": 1, "policy_tags": ["email", "ssn"]}
    assert screened(NewMemory(content="nobody", payload=tagged.payload), policy).payload == {"a": 1}


def test_sizes_and_keys_are_bounded() -> None:
    policy = _policy(max_content_bytes=4, max_payload_bytes=20, allowed_keys=["a"])
    assert screened(NewMemory(content="äb", payload={"a": 1}), policy).content == "äb"
    for memory, rule in (
        (NewMemory(content="äöü"), "max_content_bytes"),
        (NewMemory(content="x", payload={"a": "y" * 30}), "max_payload_bytes"),
        (NewMemory(content="x", payload={"b": 1}), "allowed_keys"),
    ):
        with pytest.raises(ContentRefused) as refused:
            screened(memory, policy)
        assert refused.value.details["rule"] == rule
    with pytest.raises(ContentRefused) as refused:
        screened(NewMemory(content="x", payload={"bob@x.org": 1}), _policy(allowed_keys=["a"]))
    assert "bob" not in str(refused.value)


def test_a_key_is_refused_but_never_changed() -> None:
    memory = NewMemory(content="x", key="bob@example.com")
    assert screened(memory, _policy(patterns={"email": "redact"})).key == "bob@example.com"
    with pytest.raises(ContentRefused):
        screened(memory, _policy(patterns={"email": "refuse"}))


def test_a_group_says_what_its_rules_do_not_say_themselves() -> None:
    policy = _policy(patterns={"email": "tag", "pii": "redact"})
    assert dict(policy.patterns) == {
        rule: Action.TAG if rule == "email" else Action.REDACT for rule in FINDERS if rule in PERSONAL
    }
    assert content_policy(policy.as_json()) == policy
    assert content_policy({}) is None
    assert (
        namespace_settings(
            {"content_policy": {}}, namespace_settings({"content_policy": {"max_content_bytes": 1}})
        ).content_policy
        is None
    )


@pytest.mark.parametrize(
    "wrong",
    [1, {"x": 1}, {"patterns": {"x": "tag"}}, {"patterns": {"email": "eat"}}, {"patterns": []},
     {"allowed_keys": "abc"}, {"allowed_keys": [1]}, {"max_content_bytes": -1}, {"max_payload_bytes": 1e9}],
)  # fmt: skip
def test_a_wrong_policy_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidInput):
        namespace_settings({"content_policy": wrong})


def test_a_misspelt_rule_is_named() -> None:
    for wrong in ({"secretz": "refuse"}, {"patterns": {"secretz": "refuse"}}):
        with pytest.raises(InvalidInput, match="not 'secretz'"):
            content_policy(wrong)


def test_randomness_is_told_from_words() -> None:
    assert looks_random("9f8a7b6c5d4e")
    assert not looks_random("something")
    assert not looks_random("aaaaaaaa1")
    assert not looks_random("a1")


async def _declared(services: Services, **policy: Any) -> None:
    await services.namespaces.put(NS, settings={"content_policy": policy}, model=None)


async def _texts(services: Services) -> dict[str | None, str]:
    async with services.views.open() as view:
        page = await services.memory_reads.list(view, NS, where=EVERYTHING, order=OrderBy(), first=100, after=None)
    return {one.key: one.content for one in page.items}


async def test_what_is_stored_and_found_is_what_the_policy_left(services: Services) -> None:
    await services.memory_writes.store(NS, {"key": "before", "content": "old@example.com"})
    await _declared(services, patterns={"email": "redact", "aws_key": "refuse"})
    await services.memory_writes.store(
        NS, {"key": "a", "title": "eve@example.com", "content": "ask zebra@example.com"}
    )
    async with services.views.open() as view:
        (found,) = await services.memory_reads.find_many(view, NS, [MemoryRef(key="a")])
        words = await services.memory_reads.with_words(
            view, NS, "zebra", exact=False, case_sensitive=False, first=10, after=None
        )
        hits = (await services.recalls.recall(view, NS, RecallQuery("zebra", first=5))).hits
    assert found is not None
    assert (found.title, found.content) == ("[redacted:email]", "ask [redacted:email]")
    assert words.items == ()
    assert "zebra" not in "".join(hit.memory.content for hit in hits)
    # Only what is written from then on is looked at, and all of it.
    await services.memory_writes.update(NS, MemoryRef(key="before"), {"importance": 2})
    assert (await _texts(services))["before"] == "old@example.com"
    await services.memory_writes.update(NS, MemoryRef(key="before"), {"title": "t"})
    assert (await _texts(services))["before"] == "[redacted:email]"
    with pytest.raises(ContentRefused):
        await services.memory_writes.update(NS, MemoryRef(key="a"), {"payload": {"x": "AKIAIOSFODNN7EXAMPLE"}})


async def test_a_partial_batch_stores_what_the_policy_allows(services: Services) -> None:
    await _declared(services, patterns={"aws_key": "refuse"})
    items = [{"key": "a", "content": "fine"}, {"key": "b", "content": "AKIAIOSFODNN7EXAMPLE"}]
    with pytest.raises(ContentRefused) as refused:
        await services.memory_writes.store_many(NS, items)
    assert refused.value.details["index"] == 1
    assert await _texts(services) == {}
    bulk = await services.memory_writes.store_many(NS, items, partial=True)
    assert [one.memory.key for one in bulk.stored] == ["a"]
    assert [(one.index, one.code) for one in bulk.failed] == [(1, "content_refused")]


async def test_an_import_is_screened_and_again_changes_nothing(services: Services) -> None:
    await _declared(services, patterns={"email": "redact", "aws_key": "refuse"})

    async def lines() -> Any:
        yield b'{"type": "memory", "key": "a", "content": "bob@example.com"}\n'
        yield b'{"type": "memory", "key": "b", "content": "AKIAIOSFODNN7EXAMPLE"}\n'

    first = (await services.transfer.import_ndjson(lines(), NS)).as_json()
    again = (await services.transfer.import_ndjson(lines(), NS)).as_json()
    assert await _texts(services) == {"a": "[redacted:email]"}
    assert [one["code"] for one in first["failures"]] == ["content_refused"]
    assert again["memories"]["unchanged"] == 1


async def test_properties_of_links_are_screened(services: Services) -> None:
    await services.memory_writes.store_many(NS, [{"key": "a", "content": "a"}, {"key": "b", "content": "b"}])
    await _declared(
        services, patterns={"email": "redact", "aws_key": "refuse"}, max_payload_bytes=60, allowed_keys=[]
    )
    ends = ({"key": "a"}, {"key": "b"})
    made = await services.links.link(NS, *ends, {"properties": {"by": "bob@example.com"}})
    assert made.link.properties == {"by": "[redacted:email]"}
    (changed,) = await services.links.update_many(NS, [link_patch(made.link.id, {"properties": {"by": "e@x.org"}})])
    assert changed.properties == {"by": "[redacted:email]"}
    secret = {"properties": {"k": "AKIAIOSFODNN7EXAMPLE"}}
    with pytest.raises(ContentRefused):
        await services.links.link(NS, *ends, secret)
    bulk = await services.links.link_many(NS, [LinkRequest(*ends, secret)], partial=True)
    assert [one.code for one in bulk.failed] == ["content_refused"]
    with pytest.raises(ContentRefused):
        screened_properties({"k": "x" * 80}, _policy(max_payload_bytes=60))


async def test_what_is_merged_or_comes_back_is_looked_at_by_the_rules_of_now(services: Services) -> None:
    writes, links = services.memory_writes, services.links
    bob = {"mail": "bob@example.com"}
    await writes.store_many(NS, [{"key": one, "content": one} for one in "ax"])
    await writes.store(NS, {"key": "b", "content": "b", "title": "bob@example.com", "payload": {"b": 1}})
    gone = (await links.link(NS, {"key": "a"}, {"key": "x"}, {"type": "gone", "properties": bob})).link.id
    await links.link(NS, {"key": "b"}, {"key": "x"}, {"type": "kept", "properties": bob})
    await links.unlink_many(NS, [gone])
    merge = (NS, MemoryRef(key="a"), [MemoryRef(key="b")])
    for rules in ({"patterns": {"email": "refuse"}}, {"allowed_keys": ["a"]}):
        await services.namespaces.put(NS, settings={"content_policy": rules}, model=None)
        with pytest.raises(ContentRefused):
            await services.merging.merge(*merge)
    rules = {"allowed_keys": ["b"], "patterns": {"email": "refuse"}}
    await services.namespaces.put(NS, settings={"content_policy": rules}, model=None)
    with pytest.raises(ContentRefused):
        await services.restoring.restore_link(NS, gone)
    await writes.forget_many(NS, [MemoryRef(key="x")])
    with pytest.raises(ContentRefused) as refused:
        await services.restoring.restore(NS, MemoryRef(key="x"))
    assert refused.value.details["place"] == "properties.mail"
    rules["patterns"] = {"email": "redact"}
    await services.namespaces.put(NS, settings={"content_policy": rules}, model=None)
    restored = await services.restoring.restore(NS, MemoryRef(key="x"))
    assert [one.properties for one in restored.links] == [{"mail": "[redacted:email]"}]
    merged = (await services.merging.merge(*merge)).memory
    assert (merged.title, merged.payload.keys()) == ("[redacted:email]", {"b", "merged_from"})
    assert (await services.restoring.restore_link(NS, gone)).link.properties == {"mail": "[redacted:email]"}


async def test_what_consolidation_says_is_looked_at(services: Services) -> None:
    told = [{"key": f"e{n}", "content": f"Ada wrote to bob@example.com about ship {n}"} for n in range(3)]
    await services.memory_writes.store_many(NS, told)
    settings: dict[str, Any] = {
        "consolidation": {"similarity": 0.3},
        "content_policy": {"allowed_keys": ["a"], "patterns": {"email": "refuse"}},
    }
    await services.namespaces.put(NS, settings=settings, model=None)
    report = await services.consolidation.run(NS)
    assert (report.created, report.put_off) == (0, 1)
    settings["content_policy"]["patterns"] = {"email": "redact"}
    await services.namespaces.put(NS, settings=settings, model=None)
    await services.memory_writes.update(NS, MemoryRef(key="e0"), {"content": "Ada wrote to bob@example.com"})
    (group,) = (await services.consolidation.run(NS)).groups
    assert group.memory is not None
    assert "bob" not in group.memory.content
    assert "[redacted:email]" in group.memory.content


async def test_what_is_consolidated_needs_room(services: Services) -> None:
    told = [{"key": f"e{n}", "content": f"Ada walked to the harbour and saw ship {n}"} for n in range(4)]
    settings = {"consolidation": {"similarity": 0.3}, "max_memories": 4}
    await services.namespaces.put(NS, settings=settings, model=None)
    await services.memory_writes.store_many(NS, told)
    # One of the sources makes room for what comes of the others.
    assert (await services.consolidation.run(NS)).created == 1
    async with services.views.open() as view:
        page = await services.memory_reads.list(view, NS, where=EVERYTHING, order=OrderBy(), first=10, after=None)
    assert len(page.items) == 4


async def test_what_is_restored_needs_room(services: Services) -> None:
    await services.namespaces.put(NS, settings={"max_memories": 2}, model=None)
    stored = await services.memory_writes.store_many(NS, [{"key": one, "content": one} for one in "ab"])
    await services.memory_writes.forget_many(NS, [MemoryRef(key="a")])
    await services.memory_writes.store(NS, {"key": "c", "content": "c"})
    restored = await services.restoring.restore(NS, MemoryRef(id=stored.stored[0].memory.id))
    assert restored.memory.key == "a"
    async with services.views.open() as view:
        found = await services.memory_reads.find_many(view, NS, [MemoryRef(key=one) for one in "abc"])
    assert sum(one is not None for one in found) == 2


async def test_what_takes_long_is_looked_at_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[bool] = []

    def noted(memory: NewMemory, policy: Any) -> NewMemory:
        threads.append(threading.current_thread() is not threading.main_thread())
        return memory

    monkeypatch.setattr(screening, "screened", noted)
    long = "x" * 20_000
    for memory in (NewMemory(content="x"), NewMemory(content="x", payload={"a": 1})):
        await screening.screen({0: memory}, _policy(max_content_bytes=1), {}, partial=False)
    for memory in (
        NewMemory(content=long), NewMemory(content="x", title=long),
        NewMemory(content="x", payload={"a": {"b": long}}),
    ):  # fmt: skip
        await screening.screen({0: memory}, _policy(max_content_bytes=1), {}, partial=False)
    many = dict.fromkeys(range(200), NewMemory(content="x"))
    await screening.screen(many, _policy(max_content_bytes=1), {}, partial=False)
    assert threads == [False, False, True, True, True, *[True] * 200]
