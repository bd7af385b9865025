"""The one place that wires a consumer process: settings to ledger, consumer, source and runner, closed in reverse."""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from sfm_consumers.contract import Consumer, Open
from sfm_consumers.effects.options import POSTGRES, postgres_url
from sfm_consumers.handling import Means
from sfm_consumers.ledger import Ledger
from sfm_consumers.retrying import Patience
from sfm_consumers.runner import Runner
from sfm_consumers.settings import ConsumerSettings
from sfm_consumers.source import Source
from sfm_consumers.waiting import Abandoned, Waiting
from sfm_consumers.watch import Watch
from sfm_consumers.web import serving
from sfm_graph.errors import DatabaseUnavailable, SettingsError
from sfm_graph.settings import EventBusKind, Settings
from sfm_graph.telemetry.export import tracing_to_collector

ENTRY_POINTS = "sfm_consumers.consumers"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `group` is also whose ledger it is: two groups of one consumer know nothing of each other."""

    name: str
    group: str
    source: EventBusKind
    options: Mapping[str, str]
    settings: Settings
    own: ConsumerSettings
    from_beginning: bool = True


def consumer_names() -> list[str]:
    """The consumers that are installed."""
    return sorted(entry_points(group=ENTRY_POINTS).names)


async def consume(plan: Plan, stop: asyncio.Event, say: Callable[[str], None]) -> None:
    """Run until `stop` is set, then finish what is in hand. Raises SettingsError for what no waiting mends."""
    opener = _opener(plan.name)
    patience = Patience(
        longest_pause_seconds=plan.own.longest_pause_seconds,
        failures=plan.own.attempts,
        handle_seconds=plan.own.handle_seconds,
        finish_seconds=float(plan.settings.graceful_timeout_seconds),
    )
    watch = Watch(plan.name)
    waiting = Waiting(plan.name, watch, patience, stop)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(tracing_to_collector(plan.settings, f"sfm-consume-{plan.name}"))
        port = await stack.enter_async_context(serving(watch, plan.own.host, plan.own.port))
        say(f"{plan.name} as {plan.group}: http://{plan.own.host}:{port}/metrics, /healthz, /readyz")
        try:
            ledger = await _open_ledger(plan, waiting, stack)
            consumer = await waiting.persist("effect", lambda: _opened(plan, opener, stop))
        except Abandoned:
            return
        stack.push_async_callback(consumer.aclose)
        source = _source(plan, consumer, patience)
        means = Means(consumer, ledger, source.dead_letter, watch, patience, plan.own.max_event_bytes)
        await Runner(source, means).run(stop)


async def _opened(plan: Plan, opener: Open, stop: asyncio.Event) -> Consumer:
    """The consumer, unless the end comes first: a mirror may read its source for hours. Raises Abandoned then."""
    opening = asyncio.ensure_future(opener(plan.settings, plan.options))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            raise Abandoned("stopped before it was open")
        return opening.result()
    finally:
        for task in (opening, stopping):
            task.cancel()
        await asyncio.wait([opening, stopping])


def _opener(name: str) -> Open:
    found = entry_points(group=ENTRY_POINTS, name=name)
    if not found and name == "qdrant":
        # Recall has to know what Qdrant has not seen yet, and that is a place in the change log.
        raise SettingsError("NAME: Qdrant follows the change log itself, not a bus; run: sfm qdrant")
    if not found:
        raise SettingsError(f"NAME: no consumer is called {name!r}; there are {', '.join(consumer_names())}")
    opener: Open = next(iter(found)).load()
    return opener


async def _open_ledger(plan: Plan, waiting: Waiting, stack: AsyncExitStack) -> Ledger:
    where = plan.own.ledger.get_secret_value() if plan.own.ledger else ""
    if where.startswith(POSTGRES):
        from sfm_consumers.ledgers.postgres import PostgresLedger

        shared = PostgresLedger(postgres_url("SFM_CONSUMER_LEDGER", where), plan.group)
        stack.push_async_callback(shared.aclose)
        await waiting.persist("ledger", shared.open)
        return shared
    from sfm_consumers.ledgers.sqlite import SqliteLedger

    path = Path(where) if where else plan.settings.data_dir / "consumers" / f"{plan.group}.sqlite"
    local = SqliteLedger(path, plan.group)
    stack.push_async_callback(local.aclose)
    try:
        await local.open()
    except DatabaseUnavailable as error:
        if isinstance(error.__cause__, sqlite3.OperationalError) and "locked" in str(error.__cause__):
            await waiting.persist("ledger", local.open)
        else:
            raise SettingsError(f"SFM_CONSUMER_LEDGER: {error.message}") from error
    return local


def _source(plan: Plan, consumer: Consumer, patience: Patience) -> Source:
    if plan.source is EventBusKind.KAFKA:
        from sfm_consumers.sources.kafka import KafkaSource, connection_of

        return KafkaSource(
            connection_of(plan.settings), plan.group, consumer.topics, patience,
            from_beginning=plan.from_beginning, batch=plan.own.batch, session_seconds=plan.own.session_seconds,
        )  # fmt: skip
    if plan.source is EventBusKind.REDIS:
        from sfm_consumers.sources.redis import RedisSource

        return RedisSource.open(
            plan.settings, plan.group, consumer.topics,
            from_beginning=plan.from_beginning, batch=plan.own.batch, lease_seconds=plan.own.session_seconds,
        )  # fmt: skip
    raise SettingsError("SFM_EVENT_BUS: say kafka or redis, or name one by --source; there is nothing to read from")
