"""A client of a load run: mixed writes and reads, each answer compared with what the client itself has done."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

Json = dict[str, Any]
# Live memories of one client: a run of any length ends with as many.
MOST_ALIVE = 60
RETRY_SECONDS = 0.05
NEIGHBOURS = """query ($ns: String!, $key: String!) { memory(namespace: $ns, ref: {key: $key}) {
  key content version neighbors(first: 100) { edges { node { key } } } } }"""


@dataclass
class Note:
    """A memory as its client knows it."""

    content: str
    version: int
    # Keys of those it is linked with, either way.
    linked: set[str] = field(default_factory=set)


@dataclass
class Answered:
    """What a client met. `refusals`: moments (of `time.monotonic`) at which it was answered 503."""

    counts: Counter[str] = field(default_factory=Counter)
    refusals: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    slowest_ms: float = 0.0


class LoadClient:
    """One agent with memories of its own in a namespace that it shares with others. No two have a word in common."""

    def __init__(self, client: httpx.AsyncClient, number: int, namespace: str, seed: int) -> None:
        self._client = client
        self._name = f"agent{number}"
        self._namespace = namespace
        self._random = random.Random(seed * 1_000 + number)
        self._made = 0
        self.alive: dict[str, Note] = {}
        self.gone: set[str] = set()
        self.met = Answered()

    async def run(self, until: float) -> None:
        """Work until a moment of `time.monotonic`."""
        while time.monotonic() < until:
            await self._step()

    async def _step(self) -> None:
        if len(self.alive) < 3:
            await self._write()
        elif len(self.alive) > MOST_ALIVE:
            await self._forget()
        else:
            steps = (self._write, self._change, self._read, self._recall, self._walk, self._forget)
            (step,) = self._random.choices(steps, weights=(25, 10, 20, 20, 15, 10))
            await step()

    async def _write(self) -> None:
        self._made += 1
        key, content = f"{self._name}-{self._made}", f"{self._word(self._made)} seen by {self._name}"
        body = {"key": key, "content": content, "namespace": self._namespace}
        stored = await self._ask("POST", "/remember", 201, body=body, once=key)
        if not self._holds(stored["version"] == 1, f"{key} made as {stored['version']}"):
            return
        note = Note(content, 1)
        if self.alive:
            other = self._any()
            ends = {"from_coord": {"key": key}, "to_coord": {"key": other}, "namespace": self._namespace}
            await self._ask("POST", "/link", 201, body=ends, once=f"link {key}")
            note.linked.add(other)
            self.alive[other].linked.add(key)
        self.alive[key] = note

    async def _change(self) -> None:
        key = self._any()
        note = self.alive[key]
        content = f"{note.content.partition(' again')[0]} again {note.version}"
        body = {"content": content, "expected_version": note.version}
        changed = await self._ask(
            "PATCH", f"/memories/key:{key}", 200, body=body, once=f"change {key} {note.version}"
        )
        self._holds(changed["version"] == note.version + 1, f"{key} changed to {changed['version']}")
        note.content, note.version = content, note.version + 1

    async def _forget(self) -> None:
        key = self._any()
        await self._ask("DELETE", f"/memories/key:{key}", 200, once=f"forget {key}")
        for other in self.alive.pop(key).linked:
            self.alive[other].linked.discard(key)
        self.gone.add(key)

    async def _read(self) -> None:
        if self.gone and self._random.random() < 0.2:
            await self._ask("GET", f"/memories/key:{self._random.choice(sorted(self.gone))}", 404)
            return
        key = self._any()
        found = await self._ask("GET", f"/memories/key:{key}", 200)
        self._same(key, found)

    async def _recall(self) -> None:
        number = self._random.randint(1, self._made)
        key = f"{self._name}-{number}"
        query = {"query": self._word(number), "top_k": 5, "namespace": self._namespace}
        found = await self._ask("POST", "/recall", 200, body=query)
        keys = [one["key"] for one in found["matches"]]
        if key in self.alive:
            self._holds(keys[:1] == [key], f"recall of {key} found {keys}")
        else:
            self._holds(key not in keys, f"recall found {key}, which is gone")

    async def _walk(self) -> None:
        key = self._any()
        variables = {"ns": self._namespace, "key": key}
        answer = await self._ask("POST", "/graphql", 200, body={"query": NEIGHBOURS, "variables": variables})
        if not self._holds(bool(answer.get("data")), f"walk from {key}: {answer}"):
            return
        memory = answer["data"]["memory"]
        self._same(key, memory)
        found = {edge["node"]["key"] for edge in memory["neighbors"]["edges"]}
        self._holds(found == self.alive[key].linked, f"neighbours of {key}: {found} for {self.alive[key].linked}")

    async def check_all(self) -> None:
        """Every memory is as it was last written, and none is there that was forgotten."""
        for key in self.alive:
            self._same(key, await self._ask("GET", f"/memories/key:{key}", 200))
        for key in self.gone:
            await self._ask("GET", f"/memories/key:{key}", 404)

    async def _ask(self, method: str, path: str, expected: int, *, body: Json | None = None, once: str = "") -> Json:
        """The answer; asked again for as long as it is 503. With `once` it is the same request each time."""
        headers = {"Idempotency-Key": once} if once else {}
        while True:
            started = time.monotonic()
            answer = await self._client.request(
                method, path, json=body, headers=headers,
                params={} if path == "/graphql" or "namespace" in (body or {}) else {"namespace": self._namespace},
            )  # fmt: skip
            self.met.slowest_ms = max(self.met.slowest_ms, (time.monotonic() - started) * 1_000)
            status = 503 if _is_away(answer) else answer.status_code
            self.met.counts[f"{method} {status}"] += 1
            if status == 503:
                self.met.refusals.append(time.monotonic())
                await asyncio.sleep(RETRY_SECONDS)
                continue
            assert status == expected, f"{method} {path}: {status} {answer.text[:500]}"
            found: Json = answer.json()
            return found

    def _same(self, key: str, found: Json) -> None:
        note = self.alive[key]
        self._holds(
            (found["content"], found["version"]) == (note.content, note.version),
            f"{key} is {found['version']} {found['content']!r}, not {note.version} {note.content!r}",
        )

    def _holds(self, fact: bool, otherwise: str) -> bool:
        if not fact:
            self.met.wrong.append(otherwise)
        return fact

    def _any(self) -> str:
        return self._random.choice(list(self.alive))

    def _word(self, number: int) -> str:
        return f"{self._name}thing{number}"


def _is_away(answer: httpx.Response) -> bool:
    """Whether an answer says that something is away; of GraphQL the errors do."""
    if answer.status_code == 503:
        return True
    if answer.request.url.path != "/graphql" or answer.status_code != 200:
        return False
    codes = {one["extensions"]["code"] for one in answer.json().get("errors", ())}
    return bool(codes & {"database_unavailable", "overloaded", "unavailable", "deadline_exceeded"})
