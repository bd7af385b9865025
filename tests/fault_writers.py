"""Writers of a fault run: each repeats a write until it is acknowledged, and remembers what it may rely on then."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import httpx
import psycopg

NAMESPACE = "faults"
HELD = "held"
OWN_KEYS = 8
SHARED_KEYS = 5
_WORDS = ("amber", "basalt", "cedar", "delta", "ember", "fjord", "garnet", "harbour", "indigo", "juniper", "kelp")

Json = dict[str, Any]


class Writer:
    """Writes keys of its own, whose state it knows exactly, and keys that all writers contend for.

    `own` maps its keys to the stamp of their last acknowledged store, None: forgotten. `links` maps the ends of links
    among them to the weight. `stamps` are those of acknowledged stores of contended keys.
    """

    def __init__(self, number: int, port: int, seed: int) -> None:
        self.own: dict[str, str | None] = {f"own-{number}-{place}": None for place in range(OWN_KEYS)}
        self.links: dict[tuple[str, str], float] = {}
        self.stamps: set[str] = set()
        self.done: Counter[str] = Counter()
        self.repeated = 0
        self._number = number
        self._random = random.Random(f"{seed} writer {number}")
        self._stamp = 0
        # Longer than the service takes for anything: a request that was given up could be done behind the next one.
        self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=90)

    async def run(self, stopped: asyncio.Event) -> None:
        """Write until told to stop, and then until the write in hand is acknowledged."""
        kinds = {
            self._store_own: 5, self._store_shared: 5, self._store_both: 3, self._link_own: 5, self._link_shared: 3,
            self._unlink: 2, self._forget_own: 1, self._erase_own: 1, self._forget_shared: 0.3,
        }  # fmt: skip
        async with self._http:
            while not stopped.is_set():
                (kind,) = self._random.choices(list(kinds), list(kinds.values()))
                await kind()
                self.done[kind.__name__.strip("_")] += 1

    async def _store_own(self) -> None:
        key = self._random.choice(list(self.own))
        item = self._item(key)
        await self._acknowledged("POST", "/store", {"namespace": NAMESPACE, **item})
        self.own[key] = item["payload"]["stamp"]

    async def _store_shared(self) -> None:
        item = self._item(self._shared())
        await self._acknowledged("POST", "/store", {"namespace": NAMESPACE, **item})
        self.stamps.add(item["payload"]["stamp"])

    async def _store_both(self) -> None:
        own = [self._item(key) for key in self._random.sample(list(self.own), 3)]
        shared = [self._item(f"shared-{place}") for place in self._random.sample(range(SHARED_KEYS), 2)]
        await self._acknowledged("POST", "/store_bulk", {"namespace": NAMESPACE, "items": [*own, *shared]})
        self.own |= {item["key"]: item["payload"]["stamp"] for item in own}
        self.stamps |= {item["payload"]["stamp"] for item in shared}

    async def _link_own(self) -> None:
        source, target = self._random.sample(list(self.own), 2)
        weight = round(self._random.uniform(0, 9), 3)
        if await self._acknowledged("POST", "/link", _link(source, target, weight=weight)):
            self.links[source, target] = weight

    async def _link_shared(self) -> None:
        ends = [self._random.choice(list(self.own)), self._shared()]
        self._random.shuffle(ends)
        await self._acknowledged("POST", "/link", _link(*ends, weight=round(self._random.uniform(0, 9), 3)))

    async def _unlink(self) -> None:
        source, target = self._random.sample(list(self.own), 2)
        await self._acknowledged("DELETE", "/link", _link(source, target))
        self.links.pop((source, target), None)

    async def _forget_own(self, erase: str = "false") -> None:
        key = self._random.choice(list(self.own))
        await self._acknowledged("DELETE", f"/memories/key:{key}?namespace={NAMESPACE}&erase={erase}")
        self.own[key] = None
        self.links = {ends: weight for ends, weight in self.links.items() if key not in ends}

    async def _erase_own(self) -> None:
        await self._forget_own("true")

    async def _forget_shared(self) -> None:
        await self._acknowledged("DELETE", f"/memories/key:{self._shared()}?namespace={NAMESPACE}")

    def _item(self, key: str) -> Json:
        self._stamp += 1
        stamp = f"w{self._number}-{self._stamp}"
        words = " ".join(self._random.choices(_WORDS, k=6))
        return {"key": key, "title": key, "content": f"{stamp}: {words}", "payload": {"stamp": stamp}}

    def _shared(self) -> str:
        return f"shared-{self._random.randrange(SHARED_KEYS)}"

    async def _acknowledged(self, method: str, path: str, body: Json | None = None) -> bool:
        """Send until the service has answered; whether there was what the write needs."""
        while True:
            with suppress(httpx.TransportError):
                answer = await self._http.request(method, path, json=body)
                if answer.status_code != 503:
                    assert answer.is_success or answer.status_code == 404, f"{method} {path}: {answer.text}"
                    return answer.is_success
            self.repeated += 1
            await asyncio.sleep(self._random.uniform(0.05, 0.4))


def _link(source: str, target: str, **fields: Any) -> Json:
    ends = {"from_coord": {"key": source}, "to_coord": {"key": target}}
    return {"namespace": NAMESPACE, **ends, "type": "writes", **fields}


async def prepare(port: int) -> None:
    """Make the namespace and the memory that the held transaction will change."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=90) as client:
        item = {"namespace": NAMESPACE, "key": HELD, "content": "nobody has changed this yet"}
        (await client.post("/store", json=item)).raise_for_status()


class HeldTransaction:
    """A transaction that changes a memory as the service does, and commits when it is told to.

    Its change gets its id long before it becomes visible.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self.change = 0

    async def begin(self) -> None:
        """Write, and leave it uncommitted."""
        self._connection = await psycopg.AsyncConnection.connect(self._dsn)
        cursor = await self._connection.execute(
            """with stored as (
                   update memories m set title = 'late', version = m.version + 1, updated_at = now()
                   from memories prior, namespaces n
                   where n.name = %s and m.namespace_id = n.id and m.key = %s
                     and prior.namespace_id = m.namespace_id and prior.id = m.id
                   returning m, memory_state(prior) as before)
               insert into changes (namespace_id, entity, entity_id, operation, before, after)
               select (s.m).namespace_id, 'memory', (s.m).id, 'update', s.before, memory_state(s.m) from stored s
               returning id""",
            [NAMESPACE, HELD],
        )
        row = await cursor.fetchone()
        assert row is not None
        self.change = row[0]

    async def commit(self) -> None:
        """Raises psycopg.OperationalError when the database died meanwhile."""
        assert self._connection is not None
        await self._connection.commit()
        await self.close()

    async def close(self) -> None:
        """Roll back what is not committed."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
