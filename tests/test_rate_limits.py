"""Token buckets, who counts them, and what a caller over its limit is told."""

import asyncio
import dataclasses
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis_server import RedisServer, free_port, redis_server
from served import DEADLINE_SECONDS, WATCH, remember, serving, until
from starlette.routing import Route

from sfm_graph import backends
from sfm_graph.adapters.rate_limits.in_process import InProcessRateLimiter
from sfm_graph.adapters.rate_limits.redis import PREFIX, RedisRateLimiter
from sfm_graph.adapters.redis.connection import open_redis
from sfm_graph.api.gql.router import graphql_router
from sfm_graph.api.limiting import CLASS_OF_ROUTE, FREE, route_class_of
from sfm_graph.app import app_for
from sfm_graph.domain.access import EVERYTHING, Principal
from sfm_graph.domain.rate import TOLERANCE_SECONDS, Limit, Taken, take
from sfm_graph.errors import BudgetSpent, QueryTooComplex, RateLimited
from sfm_graph.ports.rate_limiter import RateLimiter
from sfm_graph.services.access.guard import Caller, acting
from sfm_graph.services.access.policy import ScopesByNamespace
from sfm_graph.services.limits import GUESSES, Limits
from sfm_graph.services.registry import Services
from sfm_graph.settings import ROUTE_CLASSES, Settings, load_settings

# So long that nothing comes back into a bucket while a test runs.
LONG = 86_400.0


# The bucket

limits = st.builds(
    Limit, st.integers(1, 1_000), st.integers(1, 4_096).map(lambda quarters: quarters / 4)
)  # fmt: skip
# Times between tries, exact as floats.
pauses = st.integers(0, 1 << 14).map(lambda units: units / 1024)


class Naive:
    """The bucket by the book: a level that rises with time, in exact arithmetic."""

    def __init__(self, limit: Limit, now: float) -> None:
        self.most = limit.most
        self.rate = Fraction(limit.most) / Fraction(limit.window_seconds)
        self.level = Fraction(limit.most)
        self.now = Fraction(now)

    def take(self, now: float, cost: int) -> bool:
        self.level = min(Fraction(self.most), self.level + (Fraction(now) - self.now) * self.rate)
        self.now = Fraction(now)
        # What the real one may give early.
        if self.level + Fraction(TOLERANCE_SECONDS) / 2 * self.rate < cost:
            return False
        self.level -= cost
        return True


def run(limit: Limit, steps: list[tuple[float, int]], start: float = 0.0) -> list[tuple[float, int, Taken]]:
    """Each try's time, cost and outcome."""
    full_at, now, seen = None, start, []
    for pause, cost in steps:
        now += pause
        full_at, taken = take(full_at, now, limit, cost)
        seen.append((now, cost, taken))
    return seen


@st.composite
def runs(draw: st.DrawFn) -> tuple[Limit, list[tuple[float, int]]]:
    limit = draw(limits)
    return limit, draw(st.lists(st.tuples(pauses, st.integers(0, limit.most)), min_size=1, max_size=60))


@given(runs(), st.sampled_from([0.0, 1e6, 1e8]))
def test_no_stretch_of_time_gives_more_than_the_bucket_and_its_rate(
    drawn: tuple[Limit, list[tuple[float, int]]], start: float
) -> None:
    limit, steps = drawn
    seen = run(limit, steps, start)
    rate = limit.most / limit.window_seconds
    for first in range(len(seen)):
        given_out = 0
        for now, cost, taken in seen[first:]:
            given_out += cost if taken.allowed else 0
            passed = now - seen[first][0] + 2 * TOLERANCE_SECONDS
            assert given_out <= limit.most + rate * passed


@given(runs())
def test_bucket_is_the_one_of_the_book(drawn: tuple[Limit, list[tuple[float, int]]]) -> None:
    limit, steps = drawn
    naive = Naive(limit, 0.0)
    for now, cost, taken in run(limit, steps):
        assert taken.allowed == naive.take(now, cost)
        assert abs(taken.remaining - naive.level) <= 1 + 2 * TOLERANCE_SECONDS * naive.rate


@given(runs(), st.data())
def test_what_is_told_of_the_bucket_holds(drawn: tuple[Limit, list[tuple[float, int]]], data: st.DataObject) -> None:
    limit, steps = drawn
    full_at, now = None, 0.0
    for pause, cost in steps:
        now += pause
        full_at, taken = take(full_at, now, limit, cost)
        assert 0 <= taken.remaining <= limit.most
        assert 0 <= taken.reset_seconds <= limit.window_seconds + 2 * TOLERANCE_SECONDS
        if not taken.allowed:
            assert taken.retry_after_seconds > 0
            assert take(full_at, now + taken.retry_after_seconds, limit, cost)[1].allowed
            early = taken.retry_after_seconds * data.draw(st.sampled_from([0.0, 0.5, 0.99]))
            if taken.retry_after_seconds - early > 2 * TOLERANCE_SECONDS:
                assert not take(full_at, now + early, limit, cost)[1].allowed
        assert take(full_at, now, limit, taken.remaining)[1].allowed
        if taken.remaining < limit.most:
            assert not take(full_at, now, limit, taken.remaining + 1)[1].allowed
        assert take(full_at, now + taken.reset_seconds, limit, limit.most)[1].allowed


@given(limits, st.integers(1, 2_000), st.floats(0, 1e7))
def test_steady_at_nine_tenths_is_never_refused(limit: Limit, tries: int, start: float) -> None:
    each = limit.window_seconds / limit.most / 0.9
    assert all(taken.allowed for _, _, taken in run(limit, [(each, 1)] * tries, start))


@given(st.integers(1, 200), st.integers(1, 2_000))
def test_at_twice_the_limit_exactly_the_excess_is_refused(most: int, tries: int) -> None:
    # A token a second, two tries a second, the first at once.
    limit = Limit(most, float(most))
    seen = run(limit, [(0.5 if number else 0.0, 1) for number in range(tries)])
    allowed = sum(taken.allowed for _, _, taken in seen)
    assert allowed == min(tries, most + (tries - 1) // 2)
    # Past the first fill every second one is refused, neither two together nor none.
    tail = [taken.allowed for _, _, taken in seen[2 * most :]]
    assert all(one != other for one, other in itertools.pairwise(tail))


def test_a_clock_set_back_locks_nobody_out() -> None:
    limit = Limit(10, 60.0)
    full_at, _ = take(None, 1e6, limit, 10)
    _, taken = take(full_at, 0.0, limit, 1)
    assert taken.retry_after_seconds <= 60 / 10 + TOLERANCE_SECONDS


@pytest.mark.parametrize("cost", [-1, 11])
def test_a_bucket_is_never_asked_for_what_it_cannot_hold(cost: int) -> None:
    with pytest.raises(ValueError, match="never gives"):
        take(None, 0.0, Limit(10, 60.0), cost)


# Limiters


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as started:
        yield started


def at(server: RedisServer) -> Settings:
    return load_settings(redis_url=server.url, rate_limit_max=1)


@pytest.fixture
async def shared(server: RedisServer) -> AsyncIterator[RedisRateLimiter]:
    limiter = await opened(server)
    assert await limiter.state() == {"kind": "redis", "status": "up"}
    yield limiter
    await limiter.aclose()


async def opened(server: RedisServer, *, timeout_seconds: float = DEADLINE_SECONDS) -> RedisRateLimiter:
    """One that has patience with a slow machine."""
    client = open_redis(at(server), timeout_seconds=DEADLINE_SECONDS)
    limiter = RedisRateLimiter(client, timeout_seconds=timeout_seconds, pause_seconds=0.05)
    await limiter.probe()
    return limiter


@pytest.fixture(params=["in_process", "redis"])
def limiter(request: pytest.FixtureRequest) -> RateLimiter:
    if request.param == "redis":
        found: RateLimiter = request.getfixturevalue("shared")
        return found
    return InProcessRateLimiter()


async def outcomes(limiter: RateLimiter, key: str, limit: Limit, tries: int) -> list[bool]:
    return [(await limiter.take(key, limit)).allowed for _ in range(tries)]


async def test_a_limiter_gives_what_the_bucket_holds(limiter: RateLimiter) -> None:
    limit = Limit(5, LONG)
    seen = [await limiter.take("a", limit) for _ in range(7)]
    assert [one.allowed for one in seen] == [True] * 5 + [False] * 2
    assert [one.remaining for one in seen] == [4, 3, 2, 1, 0, 0, 0]
    assert 0 < seen[-1].retry_after_seconds <= LONG / 5
    assert LONG - 60 < seen[-1].reset_seconds <= LONG


async def test_a_limiter_keeps_keys_and_limits_apart(limiter: RateLimiter) -> None:
    for key in ("a", "b", "", "ä\n\x00", "\ud800", "x" * 100_000):
        assert await outcomes(limiter, key, Limit(1, LONG), 2) == [True, False], key
    assert await outcomes(limiter, "a", Limit(2, LONG), 3) == [True, True, False]


async def test_a_limiter_takes_all_of_a_cost_or_nothing(limiter: RateLimiter) -> None:
    limit = Limit(10, LONG)
    left = 10
    for cost in (4, 7, 6, 1, 0, 1):
        taken = await limiter.take("a", limit, cost)
        assert taken.allowed == (cost <= left), cost
        left -= cost if taken.allowed else 0
        assert taken.remaining == left
    for cost in (-1, 11):
        with pytest.raises(ValueError, match="never gives"):
            await limiter.take("a", limit, cost)


async def test_a_limiter_gives_again_after_the_time_it_says(limiter: RateLimiter) -> None:
    limit = Limit(2, 0.2)
    await outcomes(limiter, "a", limit, 2)
    while (refused := await limiter.take("a", limit)).allowed:
        pass
    await asyncio.sleep(refused.retry_after_seconds + 0.002)
    assert (await limiter.take("a", limit)).allowed


async def test_a_limiter_counts_those_who_come_together(limiter: RateLimiter) -> None:
    seen = await asyncio.gather(*(limiter.take("a", Limit(20, LONG)) for _ in range(60)))
    assert sum(one.allowed for one in seen) == 20
    assert sorted(one.remaining for one in seen if one.allowed) == list(range(20))


async def test_in_process_a_flood_of_keys_is_bounded_and_forgets_the_oldest() -> None:
    limiter = InProcessRateLimiter(max_keys=100, clock=lambda: 0.0)
    for number in range(1_000):
        await limiter.take(f"{number}", Limit(1, 60.0))
        assert (await limiter.take("busy", Limit(1, 60.0))).allowed == (number == 0)
    assert len(limiter) == 100
    assert not (await limiter.take("999", Limit(1, 60.0))).allowed
    assert not (await limiter.take("901", Limit(1, 60.0))).allowed
    assert (await limiter.take("0", Limit(1, 60.0))).allowed


async def test_in_process_full_buckets_are_dropped() -> None:
    clock = Clock()
    limiter = InProcessRateLimiter(clock=clock)
    for number in range(1_000):
        await limiter.take(f"{number}", Limit(10, 60.0))
    assert len(limiter) == 1_000
    clock.now += 6.5
    for _ in range(500):
        await limiter.take("another", Limit(10, 60.0))
    assert len(limiter) == 1


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


# Shared in Redis


async def test_two_processes_share_one_bucket(server: RedisServer, shared: RedisRateLimiter) -> None:
    other = await opened(server)
    limit = Limit(6, LONG)
    seen = [await one.take("a", limit) for _ in range(4) for one in (shared, other)]
    await other.aclose()
    assert [one.allowed for one in seen] == [True] * 6 + [False] * 2


async def test_buckets_leave_redis_when_they_are_full(server: RedisServer, shared: RedisRateLimiter) -> None:
    async with Redis(port=server.port) as client:
        await shared.take("a", Limit(10, 1.0))

        async def is_empty() -> bool:
            return await client.dbsize() == 0

        await until(is_empty)
        await shared.take("a", Limit(10, 60.0), 5)
        (key,) = [key async for key in client.scan_iter(f"{PREFIX}*")]
        assert 29_000 < await client.pttl(key) <= 30_001


async def test_redis_is_told_no_names(server: RedisServer, shared: RedisRateLimiter) -> None:
    await shared.take("read:jwt:https://issuer/#ada@example.com", Limit(10, 60.0))
    async with Redis(port=server.port) as client:
        keys = [key async for key in client.scan_iter()]
    assert all(key.startswith(PREFIX.encode()) and len(key) == len(PREFIX) + 32 for key in keys)


async def test_redis_may_forget_the_script(server: RedisServer, shared: RedisRateLimiter) -> None:
    limit = Limit(2, LONG)
    assert await outcomes(shared, "a", limit, 1) == [True]
    async with Redis(port=server.port) as client:
        await client.script_flush()
    assert await outcomes(shared, "a", limit, 2) == [True, False]
    assert (await shared.state())["status"] == "up"


async def test_without_redis_each_process_counts_for_itself(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, other = [await opened(server) for _ in range(2)]
    limit = Limit(3, LONG)
    assert await outcomes(one, "a", limit, 3) == [True] * 3
    assert await outcomes(other, "a", limit, 1) == [False]
    server.kill()
    for limiter in (one, other):
        assert await outcomes(limiter, "a", limit, 4) == [True] * 3 + [False]
        state = await limiter.state()
        assert (state["kind"], state["status"]) == ("redis", "degraded")
        assert f"127.0.0.1:{server.port}" in state["reason"]
    for _ in range(3):
        await asyncio.sleep(0.1)
        await one.take("b", limit)
    server.start()
    for limiter in (one, other):
        await until(lambda limiter=limiter: asks_redis(limiter, limit))
        # What Redis has written down before it died counts again.
        assert await outcomes(limiter, "a", limit, 1) == [False]
        await limiter.aclose()
    mine = [record.levelname for record in caplog.records if record.name.endswith("rate_limits.redis")]
    assert sorted(mine) == ["INFO"] * 4 + ["WARNING"] * 2


async def asks_redis(limiter: RedisRateLimiter, limit: Limit) -> bool:
    # Requests alone bring it back: nobody has to look at its health.
    await limiter.take("c", limit)
    await asyncio.sleep(0.01)
    return limiter.is_shared


async def test_a_redis_that_stalls_holds_nobody_up(server: RedisServer) -> None:
    limit = Limit(1_000, LONG)
    shared = await opened(server, timeout_seconds=0.5)
    server.pause()
    try:
        started = time.monotonic()
        seen = await asyncio.gather(*(shared.take("a", limit) for _ in range(500)))
        # All wait for the first answers together, nobody after that: one by one it would be half a minute.
        assert time.monotonic() - started < 20
        assert sum(one.allowed for one in seen) == 500
        assert not shared.is_shared
    finally:
        server.resume()
        await shared.aclose()


async def test_a_redis_that_takes_no_writes_is_no_limiter(tmp_path: Path) -> None:
    with redis_server(tmp_path, maxmemory="1kb") as server:
        limiter = await RedisRateLimiter.open(at(server))
        assert await outcomes(limiter, "a", Limit(1, LONG), 2) == [True, False]
        state = await limiter.state()
        await limiter.aclose()
    assert state["status"] == "degraded"
    assert "OutOfMemory" in state["reason"]


async def test_a_limiter_starts_without_redis() -> None:
    settings = load_settings(redis_host="127.0.0.1", redis_port=free_port(), rate_limit_max=1)
    limits = await backends.make_limits(settings)
    assert (await limits.take("read")) == Taken(True, 0, 0.0, pytest.approx(60))
    assert (await limits.state())["status"] == "degraded"
    await limits.aclose()


async def test_a_closed_limiter_opens_no_connection(server: RedisServer) -> None:
    limiter = RedisRateLimiter(open_redis(at(server), timeout_seconds=DEADLINE_SECONDS), pause_seconds=0.0)
    beside = asyncio.create_task(limiter.probe())
    await limiter.take("a", Limit(1, LONG))
    await limiter.aclose()
    await beside
    await limiter.take("a", Limit(1, LONG))
    async with Redis(port=server.port) as client:
        await until(lambda: only_this_one(client))


async def only_this_one(client: Redis) -> bool:
    return len(await client.client_list()) == 1


# Principals


def limits_of(clock: Callable[[], float] = time.monotonic, **settings: Any) -> Limits:
    in_process = InProcessRateLimiter(clock=clock)
    return Limits(load_settings(**settings), in_process, InProcessRateLimiter(clock=clock))


def named(name: str) -> Caller:
    return Caller(Principal(name, EVERYTHING), ScopesByNamespace())


async def test_nothing_is_limited_by_default() -> None:
    limits = limits_of()
    assert [await limits.admit(one) for one in ROUTE_CLASSES] == [None] * len(ROUTE_CLASSES)
    assert await limits.spend(10**15) is None


async def test_each_principal_and_class_has_a_bucket() -> None:
    limits = limits_of(rate_limit_max=2, rate_limit_window_seconds=LONG, rate_limit_classes="search=1")
    for name in ("key:1", "key:2"):
        with acting(named(name)):
            for route_class in ROUTE_CLASSES:
                for _ in range(1 if route_class == "search" else 2):
                    assert await limits.admit(route_class) is not None
                with pytest.raises(RateLimited) as refused:
                    await limits.admit(route_class)
                assert refused.value.details["retry_after"] >= 1
                assert route_class in refused.value.message


async def test_a_class_may_be_limited_alone() -> None:
    limits = limits_of(rate_limit_classes="write=1")
    assert await limits.admit("read") is None
    assert await limits.admit("write") is not None
    with pytest.raises(RateLimited):
        await limits.admit("write")


async def test_cost_is_taken_from_the_callers_budget() -> None:
    clock = Clock()
    limits = limits_of(clock, cost_budget=100, rate_limit_window_seconds=50)
    with acting(named("key:1")):
        taken = await limits.spend(70)
        assert taken is not None
        assert taken.remaining == 30
        with pytest.raises(BudgetSpent) as refused:
            await limits.spend(40)
        assert refused.value.details == {
            "retry_after": 5, "cost": 40, "limit": 100, "remaining": 30, "reset_seconds": pytest.approx(35),
        }  # fmt: skip
        left = await limits.left()
        assert left is not None
        assert (left.remaining, left.allowed) == (30, True)
        clock.now += refused.value.details["retry_after"]
        assert (await limits.spend(40)) is not None
        with pytest.raises(QueryTooComplex, match="beyond the budget"):
            await limits.spend(101)
    with acting(named("key:2")):
        assert (await limits.spend(100)) is not None


async def test_guesses_are_counted_by_address() -> None:
    clock = Clock()
    limits = limits_of(clock)
    for _ in range(GUESSES.most):
        await limits.admit_guess("192.0.2.1")
    with pytest.raises(RateLimited) as refused:
        await limits.admit_guess("192.0.2.1")
    await limits.admit_guess("192.0.2.2")
    with pytest.raises(RateLimited):
        await limits.admit_guess("::ffff:192.0.2.1")
    clock.now += refused.value.details["retry_after"]
    await limits.admit_guess("192.0.2.1")


async def test_operations_on_a_socket_are_counted_where_they_begin(services: Services) -> None:
    asked = limited(services, InProcessRateLimiter(), rate_limit_max=2, rate_limit_window_seconds=LONG)
    async with serving(asked) as served, served.socket() as one, served.socket() as other:
        for socket in (one, other):
            await socket.subscribe("{ __typename }")
            assert [(await socket.hear())["type"] for _ in range(2)] == ["next", "complete"]
        await one.subscribe("{ __typename }")
        refused = await one.hear()
    assert refused["payload"][0]["extensions"]["code"] == "rate_limited"


async def test_guesses_of_one_network_are_counted_together() -> None:
    limits = limits_of(Clock())
    for number in range(GUESSES.most):
        await limits.admit_guess(f"2001:db8::{number:x}")
    with pytest.raises(RateLimited):
        await limits.admit_guess("2001:db8::ffff:1%eth0")
    await limits.admit_guess("2001:db8:0:1::1")
    for odd in ("", "unix:", "testclient", "1.2.3", "\ud800"):
        await limits.admit_guess(odd)


# Routes


def routes_of(services: Services) -> set[str]:
    """`METHOD template` of every route of the app."""
    found: set[str] = set()
    pending = [*app_for(services).routes, *graphql_router(services).routes]
    while pending:
        route = pending.pop()
        if isinstance(route, APIRoute | Route):
            found |= {f"{method} {route.path}" for method in route.methods or () if method != "HEAD"}
        else:
            pending += getattr(getattr(route, "original_router", route), "routes", [])
    return found


async def test_every_route_has_a_class(services: Services) -> None:
    found = routes_of(services)
    assert {"POST /graphql", "GET /static/{path:path}", "POST /recall"} <= found
    assert found == set(CLASS_OF_ROUTE)
    assert set(CLASS_OF_ROUTE.values()) <= {FREE, *ROUTE_CLASSES}


def request_of(method: str, path: str, accept: str = "*/*", query: str = "") -> dict[str, Any]:
    headers = [(b"host", b"localhost"), (b"accept", accept.encode()), (b"accept", b"text/event-stream")]
    return {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": headers}


@pytest.mark.parametrize(
    ("request_", "route_class"),
    [
        (request_of("GET", "/memories"), "read"),
        (request_of("GET", "/memories/key:a/b"), "read"),
        (request_of("PATCH", "/memories/1,2,3"), "write"),
        (request_of("POST", "/memories/search"), "search"),
        (request_of("DELETE", "/namespaces/a/b"), "admin"),
        (request_of("GET", "/namespaces/a"), "read"),
        (request_of("GET", "/changes"), "read"),
        (request_of("GET", "/changes", "text/event-stream"), "stream"),
        (request_of("POST", "/graphql"), "graphql"),
        (request_of("POST", "/graphql", "text/event-stream"), "graphql"),
        (request_of("POST", "/graphql", "text/event-stream, application/json"), "graphql"),
        (request_of("GET", "/graphql", "text/html"), FREE),
        (request_of("GET", "/graphql", "text/html", "query={a}"), "graphql"),
        (request_of("GET", "/graphql", "text/html", "%71uery={a}"), "graphql"),
        (request_of("POST", "/graphql", "text/html"), "graphql"),
        (request_of("GET", "/recall", "text/event-stream"), "read"),
        (request_of("HEAD", "/memories"), "read"),
        (request_of("HEAD", "/static/icon.svg"), FREE),
        (request_of("POST", "/static/icon.svg"), "read"),
        (request_of("GET", "/nowhere"), "read"),
        (request_of("BREW", "/\ud800"), "read"),
        (request_of("GET", "/metrics"), FREE),
        (request_of("GET", "/health"), FREE),
    ],
)
def test_class_of_a_request(request_: dict[str, Any], route_class: str) -> None:
    assert route_class_of(request_) == route_class


# Over HTTP


def limited(services: Services, limiter: RateLimiter, **settings: Any) -> Services:
    """The services with other limits."""
    changed = services.settings.model_copy(update=settings)
    return dataclasses.replace(services, limits=Limits(changed, limiter, InProcessRateLimiter()))


async def test_answers_say_what_is_left(services: Services) -> None:
    clock = Clock()
    asked = limited(services, InProcessRateLimiter(clock=clock), rate_limit_max=3, rate_limit_window_seconds=30.5)
    async with serving(asked) as served, httpx.AsyncClient(base_url=served.url, timeout=DEADLINE_SECONDS) as client:
        first = await client.get("/memories")
        assert first.status_code == 200
        assert {name: first.headers[name] for name in first.headers if name.startswith("ratelimit")} == {
            "ratelimit-limit": "3",
            "ratelimit-remaining": "2",
            "ratelimit-reset": "11",
            "ratelimit-policy": "3;w=31",
        }
        for remaining in ("1", "0"):
            assert (await client.get("/nowhere")).headers["RateLimit-Remaining"] == remaining
        refused = await client.get("/memories")
        assert refused.status_code == 429
        assert refused.headers["Content-Type"] == "application/problem+json"
        body = refused.json()
        assert (body["code"], body["status"], body["instance"]) == ("rate_limited", 429, "/memories")
        assert refused.headers["Retry-After"] == str(body["retry_after"]) == "11"
        assert refused.headers["RateLimit-Remaining"] == "0"
        clock.now += int(refused.headers["Retry-After"])
        assert (await client.get("/memories")).status_code == 200


async def test_graphql_is_refused_in_its_own_form(services: Services) -> None:
    asked = limited(services, InProcessRateLimiter(), rate_limit_max=1, rate_limit_window_seconds=LONG)
    async with serving(asked) as served, httpx.AsyncClient(base_url=served.url, timeout=DEADLINE_SECONDS) as client:
        request = {"json": {"query": "{ __typename }"}}
        assert (await client.post("/graphql", **request)).status_code == 200
        refused = await client.post("/graphql", **request)
        assert refused.status_code == 429
        (error,) = refused.json()["errors"]
        assert error["extensions"]["code"] == "rate_limited"
        assert int(refused.headers["Retry-After"]) >= 1
        # Asked in the form of a stream it is no other request.
        head = {"Accept": "text/event-stream"}
        assert (await client.post("/graphql", **request, headers=head)).status_code == 429


async def test_subscriptions_are_counted_as_streams_as_well(services: Services) -> None:
    await remember(services, "a")
    asked = limited(services, InProcessRateLimiter(), rate_limit_classes="stream=1", rate_limit_window_seconds=LONG)
    async with serving(asked) as served, httpx.AsyncClient(base_url=served.url, timeout=DEADLINE_SECONDS) as client:
        head = {"Accept": "text/event-stream"}
        async with served.events("/graphql", method="POST", json={"query": WATCH}) as events:
            assert events.response.status_code == 200
            refused = await client.post("/graphql", json={"query": WATCH}, headers=head)
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert (await client.post("/graphql", json={"query": "{ __typename }"}, headers=head)).status_code == 200
        async with served.socket() as socket:
            await socket.subscribe(WATCH)
            assert (await socket.hear())["payload"][0]["extensions"]["code"] == "rate_limited"
            await socket.subscribe("{ __typename }")
            assert (await socket.hear())["type"] == "next"


async def test_what_is_free_stays_free(services: Services) -> None:
    asked = limited(services, InProcessRateLimiter(), rate_limit_max=1, rate_limit_window_seconds=LONG)
    async with serving(asked) as served, httpx.AsyncClient(base_url=served.url, timeout=DEADLINE_SECONDS) as client:
        for _ in range(3):
            for path in ("/ping", "/healthz", "/readyz", "/health", "/metrics", "/", "/docs", "/static/icon.svg"):
                answer = await client.get(path)
                assert answer.status_code == 200, path
                assert "RateLimit-Limit" not in answer.headers
            page = await client.get("/graphql", headers={"Accept": "text/html"})
            assert page.status_code == 200


async def test_over_http_nine_tenths_pass_and_of_twice_the_limit_the_excess_is_refused(services: Services) -> None:
    clock = Clock()
    most, window = 10, 10.0
    await remember(services, "a")
    asked = limited(
        services, InProcessRateLimiter(clock=clock), rate_limit_max=most, rate_limit_window_seconds=window
    )
    async with serving(asked) as served, httpx.AsyncClient(base_url=served.url, timeout=DEADLINE_SECONDS) as client:

        async def statuses(path: str, each: float, tries: int) -> list[int]:
            found = []
            for _ in range(tries):
                found.append((await client.get(path)).status_code)
                clock.now += each
            return found

        # Five windows of each.
        assert set(await statuses("/memories", window / most / 0.9, 45)) == {200}
        # Another bucket: a full one.
        over = await statuses("/rank", window / most / 2, 100)
        assert over.count(429) == 100 - (most + 99 // 2)
        assert set(over) == {200, 429}


async def test_over_http_by_the_clock_on_the_wall(services: Services) -> None:
    seen: list[float] = []

    def clock() -> float:
        seen.append(time.monotonic())
        return seen[-1]

    limit = Limit(10, 0.5)
    asked = limited(
        services, InProcessRateLimiter(clock=clock), rate_limit_max=limit.most,
        rate_limit_window_seconds=limit.window_seconds,
    )  # fmt: skip
    async with serving(asked) as served, httpx.AsyncClient(base_url=served.url, timeout=DEADLINE_SECONDS) as client:
        each = limit.window_seconds / limit.most
        for _ in range(2 * limit.most):
            assert (await client.get("/memories")).status_code == 200
            await asyncio.sleep(each / 0.9)
        seen.clear()
        passed = []
        for _ in range(4 * limit.most):
            passed.append((await client.get("/rank")).status_code != 429)
            await asyncio.sleep(each / 2)
    naive = Naive(limit, seen[0])
    assert passed == [naive.take(now, 1) for now in seen]
    allowed_at_most = limit.most + (seen[-1] - seen[0]) / each
    assert sum(passed) <= allowed_at_most + 1
