"""`mirror`: keeps namespaces of another service equal to the source's, row by row."""

import asyncio
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from sfm_consumers.contract import Consumer, Options, Poison, Received, Retry
from sfm_consumers.effects import mirror_source
from sfm_consumers.effects.mirror_http import Refused, Remote
from sfm_consumers.effects.mirror_intake import Intake
from sfm_consumers.effects.mirror_rows import Cut, Touched
from sfm_consumers.effects.mirror_state import MirrorState
from sfm_consumers.effects.mirror_tables import open_tables
from sfm_consumers.effects.mirror_target import MirrorTarget
from sfm_consumers.effects.mirror_writing import RefusedRow, Writing
from sfm_consumers.effects.options import Given
from sfm_graph.domain import validate
from sfm_graph.domain.event import TOPICS
from sfm_graph.errors import SfmError
from sfm_graph.settings import Settings

log = logging.getLogger(__name__)

LINKERS = ("entities", "mention", "sequence", "similarity")
_KNOWN = {
    "target", "source", "state", "namespaces", "links", "linkers", "reload", "allow_http", "timeout_ms"
}  # fmt: skip
_SECRETS = ("token", "source_token")


async def open(settings: Settings, options: Options) -> Consumer:
    """The consumer that mirrors into `target`; what was not read from `source` yet is read first.

    Raises SettingsError, and Retry while the source or the target cannot be reached.
    """
    given = Given("mirror", options, _KNOWN, secrets=_SECRETS)
    plain = given.flag("allow_http")
    timeout = given.integer("timeout_ms", 60_000, low=100, high=600_000) / 1_000
    target_url = given.url("target", plain=plain)
    source_url = given.url("source", plain=plain) if given.text("source") else None
    if source_url is not None and _place(source_url) == _place(target_url):
        raise given.wrong("target", "is the source itself")
    names, links, reload = _names(given), given.choice("links", ("all", "callers")), given.flag("reload")
    if reload and source_url is None:
        raise given.wrong("reload", "needs the source's URL in `source`")
    linkers = (*LINKERS, *given.names("linkers"))
    purpose = orjson.dumps([target_url, sorted(names.items()), links]).decode()
    state = MirrorState(await asyncio.to_thread(_tables, given, purpose))
    mirror = Mirror(
        state,
        Remote(target_url, given.secret("token"), timeout),
        Remote(source_url, given.secret("source_token"), timeout) if source_url else None,
        names,
        linkers_off=linkers if links == "all" else (),
    )
    try:
        await mirror.begin(reload=reload)
    except BaseException:
        await mirror.aclose()
        raise
    return mirror


class Mirror:
    """The consumer. One process at a time mirrors into a target: what it knows stands in one file of its own.

    `names` maps the source's namespaces to the target's; empty: all, under their names. `linkers_off` are switched
    off in the target, and their links copied; empty: linkers stay as they are, and only callers' links are copied.
    """

    name = "mirror"
    topics = TOPICS

    def __init__(
        self,
        state: MirrorState,
        target: Remote,
        source: Remote | None,
        names: Mapping[str, str],
        *,
        linkers_off: Sequence[str],
    ) -> None:
        self._state = state
        self._remotes = [one for one in (target, source) if one is not None]
        self._source = source
        self._names = names
        self._linkers_off = linkers_off
        self._target = MirrorTarget(target)
        self._intake = Intake(
            state, lambda name: not names or name in names, made=bool(linkers_off), reads=source is not None
        )
        self._writing = Writing(state, self._target, self._named, self._prepare)
        self._prepared: set[int] = set()
        self._turn = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    async def begin(self, *, reload: bool = False) -> None:
        """Read what was not read from the source yet, with `reload` all of it anew; do what was left undone."""
        if self._source is not None:
            await self._ask_for_all(again=reload)
            await self._read(again=reload)
        async with self._turn:
            _warn(await self._writing.write(Touched()))

    async def handle(self, events: Sequence[Received]) -> None:
        """What can be written is written, the rest is kept in the state's file, when this returns."""
        async with self._turn:
            touched = await asyncio.to_thread(self._intake.events, events)
            refused = await self._writing.write(touched)
        for one in touched.cut.values():
            refused += await self._read_one(one)
        to_read = await asyncio.to_thread(self._intake.to_read) if self._source else []
        if to_read:
            await self._read_on()
        _raise(refused, events)

    async def aclose(self) -> None:
        """Close the connections and the file."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        for remote in self._remotes:
            await remote.aclose()
        await asyncio.to_thread(self._state.close)

    async def _read_one(self, cut: Cut) -> list[RefusedRow]:
        """Take in what the source has of one memory or link now, unless its namespace has ended; what the target
        refuses of it."""
        assert self._source is not None  # noqa: S101 asked for with a source alone
        try:
            page = await mirror_source.one(self._source, cut.global_id)
        except Refused as error:
            log.warning("%s cannot be read by itself, so all of %s is: %s", cut.global_id, cut.namespace, error)
            await asyncio.to_thread(self._intake.ask_for, [cut.namespace], again=True)
            return []
        async with self._turn:
            touched = await asyncio.to_thread(self._intake.page, cut.era, page, again=False)
            return [] if touched is None else await self._writing.write(touched)

    async def _read_on(self) -> None:
        """Wait for the reading of the source. It goes on when the one who waits is told to stop."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_anew())
            # Whoever waited may be gone when it fails; the next one begins it again.
            self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._reading)

    async def _read_anew(self) -> None:
        await self._ask_for_all(again=False)
        await self._read()

    async def _ask_for_all(self, *, again: bool) -> None:
        assert self._source is not None  # noqa: S101 asked for with a source alone
        try:
            found = await mirror_source.namespaces(self._source)
        except Refused as error:
            raise Retry(f"the source refuses: {error}") from error
        wanted = [one for one in found if not self._names or one in self._names]
        await asyncio.to_thread(self._intake.ask_for, wanted, again=again)

    async def _read(self, *, again: bool = False) -> None:
        while namespaces := await asyncio.to_thread(self._intake.to_read):
            for namespace in namespaces:
                await self._read_namespace(namespace, again=again)

    async def _read_namespace(self, namespace: str, *, again: bool) -> None:
        """Take in a namespace while its events go on; not to its end when it ends meanwhile."""
        assert self._source is not None  # noqa: S101 asked for with a source alone
        era, missing = await asyncio.to_thread(self._intake.begin_reading, namespace)
        async for page in mirror_source.pages(self._source, namespace):
            async with self._turn:
                touched = await asyncio.to_thread(self._intake.page, era, page, again=again)
                if touched is None:
                    return
                _warn(await self._writing.write(touched))
            missing -= {("memory", one["id"]) for one in page.memories} | {("link", one["id"]) for one in page.links}
        async with self._turn:
            touched = await asyncio.to_thread(self._intake.end_reading, namespace, era, missing)
            if touched is not None:
                _warn(await self._writing.write(touched))

    def _named(self, namespace: str) -> str:
        return self._names.get(namespace, namespace)

    async def _prepare(self, era: int, namespace: str) -> None:
        """Give the target's namespace the source's settings where they can be read, and switch linkers off."""
        if era in self._prepared:
            return
        settings = {}
        if self._source is not None:
            try:
                settings = dict(await mirror_source.settings(self._source, namespace))
            except Refused as error:
                raise Retry(f"the source refuses: {error}") from error
        if self._linkers_off:
            named = settings.get("linkers", {})
            settings["linkers"] = dict.fromkeys([*named, *self._linkers_off], False)
        if settings:
            await self._target.settings(self._named(namespace), settings)
        self._prepared.add(era)


def _tables(given: Given, purpose: str) -> sqlite3.Connection:
    path = Path(given.required("state"))
    try:
        return open_tables(path, purpose)
    except sqlite3.OperationalError as error:
        raise given.wrong("state", f"cannot be opened; another process may have it: {error}") from error
    except (sqlite3.Error, OSError, ValueError) as error:
        raise given.wrong("state", f"cannot be used: {error}") from error


def _names(given: Given) -> dict[str, str]:
    names: dict[str, str] = {}
    for one in given.names("namespaces"):
        source, _, target = one.partition("=")
        try:
            names[validate.namespace(source)] = validate.namespace(target or source)
        except SfmError as error:
            raise given.wrong("namespaces", f"must look like a,b=c: {error}") from error
    if len(set(names.values())) < len(names):
        raise given.wrong("namespaces", "must not map two namespaces to one")
    return names


def _raise(refused: Sequence[RefusedRow], events: Sequence[Received]) -> None:
    """Raise Poison for the first event whose state was refused; what was refused of earlier ones is logged."""
    of = {(value["entity"], value["entity_id"]): event for event in events for value in [event.value()]}
    _warn([one for one in refused if (one.entity, one.id) not in of])
    for one in refused:
        if (one.entity, one.id) in of:
            raise Poison(f"the target refuses it: {one.reason}", of[one.entity, one.id])


def _warn(refused: Sequence[RefusedRow]) -> None:
    for one in refused:
        log.warning("the target refuses %s %d: %s", one.entity, one.id, one.reason)


def _place(url: str) -> tuple[str | None, int | None]:
    """Host and port that a URL leads to, loopback by one name."""
    parts = urlsplit(url)
    host = "127.0.0.1" if parts.hostname in ("localhost", "::1") else parts.hostname
    return host, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
