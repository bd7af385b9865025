"""API keys and the static token: who gets in, as whom, and what becomes of a revoked key."""

import asyncio
import json
import logging
import os
import random
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from graphql_client import open_graph
from psycopg import AsyncConnection
from pydantic import SecretStr
from scripted_server import Reply, scripted_server
from served import until
from typer.testing import CliRunner

from sfm_graph.adapters.tokens import static
from sfm_graph.adapters.tokens.static import StaticToken, open_to_all
from sfm_graph.cli import app
from sfm_graph.domain import api_key
from sfm_graph.domain.access import EVERYTHING, LOCAL, Grant, Principal, Scope, reach
from sfm_graph.domain.api_key import ApiKey, CreatedKey, StoredKey
from sfm_graph.errors import (
    Conflict,
    DatabaseUnavailable,
    Forbidden,
    InvalidCursor,
    InvalidInput,
    NotFound,
    SettingsError,
    SfmError,
    TooLarge,
    Unauthenticated,
)
from sfm_graph.ports.policy import Action
from sfm_graph.runtime import open_runtime
from sfm_graph.services.access import key_cache, keys
from sfm_graph.services.access.authentication import Authentication
from sfm_graph.services.access.fact import Fact
from sfm_graph.services.access.guard import Caller, acting
from sfm_graph.services.access.key_cache import KeyCache
from sfm_graph.services.access.policy import ScopesByNamespace
from sfm_graph.services.registry import Services
from sfm_graph.settings import Settings, is_loopback, load_settings

ROOT = Path(__file__).parent.parent
POLICY = ScopesByNamespace()
READ = Action("memory_reads.find", Scope.READ, "team/a")


async def create(
    services: Services, name: str = "ci", scopes: Iterable[object] = ("read",), namespaces: Iterable[object] = ("*",),
    **more: Any,
) -> CreatedKey:  # fmt: skip
    return await services.keys.create(name, scopes=scopes, namespaces=namespaces, **more)


async def listed(services: Services, **page: Any) -> list[ApiKey]:
    async with services.views.open() as view:
        return list((await services.keys.list(view, first=page.get("first", 100), after=page.get("after"))).items)


async def who(services: Services, token: str | None) -> Principal:
    return (await services.authentication.caller(token)).principal


async def until_refused(services: Services, token: str) -> str:
    """Wait until a token is worth nothing; says why."""
    async with asyncio.timeout(30):
        while True:
            try:
                await services.authentication.caller(token)
            except Unauthenticated as refused:
                return refused.message
            await asyncio.sleep(0.02)


def administrator(*patterns: str, scopes: Sequence[Scope] = (Scope.ADMIN, Scope.READ)) -> Caller:
    return Caller(Principal("key:99", Grant(frozenset(scopes), reach(patterns))), POLICY)


# Who gets in


async def test_a_token_is_its_keys_grant(services: Services) -> None:
    until_then = datetime.now(UTC) + timedelta(days=30)
    made = await create(services, "ci", ["read", "WRITE"], ["team/*", "docs"], expires_at=until_then)
    assert re.fullmatch(rf"sfm_{made.key.id}_[\w-]{{43,}}", made.token)
    assert (made.key.created_by, made.key.expires_at, made.key.revoked_at) == ("local", until_then, None)
    one = await services.authentication.caller(made.token)
    assert one.principal == Principal(
        f"key:{made.key.id}", Grant(frozenset({Scope.READ, Scope.WRITE}), reach(["team/*", "docs"])), until_then, "ci"
    )
    await one.require(READ)
    with pytest.raises(Forbidden):
        await one.require(Action("memory_reads.find", Scope.READ, "elsewhere"))


async def test_the_secret_is_stored_nowhere(services: Services, database_dsn: str, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    made = await create(services)
    secret = made.token.split("_", 2)[2]
    async with await AsyncConnection.connect(database_dsn) as connection:
        cursor = await connection.execute("select k::text, hash from api_keys k")
        ((row, hash),) = await cursor.fetchall()
    assert secret not in row
    assert hash == api_key.secret_hash(secret)
    assert secret not in caplog.text
    assert secret not in repr(made)


async def test_who_made_a_key_is_shown_by_name(services: Services) -> None:
    boss = await create(services, "boss", ["admin", "read"])
    with acting(await services.authentication.caller(boss.token)):
        made = await create(services, "ci")
    shown = f"key:{boss.key.id} (boss)"
    assert made.key.created_by == shown
    assert [one.created_by for one in await listed(services)] == ["local", shown]


async def test_wrong_tokens_get_nowhere(services: Services) -> None:
    made, other = await create(services, "a"), await create(services, "b")
    id, secret = made.key.id, made.token.split("_", 2)[2]
    wrong = [
        "", "x", "sfm_", f"sfm_{id}", f"sfm_{id}_", f"sfm_{id}_{secret[:-1]}", f"sfm_{id}_{secret}x",
        f"sfm_{other.key.id}_{secret}", f"sfm_{id + 1_000}_{secret}", f"sfm_0{id}_{secret}", f"sfm_-1_{secret}",
        f"sfm_{10**18}_{secret}", f"sfm_{'9' * 400}_{secret}", f"sfm_{id}_{secret}\n", f"SFM_{id}_{secret}",
        f"sfm_\u0661_{secret}", f"sfm_{id}_" + "\ud800" * 43, f"{made.token}.a.b", "x" * 20_000,
    ]  # fmt: skip
    before = services.authentication.failures
    for token in wrong:
        with pytest.raises(Unauthenticated):
            await services.authentication.caller(token)
    assert services.authentication.failures == before + len(wrong)
    assert (await who(services, made.token)).name == f"key:{id}"


async def test_failures_are_lines_of_the_log_and_never_rows(services: Services, caplog: Any) -> None:
    made = await create(services)
    token = made.token[:-1] + ("A" if made.token[-1] != "A" else "B")
    with pytest.raises(Unauthenticated):
        await services.authentication.caller(token)
    assert "authentication failed" in caplog.text
    assert token not in caplog.text
    async with services.views.open() as view:
        assert [one.action for one in (await services.audit.list(view, first=9, after=None)).items] == []


async def test_an_expired_key_is_worth_nothing(services: Services, database_dsn: str) -> None:
    made = await create(services, expires_at=datetime.now(UTC) + timedelta(seconds=0.3))
    assert "expired" in await until_refused(services, made.token)
    # What ends by itself opens nothing.
    with pytest.raises(Unauthenticated):
        await who(services, None)


# Revoking


async def test_a_revoked_key_stops_at_once_here(services: Services) -> None:
    made = await create(services)
    one = await services.authentication.caller(made.token)
    assert one.renew is not None
    assert await one.renew() == one.principal
    revoked = await services.keys.revoke("ci")
    assert revoked.revoked_at is not None
    with pytest.raises(Unauthenticated):
        await who(services, made.token)
    with pytest.raises(Unauthenticated):
        await one.renew()
    # Again it changes nothing; its name is free.
    assert await services.keys.revoke(str(made.key.id)) == revoked
    assert (await create(services)).key.id != made.key.id


async def test_a_revoked_key_stops_elsewhere_within_seconds(services: Services, settings: Settings) -> None:
    async with open_runtime(settings, maintenance=False) as elsewhere:
        made = await create(services)
        await who(elsewhere, made.token)
        await services.keys.revoke("ci")
        assert "revoked" in await until_refused(elsewhere, made.token)


async def test_revoking_what_is_not_there(services: Services) -> None:
    await create(services)
    for reference in ("nobody", "12345", "9" * 100):
        with pytest.raises(NotFound):
            await services.keys.revoke(reference)
    for reference in ("", " ci", "x" * 200, "a\x00"):
        with pytest.raises((InvalidInput, TooLarge)):
            await services.keys.revoke(reference)


# Nobody hands out more than they have


async def test_a_maker_gives_only_what_they_have(services: Services) -> None:
    with acting(administrator("team/*")):
        await create(services, "within", ["read", "admin"], ["team/a", "team/b/*"])
        for scopes, namespaces in [
            (["write"], ["team/a"]), (["read"], ["other"]), (["read"], ["*"]), (["read"], ["team*"]),
            (["read"], ["team/a", "team"]),
        ]:  # fmt: skip
            with pytest.raises(Forbidden):
                await create(services, "beyond", scopes, namespaces)
    assert [one.name for one in await listed(services)] == ["within"]
    with acting(administrator("*", scopes=[Scope.READ])), pytest.raises(Forbidden, match="admin"):
        await create(services, "no")


async def test_a_grant_that_is_refused_is_in_the_audit_log(services: Services) -> None:
    who = administrator("team/*")
    with acting(Caller(who.principal, POLICY, services.audit)), pytest.raises(Forbidden):
        await create(services, "beyond", ["read"], ["*"])
    async with services.views.open() as view:
        rows = (await services.audit.list(view, first=9, after=None)).items
    assert [(one.action, one.allowed) for one in rows] == [("keys.create", False), ("keys.create", True)]


PATTERNS = ["*", "a*", "a/*", "a/b", "a", "ab", "a/b/*", "b", "b*", "c,*"]


async def test_keys_beyond_the_callers_grant_appear_not_to_exist(services: Services) -> None:
    rng = random.Random(7)
    made = {}
    for number in range(30):
        scopes = rng.sample([Scope.ADMIN, Scope.READ, Scope.WRITE], rng.randint(1, 3))
        key = (await create(services, f"k{number}", scopes, rng.sample(PATTERNS, rng.randint(1, 3)))).key
        made[key.name] = key
    seen = 0
    for _ in range(20):
        own = administrator(
            *rng.sample(PATTERNS, rng.randint(1, 4)), scopes=[Scope.ADMIN, *rng.sample([Scope.READ, Scope.WRITE], 1)]
        )
        covered = {name for name, key in made.items() if own.principal.grant.covers(key.grant)}
        seen += len(covered)
        with acting(own):
            assert {one.name for one in await listed(services)} == covered
            for name in sorted(made.keys() - covered)[:2]:
                with pytest.raises(NotFound):
                    await services.keys.revoke(name)
    assert seen > 20
    assert all(one.revoked_at is None for one in await listed(services))


async def test_pages_of_keys(services: Services) -> None:
    for number in range(5):
        await create(services, f"k{number}")
    async with services.views.open() as view:
        first = await services.keys.list(view, first=3, after=None)
        rest = await services.keys.list(view, first=3, after=first.end_cursor)
        for wrong in ("%%%", "WyJhdWRpdF9sb2ciLDFd", "WyJhcGlfa2V5cyIsIngiXQ"):
            with pytest.raises((InvalidCursor, InvalidInput)):
                await services.keys.list(view, first=3, after=wrong)
    assert [one.name for one in (*first.items, *rest.items)] == [f"k{number}" for number in range(5)]
    assert (first.has_next, rest.has_next) == (True, False)


@pytest.mark.parametrize(
    "given",
    [
        {"name": ""}, {"name": "12"}, {"name": " x"}, {"name": "x" * 101}, {"name": "a\nb"}, {"name": 5},
        {"scopes": []}, {"scopes": ["root"]}, {"scopes": [None]}, {"namespaces": []}, {"namespaces": ["a*b"]},
        {"namespaces": ["x" * 200]}, {"namespaces": ["a\x00"]}, {"namespaces": [f"n{i}" for i in range(101)]},
        {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, {"expires_at": "soon"},
    ],
)  # fmt: skip
async def test_what_is_no_key_is_refused(services: Services, given: dict[str, Any]) -> None:
    with pytest.raises((InvalidInput, TooLarge)):
        await create(services, **{"name": "x", "scopes": ["read"], "namespaces": ["*"], **given})
    assert await listed(services) == []


async def test_names_are_unique_also_when_many_try_at_once(services: Services) -> None:
    tried = await asyncio.gather(*(create(services) for _ in range(5)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in tried) == ["Conflict"] * 4 + ["CreatedKey"]
    with pytest.raises(Conflict):
        await create(services)


def test_periods() -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert api_key.expiry("30d", now) == datetime(2026, 3, 2, 12, tzinfo=UTC)
    assert api_key.expiry("90m", now) == datetime(2026, 1, 31, 13, 30, tzinfo=UTC)
    assert api_key.expiry("2w", now) == now + timedelta(days=14)
    assert api_key.expiry("2027-01-01", now) == datetime(2027, 1, 1, tzinfo=UTC)
    assert api_key.expiry("never", now) is api_key.expiry(None, now) is None
    for wrong in ("", "0d", "-1d", "1y", "d", "1.5h", "999999w", "9999999d", "tomorrow"):
        with pytest.raises(InvalidInput):
            api_key.expiry(wrong, now)


# When keys were last used


async def test_use_is_noted_at_the_end(services: Services, settings: Settings) -> None:
    made, unused = await create(services), await create(services, "unused")
    async with open_runtime(settings, maintenance=False) as elsewhere:
        await who(elsewhere, made.token)
        before = {one.name: one.last_used_at for one in await listed(services)}
    assert before == {"ci": None, "unused": None}
    after = {one.name: one.last_used_at for one in await listed(services)}
    assert after["ci"] is not None
    assert made.key.created_at - timedelta(seconds=5) < after["ci"] <= datetime.now(UTC) + timedelta(seconds=5)
    assert after[unused.key.name] is None


async def test_use_is_noted_from_time_to_time(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "USE_SECONDS", 0.05)
    async with open_runtime(settings, maintenance=False) as services:
        made = await create(services)
        await who(services, made.token)

        async def noted() -> bool:
            return (await listed(services))[0].last_used_at is not None

        await until(noted)


async def test_use_that_cannot_be_noted_is_kept(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await create(services)
    await who(services, made.token)

    async def fails(*_: object) -> None:
        raise DatabaseUnavailable("away")

    with monkeypatch.context() as broken:
        broken.setattr(services.keys._database, "write", fails)
        await services.keys.note_use()
    assert (await listed(services))[0].last_used_at is None
    await services.keys.note_use()
    assert (await listed(services))[0].last_used_at is not None


# What is remembered of keys


class Table:
    """Stands in for the database: says which ids it was asked for."""

    def __init__(self, *ids: int) -> None:
        self.ids = set(ids)
        self.asked: list[list[int]] = []
        self.error: SfmError | None = None
        self.free = asyncio.Event()
        self.free.set()

    async def find(self, ids: Sequence[int]) -> Mapping[int, StoredKey]:
        self.asked.append(list(ids))
        found = {one: self.key(one) for one in ids if one in self.ids}
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return found

    def key(self, id: int) -> StoredKey:
        return StoredKey(
            ApiKey(id, f"k{id}", EVERYTHING.__class__(frozenset(), reach(["*"])), "x", datetime.now(UTC)), b""
        )


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_keys_are_remembered_for_five_seconds_and_missing_ones_for_one() -> None:
    table, clock = Table(1), Clock()
    cache = KeyCache(table.find, clock)
    for at, asked in [(0, [[1], [2]]), (0.9, []), (1.1, [[2]]), (4.9, [[2]]), (5.1, [[1]])]:
        table.asked.clear()
        clock.now = at
        assert await cache.get(1) is not None
        assert await cache.get(2) is None
        assert table.asked == asked, at
    await cache.aclose()


async def test_a_flood_of_made_up_ids_is_one_statement_at_a_time() -> None:
    table = Table(5)
    cache = KeyCache(table.find)
    table.free.clear()
    first = asyncio.create_task(cache.get(1))
    await until(lambda: len(table.asked) == 1)
    flood = [asyncio.create_task(cache.get(number % 500 + 2)) for number in range(5_000)]
    await asyncio.sleep(0)
    table.free.set()
    found = await asyncio.gather(*flood)
    assert await first is None
    assert [one.key.id for one in found if one] == [5] * 10
    assert [len(one) for one in table.asked] == [1, 500]
    await cache.aclose()


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_cache, "MOST_KNOWN", 10)
    table = Table(1)
    cache = KeyCache(table.find)
    assert await cache.get(1)
    await asyncio.gather(*(cache.get(number) for number in range(100, 400)))
    assert len(cache._missing) == 10
    # Ids that do not exist push no key out.
    table.asked.clear()
    assert await cache.get(1)
    assert table.asked == []
    await cache.aclose()


async def test_a_key_that_changes_while_it_is_looked_up_is_not_remembered_as_it_was() -> None:
    table = Table(1)
    cache = KeyCache(table.find)
    table.free.clear()
    early = asyncio.create_task(cache.get(1))
    await until(lambda: len(table.asked) == 1)
    table.ids.clear()
    cache.drop(1)
    late = asyncio.create_task(cache.get(1))
    await asyncio.sleep(0)
    table.free.set()
    assert await early is not None
    assert await late is None
    assert await cache.get(1) is None
    await cache.aclose()


async def test_failures_are_not_remembered() -> None:
    table = Table(1)
    cache = KeyCache(table.find)
    table.error = DatabaseUnavailable("away")
    with pytest.raises(DatabaseUnavailable):
        await cache.get(1)
    table.error = None
    assert await cache.get(1)
    await cache.aclose()


async def test_who_goes_takes_no_other_with_them() -> None:
    table = Table(1)
    cache = KeyCache(table.find)
    table.free.clear()
    one, other = asyncio.create_task(cache.get(1)), asyncio.create_task(cache.get(1))
    await until(lambda: len(table.asked) == 1)
    one.cancel()
    await asyncio.wait([one])
    table.free.set()
    assert one.cancelled()
    assert await other is not None
    await cache.aclose()


# Without a token


async def test_the_service_is_open_to_this_machine_until_there_is_a_key(services: Services) -> None:
    one = await services.authentication.caller(None)
    assert one.principal == LOCAL
    assert not await services.authentication.required()
    made = await create(services)
    assert await services.authentication.required()
    with pytest.raises(Unauthenticated):
        await services.authentication.caller(None)
    with pytest.raises(Unauthenticated):
        await one.renew()
    assert await who(services, made.token)
    await services.keys.revoke("ci")
    assert await who(services, None) == LOCAL


async def test_that_nobody_needs_a_token_any_more_is_said(services: Services, caplog: Any) -> None:
    revoke = "mutation ($key: String!) { revokeApiKey(input: {key: $key}) { tokenNeeded } }"
    for name in ("first", "last"):
        await create(services, name)
    async with open_graph(services) as graph:
        assert (await graph.data(revoke, key="first"))["revokeApiKey"] == {"tokenNeeded": True}
        assert "no API key is left" not in caplog.text
        assert (await graph.data(revoke, key="last"))["revokeApiKey"] == {"tokenNeeded": False}
    assert "no API key is left" in caplog.text


async def test_a_wrong_token_is_never_nobody(services: Services) -> None:
    assert await who(services, None) == LOCAL
    for token in ("", "wrong", "sfm_1_" + "x" * 43, "a.b.c"):
        with pytest.raises(Unauthenticated):
            await who(services, token)


@pytest.mark.parametrize(
    ("host", "is_open"),
    [("127.0.0.1", True), ("::1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("localhost.example", False), ("", False)],
)  # fmt: skip
async def test_only_loopback_is_ever_open(host: str, is_open: bool) -> None:
    assert is_loopback(host) is is_open

    async def never() -> bool:
        return False

    authentication = Authentication(
        [], POLICY, None, configured=False, keys_exist=never, open_to_local=is_loopback(host)
    )
    assert await authentication.required() is not is_open
    assert not await authentication.has_any()


async def test_an_unknown_state_is_closed(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await create(services)

    @asynccontextmanager
    async def away(*_: object) -> AsyncIterator[None]:
        raise DatabaseUnavailable("away")
        yield

    async def gone(*_: object) -> None:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(services.keys._database, "read", away)
    monkeypatch.setattr(services.keys._database, "single", gone)
    for token in (None, made.token):
        with pytest.raises(DatabaseUnavailable):
            await services.authentication.caller(token)


async def test_a_fact_is_asked_for_by_one_at_a_time() -> None:
    asked, clock = [], Clock()

    async def ask() -> bool:
        asked.append(clock.now)
        await asyncio.sleep(0)
        return clock.now >= 5

    fact = Fact(ask, 5.0, clock)
    assert await asyncio.gather(*(fact.holds() for _ in range(10))) == [False] * 10
    clock.now = 4.9
    assert not await fact.holds()
    clock.now = 5.0
    assert await fact.holds()
    fact.forget()
    assert await fact.holds()
    assert asked == [0.0, 5.0, 5.0]


# The static token


@asynccontextmanager
async def opened(settings: Settings, **changed: Any) -> AsyncIterator[Services]:
    async with open_runtime(settings.model_copy(update=changed), maintenance=False) as services:
        yield services


async def test_the_static_token_is_everything(settings: Settings) -> None:
    async with opened(settings, api_token=SecretStr("0123456789abcdef")) as services:
        one = await services.authentication.caller("0123456789abcdef")
        assert (one.principal.name, one.principal.grant) == ("token", EVERYTHING)
        assert await services.authentication.required()
        assert await services.authentication.has_any()
        for token in (None, "0123456789abcdeF", "0123456789abcdef ", "0123456789abcde", "", "\u00e9" * 16):
            with pytest.raises(Unauthenticated):
                await services.authentication.caller(token)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may pass, as those above it; pytest's own are closed."""
    with TemporaryDirectory(prefix="sfm-token-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_a_file_holds_the_token(settings: Settings, open_folder: Path, caplog: Any) -> None:
    path = open_folder / "token"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o600)
    async with opened(settings, api_token_file=path) as services:
        assert (await who(services, "0123456789abcdef")).name == "token"
        # Read at the start.
        path.write_text("another-token-of-24-chars")
        assert (await who(services, "0123456789abcdef")).name == "token"
    assert "chmod" not in caplog.text
    path.chmod(0o644)
    assert StaticToken.open(settings.model_copy(update={"api_token_file": path})) is not None
    assert "chmod 600" in caplog.text
    assert "another-token" not in caplog.text


def test_a_closed_folder_closes_the_file(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder / "secrets"
    folder.mkdir()
    folder.chmod(0o755)
    path = folder / "token"
    path.write_text("0123456789abcdef")
    path.chmod(0o644)
    link = open_folder / "link"
    link.symlink_to(path)
    assert open_to_all(path)
    assert open_to_all(link)
    folder.chmod(0o700)
    assert not open_to_all(path)
    assert not open_to_all(link)
    folder.chmod(0o755)
    path.chmod(0o640)
    assert not open_to_all(path)
    path.chmod(0o644)
    monkeypatch.setattr(static, "MOUNTED", (folder,))
    assert not open_to_all(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"short", b"0123456789abcde\n", b"\xff" * 20, b"with a space 1234567", b"two\n0123456789abcdef",
     b"x" * 5_000],
)  # fmt: skip
async def test_a_file_without_a_token_stops_the_start(settings: Settings, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="SOMA_API_TOKEN_FILE") as caught:
        StaticToken.open(settings.model_copy(update={"api_token_file": path}))
    text = content.decode(errors="replace").strip()
    assert not text or text not in str(caught.value)


def test_a_token_that_cannot_be_one_stops_the_start(settings: Settings, tmp_path: Path) -> None:
    for value in ("short", "\u00e9" * 20, "x" * 16 + "\n"):
        with pytest.raises(SettingsError, match="SOMA_API_TOKEN:"):
            StaticToken.open(settings.model_copy(update={"api_token": SecretStr(value)}))
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(SettingsError, match="SOMA_API_TOKEN_FILE: cannot read"):
            StaticToken.open(settings.model_copy(update={"api_token_file": path}))
    assert StaticToken.open(load_settings(postgres_url=settings.postgres_url)) is None


# GraphQL


async def test_keys_by_graphql(services: Services) -> None:
    async with open_graph(services) as graph:
        create = """mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) {
          apiKey { id name scopes namespaces createdBy expiresAt revokedAt lastUsedAt } token } }"""
        given = {"name": "ci", "scopes": ["WRITE", "READ"], "namespaces": ["team/*"], "expiresAt": "2100-01-01"}
        made = (await graph.data(create, input=given))["createApiKey"]
        key = made["apiKey"]
        assert key == {
            "id": made["token"].split("_")[1], "name": "ci", "scopes": ["READ", "WRITE"], "namespaces": ["team/*"],
            "createdBy": "local", "expiresAt": "2100-01-01T00:00:00+00:00", "revokedAt": None, "lastUsedAt": None,
        }  # fmt: skip
        assert (await who(services, made["token"])).name == f"key:{key['id']}"
        assert await graph.codes(create, input=given) == ["conflict"]
        assert await graph.codes(create, input={**given, "name": "7"}) == ["invalid_input"]
        page = (await graph.data("{ apiKeys { edges { node { name } } pageInfo { hasNextPage } } }"))["apiKeys"]
        assert page == {"edges": [{"node": {"name": "ci"}}], "pageInfo": {"hasNextPage": False}}
        revoke = 'mutation { revokeApiKey(input: {key: "ci"}) { apiKey { revokedAt } } }'
        assert (await graph.data(revoke))["revokeApiKey"]["apiKey"]["revokedAt"]
        assert await graph.codes(revoke) == ["not_found"]
        with acting(Caller(Principal("key:5", Grant(frozenset({Scope.READ}), reach(["*"]))), POLICY, services.audit)):
            for text in (revoke, "{ apiKeys { edges { cursor } } }", "{ auditLog { edges { cursor } } }"):
                assert await graph.codes(text) == ["forbidden"]
        denied = "{ auditLog(first: 2) { edges { node { principal action allowed } } pageInfo { hasNextPage } } }"
        page = (await graph.data(denied))["auditLog"]
        assert [one["node"] for one in page["edges"]] == [
            {"principal": "key:5", "action": "audit.list", "allowed": False},
            {"principal": "key:5", "action": "keys.list", "allowed": False},
        ]
        assert page["pageInfo"]["hasNextPage"]


async def test_the_documented_operations_work(services: Services) -> None:
    page = (ROOT / "docs" / "access.md").read_text()
    documents = re.findall(r"```graphql\n(.*?)```", page, re.DOTALL)
    assert len(documents) == 4
    async with open_graph(services) as graph:
        for document in documents:
            assert await graph.data(document)


# The command line


def sfm(*arguments: str, exit_code: int = 0, **environment: str) -> Any:
    """The JSON on stdout; of a refused command the JSON on stderr."""
    result = CliRunner().invoke(app, arguments, env=environment)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout if exit_code == 0 else result.stderr)


@pytest.fixture
def commands(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this test work on its own database."""
    for name in [name for name in os.environ if name.startswith(("SFM_", "SOMA_", "POSTGRES_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("POSTGRES_URL", database_dsn)


@pytest.mark.usefixtures("commands")
def test_keys_by_commands() -> None:
    made = sfm("keys", "create", "ci", "--scope", "read", "-s", "write", "--namespace", "team/*", "--expires", "30d")
    assert made["token"].startswith(f"sfm_{made['id']}_")
    assert (made["scopes"], made["namespaces"], made["created_by"]) == (["read", "write"], ["team/*"], "local")
    assert timedelta(days=29) < datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC) < timedelta(days=31)
    # Without --url a key in the database keeps no command out.
    assert sfm("keys", "create", "ci", "-s", "read", "-n", "*", exit_code=1)["code"] == "conflict"
    assert sfm("keys", "create", "x", "-s", "root", "-n", "*", exit_code=1)["code"] == "invalid_input"
    assert (
        sfm("keys", "create", "x", "-s", "read", "-n", "*", "--expires", "soon", exit_code=1)["code"]
        == "invalid_input"
    )
    sfm("keys", "create", "second", "-s", "read", "-n", "*")
    page = sfm("keys", "list", "--first", "1")
    assert [one["name"] for one in page["keys"]] == ["ci"]
    rest = sfm("keys", "list", "--after", page["next"])
    assert ([one["name"] for one in rest["keys"]], rest["next"]) == (["second"], None)
    assert "token" not in rest["keys"][0]
    assert sfm("keys", "revoke", "ci")["revoked_at"]
    assert sfm("keys", "revoke", "nobody", exit_code=1)["code"] == "not_found"
    assert isinstance(sfm("audit", "--first", "2")["records"], list)
    some = sfm("audit", "--principal", "ci", "-n", "team/a", "--denied", "--since", "7d")
    assert some == {"records": [], "next": None}
    assert sfm("audit", "--since", "soon", exit_code=1)["code"] == "invalid_input"
    result = CliRunner().invoke(app, ["keys", "revoke", "second"])
    assert (result.exit_code, "nobody on this machine needs a token now" in result.stderr) == (0, True)


@pytest.mark.usefixtures("commands")
def test_commands_show_a_server_their_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text("from-the-file\n")
    with scripted_server() as server:
        server.script(Reply({"memories": []}))

        def shown(*before: str, **environment: str) -> str | None:
            server.requests.clear()
            sfm(*before, "get", "key:a", "--url", server.url, **environment)
            return {name.lower(): value for name, value in server.requests[0].headers.items()}.get("authorization")

        assert shown() is None
        assert shown(SFM_TOKEN="from-the-environment") == "Bearer from-the-environment"
        assert shown(SFM_TOKEN_FILE=str(path)) == "Bearer from-the-file"
        assert shown("--token", "given", SFM_TOKEN="from-the-environment") == "Bearer given"
        assert shown("--token-file", str(path)) == "Bearer from-the-file"
        assert shown() is None
        for wrong in ({"SFM_TOKEN": "a b"}, {"SFM_TOKEN": "\u00e9"}, {"SFM_TOKEN_FILE": str(tmp_path / "none")},
                      {"SFM_TOKEN_FILE": str(tmp_path)}):  # fmt: skip
            refused = sfm("get", "key:a", "--url", server.url, exit_code=1, **wrong)
            assert refused["code"] == "settings_error"
            assert "a b" not in refused["detail"]
        server.script(Reply({"code": "unauthenticated", "detail": "no"}, status=401))
        for command in (("get", "key:a"), ("keys", "list"), ("audit",)):
            assert sfm(*command, "--url", server.url, exit_code=1)["code"] == "unauthenticated"
        server.script(Reply({"errors": [{"message": "no", "extensions": {"code": "forbidden"}}]}, status=403))
        assert sfm("audit", "--url", server.url, exit_code=1) == {"code": "forbidden", "detail": "no"}
        for junk in (b"<html>", b"[]", b"{}", b'{"data": 7}', b'{"errors": []}', b'{"errors": 7}'):
            server.script(Reply(junk))
            assert sfm("audit", "--url", server.url, exit_code=1)["code"] == "unexpected_answer"
